"""``ObjectRef``: the future that users hold.

A process has at most one live ``ObjectRef`` per object, so two references are equal if they are the same object, and
hashing costs nothing. The *tracker* of the process (the client session) counts the references: it is told when one is
made and when one is gone.

The callback of a weak reference tells the tracker that an ``ObjectRef`` is gone. The callback may run anywhere, also
during a garbage collection while the session's own lock is held. So it is only a ``deque.append``, which is atomic, to
a queue that the session drains in its next turn. ``__del__`` would run too early: until it returns, weak references
still give the dying object to other threads.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol

from zray.exceptions import ZrayError
from zray.ids import OBJECT_ID_BYTES, owner_of, task_of

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

    from typing_extensions import TypeVar

    from zray.public_ids import JobID, TaskID

    T_co = TypeVar("T_co", covariant=True, default=Any)
else:  # before Python 3.13 only type checkers know the default, which lets a bare ObjectRef refer to anything
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)


_NIL = b"\xff" * OBJECT_ID_BYTES


class Tracker(Protocol):
    """The part of a session that the references of its process use."""

    def intern(self, object_id: bytes) -> ObjectRef:
        """Returns the process's only reference to ``object_id``; counts it if it is new."""

    def future_of(self, object_id: bytes) -> concurrent.futures.Future[Any]:
        """Returns a future that ends with the object's value or error."""

    def current_job(self) -> bytes:
        """Returns the identifier of the job that this process works for."""

    def pickled_by_user(self, object_id: bytes) -> None:
        """Keeps the object until this process ends: a reference to it is in a pickle that zray did not write."""


class HeldRef(weakref.ref["ObjectRef"]):
    """A tracker's weak reference to an ``ObjectRef``. Its callback receives it when the ``ObjectRef`` is gone."""

    __slots__ = ("object_id",)
    object_id: bytes


_tracker: Tracker | None = None
_unowned: weakref.WeakValueDictionary[bytes, ObjectRef] = weakref.WeakValueDictionary()
"""References that name no object of a cluster, such as ``ObjectRef.nil()``."""


def set_tracker(tracker: Tracker | None) -> Tracker | None:
    """Installs the tracker of this process; returns the previous one."""
    global _tracker
    before, _tracker = _tracker, tracker
    return before


def has_tracker() -> bool:
    """Whether this process is part of a cluster, or in local mode."""
    return _tracker is not None


def get_tracker() -> Tracker:
    """The tracker of this process. Raises ZrayError if zray is not initialised."""
    if _tracker is None:
        raise ZrayError("zray is not initialised in this process: call zray.init() first")
    return _tracker


