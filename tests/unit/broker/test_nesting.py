"""Tasks that wait for tasks that they have submitted: which tasks get the CPUs that they lend."""

from __future__ import annotations

import pytest

from tests.unit.broker.harness import ACTOR, NO_CPU, BrokerHarness, shape
from zray.broker.records import LENT_FOR_S, MAX_DEPTH
from zray.ids import make_task_id
from zray.protocol import messages as m

LONG = 10_000_000


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


class Nest:
    """A driver and a host. Each worker runs one task at a time."""

    def __init__(self, broker: BrokerHarness, cpus: int) -> None:
        self.broker = broker
        self.driver = broker.driver()
        self.host = broker.host(CPU=cpus)
        self.running: dict[bytes, bytes] = {}  # by task: its worker
        self.workers: list[bytes] = []
        self.look()

    def look(self) -> set[bytes]:
        """Joins workers and begins tasks. Returns the tasks that have begun since the last call."""
        begun: set[bytes] = set()
        while True:
            self.workers += self.broker.workers(self.host)
            new = {task: worker for worker in self.workers for task in self.broker.runs(worker)}
            if not new:
                return begun
            self.running.update(new)
            begun |= set(new)

    def submit(self, owner: bytes, count: int = 1, shape: bytes = shape(CPU=1)) -> list[bytes]:
        return self.broker.submit(owner, count, shape, retryable=False)

    def create_actor(self, **changes: bytes) -> bytes:
        """Makes an actor of the driver that is alive and holds no resources. Returns its worker."""
        self.broker.create(self.driver, running=NO_CPU, **changes)
        self.look()
        worker = self.broker.core.actors.actors[ACTOR].worker
        assert worker is not None
        self.broker.say(worker.worker_id, m.ActorReady(ACTOR, b""))
        return worker.worker_id

    def wait_in(self, task: bytes) -> None:
        self.broker.say(self.running[task], m.Blocked(True))

    def go_on(self, task: bytes) -> None:
        self.broker.say(self.running[task], m.Blocked(False))

    def end(self, task: bytes) -> None:
        self.broker.done(self.running.pop(task), task, run_us=LONG)


def test_cpus_of_a_waiting_task_are_for_the_tasks_that_it_submitted(broker):
    """Two CPUs and eight tasks that each wait for one of their own: four processes are enough."""
    nest = Nest(broker, cpus=2)
    left = nest.submit(nest.driver, 8)
    while left:
        parents = nest.look()
        assert parents == set(left[:2])
        children = {}
        for parent in parents:
            (child,) = nest.submit(nest.running[parent])
            nest.wait_in(parent)
            assert nest.look() == {child}
            children[parent] = child
        for parent, child in children.items():
            nest.end(child)
            assert nest.look() == set()  # the parent has the answer and needs its CPU, but has not said so yet
            nest.go_on(parent)
        for parent in parents:
            nest.end(parent)
        left = left[2:]
    assert len(nest.workers) == 4


def test_a_cpu_that_was_not_lent_is_for_any_task(broker):
    """Tasks of waiting tasks run on any CPU. A CPU that is left is for the next task."""
    nest = Nest(broker, cpus=2)
    first, second, third = nest.submit(nest.driver, 3)
    assert nest.look() == {first, second}
    nest.end(second)
    assert nest.look() == {third}
    (child,) = nest.submit(nest.running[first])
    nest.wait_in(first)
    assert nest.look() == {child}
    nest.end(third)
    (fourth,) = nest.submit(nest.driver)
    assert nest.look() == {fourth}


def test_a_loan_is_opened_when_no_deeper_task_takes_it(broker):
    """Tasks that wait for others of the same depth do not wait for ever."""
    nest = Nest(broker, cpus=1)
    tasks = nest.submit(nest.driver, 3)
    for task in tasks[:-1]:
        assert nest.look() == {task}
        nest.wait_in(task)
        assert nest.look() == set()
        broker.tick(1.1 * LENT_FOR_S)
    assert nest.look() == {tasks[-1]}


