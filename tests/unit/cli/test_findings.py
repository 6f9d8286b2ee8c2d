"""What ``zray why`` makes of the records of owners and of the broker's answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from zray.cli.findings import MIN_ID_DIGITS, RecordedFacts, Records, is_meant, named, waiting
from zray.client.explain import Inquiry
from zray.ids import return_id
from zray.protocol import questions as q
from zray.protocol import state_questions as sq
from zray.protocol.records import Activity, AwaitedObject, RunningCall
from zray.util.state.common import TaskState
from zray.util.state.sources import Tasks

SHAPE = b"\x90"
HOST = "a (00000000)"


def task_id(number: int) -> bytes:
    return bytes([number]) * 24


def call(number: int, name: str, state: str, argument: int = 0, actor: bytes = b"", error: str = "") -> Any:
    """A task, as its owner knows it, with Ray's record. ``argument``: the number of the task that it waits for."""
    ended_s = 2.0 if state in ("FINISHED", "FAILED") else None
    missing = return_id(task_id(argument), 1) if argument else b""
    row = sq.TaskRow(
        task_id(number), 0, name, name, state, actor, b"", b"", SHAPE, "", error, 0.0, None, ended_s, missing
    )
    return row, TaskState(
        task_id=row.task_id.hex(), attempt_number=0, name=name, state=state, job_id="01", actor_id=actor.hex() or None,
        type="NORMAL_TASK", func_or_class_name=name, parent_task_id="", node_id=None, worker_id=None, worker_pid=None,
        error_type=None,
    )  # fmt: skip


def actor(number: int, state: str, name: str = "") -> sq.ActorRecord:
    return sq.ActorRecord(
        task_id(number), "m.Keeper", name, "", state, b"1", b"", b"", 0, False, 0, {}, "it ended", True
    )


def group(number: int, name: str, why: str, can_be_placed: bool = True) -> q.GroupRow:
    state = "PENDING" if why else "CREATED"
    return q.GroupRow(
        bytes([number]) * 18, name, "", state, "PACK", [], [], False, b"1", 1, 2.5, why, can_be_placed, [], "", ""
    )


class Broker:
    """Answers by the number of the task or actor; ``asked`` counts its questions."""

    def __init__(self, **answers: q.Explanation) -> None:
        self.asked: list[bytes] = []
        self._answers = {task_id(int(key[1:])): answer for key, answer in answers.items()}

    def answer(self, question: Callable[[int], Any], timeout_s: float) -> q.Explanation | None:
        asked = question(1)
        identifier = asked.task_id if isinstance(asked, q.ExplainTask) else asked.actor_id
        self.asked.append(identifier)
        return self._answers.get(identifier)


def look(calls: list[Any], actors: Any = (), groups: Any = (), name: str = "", limit: int = 20, **answers: Any) -> Any:
    broker = Broker(**answers)
    inquiry = Inquiry(RecordedFacts(calls, broker.answer), 30.0)
    records = Records(Tasks(calls, [], list(actors), ""), list(groups))
    found = named(records, name, inquiry, limit) if name else waiting(records, inquiry, limit)
    return *found, broker


QUEUED = q.Explanation(1, q.QUEUED, why="it asks for {CPU: 1}, which is in use; 3 tasks wait for a place")


def running(number: int, name: str, *awaited: AwaitedObject) -> q.Explanation:
    activity = Activity([RunningCall(name, 2.0, task_id(number))], list(awaited), {})
    return q.Explanation(1, q.AT_WORKER, name, pid=7, host=HOST, activity=activity)


def test_nothing_waits() -> None:
    found, left_out, broker = look([call(1, "fit", "RUNNING"), call(2, "fit", "FINISHED")], [actor(3, "ALIVE")])
    assert (found, left_out, broker.asked) == ([], 0, [])


def test_what_waits_for_the_same_is_one_finding_and_one_question() -> None:
    calls = [call(number, "fit", "PENDING_NODE_ASSIGNMENT") for number in range(1, 101)]
    (found,), _, broker = look(calls, t1=QUEUED)
    assert (found.kind, found.what, found.count, found.state) == ("task", "`fit`", 100, "QUEUED")
    assert found.id == task_id(1).hex()
    assert found.why == f"`fit` has not been started: {QUEUED.why}"
    assert "hosts must join" in found.remedy
    assert broker.asked == [task_id(1)]


