"""Leases at the broker: when one begins, who takes it back, and what happens when each party dies at each step."""

from __future__ import annotations

import pytest

from tests.unit.broker.harness import ONE_CPU, BrokerHarness, amounts, shape
from zray.broker.leases import GRACE_S
from zray.broker.memory import ANSWER_S
from zray.broker.resources import shape_key
from zray.broker.states import BUSY, IDLE, LEASED, RETIRED
from zray.bundles import GROUP_ID_BYTES
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol.messages import CANCEL_FORCE, ProtocolError
from zray.protocol.questions import AT_WORKER, UNKNOWN, ExplainTask, Explanation, StatusQuery
from zray.protocol.records import Activity, GroupSpec, JoinInfo, ProcessMemory, RunningCall
from zray.scheduling.combine import combine

SHAPE = ONE_CPU
OUTCOME = b"outcome"


class Stage:
    """A driver, and a host with workers that have joined. ``submit`` asks for a lease."""

    def __init__(self, cpus: int = 2, gpus: int = 0) -> None:
        self.broker = BrokerHarness()
        self.driver = self.broker.driver()
        self.host = self.broker.host(CPU=cpus, GPU=gpus) if gpus else self.broker.host(CPU=cpus)
        self.workers = self.broker.workers(self.host)
        self.number = 500
        self.lease = 0  # the number of the last lease that a worker was told of

    def submit(self, count: int = 1, shape: bytes = SHAPE, near: bytes = b"", owner: bytes = b"") -> list[bytes]:
        owner = owner or self.driver
        task_ids = []
        for _ in range(count):
            self.number += 1
            task_ids.append(make_task_id(owner, self.number))
        flags = m.FLAG_RETRYABLE | m.FLAG_LEASE
        function_id = b"function".ljust(16, b"\0")
        self.broker.say(owner, *[m.Submit(each, 0, function_id, shape, flags, near, b"payload") for each in task_ids])
        return task_ids

    def given(self) -> tuple[bytes, m.Run]:
        """The worker that was given the only task, and what it was told."""
        runs = [(worker, run) for worker in self.workers for run in self.broker.take(worker, m.Run)]
        ((worker, run),) = runs
        self.lease = run.lease or self.lease
        return worker, run

    def leased(self) -> bytes:
        """Has the driver lease a worker."""
        (task_id,) = self.submit()
        worker, run = self.given()
        assert run.lease
        self.broker.done(worker, task_id)
        result, leased = self.broker.take(self.driver, m.Result, m.Leased)
        assert result.task_id == task_id and leased == m.Leased(worker, self.lease, SHAPE, SHAPE)
        assert self.state(worker) is LEASED
        return worker

    def state(self, worker: bytes) -> int:
        return self.broker.core.workers.workers[worker].state

    def overs(self, worker: bytes) -> list[m.LeaseOver]:
        return self.broker.take(worker, m.LeaseOver)

    def over(self, worker: bytes) -> None:
        """The worker answers."""
        assert self.overs(worker) == [m.LeaseOver(self.lease, False)]
        self.broker.say(worker, m.LeaseLeft(self.lease, False))

    def kills(self) -> list[bytes]:
        return [kill.worker_id for kill in self.broker.take(self.host, m.KillWorker)]


@pytest.fixture
def stage() -> Stage:
    return Stage()


# ------------------------------------------------------------------ the beginning


def test_a_lease_keeps_the_grant(stage: Stage) -> None:
    stage.leased()
    assert stage.broker.free == {"CPU": 1}


def test_a_task_that_asks_for_none_leaves_none(stage: Stage) -> None:
    (task_id,) = stage.broker.submit(stage.driver)
    worker, run = stage.given()
    assert not run.lease
    stage.broker.done(worker, task_id)
    assert stage.state(worker) is IDLE and not stage.overs(worker)


def test_none_if_more_of_the_line_waits(stage: Stage) -> None:
    stage.submit(5)
    first = [run for worker in stage.workers for run in stage.broker.take(worker, m.Run)]
    assert [run.lease for run in first] == [0] * len(first)