class ObjectRef(Generic[T_co]):
    """A reference to a value, of type ``T_co``, that exists or will exist somewhere in the cluster.

    Obtained from ``f.remote()`` and ``zray.put()``; resolve it with ``zray.get(ref)``, ``await ref`` or
    ``ref.future()``.
    """

    __slots__ = ("__weakref__", "_id", "_tracker")
    _id: bytes
    _tracker: Tracker | None

    def __new__(cls, id: bytes) -> ObjectRef:
        if not isinstance(id, bytes):
            raise TypeError(f"Unsupported type: an ObjectRef is made from bytes, got {type(id).__name__}: {id!r:.100}")
        if len(id) != OBJECT_ID_BYTES:
            raise ValueError(f"an ObjectRef needs to have length {OBJECT_ID_BYTES}, got {len(id)} bytes: {id!r:.100}")
        return cls._unowned(id) if _tracker is None else _tracker.intern(id)

    @classmethod
    def _make(cls, object_id: bytes, tracker: Tracker) -> ObjectRef:
        """Makes a reference. Only trackers call this, after they have counted it."""
        ref = object.__new__(cls)
        ref._id = object_id
        ref._tracker = tracker
        return ref

    @classmethod
    def _unowned(cls, object_id: bytes) -> ObjectRef:
        """Returns the only reference to an object that no process owns. It is not counted."""
        ref: ObjectRef | None = _unowned.get(object_id)
        if ref is None:
            ref = object.__new__(cls)
            ref._id, ref._tracker = object_id, None
            _unowned[object_id] = ref
        return ref

    @classmethod
    def from_binary(cls, id: bytes) -> ObjectRef:
        """The reference to the object with this identifier."""
        return cls(id)

    @classmethod
    def from_hex(cls, hex_id: str | bytes) -> ObjectRef:
        """The reference to the object whose identifier ``hex_id`` shows in hexadecimal. Ray does not have this."""
        return cls(bytes.fromhex(hex_id if isinstance(hex_id, str) else hex_id.decode()))

    @classmethod
    def nil(cls) -> ObjectRef:
        """The reference to no object: all bits of its identifier are set."""
        return cls._unowned(_NIL)

    @classmethod
    def from_random(cls) -> ObjectRef:
        """A reference with a random identifier, to an object that does not exist."""
        import os

        return cls._unowned(os.urandom(OBJECT_ID_BYTES))

    @classmethod
    def size(cls) -> int:
        """The number of bytes of the identifier."""
        return OBJECT_ID_BYTES

    def is_nil(self) -> bool:
        """Whether it is ``nil()``."""
        return self._id == _NIL

    def binary(self) -> bytes:
        """The identifier as bytes."""
        return self._id

    def hex(self) -> str:
        """The identifier in hexadecimal."""
        return self._id.hex()

    def task_id(self) -> TaskID:
        """The identifier of the task, call or ``put`` that makes this object."""
        from zray.public_ids import TaskID

        return TaskID(task_of(self._id))

    def job_id(self) -> JobID:
        """The identifier of the job that this process works for."""
        from zray.public_ids import JobID

        return JobID((self._tracker or get_tracker()).current_job())

    def owner_address(self) -> bytes:
        """The identifier of the process that owns the object. (Ray returns an address.)"""
        return owner_of(self._id)

    def call_site(self) -> str:
        """Empty: zray does not record where a reference was made. Ray does only if it is told to."""
        return ""

    def tensor_transport(self) -> str | None:
        """None: zray has no transports of tensors between GPUs."""
        return None

    def future(self) -> concurrent.futures.Future[T_co]:
        """A ``concurrent.futures.Future`` that ends with the value, or with the error that ``get`` would raise."""
        return (self._tracker or get_tracker()).future_of(self._id)

    def as_future(self, _internal: bool = False) -> asyncio.Future[T_co]:
        """An ``asyncio.Future`` of the running event loop, see ``future``.

        Args:
            _internal: has no meaning here.
        """
        import asyncio

        return asyncio.wrap_future(self.future())

    def _on_completed(self, py_callback: Callable[[Any], None]) -> ObjectRef[T_co]:
        """Calls ``py_callback`` with the value or the error when there is one. Returns the reference."""

        def completed(future: concurrent.futures.Future[T_co]) -> None:
            error = future.exception()
            py_callback(future.result() if error is None else error)

        self.future().add_done_callback(completed)
        return self

    def __await__(self) -> Generator[Any, None, T_co]:
        import asyncio

        return asyncio.wrap_future(self.future()).__await__()

    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        # zray's own pickler never calls this: it has a persistent id for references.
        get_tracker().pickled_by_user(self._id)
        return (ObjectRef, (self._id,))

    def __iter__(self) -> Any:
        raise TypeError("an ObjectRef is not iterable: resolve it first, with zray.get(ref)")

    def __copy__(self) -> ObjectRef[T_co]:
        return self

    def __deepcopy__(self, memo: Any) -> ObjectRef[T_co]:
        return self


class DynamicObjectRefGenerator:
    """The references to all values of a generator whose ``num_returns`` is "dynamic": the value of its one reference.

    Iterating removes each reference that it returns. ``len`` is the number of those that are left.
    """

    def __init__(self, refs: Sequence[ObjectRef]) -> None:
        self._refs = deque(refs)

    def __iter__(self) -> Iterator[ObjectRef]:
        while self._refs:
            yield self._refs.popleft()

    def __len__(self) -> int:
        return len(self._refs)

    def __repr__(self) -> str:
        return f"DynamicObjectRefGenerator({len(self._refs)} references)"
