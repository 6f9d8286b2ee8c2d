"""The owner's side of tasks: from submission to the outcome, with retries, dependencies and cancellation.

A ``Task`` is held here from its submission until its outcome is known. It is sent only when all of its top-level
reference arguments exist; small ones travel inside the payload. ``task.route`` decides where it is sent (a queue of the
broker, an actor's mailbox). The code here does not depend on that.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

from zray.client.core.locations import LocationTable
from zray.client.core.pauses import Pauses
from zray.client.core.payloads import CANCELLATIONS, Arguments, Outcome, first_error, raised, read_outcome
from zray.client.core.references import Entry, ReferenceTable, is_stored
from zray.client.core.states import ENDED, ERROR, PENDING, READY, SENT, STORED, TASK, WAITING
from zray.client.core.streams import FIRST_ITEM, StreamTable
from zray.exceptions import FAILURES
from zray.failures import (
    TASK_WORKER_DIED,
    MissedArgument,
    alias_of,
    aliased,
    encode_failure,
    error_name,
    missed_argument,
    show_error,
)
from zray.ids import return_id, task_of
from zray.logs.digest import in_a_line
from zray.protocol.codec import pack, unpack
from zray.protocol.messages import FLAG_RETRYABLE, Failed, Item, ProtocolError, Result, Started, TimedOut
from zray.protocol.records import AwaitedObject

UNLIMITED = -1
NEAR_BYTES = 256 * 1024
"""A task with at least this many bytes of arguments prefers the host that has them."""
MAX_LOOKED_AT = 100_000
"""The number of calls without an outcome that are counted for an inspection."""
MAX_NAMES = 20
MAX_ENDED = 2_000
"""The number of ended attempts of which a process keeps a record, for ``zray.util.state``."""
MAX_ERROR_BYTES = 4_000
"""The size from which on such a record keeps only a part of an error's text, of at most half as many characters."""
ANSWERED_BY_BROKER = b"broker"
"""The ``actor_id`` of the route of constructors: no worker answers for them."""
MAX_FREE_ATTEMPTS = 20
"""The number of times that a task may lose its worker before it has started, without costing a retry."""
WORKER_CRASHED = "WorkerCrashedError"
RETRIED_FAILURES = frozenset((WORKER_CRASHED, "OutOfMemoryError", "NodeDiedError"))
"""Failures of a process or machine, not of the task: they are worth another attempt."""
OUT_OF_MEMORY = "OutOfMemoryError"
TIMED_OUT = "TaskTimeoutError"
"""The failure of a task or call that ran longer than its limit."""
TOLD_BY_BROKER = frozenset(("NodeDiedError",))
"""Failures without a warning for each task: the broker tells the driver once of a lost host."""


class Route(Protocol):
    """Decides where a task's payload is sent, and when.

    An outcome counts only if it comes from ``actor_id``; if that is empty, from a worker to which the broker gave the
    task.
    """

    actor_id: bytes

    @property
    def class_name(self) -> str:
        """The class of the actor; empty if there is no actor, or its class is not known here."""

    def ready(self, task: Task) -> None:
        """Called when the task's arguments exist, or it is tried again. Requests ``go`` by ``TaskTable.soon``."""

    def go(self, task: Task) -> None:
        """Lets the table dispatch the task, if it still waits and may be sent."""

    def send(self, task: Task, payload: bytes) -> None:
        """Sends an attempt."""

    def cancel(self, task: Task, mode: int) -> None:
        """Asks the process that has the task to drop or stop it."""

    def started(self, task: Task) -> None:
        """Called when a worker has begun with a large task that takes long."""

    def done(self, task: Task, error: bytes) -> None:
        """Called when the outcome is known. ``error`` is empty if it came from a worker."""


class Records(Protocol):
    """The records of how stored values were made, see ``zray.client.core.lineage``.

    ``rerun``: the tasks that run again because a value is lost. ``later``: others whose end has to be told.
    """

    rerun: set[bytes]
    later: Any

    def keep(self, task: Task) -> None:
        """Called at the end of a task that has stored a value or has run again, while it still holds its arguments."""

    def failed(self, task: Task) -> None:
        """Called when a task that concerns them has failed without an answer of a worker."""