def test_other_jobs_may_use_lent_cpus_at_once(broker):
    nest = Nest(broker, cpus=1)
    (task,) = nest.submit(nest.driver)
    nest.look()
    nest.wait_in(task)
    (other,) = nest.submit(broker.driver("other"))
    assert nest.look() == {other}


def test_a_deep_recursion_is_not_held_up(broker):
    """Each task submits one and waits for it, far beyond MAX_DEPTH."""
    nest = Nest(broker, cpus=1)
    (task,) = nest.submit(nest.driver)
    chain = []
    for _ in range(3 * MAX_DEPTH):
        assert nest.look() == {task}
        chain.append(task)
        (child,) = nest.submit(nest.running[task])
        nest.wait_in(task)
        task = child
    nest.look()
    nest.end(task)
    for task in reversed(chain):
        nest.go_on(task)
        nest.end(task)
    assert broker.free == {"CPU": 1}


def test_tasks_of_an_actor_are_deeper_than_its_creator(broker):
    nest = Nest(broker, cpus=1)
    actor = nest.create_actor()
    (task,) = nest.submit(nest.driver)
    assert nest.look() == {task}
    nest.wait_in(task)  # for a call of the actor, which submits a task for it
    (of_actor,) = nest.submit(actor)
    assert nest.look() == {of_actor}


def test_an_actor_of_a_waiting_task_gets_the_lent_cpu(broker):
    nest = Nest(broker, cpus=1)
    (task,) = nest.submit(nest.driver)
    nest.look()
    creator = nest.running[task]
    actor_id = make_task_id(creator, 1)
    broker.create(creator, actor_id)
    nest.wait_in(task)
    nest.look()
    assert broker.core.actors.actors[actor_id].worker is not None


def test_a_worker_makes_no_room_for_tasks_that_wait_for_it(broker):
    """Waiting tasks have lent all CPUs, so their line has the lowest level. It must still not take this worker."""
    nest = Nest(broker, cpus=1)
    nest.submit(nest.driver, 2)
    (parent,) = nest.look()
    worker = nest.running[parent]
    children = broker.submit(worker, 200)
    nest.wait_in(parent)
    (first,) = nest.look()
    nest.end(first)  # now its function is known to be short
    done = {first}
    while len(done) < len(children):
        given = nest.look()
        assert given, "the other tasks do not start"
        assert given <= set(children)
        for task in given:
            broker.done(nest.running.pop(task), task, run_us=10)
            done.add(task)
    assert len(nest.workers) == 2


def test_no_host_is_held_for_tasks_that_wait_for_their_own(broker):
    """Many seconds of nested work: the tasks behind the waiting ones are not starved, and hold no host."""
    nest = Nest(broker, cpus=1)
    nest.submit(nest.driver, 2)
    (parent,) = nest.look()
    other = broker.driver("other")
    nest.wait_in(parent)
    for _ in range(20):
        (task,) = nest.submit(nest.running[parent])
        assert nest.look() == {task}
        broker.tick(0.5)
        (rival,) = nest.submit(other)
        nest.end(task)
        assert nest.look() == {rival}
        broker.tick(0.5)
        nest.end(rival)
    assert not broker.core.grants.shares.holds


def test_a_larger_task_of_the_same_job_gets_its_turn_beside_nested_ones(broker):
    nest = Nest(broker, cpus=2)
    waiting = nest.submit(nest.driver, 40)
    (large,) = nest.submit(nest.driver, shape=shape(CPU=2))
    begun: set[bytes] = set()
    for _ in range(len(waiting)):
        begun |= nest.look()
        if large in begun:
            break
        for parent in [task for task in waiting if task in nest.running]:
            (child,) = nest.submit(nest.running[parent])
            nest.wait_in(parent)
            nest.look()
            broker.tick(0.3)
            nest.end(child)
            nest.go_on(parent)
            nest.end(parent)
            begun |= nest.look()
    assert large in begun


