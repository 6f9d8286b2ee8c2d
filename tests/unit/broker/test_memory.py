"""What is stopped when the memory of a host is short, and what its owner is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.broker.harness import ACTOR, BrokerHarness, shape
from zray.broker.memory import ANSWER_S, Candidate, choose, least_bytes
from zray.protocol import messages as m
from zray.protocol.records import ProcessMemory

MIB = 2**20
GIB = 2**30
ONE, TWO = b"1" * 16, b"2" * 16
HALF = shape(CPU=0.5)


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


def candidate(worker: int, kind: int = 0, caller: bytes = ONE, order: int = 0, own: int = GIB) -> Candidate:
    return Candidate(bytes([worker]), kind, caller, bytes([order]), own)


def chosen(*candidates: Candidate) -> int:
    choice = choose(candidates)
    assert choice is not None
    return choice.worker_id[0]


# ------------------------------------------------------------------ the choice


def test_nothing_to_stop():
    assert choose([]) is None


@pytest.mark.parametrize("kinds", [(0, 1), (1, 2), (2, 3), (0, 3)])
def test_work_that_can_be_tried_again_goes_first(kinds):
    first, second = kinds
    assert chosen(candidate(1, second, order=9), candidate(2, first, order=1)) == 2


def test_the_caller_with_most_work_gives():
    assert chosen(candidate(1, order=1), candidate(2, order=2), candidate(3, caller=TWO, order=9)) == 2


def test_of_two_callers_the_one_with_more_memory_gives():
    assert chosen(candidate(1, order=1), candidate(2, caller=TWO, order=0, own=2 * GIB)) == 2


def test_only_work_alone_is_alone():
    alone, beside = choose([candidate(1)]), choose([candidate(1), candidate(2, kind=3)])
    assert alone is not None and alone.was_alone and "alone" in alone.why
    assert beside is not None and not beside.was_alone and "stopped first" in beside.why


@given(
    st.lists(
        st.builds(candidate, st.integers(0, 255), st.integers(0, 3), st.sampled_from([ONE, TWO]), st.integers(0, 255)),
        min_size=1,
        unique_by=(lambda each: each.worker_id, lambda each: (each.caller, each.order)),
    )
)
def test_the_oldest_of_a_caller_stays_while_there_is_other_work_of_it(candidates):
    choice = choose(candidates)
    assert choice is not None
    (taken,) = [each for each in candidates if each.worker_id == choice.worker_id]
    alike = [each for each in candidates if (each.kind, each.caller) == (taken.kind, taken.caller)]
    assert taken.order == max(each.order for each in alike)
    assert taken.kind == min(each.kind for each in candidates)


def test_small_machines_have_a_small_least():
    assert (least_bytes(100 * MIB), least_bytes(1024 * GIB)) == (2 * MIB, 64 * MIB)


# ------------------------------------------------------------------ the broker


class Scene:
    """A host with workers that run tasks of one driver, the oldest first."""

    def __init__(self, broker: BrokerHarness, count: int, retryable: bool = True, task_shape: bytes = HALF) -> None:
        self.broker = broker
        self.driver = broker.driver()
        self.host = broker.host(CPU=4)
        self.workers: list[bytes] = []
        idle = broker.workers(self.host)
        self.tasks = broker.submit(self.driver, count, task_shape, retryable=retryable)
        idle += broker.workers(self.host)
        running = {}
        for worker in idle:
            for task_id in broker.runs(worker):
                running[task_id] = worker
        self.workers = [running[task_id] for task_id in self.tasks]
        self.idle = [worker for worker in idle if worker not in self.workers]

    def short(self, *own: int, idle: int = 0, limit: int = 8 * GIB) -> list[m.KillWorker]:
        """The host says that memory is short. ``own``: what its workers use. Returns the orders to kill."""
        sizes = dict(zip(self.workers, own, strict=True)) | dict.fromkeys(self.idle, idle)
        largest = [ProcessMemory(4711, GIB, 2 * GIB, "python big.py")]
        self.broker.say(self.host, m.MemoryShort(limit - 1, limit, "the machine", 0.95, sizes, largest))
        return self.broker.take(self.host, m.KillWorker)

    def killed(self, kill: m.KillWorker, running: bytes) -> list[m.Failed]:
        """The host has killed a worker. Returns what the driver is told."""
        self.broker.say(self.host, m.WorkerDied(kill.worker_id, running, kill.kind, f"was killed: {kill.reason}"))
        return self.broker.take(self.driver, m.Failed)


def test_the_newest_task_is_stopped_and_tried_again_for_nothing(broker):
    scene = Scene(broker, 2)
    (kill,) = scene.short(GIB, GIB)
    assert (kill.worker_id, kill.kind) == (scene.workers[1], "OutOfMemoryError")
    assert "running low on memory: 8.00 of 8.00 GiB of the machine" in kill.reason
    (failed,) = scene.killed(kill, scene.tasks[1])
    assert (failed.task_id, failed.kind, failed.culprit) == (scene.tasks[1], "OutOfMemoryError", False)
    assert "newest of the 2 tasks" in failed.message and "python big.py" in failed.message
    assert any("is stopped" in line for line in broker.log)


def test_a_task_that_was_alone_pays(broker):
    scene = Scene(broker, 1)
    (failed,) = scene.killed(scene.short(GIB)[0], scene.tasks[0])
    assert (failed.kind, failed.culprit) == ("OutOfMemoryError", True)


def test_a_task_that_was_stopped_before_it_began_pays_nothing(broker):
    scene = Scene(broker, 1)
    (failed,) = scene.killed(scene.short(GIB)[0], b"")
    assert (failed.kind, failed.culprit) == ("OutOfMemoryError", False)


def test_nothing_is_stopped_before_the_last_one_has_ended(broker):
    scene = Scene(broker, 2)
    (kill,) = scene.short(GIB, GIB)
    assert scene.short(GIB, GIB) == []
    scene.killed(kill, scene.tasks[1])
    scene.workers.pop()
    assert [kill.worker_id for kill in scene.short(GIB)] == [scene.workers[0]]


def test_a_stop_is_forgotten_with_its_host(broker):
    scene = Scene(broker, 1)
    scene.short(GIB)
    broker.lose(scene.host)
    (failed,) = broker.take(scene.driver, m.Failed)
    assert failed.kind == "NodeDiedError"
    assert not broker.core.memory._stops


def test_what_uses_little_is_spared(broker):
    scene = Scene(broker, 2)
    assert [kill.worker_id for kill in scene.short(GIB, 90 * MIB)] == [scene.workers[0]]


def test_if_nothing_helps_the_log_says_so_once(broker):
    scene = Scene(broker, 1)
    assert scene.short(MIB) == [] and scene.short(MIB) == []
    assert sum("no task or actor there uses much" in line for line in broker.log) == 1


def test_idle_workers_are_asked_to_exit_first(broker):
    scene = Scene(broker, 1)
    assert scene.short(GIB, idle=GIB) == []
    asked = [worker for worker in scene.idle if broker.take(worker, m.ExitIfIdle)]
    assert asked == scene.idle
    assert scene.short(GIB, idle=GIB) == []  # they have not answered
    for worker in scene.idle:
        broker.say(worker, m.Staying(True))
    assert [kill.worker_id for kill in scene.short(GIB, idle=GIB)] == scene.workers


def test_an_idle_worker_that_never_answers_is_not_awaited_for_ever(broker):
    scene = Scene(broker, 1)
    assert scene.short(GIB, idle=GIB) == []
    broker.tick(ANSWER_S)
    assert [kill.worker_id for kill in scene.short(GIB, idle=GIB)] == scene.workers


def test_a_task_that_the_kernel_killed_pays(broker):
    scene = Scene(broker, 2)
    broker.say(scene.host, m.WorkerDied(scene.workers[0], scene.tasks[0], "OutOfMemoryError", "SIGKILL"))
    (failed,) = broker.take(scene.driver, m.Failed)
    assert (failed.kind, failed.culprit, failed.message) == ("OutOfMemoryError", True, "SIGKILL")


def test_an_end_of_another_cause_is_not_blamed_on_memory(broker):
    scene = Scene(broker, 1)
    scene.short(GIB)
    broker.say(scene.host, m.WorkerDied(scene.workers[0], scene.tasks[0], "WorkerCrashedError", "SIGSEGV"))
    (failed,) = broker.take(scene.driver, m.Failed)
    assert (failed.kind, failed.message, failed.culprit) == ("WorkerCrashedError", "SIGSEGV", True)


@pytest.mark.parametrize("max_restarts", [0, 1])
def test_calls_of_a_stopped_actor(broker, max_restarts):
    driver, host = broker.driver(), broker.host(CPU=1)
    broker.create(driver, max_restarts=max_restarts)
    worker = next(worker for worker in broker.workers(host) if broker.core.workers.workers[worker].actor is not None)
    broker.say(worker, m.ActorReady(ACTOR, b""))
    broker.take(driver)
    broker.say(host, m.MemoryShort(GIB, GIB, "the machine", 0.95, {worker: GIB}, []))
    (kill,) = broker.take(host, m.KillWorker)
    broker.say(host, m.WorkerDied(worker, b"", kill.kind, "was killed"))
    (state,) = broker.take(driver, m.ActorState)
    assert (b"OutOfMemoryError" in state.error) == (max_restarts == 0)
    assert "It was alone" in state.message


def test_calls_of_an_actor_that_the_kernel_killed(broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    broker.create(driver, ACTOR, placement=shape())
    worker = next(worker for worker in broker.workers(host) if broker.core.workers.workers[worker].actor is not None)
    broker.say(worker, m.ActorReady(ACTOR, b""))
    broker.take(driver)
    broker.say(host, m.WorkerDied(worker, b"", "OutOfMemoryError", "the kernel has killed it"))
    (state,) = broker.take(driver, m.ActorState)
    assert b"OutOfMemoryError" in state.error


def test_memory_of_a_machine_without_memory(broker):
    scene = Scene(broker, 1)
    with pytest.raises(m.ProtocolError, match="without a limit"):
        broker.say(scene.host, m.MemoryShort(0, 0, "the machine", 0.95, {}, []))