def test_none_for_work_with_gpus() -> None:
    stage = Stage(gpus=1)
    stage.submit(shape=shape(CPU=1, GPU=1))
    assert not stage.given()[1].lease


def test_only_on_the_host_that_the_owner_names(stage: Stage) -> None:
    other = stage.broker.host("other", CPU=2)
    stage.workers += stage.broker.workers(other)
    stage.submit(near=other)
    worker, run = stage.given()
    assert stage.broker.core.workers.workers[worker].host.host_id == other and run.lease
    stage.submit()
    assert not stage.given()[1].lease


def test_told_and_declined_because_work_waits(stage: Stage) -> None:
    (task_id,) = stage.submit()
    worker, _ = stage.given()
    waiting = stage.broker.submit(stage.driver, shape=shape(CPU=2))
    stage.broker.done(worker, task_id)
    messages = stage.broker.take(worker, m.LeaseOver, m.Run)
    assert messages[0] == m.LeaseOver(stage.lease, False)  # before whatever it is given next
    assert not stage.broker.take(stage.driver, m.Leased)
    stage.broker.say(worker, m.LeaseLeft(stage.lease, False))  # changes nothing
    assert stage.state(worker) in (IDLE, BUSY) and stage.broker.tasks.keys() == set(waiting)


def test_declined_for_a_worker_that_blocks_or_has_more(stage: Stage) -> None:
    (task_id,) = stage.submit()
    worker, _ = stage.given()
    stage.broker.say(worker, m.Blocked(True), m.Done(task_id, 0, 50, OUTCOME))
    assert stage.overs(worker) == [m.LeaseOver(stage.lease, False)]
    assert stage.state(worker) is IDLE


def test_a_cancelled_task_leaves_none(stage: Stage) -> None:
    (task_id,) = stage.submit()
    worker, _ = stage.given()
    stage.broker.say(stage.driver, m.Cancel(task_id, 0))
    stage.broker.say(worker, m.Done(task_id, 0, 0, b""))
    assert stage.state(worker) is IDLE and not stage.overs(worker)


def test_an_owner_that_died_meanwhile(stage: Stage) -> None:
    (task_id,) = stage.submit()
    worker, _ = stage.given()
    stage.broker.lose(stage.driver)
    assert worker in stage.kills()
    stage.broker.done(worker, task_id)
    assert stage.state(worker) is RETIRED


# ------------------------------------------------------------------ the end


def test_the_owner_gives_it_back(stage: Stage) -> None:
    worker = stage.leased()
    stage.broker.say(stage.driver, m.LeaseEnd(worker, stage.lease))
    assert not stage.broker.take(stage.driver, m.LeaseEnded)
    stage.over(worker)
    assert stage.state(worker) is IDLE and stage.broker.free == {"CPU": 2}
    assert stage.submit() == [stage.given()[1].task_id]


def test_nobody_else_gives_it_back(stage: Stage) -> None:
    worker = stage.leased()
    stage.broker.say(stage.broker.driver("other"), m.LeaseEnd(worker, stage.lease))
    assert not stage.overs(worker) and stage.state(worker) is LEASED


def test_a_worker_does_not_end_it_alone(stage: Stage) -> None:
    worker = stage.leased()
    stage.broker.say(worker, m.LeaseLeft(stage.lease, False))
    assert stage.state(worker) is LEASED


def test_it_is_taken_back_when_work_waits(stage: Stage) -> None:
    worker = stage.leased()
    other = stage.broker.driver("other")
    (task_id,) = stage.broker.submit(other, shape=shape(CPU=2))
    assert stage.broker.take(stage.driver, m.LeaseEnded) == [m.LeaseEnded(worker, stage.lease)]
    stage.over(worker)
    stage.workers += stage.broker.workers(stage.host)
    assert stage.given()[1].task_id == task_id


