"""Placement on hosts: actors and SPREAD tasks go to the least loaded host, and hosts with GPUs are spared."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.broker.harness import FUNCTION, ONE_CPU, BrokerHarness, shape
from zray.ids import make_task_id
from zray.protocol import messages as m

ONE_GPU = shape(CPU=1, GPU=1)
ONE_TPU = shape(CPU=1, TPU=1)


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


class Hosts:
    """Hosts whose workers have joined. Tasks and actors that are placed on them do not end."""

    def __init__(self, broker: BrokerHarness, *resources: dict[str, float]) -> None:
        self.broker = broker
        self.driver = broker.driver()
        self.hosts = [broker.host(str(number), **each) for number, each in enumerate(resources)]
        self.workers = {host: broker.workers(host) for host in self.hosts}

    def actors(self, count: int, first: int = 1, placement: bytes = ONE_CPU) -> list[int]:
        """Creates actors, each in a turn of its own. Returns how many each host has."""
        for number in range(first, first + count):
            self.broker.create(self.driver, make_task_id(self.driver, number), placement=placement, running=placement)
            self.come()
        placed = Counter(
            worker.host.host_id for worker in self.broker.core.workers.workers.values() if worker.actor is not None
        )
        return [placed[host] for host in self.hosts]

    def come(self) -> None:
        for host in self.hosts:
            self.workers[host] += self.broker.workers(host)

    def tasks(self, count: int, flags: int = 0, key: bytes = ONE_CPU) -> list[int]:
        """Submits tasks that do not end. Returns how many more run on each host."""
        for _ in range(count):
            task_id = make_task_id(self.driver, next(self.broker._tasks))
            self.broker.say(self.driver, m.Submit(task_id, 0, FUNCTION, key, flags, b"", b"payload"))
            self.come()
        return [sum(len(self.broker.runs(worker)) for worker in self.workers[host]) for host in self.hosts]


FOUR = {"CPU": 4.0}
WITH_GPUS = {"CPU": 4.0, "GPU": 2.0}


def test_an_actor_goes_to_its_arguments_if_that_host_is_as_good(broker):
    hosts = Hosts(broker, FOUR, FOUR, WITH_GPUS)
    first, second, with_gpus = hosts.hosts
    ids = [make_task_id(hosts.driver, number) for number in range(1, 5)]
    placed = []
    for actor_id, near in zip(ids, (second, second, with_gpus, b"gone".ljust(16, b"\0")), strict=True):
        broker.create(hosts.driver, actor_id, near=near)
        worker = broker.core.actors.actors[actor_id].worker
        assert worker is not None
        placed.append(worker.host.host_id)
    assert placed == [second, first, first, second]


def test_actors_are_spread_over_hosts_that_are_idle(broker):
    assert Hosts(broker, FOUR, FOUR, FOUR).actors(6) == [2, 2, 2]


def test_actors_of_one_turn_are_spread(broker):
    hosts = Hosts(broker, FOUR, FOUR, FOUR)
    rows = [broker.creation(make_task_id(hosts.driver, number), running=ONE_CPU) for number in range(1, 7)]
    broker.say(hosts.driver, *rows)
    assert hosts.actors(0) == [2, 2, 2]


def test_a_larger_host_has_more_actors(broker):
    assert Hosts(broker, {"CPU": 8.0}, {"CPU": 2.0}).actors(5) == [4, 1]


def test_an_actor_goes_where_others_have_ended(broker):
    hosts = Hosts(broker, FOUR, FOUR)
    assert hosts.actors(4) == [2, 2]
    (victim,) = [
        actor for actor in broker.core.actors.actors.values() if actor.actor_id == make_task_id(hosts.driver, 1)
    ]
    assert victim.worker is not None
    worker_id, host_id = victim.worker.worker_id, victim.worker.host.host_id
    broker.say(hosts.driver, m.ActorKill(victim.actor_id, True))
    broker.kill(worker_id)
    assert hosts.actors(1, first=5) == [2, 2]
    newest = broker.core.actors.actors[make_task_id(hosts.driver, 5)]
    assert newest.worker is not None
    assert newest.worker.host.host_id == host_id


def test_spread_tasks_are_spread(broker):
    assert Hosts(broker, FOUR, FOUR, FOUR).tasks(6, m.FLAG_SPREAD) == [2, 2, 2]


class Spreading:
    """A driver and three hosts of four CPUs. The workers of ``late`` hosts are being started. Tasks do not end."""

    def __init__(self, broker: BrokerHarness, *late: int) -> None:
        self.broker = broker
        self.driver = broker.driver()
        self.hosts = [broker.host(str(number), CPU=4) for number in range(3)]
        self.workers: dict[bytes, list[bytes]] = {host: [] for host in self.hosts}
        self.came = [0, 0, 0]
        for number, host in enumerate(self.hosts):
            if number not in late:
                self.workers[host] += broker.workers(host)

    def submit(self, count: int, shape: bytes = ONE_CPU) -> list[int]:
        """Submits tasks in one turn. Returns how many each host has got."""
        ids = [make_task_id(self.driver, next(self.broker._tasks)) for _ in range(count)]
        rows = [m.Submit(task_id, 0, FUNCTION, shape, m.FLAG_SPREAD, b"", b"payload") for task_id in ids]
        self.broker.say(self.driver, *rows)
        return self.got()

    def got(self) -> list[int]:
        for number, host in enumerate(self.hosts):
            self.came[number] += sum(len(self.broker.runs(worker)) for worker in self.workers[host])
        return self.came

    def start(self, number: int) -> list[int]:
        """The workers of a host have started."""
        self.workers[self.hosts[number]] += self.broker.workers(self.hosts[number])
        return self.got()


@pytest.mark.parametrize("late", range(3))
def test_a_host_whose_workers_are_being_started_gets_its_part_of_spread_tasks(broker, late):
    spreading = Spreading(broker, late)
    assert spreading.submit(6) == [0 if number == late else 2 for number in range(3)]
    assert spreading.start(late) == [2, 2, 2]
    assert broker.tasks and not any(queue for queue in broker.core.lines.queues.values())


def test_spread_tasks_wait_for_workers_everywhere(broker):
    spreading = Spreading(broker, 0, 1, 2)
    assert spreading.submit(6) == [0, 0, 0]
    assert spreading.start(1) == [0, 2, 0]
    assert spreading.start(0) == [2, 2, 0]
    assert spreading.start(2) == [2, 2, 2]


def test_spread_tasks_that_end_meanwhile_leave_what_others_are_owed(broker):
    spreading = Spreading(broker, 2)
    spreading.submit(6)
    for host in spreading.hosts[:2]:
        for worker in spreading.workers[host]:
            for task_id in list(broker.core.workers.workers[worker].outstanding):
                broker.done(worker, task_id)
    assert spreading.got() == [2, 2, 0]
    assert spreading.start(2) == [2, 2, 2]


def test_more_spread_tasks_than_room_go_where_room_is_first(broker):
    spreading = Spreading(broker, 2)
    assert spreading.submit(20) == [4, 4, 0]
    assert spreading.start(2) == [4, 4, 4]


def test_spread_tasks_beside_another_line_get_their_parts_too(broker):
    spreading = Spreading(broker, 2)
    large = make_task_id(spreading.driver, next(broker._tasks))
    broker.say(spreading.driver, m.Submit(large, 0, FUNCTION, shape(CPU=64), 0, b"", b"payload"))
    assert spreading.submit(6) == [2, 2, 0]
    assert spreading.start(2) == [2, 2, 2]


def test_what_a_lost_host_was_owed_goes_to_others(broker):
    spreading = Spreading(broker, 2)
    spreading.submit(6)
    broker.lose(spreading.hosts[2])
    assert spreading.got() == [3, 3, 0]


def test_what_a_host_without_room_was_owed_goes_to_others(broker):
    spreading = Spreading(broker, 2)
    spreading.submit(6)
    nodes = shape(CPU=4)
    for number in range(1, 4):  # the least loaded host has no actors; its CPUs are all taken then
        broker.create(spreading.driver, make_task_id(spreading.driver, 100 + number), placement=nodes, running=nodes)
    assert spreading.got() == [3, 3, 0]


def test_a_start_that_fails_leaves_no_debt(broker):
    spreading = Spreading(broker, 2)
    spreading.submit(6)
    for started in broker.take(spreading.hosts[2], m.StartWorker):
        broker.kill(started.worker_id)
    assert spreading.start(2) == [2, 2, 2]


def test_spread_tasks_one_after_the_other_take_turns(broker):
    spreading = Spreading(broker)
    for _ in range(6):
        spreading.submit(1)
        for workers in spreading.workers.values():
            for worker in workers:
                for task_id in list(broker.core.workers.workers[worker].outstanding):
                    broker.done(worker, task_id)
    assert spreading.got() == [2, 2, 2]


def test_cancelled_spread_tasks_leave_no_debt(broker):
    spreading = Spreading(broker, 2)
    spreading.submit(6)
    for task_id, envelope in broker.tasks.items():
        if envelope.worker is None:
            broker.say(spreading.driver, m.Cancel(task_id, 0))
    spreading.start(2)
    assert sum(spreading.submit(3)) == 2 + 2 + 3


def test_other_tasks_fill_hosts_up_to_a_half_and_then_to_the_end(broker):
    assert Hosts(broker, FOUR, FOUR, FOUR).tasks(2) == [2, 0, 0]
    assert Hosts(BrokerHarness(), FOUR, FOUR, FOUR).tasks(5) == [2, 2, 1]
    assert Hosts(BrokerHarness(), FOUR, FOUR, FOUR).tasks(9) == [4, 3, 2]


def test_memory_counts_as_use(broker):
    hosts = Hosts(broker, {"CPU": 8, "memory": 4}, {"CPU": 8, "memory": 4})
    assert hosts.tasks(4, key=shape(CPU=1, memory=1)) == [2, 2]


def test_hosts_with_gpus_are_spared_by_tasks_that_need_none(broker):
    hosts = Hosts(broker, WITH_GPUS, FOUR)
    assert hosts.tasks(4) == [0, 4]
    assert hosts.tasks(2) == [2, 0]  # there is no other room


def test_hosts_with_gpus_are_spared_by_actors_that_need_none(broker):
    hosts = Hosts(broker, WITH_GPUS, FOUR)
    assert hosts.actors(4) == [0, 4]
    assert hosts.actors(2, first=5) == [2, 4]


def test_other_accelerators_are_looked_for_and_spared_as_gpus_are(broker):
    hosts = Hosts(broker, {"CPU": 4.0, "TPU": 2.0}, FOUR)
    assert hosts.tasks(1, key=ONE_TPU) == [1, 0]
    assert hosts.tasks(1) == [0, 1]


def test_work_that_needs_gpus_goes_to_hosts_that_have_them(broker):
    hosts = Hosts(broker, FOUR, WITH_GPUS)
    assert hosts.tasks(1, key=ONE_GPU) == [0, 1]
    assert hosts.actors(1, placement=ONE_GPU) == [0, 1]


def test_a_process_keeps_the_same_gpus(broker):
    hosts = Hosts(broker, WITH_GPUS)
    (host,) = hosts.hosts

    def run() -> tuple[bytes, list[int], bytes]:
        (task_id,) = broker.submit(hosts.driver, shape=ONE_GPU)
        hosts.come()
        return next((worker, run.gpus, task_id) for worker in hosts.workers[host] for run in broker.take(worker, m.Run))

    first, gpus, task_id = run()
    assert gpus == [0]
    broker.done(first, task_id)
    again, gpus, task_id = run()
    assert (again, gpus) == (first, [0])
    other, gpus, other_task = run()
    assert other != first and gpus == [1]
    broker.done(other, other_task)
    third, gpus, _ = run()
    assert (third, gpus) == (other, [1])
    broker.done(first, task_id)
