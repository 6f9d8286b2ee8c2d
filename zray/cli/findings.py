"""What ``zray why`` finds out: which tasks, calls, actors and placement groups wait, grouped by what they wait for.

The sentences and remedies are those of ``zray.explain``. Its facts about a process's own tasks come from that process;
here they come from the records that all owners have given. Work that waits for the same is one ``Finding``, and the
broker is asked about the first of it only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

from zray.api import situations
from zray.api.situations import Situation
from zray.client.explain import Inquiry, Known
from zray.ids import OBJECT_ID_BYTES, return_id, task_of
from zray.protocol import questions as q
from zray.protocol import state_questions as sq
from zray.util.state.common import TaskState
from zray.util.state.sources import Tasks

TASK, CALL, ACTOR, GROUP = "task", "call", "actor", "placement group"
WAITING_STATES = frozenset(
    {"PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT", "SUBMITTED_TO_WORKER", "RUNNING_IN_RAY_GET"}
)
"""Of tasks and calls: Ray's names of the states in which they wait."""
WAITING_ACTORS = frozenset({"DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING"})
MIN_ID_DIGITS = 8
"""The least number of hexadecimal digits at the beginning of an identifier that name something."""
NOT_SENT = "its owner holds it back while its earlier work is under way, or it is on its way to a worker"
_HEX = frozenset("0123456789abcdef")
FIRST_RETURN = return_id(b"", 1)
"""What follows the identifier of a task in the one of its first return value."""
_Row = TypeVar("_Row")


@dataclasses.dataclass(frozen=True)
class Finding:
    """Work that is in the same situation for the same reason."""

    kind: str
    """``"task"``, ``"call"`` (of an actor), ``"actor"`` or ``"placement group"``."""
    what: str
    """Its name, for people."""
    count: int
    id: str
    """Of the first one, in hexadecimal."""
    state: str
    where: str
    seconds: float | None
    why: str
    remedy: str
    """See ``zray.api.explanations.Explanation`` for these five. They are about the first one."""


@dataclasses.dataclass(frozen=True)
class Records:
    """What the owners and the broker know."""

    tasks: Tasks
    groups: list[q.GroupRow]


class RecordedFacts:
    """Facts about tasks, from the records of their owners. ``answer``: see ``zray.client.explain.Facts``."""

    def __init__(
        self,
        calls: Iterable[tuple[sq.TaskRow, TaskState]],
        answer: Callable[[Callable[[int], q.ExplainTask | q.ExplainActor], float], q.Explanation | None],
    ) -> None:
        self._live = {row.task_id: row for row, _ in calls if row.ended_s is None}
        self.answer = answer

    def known(self, task_id: bytes) -> Known | None:
        """What the owner of a task has told of it; None if it is over, or not recorded."""
        row = self._live.get(task_id)
        return None if row is None else Known(_called(row), row.actor, row.argument, "")


def waiting(records: Records, inquiry: Inquiry, limit: int) -> tuple[list[Finding], int]:
    """Returns the findings about all that waits, the most frequent first, and how many there are beyond ``limit``."""
    calls = [pair for pair in records.tasks.calls if pair[0].ended_s is None and pair[1].state in WAITING_STATES]
    actors = [row for row in records.tasks.actors if row.state in WAITING_ACTORS]
    groups = [row for row in records.groups if row.why]
    return _findings(records, calls, actors, groups, inquiry, limit)


def named(records: Records, name: str, inquiry: Inquiry, limit: int) -> tuple[list[Finding], int]:
    """Returns the findings about what has an identifier or a name, whatever its state, in the form of ``waiting``.

    ``name``: an identifier or at least eight digits of its beginning, or the name of a task, function, method, actor,
    class or placement group. An identifier of an object names the task that makes it.
    """
    calls = [pair for pair in records.tasks.calls if is_meant(name, pair[0].task_id, pair[0].name, pair[0].function)]
    actors = [row for row in records.tasks.actors if is_meant(name, row.actor_id, row.name, row.class_name)]
    groups = [row for row in records.groups if is_meant(name, row.group_id, row.name)]
    return _findings(records, calls, actors, groups, inquiry, limit)


