"""``explain``: why an object does not exist yet, where it is, and where it has been."""

from __future__ import annotations

import dataclasses
from typing import Any

from zray.api import situations
from zray.api.actor import ActorHandle
from zray.api.generators import ObjectRefGenerator
from zray.api.runtime import is_local_mode, runtime
from zray.client import places
from zray.client import session as sessions
from zray.client.core import records
from zray.client.core.states import ERROR, HANDLE, INLINE, PENDING, READY, STORED, WAITING
from zray.client.core.streams import FIRST_ITEM
from zray.client.explain import PATIENCE_S, Inquiry, OwnFacts
from zray.client.session import Session
from zray.exceptions import GetTimeoutError
from zray.failures import aliased, error_name, show_error
from zray.ids import TASK_ID_BYTES, owner_of, task_of, was_put
from zray.object_ref import ObjectRef
from zray.protocol import questions as q
from zray.protocol import state_questions as sq
from zray.protocol.codec import unpack_messages

MAX_ROWS = 10_000
"""The number of tasks of each other process that are looked at."""
MAX_ERROR_CHARS = 500
_NOT_BEGUN = ("WAITING FOR ARGUMENTS", "NOT SENT", "QUEUED", "PAUSED", "WAITING FOR ACTOR", "AT WORKER")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One attempt of a task or call."""

    number: int
    """1 for the first."""
    state: str
    """``"NOT BEGUN"``, ``"UNDER WAY"``, ``"FINISHED"`` or ``"FAILED"``."""
    where: str
    """The worker that has answered, or has the attempt now: its pid and host. Empty if it is not known: the error of an
    attempt whose worker died names the worker."""
    worker_id: str
    """In hexadecimal; empty if it is not known."""
    error: str
    """The last line of the error; empty if there is none."""

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        return f"attempt {self.number}: {self.state.lower()}{where}{f': {self.error}' if self.error else ''}"


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The state of an object, a stream or an actor. ``str()`` of it is a text of a few lines."""

    what: str
    """What it is about, such as ``return value 1 of `fit```."""
    state: str
    """Of an object that exists: ``READY``, or ``FAILED`` (``get`` raises). Of one that is missing:
    ``WAITING FOR ARGUMENTS``; ``NOT SENT`` (its process has too much under way); ``QUEUED`` (it waits for a host with
    room); ``PAUSED`` (before an attempt); ``WAITING FOR ACTOR`` (the actor does not run yet); ``AT WORKER`` (given to a
    worker or actor, not begun); ``RUNNING``; ``NOT ANSWERING`` (its worker is stopped, or its code holds the
    interpreter's lock); ``UNDER WAY`` (between these, or not known). ``OWNER DIED``: it is lost. Of an actor:
    ``DEPENDENCIES_UNREADY``, ``PENDING_CREATION``, ``ALIVE``, ``RESTARTING``, ``DEAD``, or ``UNKNOWN``."""
    where: str = ""
    """Where the value is, or which process has the task or actor."""
    seconds: float | None = None
    """For how many seconds the task or call runs, to a quarter of a second; None if it does not run."""
    why: str = ""
    """What it waits for; followed to the end, a deadlock included."""
    remedy: str = ""
    """What would have to change."""
    attempts: tuple[Attempt, ...] = ()
    """The attempts so far, as far as the owner has kept their records: of its last 2,000 ended attempts."""

    def __str__(self) -> str:
        for_s = f" for {self.seconds:.1f} s" if self.seconds is not None else ""
        lines = [f"{self.what}: {self.state}{for_s}{f' ({self.where})' if self.where else ''}"]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.remedy:
            lines.append(f"  what would have to change: {self.remedy}")
        return "\n".join([*lines, *(f"  {attempt}" for attempt in self.attempts)])


