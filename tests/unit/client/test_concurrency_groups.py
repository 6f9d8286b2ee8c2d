"""Concurrency groups: at the caller, calls of one group do not wait for those of another; so it is at the worker."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.client.test_actors import ACTOR, Caller, Course
from tests.unit.client.test_execution import Worker
from tests.unit.client.wiring import FUNCTION, INLINE_ARGUMENTS, Process, Wire, actor_spec, process_id
from zray.client.core.group_queues import GroupQueues
from zray.client.core.grouped_view import DEFAULT_GROUP, GroupedView, group_in
from zray.client.core.states import ERROR, INLINE, LIVE
from zray.client.core.tasks import Task
from zray.client.core.windows import WINDOWS, Windows
from zray.ids import make_task_id, return_id
from zray.protocol import messages as m
from zray.protocol.contract import BROKER

GROUPS = {"io": 2, "compute": 1}
OWNER = process_id("owner")


class GroupCaller(Caller):
    """A caller of the actor ACTOR, which has the groups GROUPS."""

    def __init__(self, ordered: bool = True, windows: Windows = WINDOWS) -> None:
        self.ordered = ordered
        self.process = Process(Wire(), "caller", windows)
        self.core = self.process.core

    @property
    def view(self):
        return self.core.actors.view(ACTOR, self.ordered, 1, "A", GROUPS)

    def call_in(self, group: str, refs: tuple[bytes, ...] = (), retries: int = 0) -> bytes:
        task_id = self.core.new_task_id()
        options = msgpack.packb({"name": "f", "group": group} if group else {"name": "f"})
        arguments = INLINE_ARGUMENTS._replace(refs=tuple(enumerate(refs)), held=refs)
        object_id = return_id(task_id, 1)
        self.core.references.own(object_id)
        task = Task(task_id, self.view, b"", b"", 0, options, arguments, 1, retries, b"")
        self.core.actors.submit(self.view, task)
        return object_id


@pytest.fixture(params=[True, False])
def caller(request: pytest.FixtureRequest) -> GroupCaller:
    return GroupCaller(ordered=request.param)


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "group"),
    [
        (b"", DEFAULT_GROUP),
        (msgpack.packb({"name": "f"}), DEFAULT_GROUP),
        (msgpack.packb({"group": "io"}), "io"),
        (msgpack.packb({"group": 5}), DEFAULT_GROUP),
        (msgpack.packb(7), DEFAULT_GROUP),
        (b"nonsense", DEFAULT_GROUP),
    ],
)
def test_the_group_of_a_call(options: bytes, group: str) -> None:
    assert group_in(options) == group


# ------------------------------------------------------------------ the caller


def test_each_group_has_its_own_window() -> None:
    caller = GroupCaller(windows=Windows(calls=2))
    default = [caller.call_in("") for _ in range(5)]
    compute = [caller.call_in("compute") for _ in range(5)]
    assert caller.order() == [*default[:2], *compute[:2]]
    io = [caller.call_in("io") for _ in range(6)]
    assert caller.order() == io[:4]  # twice as many as run at once
    assert caller.view.pending_calls == 16
    caller.answer(compute[0])
    assert caller.order() == compute[2:3]
    caller.answer(io[3])
    assert caller.order() == io[4:5]


def test_bytes_count_for_each_group() -> None:
    caller = GroupCaller(windows=Windows(call_bytes=1))
    default = [caller.call_in("") for _ in range(2)]
    io = [caller.call_in("io") for _ in range(3)]
    assert caller.order() == [default[0], *io[:2]]
    caller.answer(io[1])
    assert caller.order() == io[2:]
    caller.answer(default[0])
    assert caller.order() == default[1:]


def test_a_call_that_waits_holds_back_its_own_group_only() -> None:
    caller = GroupCaller(ordered=True)
    missing = caller.pending()
    waits, behind = caller.call_in("io", (missing,)), caller.call_in("io")
    other = caller.call_in("compute")
    assert caller.order() == [other]
    caller.resolve(missing)
    assert caller.order() == [waits, behind]


def test_out_of_order_a_call_that_waits_holds_back_no_other() -> None:
    caller = GroupCaller(ordered=False)
    missing = caller.pending()
    waits, behind = caller.call_in("io", (missing,)), caller.call_in("io")
    assert caller.order() == [behind]
    caller.resolve(missing)
    assert caller.order() == [waits]


def test_an_argument_that_is_an_error(caller: GroupCaller) -> None:
    missing = caller.pending()
    fails, behind = caller.call_in("io", (missing,)), caller.call_in("io")
    caller.resolve(missing, ERROR)
    assert caller.order() == [behind]
    assert caller.failure(fails)


def test_cancelling_before_the_call_was_sent(caller: GroupCaller) -> None:
    missing = caller.pending()
    waits, behind = caller.call_in("io", (missing,)), caller.call_in("io")
    caller.cancel(waits)
    assert caller.order() == [behind]
    assert caller.view.pending_calls == 1


def test_a_restart_sends_calls_again_in_order(caller: GroupCaller) -> None:
    results = [caller.call_in(group, retries=1) for group in ("io", "io", "", "compute")]
    assert caller.order() == results
    caller.state(m.RESTARTING, incarnation=1, last_seq=2)
    assert sorted(caller.order()) == sorted(results)
    again = [caller.call_in(group) for group in ("io", "compute")]
    assert caller.order() == again
    assert caller.view.pending_calls == 6


def test_death_fails_all_calls() -> None:
    caller = GroupCaller(windows=Windows(calls=1))
    results = [caller.call_in(group) for group in ("io", "io", "io", "io", "io", "", "", "compute")]
    caller.order()
    caller.state(m.DEAD)
    assert {caller.failure(result) for result in results} == {"ActorDiedError"}


class EveryGroup(GroupCaller):
    """A caller whose calls belong to one group after the other."""

    def __init__(self, ordered: bool, windows: Windows) -> None:
        super().__init__(ordered, windows)
        self.made: list[tuple[str, bytes]] = []

    def call(self, refs: tuple[bytes, ...] = (), retries: int = 0) -> bytes:
        group = ("", "io", "compute")[len(self.made) % 3]
        result = self.call_in(group, refs, retries)
        self.made.append((group, result))
        return result


@settings(deadline=None)
@given(
    st.booleans(),
    st.sampled_from([Windows(calls=2), Windows(calls=1, call_bytes=1), Windows(call_bytes=200, all_call_bytes=100)]),
    st.lists(
        st.tuples(
            st.sampled_from(["call", "call", "call on", "ready", "cancel", "answer", "raise", "restart"]),
            st.integers(0, 5),
        ),
        max_size=60,
    ),
)
def test_every_call_ends_once_whatever_happens(ordered: bool, windows: Windows, history: list[tuple[str, int]]) -> None:
    caller = EveryGroup(ordered, windows)
    course = Course(caller)
    first_attempts: list[bytes] = []

    def step() -> None:
        view = caller.view
        caller.core.check()
        assert sum(group.n_calls for group in view._groups.values()) == len(view.in_flight)
        assert sum(group.n_bytes for group in view._groups.values()) == view.n_bytes
        first_attempts.extend(row[0] for row in caller.calls() if row[3] == 0)

    for what, index in history:
        course.goes_on(what, index)
        step()
    for argument in course.arguments:
        caller.resolve(argument)
    step()
    while caller.view.in_flight:
        task = next(iter(caller.view.in_flight.values()))
        caller.answer(return_id(task.task_id, 1), task.attempt)
        step()
    assert caller.core.tasks.tasks == {}
    assert caller.core.actors.n_bytes == caller.view.pending_calls == 0
    if ordered:
        for group in ("", "io", "compute"):
            sent = [result for result in first_attempts if (group, result) in caller.made]
            assert list(dict.fromkeys(sent)) == sorted(set(sent))


# ------------------------------------------------------------------ the worker


class GroupWorker(Worker):
    """A worker with an actor that has the groups GROUPS."""

    def __init__(self) -> None:
        super().__init__()
        spec = actor_spec(groups=GROUPS)
        payload = msgpack.packb([b"", INLINE, msgpack.packb([]), b"", b"", 0, [], []])
        self.core.receive(BROKER, m.ActorStart(ACTOR, 0, FUNCTION, spec, OWNER, [], payload), 0.0)
        task = self.execution.take()
        assert task is not None
        self.execution.constructed(task, b"")
        self.sent()

    def call_in(self, number: int, group: str) -> bytes:
        task_id = make_task_id(OWNER, number)
        options = msgpack.packb({"group": group} if group else {})
        payload = msgpack.packb([options, INLINE, msgpack.packb([]), b"", b"", 0, [], []])
        self.core.receive(BROKER, m.ActorRun(OWNER, number, task_id, 0, payload), 0.0)
        return task_id

    def take_all(self) -> list[bytes]:
        taken = []
        while (task := self.execution.take()) is not None:
            self.process.tasks.append(task)
            taken.append(task.task_id)
        return taken

    def end(self, task_id: bytes) -> None:
        (task,) = [task for task in self.process.tasks if task.task_id == task_id]
        self.finish(task)


def test_each_group_runs_as_many_calls_as_it_may() -> None:
    worker = GroupWorker()
    default = [worker.call_in(number, "") for number in range(2)]
    io = [worker.call_in(number, "io") for number in range(10, 13)]
    compute = [worker.call_in(number, "compute") for number in range(20, 22)]
    assert worker.take_all() == [default[0], *io[:2], compute[0]]
    assert worker.execution.queued == 3 and worker.execution.running == 4
    worker.end(io[0])
    assert worker.take_all() == io[2:]
    worker.end(default[0])
    worker.end(compute[0])
    assert worker.take_all() == [default[1], compute[1]]


def test_an_unknown_group_counts_as_the_default_group() -> None:
    worker = GroupWorker()
    first, second = worker.call_in(1, "nope"), worker.call_in(2, "")
    assert worker.take_all() == [first]
    worker.end(first)
    assert worker.take_all() == [second]


def test_cancelling_a_call_that_has_not_begun() -> None:
    worker = GroupWorker()
    first, second, third = (worker.call_in(number, "compute") for number in range(3))
    assert worker.take_all() == [first]
    worker.core.receive(BROKER, m.CancelTask(second, 0), 0.0)
    assert worker.sent() == [m.Reply(OWNER, second, 0, b"")]
    worker.end(first)
    assert worker.take_all() == [third]


def test_the_actor_ends_after_the_calls_that_wait() -> None:
    worker = GroupWorker()
    first, second = worker.call_in(1, "compute"), worker.call_in(2, "compute")
    assert worker.take_all() == [first]
    worker.core.receive(BROKER, m.ActorStop(ACTOR), 0.0)
    worker.end(first)
    assert worker.take_all() == [second] and not worker.execution.leaving
    worker.end(second)
    assert worker.take_all() == [] and worker.execution.leaving


def test_an_exit_drops_the_calls_that_wait() -> None:
    worker = GroupWorker()
    first = worker.call_in(1, "compute")
    worker.call_in(2, "compute")
    assert worker.take_all() == [first]
    worker.execution.end_actor("it was asked to", first)
    assert worker.execution.queued == 0
    worker.end(first)
    assert worker.take_all() == [] and worker.execution.leaving


class _Call:
    def __init__(self, number: int) -> None:
        self.task_id = number.to_bytes(4, "big")


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from(["add", "take", "end", "remove"]))))
@settings(deadline=None)
def test_no_group_is_over_its_limit_and_none_is_held_back(steps: list[tuple[str, str]]) -> None:
    limits = {"": 1, "a": 2, "b": 3}
    queues: GroupQueues[_Call] = GroupQueues(1, {"a": 2, "b": 3})
    waiting: dict[str, list[_Call]] = {group: [] for group in limits}
    running: dict[str, list[_Call]] = {group: [] for group in limits}
    for number, (group, step) in enumerate(steps):
        if step == "add":
            waiting[group].append(_Call(number))
            queues.add(group, waiting[group][-1])
        elif step == "end" and running[group]:
            queues.ended(running[group].pop().task_id)
        elif step == "remove" and waiting[group]:
            call = waiting[group].pop()
            assert queues.remove(call.task_id) is call and queues.remove(call.task_id) is None
        elif step == "take":
            taken = queues.take()
            ready = [name for name in limits if waiting[name] and len(running[name]) < limits[name]]
            assert (taken is None) == (not ready)
            if taken is not None:
                (of,) = [name for name in ready if waiting[name][0] is taken]
                running[of].append(waiting[of].pop(0))
        assert len(queues) == sum(map(len, waiting.values()))


def test_views_of_actors_with_groups() -> None:
    view = GroupCaller().view
    assert isinstance(view, GroupedView) and view.state is LIVE and view.always == 4