def is_meant(given: str, identifier: bytes, *names: str) -> bool:
    """Whether a user's word names something: by its identifier, by the beginning of it, or by one of its names."""
    digits = given.lower()
    if len(digits) >= MIN_ID_DIGITS and _HEX.issuperset(digits):
        whole = identifier.hex()
        if whole.startswith(digits) or (len(digits) == 2 * OBJECT_ID_BYTES and digits.startswith(whole)):
            return True
    return bool(given) and any(given in (name, name.rpartition(".")[2]) for name in names)


def _findings(
    records: Records,
    calls: list[tuple[sq.TaskRow, TaskState]],
    actors: list[sq.ActorRecord],
    groups: list[q.GroupRow],
    inquiry: Inquiry,
    limit: int,
) -> tuple[list[Finding], int]:
    names = {row.task_id: row.name for row, _ in records.tasks.calls}
    sorts: list[tuple[int, Callable[[], Finding]]] = [
        *((len(pairs), functools.partial(_of_call, pairs, inquiry))
          for pairs in _alike(calls, lambda pair: _key_of_call(*pair, names))),
        *((len(rows), functools.partial(_of_actor, rows, inquiry)) for rows in _alike(actors, _key_of_actor)),
        *((len(rows), functools.partial(_of_group, rows)) for rows in _alike(groups, _key_of_group)),
    ]  # fmt: skip
    sorts.sort(key=lambda sort: -sort[0])
    return [describe() for _, describe in sorts[:limit]], max(0, len(sorts) - limit)


def _alike(rows: Iterable[_Row], key: Callable[[_Row], Hashable]) -> Iterable[list[_Row]]:
    """The rows in lists of the same key, in the order in which the keys come."""
    found: dict[Hashable, list[_Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found.values()


def _key_of_call(row: sq.TaskRow, state: TaskState, names: Mapping[bytes, str]) -> Hashable:
    maker = task_of(row.argument)
    return row.name, row.actor, row.shape, state.state, names.get(maker, maker), row.error


def _key_of_actor(row: sq.ActorRecord) -> Hashable:
    return row.class_name, row.name, row.state, tuple(row.resources.items())


def _key_of_group(row: q.GroupRow) -> Hashable:
    return row.name, row.state, row.why


def _of_call(pairs: list[tuple[sq.TaskRow, TaskState]], inquiry: Inquiry) -> Finding:
    row, state = pairs[0]
    kind = CALL if row.actor else TASK
    if row.ended_s is not None:
        where = f"pid {state.worker_pid}" if state.worker_pid else ""
        remedy = "look at the error; max_retries and retry_exceptions try a task again" if row.error else ""
        last = (row.error.strip().splitlines() or [""])[-1]
        return _finding(kind, _called(row), len(pairs), row.task_id, Situation(row.state, where, None, last, remedy))
    why = inquiry.why(row.task_id + FIRST_RETURN, row.name, row.actor, {})
    if row.argument:
        situation = situations.of_missing_argument(why)
    elif row.actor:
        situation = situations.of_call(inquiry.ask(q.ExplainActor, row.actor), row.task_id, why)
    else:
        situation = situations.of_task(inquiry.ask(q.ExplainTask, row.task_id), row.task_id, why)
    if not situation.why and situation.state == situations.UNDER_WAY:
        situation = situation._replace(why=NOT_SENT)
    return _finding(kind, _called(row), len(pairs), row.task_id, situation)


def _of_actor(rows: list[sq.ActorRecord], inquiry: Inquiry) -> Finding:
    first = rows[0]
    found = None if first.state == "DEAD" else inquiry.ask(q.ExplainActor, first.actor_id)
    label = situations.actor_label(first).removeprefix("actor ")
    return _finding(ACTOR, label, len(rows), first.actor_id, situations.of_actor(first, found))


def _of_group(rows: list[q.GroupRow]) -> Finding:
    first = rows[0]
    name = repr(first.name) if first.name else first.group_id.hex()[:8]
    return _finding(GROUP, name, len(rows), first.group_id, situations.of_group(first))


def _finding(kind: str, what: str, count: int, identifier: bytes, situation: Situation) -> Finding:
    return Finding(kind, what, count, identifier.hex(), *situation)


def _called(row: sq.TaskRow) -> str:
    return f"`{row.name}`" + (f" (attempt {row.attempt + 1})" if row.attempt else "")