def concerns(records: Records, task_id: bytes) -> bool:
    """Whether the end of a task has to be told, even if it has stored nothing."""
    return (bool(records.rerun) and task_id in records.rerun) or (bool(records.later) and task_id in records.later)


class Task:
    """One task or call. ``state``: see ``zray.client.core.states``.

    Invariants: ``missing`` is the number of its arguments that are not ready yet. ``counted`` is its size in the window
    of its route, in bytes; 0 before it is sent. ``left`` has the return values, with hosts, that workers of earlier
    attempts have stored and may not have answered. ``created``: when the present attempt was submitted, in seconds.
    """

    __slots__ = ("arguments", "attempt", "cancelled", "counted", "created", "flags", "function_id", "left", "missing",
                 "n_returns", "options", "parent", "retries_left", "route", "seq", "shape", "state",
                 "task_id")  # fmt: skip

    def __init__(
        self,
        task_id: bytes,
        route: Route,
        function_id: bytes,
        shape: bytes,
        flags: int,
        options: bytes,
        arguments: Arguments,
        n_returns: int,
        retries_left: int,
        parent: bytes,
    ) -> None:
        self.task_id = task_id
        self.route = route
        self.function_id = function_id
        self.shape = shape
        self.flags = flags
        self.options = options
        self.arguments = arguments
        self.n_returns = n_returns
        self.retries_left = retries_left
        self.parent = parent
        self.attempt = 0
        self.created = 0.0
        self.missing = 0
        self.seq = 0
        self.counted = 0
        self.state = WAITING if arguments.refs else READY
        self.cancelled = False
        self.left: list[tuple[bytes, bytes]] | None = None  # None and not []: there may be a million tasks

    def enter(self, state: int) -> None:
        """Changes the state. Raises IllegalTransition if ``state`` may not follow."""
        self.state = TASK.after[self.state][state]

    def ready(self, object_id: bytes) -> None:
        """Counts an argument that exists now, see ``Waiting``."""
        self.missing -= 1
        if not self.missing:
            self.enter(READY)
            self.route.ready(self)

    @property
    def name(self) -> str:
        """The name that the user knows: ``fit``, or ``Model.fit``."""
        return full_name(self.options, self.route)

    @property
    def attempt_text(self) -> str:
        """The attempt, for errors: ``attempt 2 of 4 of `fit```. Attempts that cost no retry are counted too."""
        of = f" of {self.attempt + 1 + self.retries_left}" if self.retries_left != UNLIMITED else ""
        return f"attempt {self.attempt + 1}{of} of `{self.name}`"


def full_name(options: bytes, route: Route) -> str:
    """The name of a task or call that the user knows: ``fit``, or ``Model.fit``."""
    name, class_name = name_in(options), route.class_name
    return f"{class_name}.{name}" if class_name and "." not in name else name


@functools.lru_cache(maxsize=256)
def name_in(options: bytes) -> str:
    """The name in a call's options."""
    fields = unpack(options) if options else {}
    return str(fields.get("name", "a task")) if type(fields) is dict else "a task"


@functools.lru_cache(maxsize=256)
def retries_timeouts(options: bytes) -> bool:
    """Whether a call is tried again after it ran too long, by its options."""
    fields = unpack(options) if options else {}
    limit = fields.get("timeout") if type(fields) is dict else None
    return type(limit) is list and bool(limit[1])


EndedAttempt = tuple[bytes, int, bytes, bytes, Route, bytes, bytes, bytes, float, float, int,
                     "bytes | tuple[str, str] | None"]  # fmt: skip
"""The identifier, attempt, function, options, route, parent and shape of a task, the worker that has answered (or
empty), when the attempt was submitted and when it ended (in seconds), how long it ran (in microseconds; ``NOT_KNOWN``),
and the error (None: there is none).

Not the task itself: its memory, and that of its arguments, is used again for the next task. Of a long error only its
name (``error_name``) and the end of its text are kept. ``b""``: it is in the object store.
"""


NOT_KNOWN = -1