def test_it_is_taken_back_once(stage: Stage) -> None:
    worker = stage.leased()
    stage.broker.submit(stage.driver, shape=shape(CPU=2))
    assert stage.overs(worker) == [m.LeaseOver(stage.lease, False)]
    stage.broker.turn()
    stage.broker.say(stage.driver, m.LeaseEnd(worker, stage.lease))
    assert not stage.overs(worker)
    assert stage.broker.take(stage.driver, m.LeaseEnded) == [m.LeaseEnded(worker, stage.lease)]


@pytest.mark.parametrize("wanted", [{"CPU": 1}, {"CPU": 3}, {"GPU": 1}])
def test_it_stays_for_work_that_has_room_or_never_will(stage: Stage, wanted: dict[str, float]) -> None:
    worker = stage.leased()
    stage.broker.submit(stage.driver, shape=shape(**wanted))
    stage.broker.turn()
    assert not stage.overs(worker) and stage.state(worker) is LEASED


def test_an_actor_that_waits_takes_it_back(stage: Stage) -> None:
    worker = stage.leased()
    stage.broker.create(stage.driver, placement=shape(CPU=2))
    assert stage.overs(worker) == [m.LeaseOver(stage.lease, False)]


def test_a_worker_that_leaves(stage: Stage) -> None:
    worker = stage.leased()
    stage.broker.say(worker, m.Leaving("max_calls"))
    assert stage.broker.take(stage.driver, m.LeaseEnded) == [m.LeaseEnded(worker, stage.lease)]
    assert stage.state(worker) is RETIRED and stage.broker.free == {"CPU": 2}
    stage.broker.kill(worker)
    assert not stage.broker.take(stage.driver, m.LeaseLost)


def test_a_leased_worker_lends_its_cpu_while_it_waits() -> None:
    stage = Stage(cpus=1)
    worker = stage.leased()
    stage.broker.say(worker, m.Blocked(True))
    assert stage.broker.free == {"CPU": 1}
    stage.broker.say(worker, m.Blocked(False))
    assert stage.broker.free == {"CPU": 0}


def test_idle_time_does_not_count_while_it_is_leased(stage: Stage) -> None:
    worker = stage.leased()
    stage.broker.tick(10_000.0)
    assert not stage.broker.take(worker, m.ExitIfIdle)


@pytest.mark.parametrize("strategy", ["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"])
def test_a_placement_group_takes_it_back(stage: Stage, strategy: str) -> None:
    if strategy != "STRICT_PACK":
        stage.workers += stage.broker.workers(stage.broker.host("other", CPU=2))
    (task_id,) = stage.submit(near=stage.host)
    worker, _ = stage.given()
    stage.broker.done(worker, task_id)
    assert stage.state(worker) is LEASED
    bundles = [amounts(CPU=1)] * 2 if strategy == "STRICT_PACK" else [amounts(CPU=2)] * 2
    spec = GroupSpec("", "", strategy, bundles, False, b"")
    stage.broker.say(stage.driver, m.GroupCreate(b"g" * GROUP_ID_BYTES, 7, spec))
    stage.over(worker)
    (group,) = stage.broker.core.groups.groups.values()
    assert group.missing() == []


def test_it_stays_for_what_lacks_something_else() -> None:
    stage = Stage(cpus=4, gpus=1)
    stage.broker.create(stage.driver, running=shape(GPU=1), placement=shape(GPU=1))
    worker = stage.leased()
    stage.broker.submit(stage.driver, shape=shape(CPU=1, GPU=1))
    stage.broker.turn()
    assert not stage.overs(worker)


def test_it_stays_for_what_its_host_may_not_take(stage: Stage) -> None:
    worker = stage.leased()
    constraint = combine(None, {"zone": "elsewhere"}, None)
    assert constraint is not None
    stage.broker.submit(stage.driver, shape=shape_key(amounts(CPU=2), constraint.to_row()))
    stage.broker.turn()
    assert not stage.overs(worker)