def explain(target: ObjectRef | ObjectRefGenerator | ActorHandle[Any]) -> Explanation:
    """Says why an object does not exist yet: its state, where it is, what it waits for, and what its attempts were.

    It asks the owner, the broker and the workers, and takes milliseconds. It takes up to a few seconds if one of them
    does not answer. Nothing is recorded for it beforehand. (Not in Ray.)

    Args:
        target: a reference, also one of another process; a generator of references (about its next one); or the handle
            of an actor.

    Returns:
        An ``Explanation``: ``print`` it, or read its fields.

    Raises:
        TypeError: ``target`` is something else, or belongs to another cluster.
        ClusterUnavailableError: the broker is gone.
    """
    what: Any = target
    if isinstance(target, ObjectRefGenerator):
        what = target.next_ref
    if not isinstance(what, ObjectRef | ActorHandle):
        raise TypeError(f"explain() takes an ObjectRef, an ObjectRefGenerator or an actor handle, not {target!r:.100}")
    runtime()
    session = sessions.current()
    if session is None:
        assert is_local_mode()
        return Explanation("everything in local mode", "READY", "this process")
    session.check_usable()
    if isinstance(what, ActorHandle):
        return _of_actor(session, what._actor_id, what._meta.class_name)
    return _Examination(session, what._id).result()


# ---------------------------------------------------------------------------------------------------- objects


class _Examination:
    """Looks at one object."""

    def __init__(self, session: Session, object_id: bytes) -> None:
        self._session = session
        self._core = session.core
        self._object_id = object_id
        self._task_id = task_of(object_id)
        self._inquiry = Inquiry(OwnFacts(session))
        entry = self._core.references.entries.get(object_id)
        if entry is None:
            raise TypeError(f"explain(): ObjectRef({object_id.hex()}) belongs to another cluster")
        self._entry = entry
        with session.shell.lock:
            self._rows = records.attempts_of(self._core.tasks, self._core.exported, self._task_id)
        self._is_put = was_put(object_id)
        self._is_own = self._core.references.owns(object_id)

    def result(self) -> Explanation:
        entry = self._entry
        if entry.status is HANDLE:
            return _of_actor(self._session, self._task_id, "")
        if entry.status is PENDING and not self._is_own:
            found = self._elsewhere()
            if found is not None:
                return found
        if not self._is_own and not self._is_put:
            self._rows = _rows_elsewhere(self._session, self._task_id)
        if entry.status is PENDING:
            return self._missing()
        if entry.status is ERROR:
            if not self._is_own and entry.data and error_name(entry.data) == "OwnerDiedError":
                return self._owner_died()
            return self._about("FAILED", why=_last_line(entry.data))
        where = self._places([entry.host] if entry.status is STORED else [])
        return self._about("READY", where)

    def _elsewhere(self) -> Explanation | None:
        """Asks the owner whether the object exists. None: it does not."""
        try:
            found = places.locations_of(self._session, [self._object_id], PATIENCE_S)
        except GetTimeoutError:
            return self._about(
                "NOT ANSWERING",
                why=f"{self._owner}, does not answer",
                remedy="the owner must go on: it is stopped, or cannot be reached",
            )
        if not found:
            return self._owner_died()
        (location,) = found
        return self._about("READY", self._places(location.hosts)) if location.size is not None else None

    @property
    def _owner(self) -> str:
        return f"its owner, process {owner_of(self._object_id).hex()[:8]}"

    def _owner_died(self) -> Explanation:
        return self._about(
            "OWNER DIED",
            why=f"{self._owner}, is gone, and the object with it",
            remedy="run the task again, or put the value again, in a process that lives",
        )

    def _about(
        self, state: str, where: str = "", seconds: float | None = None, why: str = "", remedy: str = ""
    ) -> Explanation:
        attempts = _attempts(self._session, self._rows, "NOT BEGUN" if state in _NOT_BEGUN else "UNDER WAY", where)
        return Explanation(self._what(), state, where, seconds, why, remedy, attempts)

    def _what(self) -> str:
        name = self._rows[-1].name if self._rows else ""
        of = f" of `{name}`" if name else ""
        number = int.from_bytes(self._object_id[TASK_ID_BYTES:], "big")
        if self._is_put:
            return f"object {self._object_id.hex()} of put()"
        if number >= FIRST_ITEM:
            return f"item {number - FIRST_ITEM + 1} of the stream{of}"
        return f"return value {number}{of}"

    def _places(self, hosts: list[bytes]) -> str:
        if not hosts:
            return "this process" if self._is_own or self._entry.status is INLINE else "its owner's process"
        names = {host.host_id: host.info.hostname for host in self._session.query(q.HostsQuery, q.HostList).hosts}
        labels = [f"{names.get(host, 'a process')} ({host.hex()[:8]})" for host in hosts]
        return f"in the object store of {', '.join(labels)}"

    # ------------------------------------------------------------------ missing objects

    def _missing(self) -> Explanation:
        task = self._core.tasks.tasks.get(self._task_id)
        row = self._rows[-1] if self._rows else None
        name, actor_id = (row.name, row.actor) if row is not None else ("", b"")
        why = self._inquiry.why(self._object_id, name, actor_id, {})
        if (task is not None and task.missing) or (task is None and row and row.state == "PENDING_ARGS_AVAIL"):
            return self._about(*situations.of_missing_argument(why))
        if task is not None and task.state is READY:
            return self._about(
                "NOT SENT",
                why=why or "too much of this process's work is under way",
                remedy="earlier work of this process must end first",
            )
        if task is not None and task.state is WAITING:
            return self._about("PAUSED", why=why or "it is tried again after a pause")
        if actor_id:
            found = self._inquiry.ask(q.ExplainActor, actor_id)
            return self._about(*situations.of_call(found, self._task_id, why))
        found = self._inquiry.ask(q.ExplainTask, self._task_id)
        return self._about(*situations.of_task(found, self._task_id, why))


