"""Values: puts them into the cluster, gets them and their errors, and waits for them.

They are serialized outside the lock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zray.client.checked import CheckedRefs
from zray.client.core.references import Entry
from zray.client.core.states import HANDLE, INLINE, PENDING, STORED
from zray.client.object_bytes import ObjectBytes
from zray.client.object_refs import ObjectRefs
from zray.client.shell import ClientShell
from zray.client.stores import Stores
from zray.client.waits import Waits
from zray.exceptions import DeserializationError, ObjectLostError, SystemFailure, TaskError
from zray.failures import aliased, missed_argument
from zray.ids import put_id
from zray.object_ref import ObjectRef
from zray.serialization import Serialized, deserialize, load_error, serialize

MAX_LOST_READS = 3
"""The number of times that an object is looked for again at the host that, as its owner says, has it."""
MAX_DROPPED = 64
"""The number of references that may be gone and not counted yet, at a ``put`` of a small value."""


class Objects:
    """The values of one session. ``inline_max_bytes``: a larger one goes to the store. ``check_usable``: raises if the
    cluster is gone or this is a forked child. ``foreign``: the error for references that this process does not know."""

    def __init__(
        self,
        shell: ClientShell,
        refs: ObjectRefs,
        stores: Stores,
        data: ObjectBytes,
        waits: Waits,
        checked: CheckedRefs,
        process_id: bytes,
        inline_max_bytes: int,
        check_usable: Callable[[], None],
        foreign: Callable[[Iterable[ObjectRef]], ObjectLostError],
    ) -> None:
        self.core = shell.core
        self._shell = shell
        self._refs = refs
        self._entries = shell.core.references.entries
        self._stores = stores
        self._data = data
        self._waits = waits
        self._checked = checked
        self._process_id = process_id
        self._inline_max_bytes = inline_max_bytes
        self._check_usable = check_usable
        self._foreign = foreign

    # ------------------------------------------------------------------ put

    def put(self, value: Any) -> ObjectRef:
        """Stores a value that this process owns."""
        self._check_usable()
        serialized = serialize(value)
        object_id = put_id(self.core.new_task_id())
        return self.put_serialized(object_id, serialized)

    def put_serialized(self, object_id: bytes, serialized: Serialized) -> ObjectRef:
        """Stores a serialized value under an identifier of this process."""
        size = serialized.total_bytes
        status, data, host = INLINE, b"", b""
        references = self.core.references
        ref: ObjectRef | None = None
        if size <= self._inline_max_bytes:
            data = serialized.to_bytes()
            if not serialized.refs:
                return self._put_plain(object_id, data, size)
        else:
            status, host = STORED, self._stores.find_home() or self._process_id
            with self._shell.lock:  # before the first byte is written, so that an interrupt at any point frees it
                ref = self._refs.make(object_id, references.own(object_id, host))
            self._data.write(host, object_id, serialized)
        with self._shell.lock:
            if ref is None:
                ref = self._refs.make(object_id, references.own(object_id))
            for inner in serialized.refs:
                references.pin(inner)
            references.resolve(object_id, status, data, host, size, serialized.refs)
            if self.core.dropped:
                self._shell.collect()
        self._shell.settle()
        return ref

    def _put_plain(self, object_id: bytes, data: bytes, size: int) -> ObjectRef:
        """As ``put_serialized``, for a small value without references.

        It takes no lock, because no other code knows the object, and no other record changes. Dropped references are
        counted only if there are many; otherwise at the next turn.
        """
        entry = Entry(INLINE)
        entry.local = 1
        entry.data = data
        entry.size = size
        self._entries[object_id] = entry
        ref = self._refs.make(object_id, entry)
        if len(self.core.dropped) > MAX_DROPPED:
            with self._shell.lock:
                self._shell.collect()
            self._shell.settle()
        return ref

    # ------------------------------------------------------------------ get and wait

    def get(self, refs: Sequence[ObjectRef], timeout_s: float | None) -> list[Any]:
        """Returns the values, in order. Raises GetTimeoutError.

        Raises the error of an object as soon as one is known; of several errors the first in the order of ``refs``.
        """
        self._check_usable()
        ids = [ref._id for ref in refs]
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            failed = self._waits.first_error(ids, timeout_s)
        except KeyError:
            raise self._foreign(refs) from None
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
                ref = self._refs.load(object_id, b"")
                return self.get([ref], None if deadline is None else max(0.0, deadline - time.monotonic()))[0]
        except DeserializationError as error:
            raise error.about(f"the value of ObjectRef({object_id.hex()})") from error.__cause__
        if entry.status is HANDLE:
            raise ObjectLostError("an actor's handle object has no value")
        self.core.references.seen(object_id)
        raise self._error_of(object_id, deadline)

    def _read_stored(self, object_id: bytes, entry: Entry, deadline: float | None) -> memoryview | None:
        """The bytes of a stored object. If it is lost, waits until it has been made again; None: it is not stored then.

        Raises as ``ObjectBytes.read`` does.
        """
        failures: Counter[bytes] = Counter()
        while entry.status is STORED:
            host = entry.host
            try:
                return self._data.read(host, object_id, entry.size, deadline)
            except ObjectLostError as error:
                failures[host] += 1
                if failures[host] > MAX_LOST_READS:
                    raise
                self._data.look_again(object_id, host, error)
            self._waits.first_error([object_id], None if deadline is None else max(0.0, deadline - time.monotonic()))
        return None

    def _loader(self, object_id: bytes, entry: Entry) -> Callable[[bytes], ObjectRef]:
        """Returns the function that loads the references in an object's value."""
        if entry.inner:
            return self._refs.load_inner(object_id, entry.inner)
        return lambda other: self._refs.load(other, object_id)

    def _error_of(self, object_id: bytes, deadline: float | None) -> BaseException:
        """Returns the exception that is an object's outcome, as ``get`` raises it."""
        entry = self._entries[object_id]
        data = entry.data or self._data.read(entry.host, object_id, entry.size, deadline)
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
        self._check_usable()
        try:
            ready = self._waits.wait(refs, num_returns, timeout_s, fetch_local)
        except KeyError:
            raise self._foreign(refs) from None
        if len(ready) <= 1:  # by far the most common: at most one element is deleted, and the rest is not looked at
            rest = list(refs)
            if ready:
                del rest[refs.index(ready[0])]
        else:
            chosen = set(ready)
            rest = [ref for ref in refs if ref not in chosen]
        self._checked.keep(rest)
        return ready, rest
