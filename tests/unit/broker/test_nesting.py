"""Tasks that wait for tasks which they have submitted: who gets the CPUs that they lend meanwhile."""

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
    """A driver and a host; tasks run one at a time in each worker."""

    def __init__(self, broker: BrokerHarness, cpus: int) -> None:
        self.broker = broker
        self.driver = broker.driver()
        self.host = broker.host(CPU=cpus)
        self.running: dict[bytes, bytes] = {}  # by task: its worker
        self.workers: list[bytes] = []
        self.look()

    def look(self) -> set[bytes]:
        """Workers come, tasks begin: those that have begun since the last look."""
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
        """An actor of the driver's, which lives and holds nothing; returns its worker."""
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


def test_what_a_task_that_waits_lends_is_for_what_it_has_submitted(broker):
    """Two CPUs, eight tasks that each wait for one of theirs: four processes do."""
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
            assert nest.look() == set()  # its CPU is that of the parent, who has its answer and has not said so yet
            nest.go_on(parent)
        for parent in parents:
            nest.end(parent)
        left = left[2:]
    assert len(nest.workers) == 4


def test_another_cpu_is_anybodys(broker):
    """What those who wait have submitted runs on any CPU; one that is left is for whoever is next."""
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


def test_what_nobody_takes_that_is_meant_is_anybodys_after_a_while(broker):
    """Tasks that wait for others of the same kind do not wait for ever."""
    nest = Nest(broker, cpus=1)
    tasks = nest.submit(nest.driver, 3)
    for task in tasks[:-1]:
        assert nest.look() == {task}
        nest.wait_in(task)
        assert nest.look() == set()
        broker.tick(1.1 * LENT_FOR_S)
    assert nest.look() == {tasks[-1]}


def test_what_is_lent_is_for_other_jobs_at_once(broker):
    nest = Nest(broker, cpus=1)
    (task,) = nest.submit(nest.driver)
    nest.look()
    nest.wait_in(task)
    (other,) = nest.submit(broker.driver("other"))
    assert nest.look() == {other}


def test_a_deep_recursion_is_not_held_up(broker):
    """Each task submits one and waits for it, far deeper than depths are told apart."""
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


def test_what_an_actor_submits_is_deeper_than_what_created_it(broker):
    nest = Nest(broker, cpus=1)
    actor = nest.create_actor()
    (task,) = nest.submit(nest.driver)
    assert nest.look() == {task}
    nest.wait_in(task)  # for a call of the actor, which submits a task for it
    (of_actor,) = nest.submit(actor)
    assert nest.look() == {of_actor}


def test_an_actor_of_a_task_that_waits_has_the_cpu_that_it_lends(broker):
    nest = Nest(broker, cpus=1)
    (task,) = nest.submit(nest.driver)
    nest.look()
    creator = nest.running[task]
    actor_id = make_task_id(creator, 1)
    broker.create(creator, actor_id)
    nest.wait_in(task)
    nest.look()
    assert broker.core.actors.actors[actor_id].worker is not None


def test_a_worker_for_what_somebody_waits_for_makes_no_room_for_him(broker):
    """The tasks that wait have lent all that they had, and so are said to have least; it is not theirs to take."""
    nest = Nest(broker, cpus=1)
    nest.submit(nest.driver, 2)
    (parent,) = nest.look()
    worker = nest.running[parent]
    children = broker.submit(worker, 200)
    nest.wait_in(parent)
    (first,) = nest.look()
    nest.end(first)  # from now on it is known to be short
    done = {first}
    while len(done) < len(children):
        given = nest.look()
        assert given, "the rest waits for nobody"
        assert given <= set(children)
        for task in given:
            broker.done(nest.running.pop(task), task, run_us=10)
            done.add(task)
    assert len(nest.workers) == 2


def test_no_host_is_held_for_those_who_wait_for_their_own(broker):
    """Many seconds of nested work: the tasks behind those that wait are not starving, and hold up nobody."""
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
    assert not broker.core.scheduler.shares.holds


def test_a_larger_task_of_the_same_job_has_its_turn_beside_nested_ones(broker):
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


def test_once_it_is_anybodys_it_stays_so_until_somebody_lends_anew(broker):
    """Tasks wait for what the driver submits later: those run one after the other on the CPUs that were lent."""
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


def test_it_is_anybodys_sooner_and_sooner_while_nobody_deeper_comes(broker):
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
    assert nest.look() == set()  # it is kept again


def has_its_turn(
    broker: BrokerHarness, nest: Nest, large: bytes, owner: bytes, small: list[bytes], rounds: int = 400
) -> bool:
    """Whether a task is begun beside small ones, of which there are always more."""
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


def test_deeper_tasks_that_nobody_waits_for_do_not_starve_a_larger_one(broker):
    """An actor of the driver's submits on and on."""
    nest = Nest(broker, cpus=3)
    actor = nest.create_actor(placement=NO_CPU)
    small = nest.submit(actor, 6)
    nest.look()
    (large,) = nest.submit(nest.driver, shape=shape(CPU=3))
    assert has_its_turn(broker, nest, large, actor, small)


def test_a_task_whose_equal_waits_has_its_turn(broker):
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
    """Tasks of the lower level wait for their equals, again and again; those of the upper one for deeper ones."""
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