def test_what_is_about_a_lease_that_is_over_changes_nothing(stage: Stage) -> None:
    worker = stage.leased()
    before = stage.lease
    stage.broker.say(stage.driver, m.LeaseEnd(worker, before))
    stage.over(worker)
    assert stage.leased() == worker and stage.lease != before
    task_id = make_task_id(stage.driver, 7777)
    stage.broker.say(stage.driver, m.LeaseEnd(worker, before), m.LeaseCancel(worker, before, task_id, CANCEL_FORCE))
    stage.broker.say(worker, m.LeaseLeft(before, False), m.Killable(task_id))
    assert stage.state(worker) is LEASED and not stage.broker.take(worker) and not stage.kills()


# ------------------------------------------------------------------ deaths


def test_the_owner_is_told_of_a_death_before_that_of_the_process(stage: Stage) -> None:
    worker = stage.leased()
    stage.broker.say(stage.driver, m.Watch(worker))
    begun = make_task_id(stage.driver, 9999)
    stage.broker.kill(worker, running=begun)
    lost, died = stage.broker.take(stage.driver, m.LeaseLost, m.ProcessDied)
    assert (lost.worker_id, lost.kind, lost.culprit) == (worker, "WorkerCrashedError", begun)
    assert "SIGKILL" in lost.message and died.process_id == worker
    assert stage.broker.free == {"CPU": 2}


def test_a_host_that_is_lost_with_a_leased_worker_is_told_as_such(stage: Stage) -> None:
    stage.leased()
    stage.broker.lose(stage.host)
    (notice,) = stage.broker.take(stage.driver, m.Notice)
    assert "1 task" in notice.text


def test_the_death_of_a_host(stage: Stage) -> None:
    worker = stage.leased()
    stage.broker.lose(stage.host)
    (lost,) = stage.broker.take(stage.driver, m.LeaseLost)
    assert (lost.worker_id, lost.kind, lost.culprit) == (worker, "NodeDiedError", None)


@pytest.mark.parametrize("gap", ["told", "not told"])
def test_a_death_while_it_is_taken_back(stage: Stage, gap: str) -> None:
    worker = stage.leased()
    stage.broker.submit(stage.driver, shape=shape(CPU=2))
    if gap == "told":
        stage.over(worker)
    stage.broker.kill(worker)
    assert len(stage.broker.take(stage.driver, m.LeaseLost)) == (gap == "not told")


def test_the_owner_dies_and_the_worker_runs_nothing(stage: Stage) -> None:
    owner = owner_in_a_worker(stage)
    leased = lease_for(stage, owner)
    stage.broker.kill(owner)
    assert stage.overs(leased) == [m.LeaseOver(stage.lease, True)]
    stage.broker.say(leased, m.LeaseLeft(stage.lease, False))
    assert stage.state(leased) is IDLE and not stage.kills()
    stage.broker.tick(2 * GRACE_S)
    assert not stage.kills()


def test_the_owner_dies_and_the_worker_runs_its_task(stage: Stage) -> None:
    owner = owner_in_a_worker(stage)
    leased = lease_for(stage, owner)
    stage.broker.kill(owner)
    stage.broker.say(leased, m.LeaseLeft(stage.lease, True))
    assert stage.kills() == [leased]
    stage.broker.tick(2 * GRACE_S)
    assert not stage.kills()
    stage.broker.kill(leased)


def test_the_owner_dies_and_the_worker_does_not_answer(stage: Stage) -> None:
    owner = owner_in_a_worker(stage)
    leased = lease_for(stage, owner)
    stage.broker.kill(owner)
    stage.broker.tick(GRACE_S - 0.1)
    assert not stage.kills()
    stage.broker.tick(0.2)
    assert stage.kills() == [leased]
    stage.broker.tick(GRACE_S)
    assert not stage.kills()


def test_the_owner_dies_while_it_is_taken_back(stage: Stage) -> None:
    owner = owner_in_a_worker(stage)
    leased = lease_for(stage, owner)
    stage.broker.say(owner, m.LeaseEnd(leased, stage.lease))
    stage.broker.kill(owner)
    assert stage.overs(leased) == [m.LeaseOver(stage.lease, False), m.LeaseOver(stage.lease, True)]
    stage.broker.say(leased, m.LeaseLeft(stage.lease, False), m.LeaseLeft(stage.lease, False))
    assert stage.state(leased) is IDLE


