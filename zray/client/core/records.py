"""The records of this process's tasks and objects, for ``zray.util.state``. Loaded when they are first asked for.

An owner knows its tasks: those without an outcome are in ``TaskTable.tasks``, the last ones with an outcome in
``TaskTable.ended``. What it costs a small task to be recorded is one tuple in a bounded queue, and its times: the owner
notes when the task was submitted, the worker says how long it ran. The state of a task that was sent is known to the
worker that runs it: the asker puts both together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from zray.client.core.references import Entry, ReferenceTable, is_stored
from zray.client.core.states import ERROR, HANDLE, PENDING, READY, WAITING
from zray.client.core.tasks import (
    ANSWERED_BY_BROKER,
    NOT_KNOWN,
    EndedAttempt,
    Task,
    TaskTable,
    error_in_short,
    full_name,
    name_in,
)
from zray.failures import NOT_RUN
from zray.ids import task_of, was_put
from zray.protocol.codec import unpack
from zray.protocol.state_questions import ObjectRow, TaskRow

ERROR_TYPES = {
    "ActorDiedError": "ACTOR_DIED",
    "ActorUnavailableError": "ACTOR_UNAVAILABLE",
    "ActorUnschedulableError": "ACTOR_UNSCHEDULABLE_ERROR",
    "NodeDiedError": "NODE_DIED",
    "ObjectFreedError": "OBJECT_FREED",
    "ObjectLostError": "OBJECT_LOST",
    "ObjectReconstructionFailedError": "OBJECT_UNRECONSTRUCTABLE",
    "OutOfDiskError": "OUT_OF_DISK_ERROR",
    "OutOfMemoryError": "OUT_OF_MEMORY",
    "OwnerDiedError": "OWNER_DIED",
    "RuntimeEnvSetupError": "RUNTIME_ENV_SETUP_FAILED",
    "RunningTaskCancelledError": "TASK_CANCELLED",
    "TaskCancelledError": "TASK_CANCELLED",
    "TaskUnschedulableError": "TASK_UNSCHEDULABLE_ERROR",
    "WorkerCrashedError": "WORKER_DIED",
    NOT_RUN: "DEPENDENCY_RESOLUTION_FAILED",
}
"""Ray's names of failures."""
RAISED = "TASK_EXECUTION_EXCEPTION"


def task_rows(tasks: TaskTable, functions: Mapping[bytes, str], limit: int) -> tuple[int, list[TaskRow]]:
    """The number of tasks, and the rows of at most ``limit``: those without an outcome first, then the last that ended.

    ``functions``: the names of the functions that this process has shipped.
    """
    first = list(itertools.islice(tasks.tasks.values(), limit))
    epoch_s = tasks.epoch_s
    entries = tasks.references.entries
    rows = [_live(task, functions, epoch_s, entries) for task in first if task.route.actor_id != ANSWERED_BY_BROKER]
    n_constructors = len(first) - len(rows)  # the broker has the records of actors
    ended = itertools.islice(reversed(tasks.ended), limit - len(rows))
    total = len(tasks.tasks) + len(tasks.ended) - n_constructors
    return total, [*rows, *(_ended(each, functions, epoch_s) for each in ended)]


def attempts_of(tasks: TaskTable, functions: Mapping[bytes, str], task_id: bytes) -> list[TaskRow]:
    """The rows of a task's attempts, as far as they are recorded, the first one first."""
    ended = [_ended(each, functions, tasks.epoch_s) for each in tasks.ended if each[0] == task_id]
    live = tasks.tasks.get(task_id)
    return ended if live is None else [*ended, _live(live, functions, tasks.epoch_s, tasks.references.entries)]


def last_rows(tasks: TaskTable, functions: Mapping[bytes, str], reason: str, limit: int) -> tuple[int, list[TaskRow]]:
    """As ``task_rows``, of a process that ends: what has no outcome now fails, because of ``reason``."""
    total, rows = task_rows(tasks, functions, limit)
    ended_s = tasks.epoch_s + tasks.now
    kind = ERROR_TYPES["WorkerCrashedError"]
    return total, [
        row if row.ended_s is not None
        else row._replace(state="FAILED", error_type=kind, error=reason, ended_s=ended_s, argument=b"")
        for row in rows
    ]  # fmt: skip


