"""Which line is served next: between jobs, between lines of one job, and for lines that need a whole host."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import defaultdict
from typing import Any

import pytest

from tests.unit.broker.harness import ACTOR, ONE_CPU, BrokerHarness, amounts, shape
from zray.broker.accounts import HOLD_S, STARVED_S
from zray.broker.core import BrokerCore
from zray.broker.resources import UNIT, read_shape
from zray.broker.shares import PATIENCE_S
from zray.ids import make_task_id, owner_of
from zray.protocol import messages as m
from zray.protocol.records import HostInfo, JoinInfo

TWO_CPUS = shape(CPU=2)
SLOW = b"slow".ljust(16, b"\0")
LATER = 2 * PATIENCE_S


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


def crowded(
    broker: BrokerHarness, cpus: int, count: int = 200, function_id: bytes = SLOW
) -> tuple[bytes, bytes, list[bytes]]:
    """A driver whose tasks use all CPUs of the only host, with more in the queue."""
    driver = broker.driver()
    host = broker.host(CPU=cpus)
    workers = broker.workers(host)
    broker.submit(driver, count, function_id=function_id)
    return driver, host, workers


def second(broker: BrokerHarness, count: int = 1, name: str = "second", **what: Any) -> tuple[bytes, list[bytes]]:
    driver = broker.driver(name)
    return driver, broker.submit(driver, count, **what)


def running(broker: BrokerHarness) -> dict[bytes, int]:
    """How many workers run tasks, by job."""
    counts: dict[bytes, int] = defaultdict(int)
    for worker in broker.core.workers.workers.values():
        if worker.outstanding:
            counts[worker.job_id] += 1
    return dict(counts)


def finish_one(broker: BrokerHarness, worker_id: bytes, run_us: int = 10**6) -> None:
    """Finishes the first task of a worker."""
    worker = broker.core.workers.workers[worker_id]
    broker.done(worker_id, next(iter(worker.outstanding)), run_us=run_us)


def finish_all(broker: BrokerHarness, worker_id: bytes, run_us: int = 50) -> None:
    """Finishes all present tasks of a worker."""
    broker.done(worker_id, *broker.core.workers.workers[worker_id].outstanding, run_us=run_us)


# ------------------------------------------------------------------ between jobs


def test_the_next_free_cpu_is_for_the_job_that_has_none(broker):
    _, host, workers = crowded(broker, cpus=2)
    _, (task_id,) = second(broker)
    finish_one(broker, workers[0])
    (new,) = broker.workers(host)  # it was started for the second job, and its CPU was kept meanwhile
    assert broker.free == {"CPU": 0}
    assert broker.runs(new) == [task_id]


def test_a_worker_that_would_be_given_more_makes_room(broker):
    """Short tasks: a worker always holds some as long as its job has any."""
    driver = broker.driver()
    (worker,) = broker.workers(broker.host(CPU=1))
    broker.teach(driver, worker, run_us=20)
    broker.submit(driver, 2000)
    _, (task_id,) = second(broker)
    held = len(broker.core.workers.workers[worker].outstanding)
    assert held > 1
    finish_one(broker, worker, run_us=20)
    assert len(broker.core.workers.workers[worker].outstanding) == held - 1
    finish_all(broker, worker, run_us=20)
    (new,) = broker.workers(b"host".ljust(16, b"\0"))
    assert broker.runs(new) == [task_id]
    broker.done(new, task_id)
    assert len(broker.core.workers.workers[worker].outstanding) > 1  # the first job has all resources again


def test_only_as_many_make_room_as_are_needed(broker):
    driver = broker.driver()
    workers = broker.workers(broker.host(CPU=4))
    broker.submit(driver, 4)
    for worker in workers:
        finish_all(broker, worker, run_us=20)
    broker.submit(driver, 5000)
    second(broker)
    for worker in workers:
        finish_one(broker, worker, run_us=20)
    yielding = [worker for worker in broker.core.workers.workers.values() if worker.yields_to is not None]
    assert len(yielding) == 1


def test_a_worker_that_makes_room_for_a_cancelled_task_goes_on(broker):
    driver = broker.driver()
    (worker,) = broker.workers(broker.host(CPU=1))
    broker.teach(driver, worker, run_us=20)
    broker.submit(driver, 2000)
    other, (task_id,) = second(broker)
    finish_one(broker, worker, run_us=20)
    broker.say(other, m.Cancel(task_id, 0))
    held = len(broker.core.workers.workers[worker].outstanding)
    finish_one(broker, worker, run_us=20)
    assert len(broker.core.workers.workers[worker].outstanding) >= held


@pytest.mark.parametrize("ends", ["worker", "driver", "second"])
def test_a_process_ends_while_a_worker_makes_room(broker, ends):
    """The accounts are checked after each step."""
    driver = broker.driver()
    (worker,) = broker.workers(broker.host(CPU=1))
    broker.teach(driver, worker, run_us=20)
    broker.submit(driver, 2000)
    other, (task_id,) = second(broker)
    finish_one(broker, worker, run_us=20)
    if ends == "worker":
        broker.kill(worker)
    else:
        broker.lose(driver if ends == "driver" else other)
        finish_all(broker, worker, run_us=20)
    host = b"host".ljust(16, b"\0")
    if ends == "driver":
        broker.kill(worker)
    for _ in range(3):
        broker.workers(host)
    ran = {task for worker in broker.core.workers.workers.values() for task in worker.outstanding}
    assert (task_id in ran) == (ends != "second")
    assert ran or ends == "second"


def test_two_jobs_have_half_each(broker):
    """The second job gets the CPUs that become free until both have the same; then each keeps its share."""
    _, host, _ = crowded(broker, cpus=6)
    second(broker, 200, function_id=SLOW)
    rng = random.Random(1)
    for _ in range(60):
        busy = [worker.worker_id for worker in broker.core.workers.workers.values() if worker.outstanding]
        finish_one(broker, rng.choice(busy))
        broker.workers(host)
    assert sorted(running(broker).values()) == [3, 3]


def test_a_job_of_many_lines_gets_no_more_than_a_job_of_one_line(broker):
    broker.driver()
    host = broker.host(CPU=4, a=8, b=8, c=8)
    broker.workers(host)
    one, two = broker.driver("one"), broker.driver("two")
    for name in "abc":
        broker.submit(one, 50, shape(CPU=1, **{name: 1}), SLOW)
    broker.submit(two, 50, function_id=SLOW)
    rng = random.Random(2)
    for _ in range(60):
        broker.workers(host)
        busy = [worker.worker_id for worker in broker.core.workers.workers.values() if worker.outstanding]
        finish_one(broker, rng.choice(busy))
    broker.workers(host)
    assert sorted(running(broker).values()) == [2, 2]


def test_jobs_are_compared_by_the_resources_asked_for(broker):
    """A job that has all of one resource still gets its share of another."""
    one, two = broker.driver("one"), broker.driver("two")
    host = broker.host(CPU=2, special=1)
    broker.workers(host)
    broker.submit(one, 10, shape(special=1), SLOW)
    broker.submit(two, 50, function_id=SLOW)
    broker.workers(host)
    broker.submit(one, 10, function_id=SLOW)
    cpu_worker = next(worker for worker in broker.core.workers.workers.values() if "CPU" in worker.grant.amounts)
    finish_one(broker, cpu_worker.worker_id)
    broker.workers(host)
    shares = [worker.share for worker in broker.core.workers.workers.values() if worker.grant.amounts]
    assert sorted(str(share.shape) for share in shares) == ["{CPU: 1}", "{CPU: 1}", "{special: 1}"]
    assert len({share.job for share in shares if "CPU" in share.shape.amounts}) == 2


def test_resources_that_an_actor_keeps_do_not_count(broker):
    """Otherwise its job would never get a turn beside a job that always has tasks in the queue."""
    driver = broker.driver()
    host = broker.host(CPU=2)
    broker.workers(host)
    broker.create(driver, running=ONE_CPU)
    actor_worker = broker.core.actors.actors[ACTOR].worker
    assert actor_worker is not None
    broker.say(actor_worker.worker_id, m.ActorReady(ACTOR, b""))
    second(broker, 50, function_id=SLOW)
    broker.workers(host)
    (task_id,) = broker.submit(driver, function_id=SLOW)
    (busy,) = [worker for worker in broker.core.workers.workers.values() if worker.outstanding]
    finish_one(broker, busy.worker_id)
    broker.workers(host)
    assert task_id in {task for worker in broker.core.workers.workers.values() for task in worker.outstanding}


# ------------------------------------------------------------------ between the lines of a job


def test_an_actor_beside_a_queue_of_short_tasks(broker):
    driver = broker.driver()
    (worker,) = broker.workers(broker.host(CPU=1))
    broker.teach(driver, worker, run_us=20)
    broker.submit(driver, 2000)
    broker.create(driver)
    finish_one(broker, worker, run_us=20)
    finish_all(broker, worker, run_us=20)
    assert broker.core.actors.actors[ACTOR].worker is not None


def test_actors_of_two_jobs_are_placed_in_turns(broker):
    host = broker.host(CPU=2)
    broker.workers(host)
    creators = [broker.driver("driver"), broker.driver("other")]
    ids = [[make_task_id(creator, number) for number in (1, 2, 3)] for creator in creators]
    for creator, mine in zip(creators, ids, strict=True):  # all of the first creator's come first
        for actor_id in mine:
            broker.core.receive(creator, broker.creation(actor_id, running=ONE_CPU), broker.now)
    broker.turn()
    placed = [actor.actor_id for actor in broker.core.actors.actors.values() if actor.worker is not None]
    assert placed == [ids[0][0], ids[1][0]]


# ------------------------------------------------------------------ shapes that need more than one worker's grant


def large_beside_small(broker: BrokerHarness, run_us: int) -> tuple[list[bytes], bytes]:
    """Both workers of a host run small tasks, more are queued, and a task that needs both CPUs waits."""
    driver = broker.driver()
    workers = broker.workers(broker.host(CPU=2))
    broker.submit(driver, 2)
    for worker in workers:
        finish_all(broker, worker, run_us)
    broker.submit(driver, 2000)
    (large,) = broker.submit(driver, shape=TWO_CPUS)
    return workers, large


def test_a_host_is_held_for_a_large_task(broker):
    workers, large = large_beside_small(broker, run_us=10**6)
    finish_one(broker, workers[0])
    assert broker.core.workers.workers[workers[0]].outstanding  # it has not waited long enough
    broker.tick(LATER)
    finish_one(broker, workers[0])
    assert not broker.core.workers.workers[workers[0]].outstanding
    finish_one(broker, workers[1])
    assert [task for worker in workers for task in broker.core.workers.workers[worker].outstanding] == [large]
    broker.done(next(worker for worker in workers if broker.core.workers.workers[worker].outstanding), large)
    assert all(broker.core.workers.workers[worker].outstanding for worker in workers)  # the hold has ended


def test_workers_of_a_held_host_make_room(broker):
    workers, large = large_beside_small(broker, run_us=20)
    broker.tick(LATER)
    for worker in workers:
        finish_one(broker, worker, run_us=20)
    for worker in workers:
        finish_all(broker, worker, run_us=20)
    assert [task for worker in workers for task in broker.core.workers.workers[worker].outstanding] == [large]


def test_after_a_hold_the_host_is_not_held_for_a_while(broker):
    """Tasks on the host may wait for tasks that the hold keeps off, without the broker's knowledge."""
    workers, _ = large_beside_small(broker, run_us=10**6)
    broker.tick(LATER)
    finish_one(broker, workers[0])
    assert not broker.core.workers.workers[workers[0]].outstanding
    broker.tick(HOLD_S)
    assert broker.core.workers.workers[workers[0]].outstanding  # it goes on although the other task has not ended
    broker.tick(HOLD_S / 2)
    finish_one(broker, workers[0])
    assert broker.core.workers.workers[workers[0]].outstanding
    broker.tick(HOLD_S)
    finish_one(broker, workers[0])
    assert not broker.core.workers.workers[workers[0]].outstanding  # held again, and now twice as long
    broker.tick(HOLD_S * 1.5)
    assert not broker.core.workers.workers[workers[0]].outstanding