def test_the_driver_dies(stage: Stage) -> None:
    worker = stage.leased()
    stage.broker.lose(stage.driver)
    assert worker in stage.kills()
    stage.broker.say(worker, m.LeaseLeft(stage.lease, True))
    stage.broker.kill(worker)
    assert not stage.broker.warnings


def owner_in_a_worker(stage: Stage) -> bytes:
    """A worker that runs a task of the driver, and is about to lease the other one."""
    stage.broker.submit(stage.driver)
    return stage.given()[0]


def lease_for(stage: Stage, owner: bytes) -> bytes:
    (task_id,) = stage.submit(owner=owner)
    worker, run = stage.given()
    assert run.lease
    stage.broker.done(worker, task_id)
    assert stage.broker.take(owner, m.Leased) == [m.Leased(worker, stage.lease, SHAPE, SHAPE)]
    return worker


# ------------------------------------------------------------------ force


def forced(stage: Stage) -> tuple[bytes, bytes]:
    worker = stage.leased()
    task_id = make_task_id(stage.driver, 7777)
    stage.broker.say(stage.driver, m.LeaseCancel(worker, stage.lease, task_id, CANCEL_FORCE))
    assert stage.broker.take(worker, m.CancelTask) == [m.CancelTask(task_id, CANCEL_FORCE)]
    return worker, task_id


def test_by_force_the_worker_is_killed_when_it_has_cancelled_what_is_below(stage: Stage) -> None:
    worker, task_id = forced(stage)
    stage.broker.say(worker, m.Killable(task_id))
    assert stage.kills() == [worker]


def test_by_force_the_worker_is_killed_if_it_does_not_answer(stage: Stage) -> None:
    worker, _ = forced(stage)
    stage.broker.tick(GRACE_S + 0.1)
    assert stage.kills() == [worker]


def test_a_task_that_ends_in_time_saves_its_worker(stage: Stage) -> None:
    worker, _ = forced(stage)
    stage.broker.say(stage.driver, m.LeaseEnd(worker, stage.lease))
    stage.over(worker)
    stage.broker.tick(GRACE_S + 0.1)
    assert not stage.kills() and stage.state(worker) is IDLE


def test_only_the_task_that_was_named_is_killed(stage: Stage) -> None:
    worker, _ = forced(stage)
    stage.broker.say(worker, m.Killable(make_task_id(stage.driver, 7778)))
    assert not stage.kills()


def test_cancelling_again_does_not_put_the_end_off(stage: Stage) -> None:
    worker, task_id = forced(stage)
    stage.broker.tick(0.9 * GRACE_S)
    stage.broker.say(stage.driver, m.LeaseCancel(worker, stage.lease, task_id, CANCEL_FORCE))
    stage.broker.tick(0.2 * GRACE_S)
    assert stage.kills() == [worker]


def test_others_cannot_cancel(stage: Stage) -> None:
    worker = stage.leased()
    other = stage.broker.driver("other")
    stage.broker.say(other, m.LeaseCancel(worker, stage.lease, make_task_id(stage.driver, 1), CANCEL_FORCE))
    assert not stage.broker.take(worker, m.CancelTask)
    stage.broker.tick(GRACE_S + 0.1)
    assert not stage.kills()


# ------------------------------------------------------------------ limits of time and memory


def test_a_limit_of_time(stage: Stage) -> None:
    worker = stage.leased()
    task_id = make_task_id(stage.driver, 7777)
    stage.broker.say(worker, m.TimeLimited(stage.driver, task_id, 0, 1.0))
    stage.broker.now += 1.0
    stage.broker.turn()
    assert stage.broker.take(worker, m.TimeIsUp) == [m.TimeIsUp(task_id)]
    with pytest.raises(ProtocolError, match="two at once"):
        stage.broker.say(worker, m.TimeLimited(stage.driver, make_task_id(stage.driver, 7778), 0, 1.0))
    with pytest.raises(ProtocolError, match="did not give"):
        stage.broker.say(worker, m.TimeLimited(worker, make_task_id(worker, 1), 0, 1.0))


