"""A process's session with a cluster. ``zray.init`` makes one, and every worker has one.

Values enter and leave here. They are serialized outside the lock; the core works inside it. A process has one global
session (``current``). A forked child does not have its parent's.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from zray.client.advice import Advice
from zray.client.checked import CheckedRefs
from zray.client.context import current_task
from zray.client.core.client_core import FORCE_IS_FOR_TASKS, ClientCore
from zray.client.core.effects import (
    Callback,
    CloseLane,
    DialLane,
    FreeSegment,
    LaneEffect,
    OfferLane,
    ShowLogs,
    Unhandled,
    Warn,
)
from zray.client.core.payloads import Arguments
from zray.client.core.references import Entry
from zray.client.core.states import HANDLE, INLINE, PENDING, STORED
from zray.client.core.streams import StreamSpec
from zray.client.core.tasks import Task
from zray.client.exports import Exports
from zray.client.futures import Completion, Readiness
from zray.client.prefetch import Prefetches
from zray.client.remote import RemoteObjects
from zray.client.shell import ClientShell, Waiter
from zray.client.stores import Stores
from zray.client.waits import Waits, lending
from zray.config import Config
from zray.exceptions import (
    ClusterUnavailableError,
    DeserializationError,
    MessageRefusedError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    SystemFailure,
    TaskError,
    ZrayError,
)
from zray.failures import aliased, missed_argument
from zray.ids import JOB_ID_BYTES, owner_of, put_id, return_id, task_of
from zray.object_ref import HeldRef, ObjectRef, set_tracker
from zray.protocol.key_values import KvRequest
from zray.protocol.messages import CANCEL_FORCE, FLAG_RETRYABLE, FLAG_SPREAD, ActorFound, FreeObjects, NameTaken
from zray.protocol.questions import HostList, HostsQuery, MemberQuery, Membership, Question
from zray.protocol.records import ActorSpec, EnvironmentSpec, JobSettings
from zray.protocol.state_questions import StateQuestion
from zray.serialization import Serialized, deserialize, load_error, serialize, serialize_call
from zray.serialization.views import read_mutable_as_views
from zray.system import signals
from zray.system.machine import machine_id
from zray.system.processes import describe_error
from zray.system.streams import say
from zray.transport.connection import Connection

if TYPE_CHECKING:
    import concurrent.futures

    from zray.client.groups import GroupWatches

_Answer = TypeVar("_Answer")

MAX_LOST_READS = 3
"""The number of times that an object is looked for again at the host that, as its owner says, has it."""
LOADED_AT_ONCE = 64
"""The number of references that are made in one critical section, while other threads wait for the lock."""
MAX_DROPPED = 64
"""The number of references that may be gone and not counted yet, at a ``put`` of a small value."""
NONE = serialize(None).to_bytes()
NO_ARGUMENTS = Arguments(INLINE, b"", b"", b"", 0, (), ())


def _attempt(what: str, action: Callable[..., object], *arguments: Any) -> None:
    """Calls ``action``. An exception is shown and not raised, because the caller has more to do."""
    try:
        action(*arguments)
    except Exception:
        say(f"zray: {what}:\n{traceback.format_exc().rstrip()}")


class Reader(Protocol):
    """A generator object that reads a stream. ``next_ref``: the reference that comes next; it may not be ready."""

    next_ref: ObjectRef


class Session:
    """The runtime of one driver or worker. All methods may be called from any thread.

    ``host_id``: the host of a worker; empty for a driver. ``settings``: of the driver's job; a worker learns those
    of its jobs.
    """

    def __init__(
        self,
        connection: Connection,
        process_id: bytes,
        host_id: bytes,
        settings: JobSettings,
        config: Config,
        lifeline: int = -1,
    ) -> None:
        cluster = connection.cluster
        self.config = config
        read_mutable_as_views(config.mutable_as_views)
        self.max_inline_bytes = connection.max_message_bytes // 2
        """The limit for all values in one message together, in bytes. The rest of the message needs room too."""
        self._settings = settings
        self.job_id = cluster.job_id
        self.cluster_id = connection.cluster_id
        self.process_id = process_id
        self.environment = EnvironmentSpec()
        """The runtime environment of a worker, or of a driver's job. What this process submits inherits it."""
        self.pid = os.getpid()
        self.core = ClientCore(process_id, host_id, self.max_inline_bytes)
        self.core.tasks.pauses.retries = config.task_oom_retries
        self.core.lineage.max_bytes = config.max_lineage_bytes
        self.core.streams.none = NONE
        self.stores = Stores(
            host_id,
            cluster.hosts,
            lambda: self.query(HostsQuery, HostList).hosts,
            lambda: self.shell.lock,
            lambda text: self.handlers[Warn](Warn(text)),
        )
        self.core.places.home = self.stores.home
        self.address = connection.address
        self.handlers: dict[Any, Callable[[Any], None]] = {
            Warn: lambda effect: say(f"zray: {effect.text}"),
            Unhandled: self._unhandled,
            OfferLane: self._perform_for_lanes,
            DialLane: self._perform_for_lanes,
            CloseLane: self._perform_for_lanes,
        }
        self.on_lost: Callable[[str], None] = lambda reason: None
        self.on_exit_actor: Callable[[str, bytes], None] = lambda reason, ender: None
        self.shell = ClientShell(self.core, connection, self._perform, self._lost, lifeline)
        if config.lanes:
            self.core.lanes.machine = machine_id()
        else:
            self.core.leases.after = math.inf
        self.checked = CheckedRefs()
        self.at_tick: list[Callable[[], None]] = [self.stores.settle, self.checked.forget]
        """Called some times a second. These functions must not wait, and must not run user code."""
        self.shell.on_tick = self._tick
        self._advice = None if host_id else Advice(lambda text: say(f"zray: {text}"), self.core.only_task)
        lent: Callable[[], contextlib.AbstractContextManager[None]] = functools.partial(lending, self.shell)
        if self._advice is not None:
            lent = self._advice.waiting
        self._link = connection.link
        self._remote = RemoteObjects(self.shell, self.stores, lent)
        self._waits = Waits(self.shell, Prefetches(self.shell, self.stores), lent, self.check_usable, self._explain)
        self.export = Exports(self)
        self.groups: GroupWatches | None = None  # made when it is first needed
        self.captures = False
        """Whether a task or actor of this process has captured what it creates into its placement group."""
        self._members = {process_id}  # processes known to be members of the cluster
        self._entries = self.core.references.entries
        # One bound method for all references. Otherwise the collector would have one more object to look at for each.
        self._dropped: Callable[[HeldRef], None] = self.core.dropped.append

    @property
    def is_congested(self) -> bool:
        """Whether the link to the broker is full, so that this process must not add to it."""
        return self._link.congested

    @property
    def job_settings(self) -> JobSettings:
        """The settings of the driver's job. A worker's are those of the job that it works for."""
        job = self.core.execution.job
        return self._settings if job is None else job.settings

    @property
    def namespace(self) -> str:
        """The namespace of the job's actors."""
        return self.job_settings.namespace

    def current_job(self) -> bytes:
        """See ``zray.object_ref.Tracker``."""
        job = self.core.execution.job
        return job.job_id if job is not None else self.job_id or bytes(JOB_ID_BYTES)

    # ------------------------------------------------------------------ effects

    def _perform(self, effects: list[Any]) -> list[Callback]:
        """Performs all effects, even if one fails, because they belong to different calls. Returns the callbacks, which
        are still to be called."""
        freed: dict[bytes, list[bytes]] = {}
        callbacks: list[Callback] = []
        for effect in effects:
            if type(effect) is FreeSegment:
                freed.setdefault(effect.host, []).append(effect.object_id)
            elif isinstance(effect, Completion):
                callbacks.append(effect)
        for host, object_ids in freed.items():
            _attempt("objects cannot be freed", self._free, host, object_ids)
        for effect in effects:
            handler = self.handlers.get(type(effect))
            if handler is not None:
                _attempt(f"{type(effect).__name__} has failed", handler, effect)
        return callbacks

    def _perform_for_lanes(self, effect: LaneEffect) -> None:
        self.shell.perform_for_lanes(effect)

    def _tick(self) -> None:
        for action in self.at_tick:
            _attempt("a regular task has failed", action)

    def show_logs_by(self, show: Callable[[ShowLogs], None]) -> None:
        """Sets the function that shows workers' output. It is called in order, under the lock, and must not wait."""
        self.core.on_logs = functools.partial(_attempt, "output of workers cannot be shown", show)

    def _free(self, host: bytes, object_ids: list[bytes]) -> None:
        if host == self.process_id:
            for object_id in object_ids:
                self._remote.transfers().memory.pop(object_id, None)
        elif not self.stores.free(host, object_ids):
            with self.shell.lock:
                self.core.send(host, FreeObjects(object_ids))
                self.shell.submitted()

    def _unhandled(self, effect: Unhandled) -> None:
        """Prints the error to a worker's output, which its driver shows."""
        job = self.core.execution.job
        if job is None or not job.settings.ignore_unhandled_errors:
            say(effect.text)

    def _lost(self, reason: str) -> None:
        self.on_lost(reason)

    def check_usable(self) -> None:
        """Raises if the cluster is gone or this is a forked child."""
        if os.getpid() != self.pid:
            raise ZrayError("this process was forked from a process that uses zray: call zray.init() in it first")
        if self.shell.lost:
            raise ClusterUnavailableError(self.shell.lost)

    # ------------------------------------------------------------------ references (Tracker)

    def _make_ref(self, object_id: bytes, entry: Entry) -> ObjectRef:
        ref = ObjectRef._make(object_id, self)
        held = entry.ref = HeldRef(ref, self._dropped)
        held.object_id = object_id
        return ref

    def intern(self, object_id: bytes) -> ObjectRef:
        """See ``zray.object_ref.Tracker``."""
        return self._load(object_id, b"")

    def _load(self, object_id: bytes, outer: bytes) -> ObjectRef:
        with self.shell.lock:
            return self._load_locked(object_id, outer)

    def _load_locked(self, object_id: bytes, outer: bytes) -> ObjectRef:
        entry = self._entries.get(object_id)
        if entry is not None and entry.ref is not None:
            ref: ObjectRef | None = entry.ref()
            if ref is not None:
                return ref
        return self._make_ref(object_id, self.core.references.load(object_id, outer))

    def _load_inner(self, outer: bytes, inner: Sequence[bytes]) -> Callable[[bytes], ObjectRef]:
        """Returns the function that loads the references in the value of ``outer``.

        The references ``inner`` are known to be in the value. They are made here together, because entering the section
        for each takes as long as making it.
        """
        made: dict[bytes, ObjectRef] = {}
        for start in range(0, len(inner), LOADED_AT_ONCE):
            with self.shell.lock:
                for object_id in inner[start : start + LOADED_AT_ONCE]:
                    made[object_id] = self._load_locked(object_id, outer)

        def load_ref(object_id: bytes) -> ObjectRef:
            return made.get(object_id) or self._load(object_id, outer)

        return load_ref

    def load_covered(self, object_id: bytes, covered: list[bytes]) -> ObjectRef:
        """Loads a reference in the arguments of a running task. Appends its object to ``covered``."""
        with self.shell.lock:
            entry = self.core.references.load_covered(object_id)
            covered.append(object_id)
            ref: ObjectRef | None = entry.ref() if entry.ref is not None else None
            if ref is not None:
                entry.local -= 1
                return ref
            return self._make_ref(object_id, entry)

    def pickled_by_user(self, object_id: bytes) -> None:
        """See ``zray.object_ref.Tracker``."""
        with self.shell.lock:
            self.core.references.pin(object_id)

    def future_of(self, object_id: bytes) -> concurrent.futures.Future[Any]:
        """See ``zray.object_ref.Tracker``."""
        return self._future(object_id, Completion)

    def when_ready(self, object_id: bytes) -> concurrent.futures.Future[None]:
        """Returns a future that ends, with None, when the object has a value or an error."""
        return self._future(object_id, Readiness)

    def _future(self, object_id: bytes, kind: type[Completion]) -> concurrent.futures.Future[Any]:
        self.check_usable()
        from concurrent.futures import Future  # not at the top: it loads logging, which most workers never need

        future: Future[Any] = Future()
        ref = self.intern(object_id)
        done = kind(self, ref, future)

        def watch() -> bool:
            return self.core.references.wait_for(object_id, done)

        if not self.shell.run(watch):
            done.complete()
        elif self.shell.closed:
            done.give_up()
        return future

    # ------------------------------------------------------------------ put

    def put(self, value: Any) -> ObjectRef:
        """Stores a value that this process owns."""
        self.check_usable()
        serialized = serialize(value)
        object_id = put_id(self.core.new_task_id())
        return self._put(object_id, serialized)

    def _put(self, object_id: bytes, serialized: Serialized) -> ObjectRef:
        size = serialized.total_bytes
        status, data, host = INLINE, b"", b""
        references = self.core.references
        ref: ObjectRef | None = None
        if size <= self.config.inline_max_bytes:
            data = serialized.to_bytes()
            if not serialized.refs:
                return self._put_plain(object_id, data, size)
        else:
            status, host = STORED, self.stores.find_home() or self.process_id
            with self.shell.lock:  # before the first byte is written, so that an interrupt at any point frees it
                ref = self._make_ref(object_id, references.own(object_id, host))
            self.write(host, object_id, serialized)
        with self.shell.lock:
            if ref is None:
                ref = self._make_ref(object_id, references.own(object_id))
            for inner in serialized.refs:
                references.pin(inner)
            references.resolve(object_id, status, data, host, size, serialized.refs)
            if self.core.dropped:
                self.shell.collect()
        self.shell.settle()
        return ref

    def _put_plain(self, object_id: bytes, data: bytes, size: int) -> ObjectRef:
        """As ``_put``, for a small value without references.

        It takes no lock, because no other code knows the object, and no other record changes. Dropped references are
        counted only if there are many; otherwise at the next turn.
        """
        entry = Entry(INLINE)
        entry.local = 1
        entry.data = data
        entry.size = size
        self._entries[object_id] = entry
        ref = self._make_ref(object_id, entry)
        if len(self.core.dropped) > MAX_DROPPED:
            with self.shell.lock:
                self.shell.collect()
            self.shell.settle()
        return ref

    def read(self, host: bytes, object_id: bytes, size: int, deadline: float | None = None) -> memoryview:
        """Returns the bytes of a stored object, on any machine. Raises ObjectLostError, GetTimeoutError."""
        if host == self.process_id:
            return memoryview(self._remote.transfers().memory[object_id])
        data = self.stores.read(host, object_id)
        return self._remote.read(host, object_id, size, deadline) if data is None else data

    def write(self, host: bytes, object_id: bytes, serialized: Serialized) -> None:
        """Writes a serialized value into a local store, or into this driver's memory if the machine has no store.

        First frees what is no longer used: the value may need its room.
        """
        if host == self.process_id:
            self._remote.transfers().memory[object_id] = serialized.to_bytes()
            return
        self.checked.forget()
        if self.core.dropped:
            with self.shell.lock:
                self.shell.collect()
            self.shell.settle()
        try:
            store = self.stores.of(host)
        except OSError as error:
            raise SystemFailure(f"the object store cannot be opened: {describe_error(error)}") from error
        assert store is not None
        store.write(object_id, serialized.total_bytes, serialized.write_into)

    # ------------------------------------------------------------------ get and wait

    def get(self, refs: Sequence[ObjectRef], timeout_s: float | None) -> list[Any]:
        """Returns the values, in order. Raises GetTimeoutError.

        Raises the error of an object as soon as one is known; of several errors the first in the order of ``refs``.
        """
        self.check_usable()
        ids = [ref._id for ref in refs]
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            failed = self._waits.first_error(ids, timeout_s)
        except KeyError:
            raise _of_another_cluster(refs) from None
        if failed:
            for object_id in ids:  # the other errors count as seen too
                self.core.references.seen(object_id)
            self.value(failed, deadline)  # raises it
        return [self.value(object_id, deadline) for object_id in ids]

    def value(self, object_id: bytes, deadline: float | None = None) -> Any:
        """The value of an object that is ready. Raises its error."""
        entry = self._entries[object_id]
        try:
            if entry.status is INLINE:
                return deserialize(entry.data, self._loader(object_id, entry))
            if entry.status is STORED and (data := self._read_stored(object_id, entry, deadline)) is not None:
                return deserialize(data, self._loader(object_id, entry))
            if entry.status is PENDING or entry.status is INLINE:  # it was lost, and has been made again
                return self.get([self.intern(object_id)], None if deadline is None else deadline - time.monotonic())[0]
        except DeserializationError as error:
            raise error.about(f"the value of ObjectRef({object_id.hex()})") from error.__cause__
        if entry.status is HANDLE:
            raise ObjectLostError("an actor's handle object has no value")
        self.core.references.seen(object_id)
        raise self._error_of(object_id, deadline)

    def _read_stored(self, object_id: bytes, entry: Entry, deadline: float | None) -> memoryview | None:
        """The bytes of a stored object. If it is lost, waits until it has been made again; None: it is not stored then.

        Raises as ``read`` does.
        """
        failures: Counter[bytes] = Counter()
        while entry.status is STORED:
            host = entry.host
            try:
                return self.read(host, object_id, entry.size, deadline)
            except ObjectLostError as error:
                failures[host] += 1
                if failures[host] > MAX_LOST_READS:
                    raise
                self.look_again(object_id, host, error)
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._waits.first_error([object_id], left_s)
        return None

    def look_again(self, object_id: bytes, host: bytes, error: ObjectLostError) -> None:
        """Has a stored value looked for again that could not be read at ``host``, and made again if it is lost.

        Raises ``error``, with the reason, if that is of no use.
        """
        if type(error) is not ObjectLostError:
            raise error
        missing = host if self.stores.lacks(host, object_id) else b""
        why = self.shell.run(lambda: self.core.directory.look_again(object_id, host, missing))
        if why:
            raise ObjectReconstructionFailedError(f"{error}; {why}") from None

    def _loader(self, object_id: bytes, entry: Entry) -> Callable[[bytes], ObjectRef]:
        """Returns the function that loads the references in an object's value."""
        if entry.inner:
            return self._load_inner(object_id, entry.inner)
        return lambda other: self._load(other, object_id)

    def _error_of(self, object_id: bytes, deadline: float | None) -> BaseException:
        """Returns the exception that is an object's outcome, as ``get`` raises it."""
        entry = self._entries[object_id]
        data = entry.data or self.read(entry.host, object_id, entry.size, deadline)
        return self._error(data, self._loader(object_id, entry), deadline)

    def _error(
        self, data: bytes | memoryview, load_ref: Callable[[bytes], ObjectRef], deadline: float | None
    ) -> BaseException:
        """Returns the exception that an error payload stands for."""
        missed = missed_argument(data)
        if missed is not None:
            error = self._error(missed.error, load_ref, deadline)
            cause = error.cause if isinstance(error, TaskError) else error
            told = f"{missed.reason}\n{error if isinstance(error, TaskError) else f'{type(error).__name__}: {error}'}"
            return TaskError(missed.task_name, told, cause).as_instanceof_cause()
        origin = aliased(data)
        if not origin:
            error = load_error(data, load_ref)
            return error.as_instanceof_cause() if isinstance(error, TaskError) else error
        keep = load_ref(origin)
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._waits.first_error([keep._id], left_s):
            return SystemFailure("a malformed error arrived: it refers to an object that is a value")
        return self._error_of(origin, deadline)

    def wait(
        self, refs: list[ObjectRef], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """Returns at most ``num_returns`` ready references, and the others, both in order. See ``Waits.wait``."""
        self.check_usable()
        try:
            ready = self._waits.wait(refs, num_returns, timeout_s, fetch_local)
        except KeyError:
            raise _of_another_cluster(refs) from None
        if len(ready) <= 1:  # by far the most common: at most one element is deleted, and the rest is not looked at
            rest = list(refs)
            if ready:
                del rest[refs.index(ready[0])]
        else:
            chosen = set(ready)
            rest = [ref for ref in refs if ref not in chosen]
        self.checked.keep(rest)
        return ready, rest

    # ------------------------------------------------------------------ tasks

    def pack_arguments(
        self, args: Sequence[Any], kwargs: dict[str, Any], handle: ObjectRef | None = None
    ) -> tuple[Arguments, list[ObjectRef]]:
        """Serializes a call's arguments. Also returns the references to keep until the task is submitted."""
        keep: list[ObjectRef] = [handle] if handle is not None else []
        held: tuple[bytes, ...] = (handle._id,) if handle is not None else ()
        if not args and not kwargs:
            return NO_ARGUMENTS if handle is None else Arguments(INLINE, b"", b"", b"", 0, (), held), keep
        refs: list[tuple[int | str, bytes]] = []
        plain_args = list(args)
        for position, value in enumerate(args):
            if type(value) is ObjectRef:
                refs.append((position, value._id))
                plain_args[position] = None
        plain_kwargs = kwargs
        if kwargs and any(type(value) is ObjectRef for value in kwargs.values()):
            refs.extend((name, value._id) for name, value in kwargs.items() if type(value) is ObjectRef)
            plain_kwargs = {name: None if type(value) is ObjectRef else value for name, value in kwargs.items()}
        for _, object_id in refs:
            if object_id not in self._entries:
                raise _of_another_cluster([value for value in (*args, *kwargs.values()) if type(value) is ObjectRef])
        serialized = serialize_call(plain_args, plain_kwargs)
        keep.extend(serialized.held)
        held += tuple(object_id for _, object_id in refs) + serialized.refs
        size = serialized.total_bytes
        if size <= self.config.inline_max_bytes:
            return Arguments(INLINE, serialized.to_bytes(), b"", b"", 0, tuple(refs), held), keep
        if self._advice is not None:
            self._advice.sent((*plain_args, *plain_kwargs.values()), size)
        stored = self._put(put_id(self.core.new_task_id()), serialized)
        keep.append(stored)
        host = self._entries[stored._id].host
        return Arguments(STORED, b"", stored._id, host, size, tuple(refs), (*held, stored._id)), keep

    def submit(
        self,
        function_id: bytes,
        shape: bytes,
        options: bytes,
        arguments: Arguments,
        n_returns: int,
        max_retries: int,
        spread: bool = False,
        stream: StreamSpec | None = None,
    ) -> list[ObjectRef]:
        """Submits a plain task. Returns the references to its return values.

        ``stream``: the one return value is the completion of a stream. The references to the stream's handle and first
        item follow it, if it is not collected.
        """
        if self.shell.lost:
            self.check_usable()
        flags = (FLAG_RETRYABLE if max_retries else 0) | (FLAG_SPREAD if spread else 0)
        core = self.core
        parent = current_task.get().task_id
        with self.shell.lock:
            task_id = core.new_task_id()
            task = Task(task_id, core.queue_route, function_id, shape, flags, options, arguments, n_returns,
                        max_retries, parent)  # fmt: skip
            refs = self._own_returns(task_id, n_returns)
            if stream is not None:
                refs += self._open_stream(task_id, stream)
            core.tasks.submit(task)
            self.shell.submitted()
        if self._link.congested:
            self.shell.wait_for_room()
        return refs

    def _own_returns(self, task_id: bytes, n_returns: int) -> list[ObjectRef]:
        own = self.core.references.own
        if n_returns == 1:  # by far the most common
            object_id = return_id(task_id, 1)
            return [self._make_ref(object_id, own(object_id))]
        refs = []
        for index in range(1, n_returns + 1):
            object_id = return_id(task_id, index)
            refs.append(self._make_ref(object_id, own(object_id)))
        return refs

    # ------------------------------------------------------------------ streams

    def _open_stream(self, task_id: bytes, spec: StreamSpec) -> list[ObjectRef]:
        opened = self.core.streams.open(task_id, spec)
        return [self._make_ref(object_id, self._entries[object_id]) for object_id in opened]

    def is_end(self, ref: ObjectRef) -> bool:
        """Whether a reference is ready and stands for the end of its stream."""
        with self.shell.lock:
            return self.core.streams.is_end(ref._id)

    def advance(self, reader: Reader) -> ObjectRef | None:
        """Returns the next reference of a stream, and sets the one behind it; None if it is not ready.

        Raises StopIteration at the end, ClusterUnavailableError.
        """
        streams = self.core.streams
        with self.shell.lock:
            ref = reader.next_ref
            if self._entries[ref._id].status is PENDING:
                return None
            if streams.is_end(ref._id):
                raise StopIteration
            object_id = streams.take_next(ref._id)
            entry = self._entries[object_id]
            following: ObjectRef | None = entry.ref() if entry.ref is not None else None
            if following is None:
                following = self._make_ref(object_id, entry)
            else:
                entry.local -= 1
            reader.next_ref = following
            if self.core.has_output:
                self.shell.submitted()
        self.shell.settle()
        return ref

    # ------------------------------------------------------------------ cancellation

    def cancel(self, ref: ObjectRef, mode: int) -> None:
        """Cancels the task or call that makes ``ref``, also of another owner. Nothing happens if it has ended.

        Raises ValueError for ``force`` and an actor call of this process, TypeError if no process of the cluster owns
        ``ref``.
        """
        self.check_usable()
        core = self.core
        object_id = ref._id
        entry = self._entries.get(object_id)
        if entry is None or not self._is_member(owner_of(object_id)):
            raise TypeError(f"zray.cancel(): no process of this cluster owns {ref!r}, so there is no task to cancel")
        task = core.tasks.tasks.get(task_of(object_id))
        if mode & CANCEL_FORCE and task is not None and core.actors.is_call(task):
            raise ValueError(FORCE_IS_FOR_TASKS)
        if entry.status is PENDING:
            with self.shell.lock:
                core.cancel(object_id, mode)
                if core.has_output:  # a task that was not sent ends here: no thread has to wake for it
                    self.shell.submitted()
            self.shell.settle()

    def _is_member(self, process_id: bytes) -> bool:
        """Whether a process belongs, or has belonged, to the cluster."""
        if process_id not in self._members:
            answer = self.query(lambda request: MemberQuery(request, process_id), Membership)
            if answer.is_member:
                self._members.add(process_id)
        return process_id in self._members

    # ------------------------------------------------------------------ actors

    def create_actor(
        self, function_id: bytes, spec: ActorSpec, options: bytes, arguments: Arguments, counted: bool
    ) -> tuple[bytes, ObjectRef | None]:
        """Announces an actor. Returns its identifier, and the reference to its handle object if ``counted``.

        ``spec``: complete except for the handle object. ``counted``: the actor ends when its last handle is gone.
        """
        self.check_usable()
        with self.shell.lock:
            made = self._announce(function_id, spec, options, arguments, counted)
            self.shell.submitted()
        return made

    def create_named_actor(
        self,
        function_id: bytes,
        spec: ActorSpec,
        options: bytes,
        arguments: Arguments,
        counted: bool,
        get_if_exists: bool,
    ) -> tuple[ActorFound | NameTaken, bytes, ObjectRef | None]:
        """As ``create_actor``, and waits until the broker has decided which actor has the name.

        Raises ClusterUnavailableError, and MessageRefusedError if the actor cannot be announced.
        """
        made: list[tuple[bytes, ObjectRef | None]] = []

        def send(on_answer: Callable[[Any], None]) -> None:
            request = self.core.new_request(on_answer)
            made.append(self._announce(function_id, spec, options, arguments, counted, request, get_if_exists))

        found = self.ask(send)
        if found is None:
            raise MessageRefusedError(f"the actor {spec.name!r} cannot be announced: its arguments are too large")
        return found, *made[0]

    def _announce(
        self,
        function_id: bytes,
        spec: ActorSpec,
        options: bytes,
        arguments: Arguments,
        counted: bool,
        request: int = 0,
        get_if_exists: bool = False,
    ) -> tuple[bytes, ObjectRef | None]:
        core = self.core
        actor_id = core.new_task_id()
        handle: ObjectRef | None = None
        if counted:
            handle_id = put_id(actor_id)
            spec = spec._replace(handle=handle_id)
            entry = core.references.own(handle_id)
            core.references.resolve(handle_id, HANDLE, b"", b"", 0)
            handle = self._make_ref(handle_id, entry)
        task = Task(actor_id, core.queue_route, function_id, b"", 0, options, arguments, 0, 0, b"")
        core.actors.create(spec, task, request, get_if_exists)
        return actor_id, handle

    def call_actor(
        self, actor_id: bytes, ordered: bool, concurrency: int, options: bytes, arguments: Arguments, n_returns: int,
        retries: int, class_name: str, groups: Mapping[str, int], stream: StreamSpec | None = None,
    ) -> list[ObjectRef]:  # fmt: skip
        """Submits a method call, as ``submit``. ``ordered``: the actor runs calls in each caller's order.
        ``concurrency``: the number of calls that it runs at once. ``class_name``: for errors. ``groups``: its
        concurrency groups."""
        if self.shell.lost:
            self.check_usable()
        core = self.core
        parent = current_task.get().task_id
        with self.shell.lock:
            view = core.actors.view(actor_id, ordered, concurrency, class_name, groups)
            task_id = core.new_task_id()
            task = Task(task_id, view, b"", b"", 0, options, arguments, n_returns, retries, parent)
            refs = self._own_returns(task_id, n_returns)
            if stream is not None:
                refs += self._open_stream(task_id, stream)
            core.actors.submit(view, task)
            self.shell.submitted()
        if self._link.congested:
            self.shell.wait_for_room()
        return refs

    def pending_calls(self, actor_id: bytes) -> int:
        """The number of calls of this process that the actor has not answered."""
        with self.shell.lock:
            view = self.core.actors.views.get(actor_id)
            return view.pending_calls if view is not None else 0

    def exit_actor(self, reason: str) -> None:
        """Ends the actor that this process serves, once its running calls have ended. May be called from any thread."""
        self.on_exit_actor(reason, current_task.get().task_id)

    # ------------------------------------------------------------------ asking the broker

    def _explain(self, object_ids: list[bytes]) -> str:
        from zray.client.explain import explain  # not at the top: most processes never need it

        return explain(self, object_ids)

    def ask(self, send: Callable[[Callable[[Any], None]], None], timeout_s: float = 30.0) -> Any:
        """Calls ``send(on_answer)`` under the lock, and waits for the answer.

        Raises ClusterUnavailableError if there is none within ``timeout_s`` seconds.
        """
        self.check_usable()
        waiter = Waiter(self.shell)
        answers: list[Any] = []

        def on_answer(value: Any) -> None:
            answers.append(value)
            waiter.wake()

        with self.shell.lock:
            send(on_answer)
        self.shell.wait(waiter, timeout_s)
        if not answers or self.shell.lost:
            raise ClusterUnavailableError(self.shell.lost or f"the broker did not answer within {timeout_s:g} s")
        return answers[0]

    def query(self, question: Callable[[int], Question | StateQuestion | KvRequest], kind: type[_Answer]) -> _Answer:
        """Asks the broker; returns its answer, of type ``kind``. ``question(number)`` makes the question.

        Raises ClusterUnavailableError, and MessageRefusedError if the question cannot be sent.
        """
        answer = self.ask(lambda on_answer: self.core.query(question, on_answer))
        if not isinstance(answer, kind):
            raise MessageRefusedError(f"the broker gave no {kind.__name__}: the question was too large for a message")
        return answer

    def tell(self, messages: Iterable[Any]) -> None:
        """Sends messages to the broker, before anything that this process does later.

        If the process has lanes, waits until the broker has them: a call by a lane could overtake them.
        """
        self.check_usable()

        def send() -> None:
            for message in messages:
                self.core.to_broker(message)

        self.shell.run(send)
        if self.core.lanes.is_used:
            self.query(lambda request: MemberQuery(request, self.process_id), Membership)

    # ------------------------------------------------------------------ the end

    def close(self, last_messages: list[Any]) -> None:
        """Leaves the cluster. ``last_messages`` are sent to the broker first."""
        with self.shell.lock:
            self.core.tell_held_back(math.inf)
            self.shell.collect()
        self.shell.close(last_messages)
        self.shell.settle()
        self.checked.forget()
        waiting = [waiter for entry in list(self._entries.values()) for waiter in entry.waiters or ()]
        for waiter in waiting:
            if isinstance(waiter, Completion):
                waiter.give_up()
        self.stores.close()


def _of_another_cluster(refs: Iterable[ObjectRef]) -> ObjectLostError:
    """Returns the error for a reference that this process has no record of."""
    trackers = [ref._tracker for ref in refs]
    if any(isinstance(tracker, Session) and tracker.pid != os.getpid() for tracker in trackers):
        return ObjectLostError(
            "the reference was made before this process was forked, and belongs to the parent: a forked child shares "
            "no objects with it. Get the value before the fork, or use a task instead of the forked child"
        )
    return ObjectLostError("the reference belongs to a cluster that this process has left with zray.shutdown()")


_current: Session | None = None
_left_behind: list[Session] = []


def current() -> Session | None:
    """The session of this process."""
    return _current


def set_current(session: Session | None) -> None:
    """Replaces the session of this process."""
    global _current
    _current = session
    _leave_to_parent_at_fork()


@functools.cache  # not at import: a function that runs after each fork of the zygote would cost every worker memory
def _leave_to_parent_at_fork() -> None:
    os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    global _current
    if _current is not None:
        lock = _current.shell.lock
        signals.uninstall(lock)
        lock.left_behind_by_fork()
        set_tracker(None)
        _left_behind.append(_current)  # kept, because the child must not close or collect the parent's session
        _current = None