def test_no_host_is_held_if_actors_keep_the_needed_resources(broker):
    driver = broker.driver()
    host = broker.host(CPU=2)
    broker.workers(host)
    broker.create(driver, running=ONE_CPU)
    broker.say(broker.core.actors.actors[ACTOR].worker.worker_id, m.ActorReady(ACTOR, b""))
    broker.submit(driver, 100, function_id=SLOW)
    broker.submit(driver, shape=TWO_CPUS)
    broker.tick(LATER)
    (busy,) = [worker for worker in broker.core.workers.workers.values() if worker.outstanding]
    finish_one(broker, busy.worker_id)
    assert busy.outstanding


def test_only_missing_resources_are_kept(broker):
    """A task waits for two units of a special resource; tasks that need only CPUs go on."""
    driver = broker.driver()
    host = broker.host(CPU=3, special=2)
    broker.workers(host)
    both = shape(CPU=1, special=1)
    broker.submit(driver, 50, both, SLOW)
    broker.submit(driver, 50, function_id=SLOW)
    broker.workers(host)
    broker.submit(driver, 1, shape(special=2), SLOW)
    broker.tick(LATER)
    for _ in range(3):
        for worker in list(broker.core.workers.workers.values()):
            if worker.outstanding and worker.grant.key in (both, ONE_CPU):
                finish_one(broker, worker.worker_id)
    shapes = [str(worker.grant) for worker in broker.core.workers.workers.values() if worker.outstanding]
    assert "{special: 2}" in shapes and "{CPU: 1}" in shapes