def test_an_open_loan_stays_open_until_the_next_loan(broker):
    """Tasks wait for tasks that the driver submits later. These run one after the other on the lent CPUs."""
    nest = Nest(broker, cpus=2)
    for task in nest.submit(nest.driver, 2):
        nest.look()
        nest.wait_in(task)
    others = nest.submit(nest.driver, 10)
    assert nest.look() == set()
    assert 0 < broker.core.due_s(broker.now) <= LENT_FOR_S
    broker.tick(1.1 * LENT_FOR_S)
    while others:
        assert nest.look() == set(others[:2])
        for task in others[:2]:
            nest.end(task)
        others = others[2:]
    assert broker.core.due_s(broker.now) > 1e9


def test_loans_are_opened_sooner_and_sooner_until_a_deeper_task_comes(broker):
    nest = Nest(broker, cpus=1)
    waited_s = []
    for task in nest.submit(nest.driver, 6):
        begun = broker.now
        while nest.look() != {task}:
            broker.tick(0.005)
        waited_s.append(broker.now - begun)
        nest.wait_in(task)
    assert waited_s[1] >= LENT_FOR_S
    assert sum(waited_s) < 2 * LENT_FOR_S
    (child,) = nest.submit(nest.running[task])
    assert nest.look() == {child}
    nest.end(child)
    nest.submit(nest.driver)
    assert nest.look() == set()  # the CPU is kept for deeper tasks again


def has_its_turn(
    broker: BrokerHarness, nest: Nest, large: bytes, owner: bytes, small: list[bytes], rounds: int = 400
) -> bool:
    """Whether a task begins beside small tasks that never run out."""
    running = set(small)
    for _ in range(rounds):
        begun = nest.look()
        if large in begun:
            return True
        broker.tick(0.02)
        for task in [task for task in running if task in nest.running][:1]:
            nest.end(task)
            running.discard(task)
            running.update(nest.submit(owner))
    return False


def test_deeper_tasks_that_no_task_waits_for_do_not_starve_a_larger_one(broker):
    """An actor of the driver submits tasks all the time."""
    nest = Nest(broker, cpus=3)
    actor = nest.create_actor(placement=NO_CPU)
    small = nest.submit(actor, 6)
    nest.look()
    (large,) = nest.submit(nest.driver, shape=shape(CPU=3))
    assert has_its_turn(broker, nest, large, actor, small)


def test_a_task_gets_its_turn_while_another_of_its_depth_waits(broker):
    nest = Nest(broker, cpus=3)
    (waits,) = nest.submit(nest.driver, shape=shape(CPU=3))
    assert nest.look() == {waits}
    nest.wait_in(waits)
    small = nest.submit(nest.driver, 6)
    broker.tick(1.1 * LENT_FOR_S)
    nest.look()
    (large,) = nest.submit(nest.driver, shape=shape(CPU=3))
    assert has_its_turn(broker, nest, large, nest.driver, small)


def test_two_levels_wait_for_what_an_actor_submits(broker):
    """Inner tasks wait for tasks of their own depth, again and again; outer tasks wait for deeper ones."""
    nest = Nest(broker, cpus=1)
    actor = nest.create_actor(placement=NO_CPU)
    begun = broker.now
    for _ in range(6):
        (outer,) = nest.submit(nest.driver)
        while outer not in nest.running:
            nest.look()
            broker.tick(0.01)
        (inner,) = nest.submit(nest.running[outer])
        nest.wait_in(outer)
        assert nest.look() == {inner}
        (leaf,) = nest.submit(actor)
        nest.wait_in(inner)
        while leaf not in nest.running:
            nest.look()
            broker.tick(0.01)
        nest.end(leaf)
        for task in (inner, outer):
            nest.go_on(task)
            nest.end(task)
        broker.turn()
    assert broker.now - begun < 10 * LENT_FOR_S