def short_of_memory(stage: Stage, worker: bytes) -> None:
    """The host says so, until something happens: first the worker is asked whether it runs anything."""
    for _ in range(2):
        tell_short_of_memory(stage, worker)
        stage.broker.now += 2 * ANSWER_S
    tell_short_of_memory(stage, worker)


def tell_short_of_memory(stage: Stage, worker: bytes) -> None:
    stage.broker.say(
        stage.host,
        m.MemoryShort(99 << 30, 100 << 30, "the machine", 0.95, {worker: 9 << 30}, [ProcessMemory(1, 2, 3, "x")]),
    )


@pytest.mark.parametrize(
    ("begun", "kind", "pays"), [(True, "OutOfMemoryError", True), (False, "WorkerCrashedError", False)]
)
def test_it_is_stopped_when_memory_is_short(stage: Stage, begun: bool, kind: str, pays: bool) -> None:
    worker = stage.leased()
    short_of_memory(stage, worker)
    assert stage.kills() == [worker]
    task_id = make_task_id(stage.driver, 7777) if begun else b""
    stage.broker.say(stage.host, m.WorkerDied(worker, task_id, "OutOfMemoryError", "stopped"))
    (lost,) = stage.broker.take(stage.driver, m.LeaseLost)
    assert (lost.kind, lost.culprit == task_id and bool(task_id)) == (kind, pays)


def test_an_idle_worker_is_taken_back_first_when_memory_is_short(stage: Stage) -> None:
    worker = stage.leased()
    tell_short_of_memory(stage, worker)
    assert not stage.kills()
    stage.over(worker)
    stage.broker.now += 2 * ANSWER_S
    tell_short_of_memory(stage, worker)
    assert not stage.kills() and stage.broker.take(worker, m.ExitIfIdle)


# ------------------------------------------------------------------ questions


def test_where_a_task_is_that_the_broker_does_not_know(stage: Stage) -> None:
    worker = stage.leased()
    task_id = make_task_id(stage.driver, 7777)
    stage.broker.say(stage.driver, ExplainTask(1, task_id))
    (asked,) = stage.broker.take(worker, m.Inspect)
    activity = Activity([RunningCall("f", 1.5, task_id)], [], {})
    stage.broker.say(worker, m.Inspected(asked.request, activity))
    (found,) = stage.broker.take(stage.driver, Explanation)
    assert (found.state, found.name, found.activity) == (AT_WORKER, "f", activity)


def test_a_task_that_no_leased_worker_has(stage: Stage) -> None:
    worker = stage.leased()
    stage.broker.say(stage.driver, ExplainTask(1, make_task_id(stage.driver, 7777)))
    (asked,) = stage.broker.take(worker, m.Inspect)
    stage.broker.say(worker, m.Inspected(asked.request, Activity([], [], {})))
    (found,) = stage.broker.take(stage.driver, Explanation)
    assert found.state == UNKNOWN


@pytest.mark.parametrize("runs", [True, False])
def test_the_status_shows_what_it_runs(stage: Stage, runs: bool) -> None:
    worker = stage.leased()
    observer = b"observer".ljust(16, b"\0")
    stage.broker.core.joined(observer, m.OBSERVER, JoinInfo(), stage.broker.now)
    stage.broker.say(observer, StatusQuery(1))
    (asked,) = stage.broker.take(worker, m.Inspect)
    running = [RunningCall("f", 1.5, make_task_id(stage.driver, 7777))] if runs else []
    stage.broker.say(worker, m.Inspected(asked.request, Activity(running, [], {})))
    stage.broker.tick(1.0)
    (status,) = stage.broker.take(observer)
    assert [row.name for row in status.running] == (["f"] if runs else [])
    assert [job.tasks_running for job in status.jobs] == [int(runs)]
    assert status.hosts[0].workers.busy == 1