def _stage(task: Task, sent: str) -> str:
    """Ray's name of the state of a task that is not over. ``sent``: the one of a task that was sent."""
    if task.missing:
        return "PENDING_ARGS_AVAIL"
    return "PENDING_NODE_ASSIGNMENT" if task.state in (WAITING, READY) else sent  # WAITING: it pauses


def first_missing(task: Task, entries: Mapping[bytes, Entry]) -> bytes:
    """The first argument that a task waits for; empty if it waits for none. ``entries``: of the reference table."""
    if not task.missing:
        return b""
    refs = (object_id for _, object_id in task.arguments.refs)
    return next((ref for ref in refs if (entry := entries.get(ref)) is not None and entry.status is PENDING), b"")


def _live(task: Task, functions: Mapping[bytes, str], epoch_s: float, entries: Mapping[bytes, Entry]) -> TaskRow:
    has_worker = task.route.actor_id or not task.counted  # what a leased worker has counts in no window
    state = _stage(task, "SUBMITTED_TO_WORKER" if has_worker else "PENDING_NODE_ASSIGNMENT")
    so_far = (task.task_id, task.attempt, task.function_id, task.options, task.route, task.parent, task.shape, b"",
              task.created, 0.0, NOT_KNOWN, None)  # fmt: skip
    return _row(so_far, state, functions, epoch_s)._replace(ended_s=None, argument=first_missing(task, entries))


def _ended(ended: EndedAttempt, functions: Mapping[bytes, str], epoch_s: float) -> TaskRow:
    error = ended[-1]
    if error is None:
        return _row(ended, "FINISHED", functions, epoch_s)
    name, text = error_in_short(error) if isinstance(error, bytes) else error
    return _row(ended, "FAILED", functions, epoch_s)._replace(error_type=ERROR_TYPES.get(name, RAISED), error=text)


def _row(attempt: EndedAttempt, state: str, functions: Mapping[bytes, str], epoch_s: float) -> TaskRow:
    task_id, number, function_id, options, route, parent, shape, worker_id, created, ended, run_us, _ = attempt
    function = functions.get(function_id, "") or _method(options, route.class_name)
    name = full_name(options, route)
    # The clock is read once in a turn: the time of the end may be that of the turn's begin.
    started_s = None if run_us == NOT_KNOWN else epoch_s + max(created, ended - run_us / 1e6)
    return TaskRow(task_id, number, name, function, state, route.actor_id, parent, worker_id, shape, "", "",
                   epoch_s + created, started_s, epoch_s + ended, b"")  # fmt: skip


def _method(options: bytes, class_name: str) -> str:
    """The method of a call, as ``Class.method``."""
    fields = unpack(options) if options else {}
    method = str(fields.get("method") or name_in(options)) if type(fields) is dict else ""
    return f"{class_name}.{method}" if class_name else method


def object_rows(references: ReferenceTable, tasks: TaskTable, limit: int) -> tuple[int, list[ObjectRow]]:
    """The number of objects that this process owns or holds, and the rows of at most ``limit``."""
    entries = list(itertools.islice(references.entries.items(), limit))
    return len(references.entries), list(_objects(entries, tasks))


def _objects(entries: Iterable[tuple[bytes, Entry]], tasks: TaskTable) -> Iterable[ObjectRow]:
    for object_id, entry in entries:
        task = tasks.tasks.get(task_of(object_id))
        if entry.status is HANDLE:
            yield ObjectRow(object_id, None, "NIL", 1, "ACTOR_HANDLE")
            continue
        size = None
        if is_stored(entry.status, entry.data):
            size = entry.size
        elif entry.status is not PENDING:
            size = len(entry.data)
        if task is not None:
            status = _stage(task, "SUBMITTED_TO_WORKER")
        elif entry.status is ERROR and not was_put(object_id):
            status = "FAILED"
        else:
            status = "NIL" if entry.status is PENDING else "FINISHED"
        yield ObjectRow(object_id, size, status, 1 + (task.attempt if task is not None else 0), _reference(entry))


def _reference(entry: Entry) -> str:
    """Ray's name of the kind of reference that keeps an object."""
    if entry.pins or entry.covers:
        return "USED_BY_PENDING_TASK"
    return "LOCAL_REFERENCE" if entry.local else "CAPTURED_IN_OBJECT"