def test_arguments_are_followed_to_what_runs() -> None:
    calls = [
        call(1, "fit", "RUNNING"), call(2, "merge", "PENDING_ARGS_AVAIL", argument=1),
        call(3, "report", "PENDING_ARGS_AVAIL", argument=2),
    ]  # fmt: skip
    (merge, report), _, broker = look(calls, t1=running(1, "fit"))
    assert merge.why == f"`merge` waits for an argument: `fit` runs for 2.0 s (pid 7 on {HOST})"
    assert report.why == f"`report` waits for an argument: {merge.why}"
    assert report.remedy == "what it waits for must be made"
    assert broker.asked == [task_id(1)]


def test_a_deadlock() -> None:
    waits_for = AwaitedObject(return_id(task_id(1), 1), "outer", None)
    (found,), _, _ = look([call(1, "outer", "RUNNING_IN_RAY_GET")], t1=running(1, "outer", waits_for))
    assert found.why.endswith("`outer` waits for itself: this never ends")
    assert "a deadlock" in found.remedy


def test_a_call_behind_another_one() -> None:
    calls = [call(1, "Keeper.ping", "SUBMITTED_TO_WORKER", actor=task_id(9))]
    (found,), _, _ = look(calls, t9=running(5, "Keeper.slow")._replace(name="Keeper"))
    assert (found.kind, found.state) == ("call", "AT WORKER")
    assert found.why.startswith("actor Keeper is busy with `Keeper.slow` for 2.0 s")
    assert "max_concurrency" in found.remedy


def test_what_the_broker_does_not_have() -> None:
    (found,), _, _ = look([call(1, "fit", "PENDING_NODE_ASSIGNMENT")], t1=q.Explanation(1, q.UNKNOWN))
    assert (found.state, found.remedy) == ("UNDER WAY", "")
    assert found.why.startswith("its owner holds it back")


def test_no_answer_in_time() -> None:
    (found,), _, _ = look([call(1, "fit", "PENDING_NODE_ASSIGNMENT")])
    assert found.state == "UNDER WAY"


def test_actors_and_groups() -> None:
    unplaced = q.Explanation(1, q.UNPLACED, "Keeper", "it cannot be scheduled: no host has that")
    rows = [actor(1, "PENDING_CREATION"), actor(2, "PENDING_CREATION"), actor(3, "DEAD")]
    groups = [group(1, "", ""), group(2, "grid", "its bundles do not fit", False)]
    (actors, grid), _, _ = look([], rows, groups, t1=unplaced)
    assert (actors.kind, actors.count, actors.what, actors.state) == ("actor", 2, "Keeper", "PENDING_CREATION")
    assert (grid.kind, grid.what, grid.seconds, grid.why) == (
        "placement group", "'grid'", 2.5, "its bundles do not fit",
    )  # fmt: skip
    assert actors.remedy == grid.remedy == "a host that has all of this must join, or it must ask for less"


def test_the_most_frequent_come_first_and_the_rest_is_counted() -> None:
    calls = [call(1, "a", "PENDING_NODE_ASSIGNMENT"), *(call(n, "b", "PENDING_NODE_ASSIGNMENT") for n in (2, 3))]
    (found,), left_out, broker = look(calls, limit=1)
    assert (found.what, left_out, broker.asked) == ("`b`", 1, [task_id(2)])


@pytest.mark.parametrize(("name", "what"), [
    ("fit", "`fit`"), (task_id(1).hex(), "`fit`"), (task_id(1).hex()[:MIN_ID_DIGITS], "`fit`"),
    (return_id(task_id(1), 1).hex(), "`fit`"), ("Keeper", "Keeper 'k'"), ("k", "Keeper 'k'"), ("grid", "'grid'"),
])  # fmt: skip
def test_names(name: str, what: str) -> None:
    calls = [call(1, "fit", "FINISHED"), call(2, "other", "FINISHED")]
    (found,), _, _ = look(calls, [actor(3, "DEAD", "k")], [group(4, "grid", "")], name=name)
    assert found.what == what


def test_what_has_ended() -> None:
    (found,), _, broker = look([call(1, "fit", "FAILED", error="Traceback\nValueError: no")], name="fit")
    assert (found.state, found.why, broker.asked) == ("FAILED", "ValueError: no", [])
    (found,), _, _ = look([], [actor(1, "DEAD")], name="Keeper")
    assert (found.state, found.why) == ("DEAD", "it ended")


def test_what_no_one_means() -> None:
    assert not is_meant("", b"\xab" * 24, "")
    assert not is_meant("abab", b"\xab" * 24)  # too short for an identifier
    assert is_meant("ABABABAB", b"\xab" * 24)
    assert look([call(1, "fit", "FINISHED")], name="nosuch")[0] == []