def error_in_short(error: bytes) -> tuple[str, str]:
    """The name of an error, and the end of its text."""
    text = show_error(error) if error else "an error in the object store"
    return error_name(error), text[-MAX_ERROR_BYTES // 2 :]


class TaskTable:
    """All unanswered tasks of one process. ``ended``: the last attempts that have ended, the oldest first."""

    def __init__(
        self, references: ReferenceTable, locations: LocationTable, streams: StreamTable, max_inline_bytes: int
    ) -> None:
        """``max_inline_bytes``: the limit for all values in one payload together."""
        self._max_inline_bytes = max_inline_bytes
        self.references = references
        self._streams = streams
        self._streaming = streams.streams
        self._locations = locations
        self.now = 0.0
        """The time, as far as the shell has told it."""
        self.epoch_s = 0.0
        """The time since 1970 at which ``now`` is 0, in seconds; the session sets it."""
        self.tasks: dict[bytes, Task] = {}
        self.ended: deque[EndedAttempt] = deque(maxlen=MAX_ENDED)
        self.on_retry: Callable[[str, str], None] = lambda name, notice: None
        """Called for an attempt that ended without an outcome, with the task's name and a line about it."""
        self.records: Records | None = None
        self.pauses: Pauses[Task] = Pauses()
        self._due: deque[Task] = deque()
        self._going = False

    # ------------------------------------------------------------------ submission

    def about(self, object_id: bytes) -> AwaitedObject:
        """Describes an object that this process waits for: the task that makes it, if this process submitted that."""
        task = self.tasks.get(task_of(object_id))
        if task is None:
            return AwaitedObject(object_id, "", None)
        return AwaitedObject(object_id, task.name, task.route.actor_id or None)

    def waiting_for_arguments(self) -> dict[str, int]:
        """The number of calls that wait for arguments, by name. Only the first ``MAX_LOOKED_AT`` calls are counted."""
        some = itertools.islice(self.tasks.values(), MAX_LOOKED_AT)
        return dict(Counter(task.name for task in some if task.missing).most_common(MAX_NAMES))

    def submit(self, task: Task) -> None:
        """Adds a task. This process must own its return objects already."""
        self.tasks[task.task_id] = task
        task.created = self.now
        arguments = task.arguments
        if arguments.held:
            references = self.references
            for object_id in arguments.held:
                references.pin(object_id)
            # ``missing`` is set before a value can arrive, so that none starts the task early.
            task.missing = sum([references.wait_for(object_id, task) for _, object_id in arguments.refs])
        if not task.missing:
            if task.state is WAITING:
                task.enter(READY)
            task.route.ready(task)

    def soon(self, task: Task) -> None:
        """Calls ``task.route.go``: now, or after the present call of it has returned.

        This avoids recursion: one outcome may decide the outcomes of a chain of a million tasks.
        """
        self._due.append(task)
        if self._going:
            return
        self._going = True
        try:
            while self._due:
                due = self._due.popleft()
                due.route.go(due)
        finally:
            self._going = False

    def will_fail(self, task: Task) -> bool:
        """Whether an argument of a task is an error, so that the task fails without being sent. All arguments must be
        ready."""
        entries = self.references.entries
        return any(entries[object_id].status is ERROR for _, object_id in task.arguments.refs)

    def dispatch(self, task: Task) -> None:
        """Builds the payload and gives it to the route. If an argument is an error, the task fails with it."""
        arguments = task.arguments
        refs = []
        n_bytes = len(arguments.data)
        for key, object_id in arguments.refs:
            entry = self.references.entries[object_id]
            if entry.status is ERROR:
                self._fail_for(task, key, object_id, entry)
                return
            if entry.data and n_bytes + len(entry.data) > self._max_inline_bytes:
                refs.append((key, object_id, PENDING, b"", b"", 0))  # the worker asks the owner, as for any reference
                continue
            n_bytes += len(entry.data)
            refs.append((key, object_id, entry.status, entry.data, entry.host, entry.size))
        task.enter(SENT)
        stream = self._streams.begin(task.task_id, task.attempt) if self._streaming else ()
        payload = pack((task.options, *arguments[:5], refs, stream))
        task.route.send(task, payload)

    def nearest(self, arguments: Arguments) -> bytes:
        """The host that has most bytes of a call's stored arguments; empty if they are fewer than ``NEAR_BYTES``."""
        if arguments.status != STORED and not arguments.refs:
            return b""
        stored = [(arguments.object_id, arguments.host, arguments.size)] if arguments.status == STORED else []
        for _, object_id in arguments.refs:
            entry = self.references.entries[object_id]
            if entry.status is STORED:
                stored.append((object_id, entry.host, entry.size))
        n_bytes: dict[bytes, int] = {}
        for object_id, host, size in stored:
            for holder in (host, *self._locations.complete(object_id)):
                n_bytes[holder] = n_bytes.get(holder, 0) + size
        if not n_bytes:
            return b""
        most = max(n_bytes, key=n_bytes.__getitem__)
        return most if n_bytes[most] >= NEAR_BYTES else b""

    def again(self, task: Task, *, counts: bool) -> None:
        """Starts another attempt. It uses up a retry if it ``counts``."""
        self._next_attempt(task, counts)
        task.created = self.now
        task.enter(READY)
        task.route.ready(task)

    def run_again(self, task: Task) -> None:
        """Submits a task again that had an outcome, because a value is lost. It uses up a retry."""
        self._next_attempt(task, counts=True)
        task.enter(WAITING)
        task.counted = 0
        task.left = None
        task.cancelled = False  # a cancellation that came too late has no effect
        self.on_retry(task.name, f"a value of `{task.name}` is lost, and is made again: {task.attempt_text}")
        self.submit(task)

    def sent_back(self, task: Task) -> None:
        """A process has sent a task back that it has not begun. It is sent again, as the same attempt."""
        if task.cancelled:  # the cancellation and the task have crossed
            self.fail_cancelled(task, when=" before it started")
            return
        task.enter(READY)
        task.route.ready(task)

    def is_stream(self, task_id: bytes) -> bool:
        """Whether the values of a task are a stream."""
        return task_id in self._streaming

    @staticmethod
    def _next_attempt(task: Task, counts: bool) -> None:
        if counts and task.retries_left != UNLIMITED:
            task.retries_left -= 1
            if not task.retries_left:
                task.flags &= ~FLAG_RETRYABLE
        task.attempt += 1

    # ------------------------------------------------------------------ outcomes

    def on_result(self, message: Result) -> None:
        """Handles a worker's answer."""
        task = self._answered_by(message)
        if len(message.payload) < 2 and message.payload in CANCELLATIONS:  # outcomes are longer, and slow to hash
            if task is not None and task.attempt == message.attempt:
                self.fail_cancelled(task, CANCELLATIONS[message.payload])
            return
        try:
            outcome = read_outcome(message.payload)
            if task is not None and task.attempt == message.attempt and len(outcome.returns) != task.n_returns:
                raise ProtocolError(f"{len(outcome.returns)} return values instead of {task.n_returns}")
            if outcome.kept and not all(map(self.references.owns, outcome.kept)):
                raise ProtocolError("kept a reference that another process owns")
        except ProtocolError as error:
            if task is not None and task.attempt == message.attempt:  # no other answer will come
                self.fail(task, encode_failure("SystemFailure", f"the answer of its worker cannot be read: {error}"))
            raise
        if outcome.kept:
            self.references.keep(outcome.kept, message.source)
        self._adopt(message, outcome)
        if task is None or task.attempt != message.attempt:
            self._discard(message.task_id, outcome)
        elif outcome.retryable and task.retries_left and not task.cancelled:
            self._discard(message.task_id, outcome)
            self.on_retry(task.name, f"{task.attempt_text} raised {raised(outcome)}: it is tried again")
            failed = first_error(outcome.returns)
            self._note_failure(task, message.source, failed[1] if failed is not None else b"", outcome.run_us)
            self.again(task, counts=True)
        else:
            self._settle(task, outcome, message.source)

    def _answered_by(self, message: Result | Item | TimedOut) -> Task | None:
        """Returns the task that a message is about; None if it has ended. Raises ProtocolError if the sender was not
        given the task."""
        task = self.tasks.get(message.task_id)
        if task is not None and task.route.actor_id != message.actor:
            raise ProtocolError("an outcome from a process that was not given the call")
        if task is not None and task.attempt == message.attempt and task.state is not SENT:
            raise ProtocolError("an outcome of a task that was not sent")
        return task

    def _adopt(self, message: Result | Item, outcome: Outcome) -> None:
        """Pins the references in the values of an outcome."""
        references = self.references
        for _, _, _, inner in outcome.returns:
            if inner:
                for object_id in inner:
                    if task_of(object_id) == message.task_id:
                        references.await_return(object_id)
                references.adopt(inner, message.source)

    def on_item(self, message: Item) -> None:
        """Handles the next items of a stream."""
        task = self._answered_by(message)
        is_current = task is not None and task.attempt == message.attempt
        stream = self._streaming.get(message.task_id)
        try:
            if is_current and (stream is None or message.position != stream.received):
                raise ProtocolError("an item out of order, or of a task without a stream")
            outcome = read_outcome(message.payload)
        except ProtocolError as error:
            if task is not None and is_current:  # without this item, the stream cannot go on
                self.fail(task, encode_failure("SystemFailure", f"an item of its worker cannot be read: {error}"))
            raise
        self._adopt(message, outcome)
        if is_current:
            self._streams.receive(message.task_id, message.source, outcome)
        else:
            self._discard(message.task_id, outcome, FIRST_ITEM + message.position)

    def _settle(self, task: Task, outcome: Outcome, worker_id: bytes) -> None:
        task_id = task.task_id
        self._finish(task, b"")
        returns = outcome.returns
        failed = first_error(returns)
        if failed is not None and not task.cancelled:
            self._note_unseen(task)
        if task_id in self._streaming:
            self._streams.settle(task_id, returns[0], outcome.host)
            if self.records is not None and self.records.later:
                self.records.later.pop(task_id, None)
        else:
            stores = False
            for index, (status, data, size, inner) in enumerate(returns, start=1):
                if status == STORED:
                    stores = True
                    if task.attempt:
                        self._leave_second(return_id(task_id, index), outcome.host)
                self.references.resolve(return_id(task_id, index), status, data, outcome.host, size, tuple(inner))
            records = self.records
            if records is not None and ((stores and task.retries_left) or concerns(records, task_id)):
                records.keep(task)
        if failed is not None:  # its references may be gone already
            self.references.tell_unseen(task_id, *failed[1:3])
        self._let_go(task)
        if failed is None:
            self.ended.append((task_id, task.attempt, task.function_id, task.options, task.route, task.parent,
                               task.shape, worker_id, task.created, self.now, outcome.run_us, None))  # fmt: skip
        else:
            self._note_failure(task, worker_id, failed[1], outcome.run_us)

    def _note_failure(self, task: Task, worker_id: bytes, error: bytes, run_us: int = NOT_KNOWN) -> None:
        """Records an attempt that has failed. ``error``: empty if it is in the object store."""
        if task.route.actor_id == ANSWERED_BY_BROKER:
            return  # the broker has the record of the actor
        kept = error if len(error) <= MAX_ERROR_BYTES else error_in_short(error)
        self.ended.append((task.task_id, task.attempt, task.function_id, task.options, task.route, task.parent,
                           task.shape, worker_id, task.created, self.now, run_us, kept))  # fmt: skip

    def _note_unseen(self, task: Task) -> None:
        """Notes the error of a task, which no code has seen yet."""
        stream = self._streaming.get(task.task_id)
        indices = range(1, task.n_returns + 1) if stream is None else stream.error_indices
        self.references.unseen[task.task_id] = indices, task.name

    def _discard(self, task_id: bytes, outcome: Outcome, first: int = 1) -> None:
        """Frees values that are not needed, or whose task is tried again and may store under the same identifiers.

        ``first``: the index of the first value.
        """
        for _, _, _, inner in outcome.returns:
            for inner_id in inner:
                self.references.unpin(inner_id)
        for index, (status, data, _, _) in enumerate(outcome.returns, start=first):
            if not is_stored(status, data):
                continue
            object_id = return_id(task_id, index)
            if task_id in self.tasks:
                self.left_behind(object_id, outcome.host)
            elif object_id not in self.references.entries:
                self.references.release_segment(outcome.host, object_id)

    def left_behind(self, object_id: bytes, host: bytes) -> None:
        """Notes a return value in the store of a host whose worker is dead, and may have died before it answered.

        It is kept while another attempt may store there under the same identifier.
        """
        task = self.tasks.get(task_of(object_id))
        if task is None:
            self._leave(object_id, host)
        else:
            task.left = task.left or []
            task.left.append((object_id, host))

    def _leave_second(self, object_id: bytes, host: bytes) -> None:
        """Notes a value that a task has stored once more, because another of its values was lost."""
        entry = self.references.entries.get(object_id)
        if entry is not None and entry.status is STORED:
            if self.references.is_dead(entry.host):
                self.references.lose(object_id)  # the new value takes its place
            else:
                self._leave(object_id, host)

    def _leave(self, object_id: bytes, host: bytes) -> None:
        entry = self.references.entries.get(object_id)
        if entry is None or not is_stored(entry.status, entry.data):
            self.references.release_segment(host, object_id)
        elif entry.host != host:
            self._locations.leave(object_id, host)

    def on_failed(self, message: Failed, now: float) -> None:
        """Handles the broker's report that an attempt ended without an outcome."""
        task = self.tasks.get(message.task_id)
        if task is None or task.attempt != message.attempt:
            return
        if message.kind not in FAILURES:
            raise ProtocolError(f"a failure of an unknown kind: {message.kind}")
        if task.state is not SENT:
            raise ProtocolError("a failure of a task that was not sent")
        if message.kind == OUT_OF_MEMORY and not task.cancelled and self._stopped(task, message, now):
            return
        retry = message.kind in RETRIED_FAILURES and message.kind != OUT_OF_MEMORY and not task.cancelled
        counts = message.culprit or task.attempt >= MAX_FREE_ATTEMPTS
        retry = retry and bool(task.retries_left or not counts)
        pause_s, history = 0.0, ""
        if retry and message.culprit and message.kind == WORKER_CRASHED:
            pause_s, history = self.pauses.died(task, message.message, now)
        if retry and not history:
            if counts and message.kind not in TOLD_BY_BROKER:
                when = f" in {pause_s:g} s" if pause_s else ""
                text = f"{task.attempt_text} died and is tried again{when}: {in_a_line(message.message)}"
                self.on_retry(task.name, text)
            self._note_failure(task, b"", encode_failure(message.kind, message.message))
            if pause_s:
                self._pause(task, pause_s, counts, now)
            else:
                self.again(task, counts=counts)
        elif task.cancelled:
            self.fail_cancelled(task)
        else:
            died = f"{TASK_WORKER_DIED}: " if message.kind == WORKER_CRASHED else ""
            text = f"{task.attempt_text}: {died}{message.message}"
            error = encode_failure(message.kind, f"{text}\n{history}" if history else text)
            if message.kind in RETRIED_FAILURES and task.n_returns:
                self._note_unseen(task)
            self.fail(task, error)
            self.references.tell_unseen(task.task_id, error, len(error))

    def _pause(self, task: Task, pause_s: float, counts: bool, now: float) -> None:
        """Starts another attempt after a pause."""
        self._next_attempt(task, counts)
        task.enter(WAITING)
        task.route.started(task)  # it is not under way meanwhile
        self.pauses.begin(task, pause_s, now)

    def _stopped(self, task: Task, message: Failed, now: float) -> bool:
        """Has a task that was stopped for lack of memory tried again after a pause. Returns False if it is not.

        Only a task that can be tried again at all is. It pays with a retry if it is the culprit: it had the memory for
        itself, or the kernel has killed it.
        """
        if not task.retries_left or not (message.culprit or self.pauses.may_retry(task)):
            return False
        self._note_failure(task, b"", encode_failure(message.kind, message.message))
        stopped = task.attempt_text
        pause_s = self.pauses.stopped(task)
        self._pause(task, pause_s, message.culprit, now)
        self.on_retry(
            task.name, f"{stopped} is tried again in {pause_s:.0f} s, as memory was short: {in_a_line(message.message)}"
        )
        return True

    def tick(self, now: float) -> None:
        """Lets time pass."""
        for task, attempt in self.pauses.over(now):
            if task.state is WAITING and task.attempt == attempt:
                task.enter(READY)
                task.route.ready(task)

    def on_timed_out(self, message: TimedOut) -> None:
        """Handles the broker's report that the worker of an attempt was killed, because the attempt ran too long."""
        task = self._answered_by(message)
        if task is None or task.attempt != message.attempt:
            return
        error = encode_failure(TIMED_OUT, f"{task.attempt_text} {message.message}")
        if task.cancelled:
            self.fail_cancelled(task)
        elif task.retries_left and retries_timeouts(task.options):
            self.on_retry(task.name, f"{task.attempt_text} ran too long and is tried again")
            self._note_failure(task, b"", error)
            self.again(task, counts=True)
        else:
            if task.n_returns:
                self._note_unseen(task)
            self.fail(task, error)
            self.references.tell_unseen(task.task_id, error, len(error))

    def on_started(self, message: Started) -> None:
        """Handles a worker's report that it has begun with a task."""
        task = self.tasks.get(message.task_id)
        if task is not None and task.attempt == message.attempt and task.state is SENT:
            task.route.started(task)

    def refused(self, task_id: bytes, attempt: int, error: bytes) -> None:
        """Fails a task whose attempt could not be sent."""
        task = self.tasks.get(task_id)
        if task is not None and task.attempt == attempt:
            self.fail(task, error)

    def fail(self, task: Task, error: bytes, inner: tuple[bytes, ...] = ()) -> None:
        """Ends a task: ``error`` is the outcome of every return object. ``inner``: the objects that it refers to."""
        self._finish(task, error)
        for index in range(1, task.n_returns + 1):
            for object_id in inner:
                self.references.pin(object_id)
            self.references.resolve(return_id(task.task_id, index), ERROR, error, b"", 0, inner)
        if task.task_id in self._streaming:
            self._streams.fail(task.task_id, error, inner)
        if self.records is not None and concerns(self.records, task.task_id):
            self.records.failed(task)
        self._let_go(task)
        self._note_failure(task, b"", error)

    def fail_cancelled(self, task: Task, kind: str = "TaskCancelledError", when: str = "") -> None:
        """Ends a task with a TaskCancelledError. ``when`` is added to its text, for instance " before it was sent"."""
        self.fail(task, encode_failure(kind, f"{task.attempt_text} was cancelled{when}"))

    def _fail_for(self, task: Task, key: int | str, object_id: bytes, entry: Entry) -> None:
        """Fails a task with its argument's error. An error in the store, or with references, is sent as an alias."""
        if task.n_returns and self.references.owns(object_id):  # the argument's error is seen: it is this task's now
            unseen = self.references.unseen.pop(task_of(object_id), None)
            if unseen is not None:
                self._note_unseen(task)
        error, between, inner = entry.data, 0, entry.inner
        missed = missed_argument(error)
        if missed is not None:
            error, between = missed.error, missed.between + 1
        if not error or (inner and not aliased(error)):
            error, inner = alias_of(object_id), (object_id,)
        missing = MissedArgument(task.name, key, between, error).to_bytes()
        self.fail(task, missing, inner)
        self.references.tell_unseen(task.task_id, missing, len(missing))

    def _finish(self, task: Task, error: bytes) -> None:
        del self.tasks[task.task_id]
        if self.pauses:
            self.pauses.forget(task)
        task.route.done(task, error)
        task.enter(ENDED)

    def _let_go(self, task: Task) -> None:
        """Releases the objects that a task with an outcome has held, and those that earlier attempts have left."""
        held = task.arguments.held
        if held:
            if task.missing:
                for _, object_id in task.arguments.refs:
                    self.references.stop_waiting(object_id, task)
            for object_id in held:
                self.references.unpin(object_id)
        if task.left:
            for object_id, host in task.left:
                self._leave(object_id, host)

    # ------------------------------------------------------------------ cancellation

    def cancel(self, task_id: bytes, mode: int) -> bool:
        """Cancels a task of this process. Returns False if it has ended already."""
        task = self.tasks.get(task_id)
        if task is None:
            return False
        task.cancelled = True
        if task.state is SENT:
            task.route.cancel(task, mode)
        else:
            self.fail_cancelled(task, when=" before it was sent")
        return True

    def cancel_children(self, parent: bytes, mode: int) -> None:
        """Cancels the tasks that the task ``parent`` has submitted while it ran here."""
        for task_id in [task_id for task_id, task in self.tasks.items() if task.parent == parent]:
            self.cancel(task_id, mode)

    def lose_everything(self, kind: str, message: str) -> None:
        """Fails all tasks, because the cluster is gone."""
        error = encode_failure(kind, message)
        self._going = True  # an outcome must not send further tasks
        for task in list(self.tasks.values()):
            if task.task_id in self.tasks:
                self.fail(task, error)
        self._due.clear()
        self._going = False
