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
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, Protocol

from zray.exceptions import ZrayError
from zray.ids import OBJECT_ID_BYTES, task_of

if TYPE_CHECKING:
    import concurrent.futures

    from typing_extensions import TypeVar

    T_co = TypeVar("T_co", covariant=True, default=Any)
else:  # before Python 3.13 only type checkers know the default, which lets a bare ObjectRef refer to anything
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)


class Tracker(Protocol):
    """The part of a session that the references of its process use."""

    def intern(self, object_id: bytes) -> ObjectRef:
        """Returns the process's only reference to ``object_id``; counts it if it is new."""

    def future_of(self, object_id: bytes) -> concurrent.futures.Future[Any]:
        """Returns a future that ends with the object's value or error."""

    def pickled_by_user(self, object_id: bytes) -> None:
        """Keeps the object until this process ends: a reference to it is in a pickle that zray did not write."""


class HeldRef(weakref.ref["ObjectRef"]):
    """A tracker's weak reference to an ``ObjectRef``. Its callback receives it when the ``ObjectRef`` is gone."""

    __slots__ = ("object_id",)
    object_id: bytes


_tracker: Tracker | None = None


def set_tracker(tracker: Tracker | None) -> Tracker | None:
    """Installs the tracker of this process; returns the previous one."""
    global _tracker
    before, _tracker = _tracker, tracker
    return before


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
        if not isinstance(id, bytes) or len(id) != OBJECT_ID_BYTES:
            raise ValueError(f"an ObjectRef is made from {OBJECT_ID_BYTES} bytes, got {id!r}")
        return get_tracker().intern(id)

    @classmethod
    def _make(cls, object_id: bytes, tracker: Tracker) -> ObjectRef:
        """Makes a reference. Only trackers call this, after they have counted it."""
        ref = object.__new__(cls)
        ref._id = object_id
        ref._tracker = tracker
        return ref

    def binary(self) -> bytes:
        """The identifier as bytes."""
        return self._id

    def hex(self) -> str:
        """The identifier in hexadecimal."""
        return self._id.hex()

    def task_id(self) -> bytes:
        """The identifier of the task that makes this object."""
        return task_of(self._id)

    def future(self) -> concurrent.futures.Future[T_co]:
        """A ``concurrent.futures.Future`` that ends with the value, or with the error that ``get`` would raise."""
        return (self._tracker or get_tracker()).future_of(self._id)

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