def test_a_held_host_serves_a_job_that_has_nothing(broker):
    workers, _ = large_beside_small(broker, run_us=10**6)
    broker.tick(LATER)
    _, (task_id,) = second(broker, function_id=SLOW)
    # The first job holds the host for its large task, and still uses a CPU: the second job, which has none, is next.
    finish_one(broker, workers[0])
    host = b"host".ljust(16, b"\0")
    (new,) = broker.workers(host)
    assert broker.runs(new) == [task_id]


# ------------------------------------------------------------------ random mixtures


class VirtualCluster:
    """A broker core, and workers that run tasks in virtual time. Each line always has tasks."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        counter = itertools.count(1)
        self.core = BrokerCore(lambda: next(counter).to_bytes(16, "big"))
        self.now = 0.0
        self.events: list[tuple[float, int, bytes]] = []  # time, order, worker: when it finishes its task, or joins
        self.order = itertools.count()
        self.queued: dict[bytes, list[m.Run]] = defaultdict(list)
        self.starts: dict[tuple[bytes, bytes], list[float]] = defaultdict(list)  # by owner and shape
        self.run_s: dict[bytes, float] = {}
        self.used: dict[bytes, float] = defaultdict(float)  # CPU seconds by owner
        self.lines: list[tuple[bytes, bytes, bytes]] = []  # owner, function, shape
        self.tasks = itertools.count(1)

    def host(self, name: str, **resources: float) -> None:
        process_id = name.encode().ljust(16, b"\0")
        self.core.joined(process_id, m.HOST, JoinInfo(), self.now)
        self.core.receive(process_id, m.HostReady(amounts(**resources), HostInfo(hostname=name)), self.now)

    def line(self, owner: bytes, run_s: float, key: bytes) -> None:
        function_id = len(self.lines).to_bytes(16, "big")
        self.lines.append((owner, function_id, key))
        self.run_s[function_id] = run_s
        for _ in range(40):
            self.submit(owner, function_id, key)

    def submit(self, owner: bytes, function_id: bytes, key: bytes) -> None:
        task_id = make_task_id(owner, next(self.tasks))
        self.core.receive(owner, m.Submit(task_id, 0, function_id, key, m.FLAG_RETRYABLE, b"", b""), self.now)

    def turn(self) -> None:
        self.core.schedule(self.now)
        for dest, messages in self.core.take_output().sends.items():
            for message in messages:
                if isinstance(message, m.StartWorker):
                    self.at(0.02, message.worker_id)
                elif isinstance(message, m.Run):
                    if not self.queued[dest]:
                        self.begin(dest, message)
                    self.queued[dest].append(message)

    def at(self, delay_s: float, worker_id: bytes) -> None:
        heapq.heappush(self.events, (self.now + delay_s, next(self.order), worker_id))

    def begin(self, worker_id: bytes, run: m.Run) -> None:
        self.starts[owner_of(run.task_id), run.shape].append(self.now)
        self.at(self.run_s[run.function_id] * self.rng.uniform(0.5, 1.0), worker_id)

    def run(self, until: float) -> None:
        self.turn()
        while self.now < until:
            self.now, _, worker_id = heapq.heappop(self.events)
            worker = self.core.workers.workers[worker_id]
            if worker_id not in self.core.processes:
                self.core.joined(worker_id, m.WORKER, JoinInfo(1), self.now)
            else:
                run = self.queued[worker_id].pop(0)
                owner = owner_of(run.task_id)
                run_s = self.run_s[run.function_id]
                self.used[owner] += run_s * worker.grant.cpus / UNIT
                self.core.receive(worker_id, m.Done(run.task_id, 0, round(run_s * 1e6), b""), self.now)
                self.submit(owner, run.function_id, run.shape)
                if self.queued[worker_id]:
                    self.begin(worker_id, self.queued[worker_id][0])
            self.turn()

    def longest_wait(self, owner: bytes, key: bytes) -> float:
        starts = [0.0, *self.starts[owner, key], self.now]
        return max(after - before for before, after in itertools.pairwise(starts))


@pytest.mark.parametrize("seed", range(30))
def test_no_line_starves(seed):
    """Jobs and lines of all kinds always have tasks in the queue: each line is served again and again."""
    cluster = VirtualCluster(seed)
    rng = cluster.rng
    for number in range(rng.choice([1, 1, 2, 3])):
        cluster.host(f"host{number}", CPU=rng.choice([2, 3, 4]), special=2)
    shapes = [
        ONE_CPU,
        ONE_CPU,
        TWO_CPUS,
        shape(CPU=0.5),
        shape(CPU=1, special=1),
        shape(special=1),
        shape(CPU=2, special=2),
    ]
    for number in range(rng.choice([1, 2, 3])):
        driver = f"driver{number}".encode().ljust(16, b"\0")
        cluster.core.joined(driver, m.DRIVER, JoinInfo(), 0.0)
        for _ in range(rng.choice([1, 2, 4])):
            run_s = rng.choice([0.002, 0.01, 0.05])
            cluster.line(driver, run_s, rng.choice(shapes))
    cluster.run(4.0)
    cluster.core.check()
    waits = {(owner[:8], str(read_shape(key))): cluster.longest_wait(owner, key) for owner, _, key in cluster.lines}
    assert max(waits.values()) < 2 * STARVED_S, waits


def test_no_job_uses_less_than_half_of_its_part():
    """This holds for any run time and size of tasks."""
    cluster = VirtualCluster(7)
    cluster.host("host", CPU=4)
    lines = {"short": (0.0005, ONE_CPU), "long": (0.05, ONE_CPU), "wide": (0.01, TWO_CPUS)}
    for name, (run_s, key) in lines.items():
        driver = name.encode().ljust(16, b"\0")
        cluster.core.joined(driver, m.DRIVER, JoinInfo(), 0.0)
        cluster.line(driver, run_s, key)
    cluster.run(3.0)
    used = sorted(cluster.used.values())
    assert len(used) == 3 and used[0] > sum(used) / 3 / 2, cluster.used