# ------------------------------------------------------------------------------------------------- attempts


def _rows_elsewhere(session: Session, task_id: bytes) -> list[sq.TaskRow]:
    """The rows of a task's attempts from its owner, another process. All processes are asked."""
    answer = session.query(lambda request: sq.StateOfTasks(request, MAX_ROWS), sq.OwnerRecords)
    bodies = [
        unpack_messages(each.rows, frozenset([sq.TaskRows]))[0]
        for each in answer.processes
        if each.process_id == owner_of(task_id)
    ]
    rows = [row for body in bodies for row in body.rows if row.task_id == task_id]
    return sorted(rows, key=lambda row: row.attempt)


def _attempts(session: Session, rows: list[sq.TaskRow], now: str, now_at: str) -> tuple[Attempt, ...]:
    """``now``, ``now_at``: the state of the attempt that has not ended, and where it is."""
    workers: dict[bytes, str] = {}
    if any(row.worker for row in rows):
        hosts = {row.host_id: row.hostname for row in session.query(sq.StateOfHosts, sq.HostRecords).hosts}
        for worker in session.query(sq.StateOfWorkers, sq.WorkerRecords).workers:
            host = f"{hosts.get(worker.host, 'a host')} ({worker.host.hex()[:8]})"
            workers[worker.worker_id] = f"pid {worker.pid} on {host}"
    attempts = []
    for row in rows:
        is_over = row.state in ("FINISHED", "FAILED")
        state, where = (row.state, workers.get(row.worker, "")) if is_over else (now, now_at)
        attempts.append(Attempt(row.attempt + 1, state, where, row.worker.hex(), _last_of(row.error)))
    return tuple(attempts)


def _last_line(error: bytes) -> str:
    if not error or aliased(error):
        return "an error in the object store"
    return _last_of(show_error(error))


def _last_of(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:MAX_ERROR_CHARS] if lines else ""


# --------------------------------------------------------------------------------------------------- actors


def _of_actor(session: Session, actor_id: bytes, class_name: str) -> Explanation:
    actors = session.query(sq.StateOfActors, sq.ActorRecords).actors
    record = next((row for row in actors if row.actor_id == actor_id), None)
    if record is None:
        return Explanation(
            f"actor {class_name or actor_id.hex()}",
            "UNKNOWN",
            why="the broker has no record of it: it is being announced, or it ended long ago",
        )
    what = situations.actor_label(record)
    found = None if record.state == "DEAD" else Inquiry(OwnFacts(session)).ask(q.ExplainActor, actor_id)
    return Explanation(what, *situations.of_actor(record, found))
