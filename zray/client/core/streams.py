"""The owner's side of streams: the values of a generator that runs elsewhere, which arrive one after the other.

A stream belongs to a task (or call) with one return value, the *completion*: ``None`` when the generator has ended, or
the failure of the task. Each value that the generator yields is an object of its own, an *item*. Identifiers of objects
of the task, by index:

=========  ============================================================================================================
0          the handle of the stream: it exists as long as the process holds the generator object
1          the completion
2 + n      item n. The one behind the last item is the error ``ObjectRefStreamEndOfStreamError``
=========  ============================================================================================================

The generator object holds a reference to the next item, which may not exist yet. So whatever waits for objects can wait
for the next item. Items that arrive earlier are pinned by the stream. ``take_next`` gives the generator the reference
behind the one that it has.

If the generator raised, its error is the last item. If the task is tried again, the new attempt is told how many items
have arrived. It runs the generator from its beginning, and sends only the items behind those.

**Credit.** A worker sends items up to a *limit* of the owner, and then waits. So an owner that does not read bounds
what is under way. With back-pressure, which the program asks for, the limit is the number of items that the program has
taken, plus that many. Otherwise it is the number of items that have arrived, plus ``WINDOW``. An actor may limit the
items of all of its streams together that were not taken; its worker adds them up. The owner sends a higher limit to the
process that the last items came from. An attempt that leaves out items begins with a message without items: the limit
may leave no room for one, and what the program takes from then on must reach the new worker.

When the generator object is gone, items that were not taken are freed, also those that arrive later. The task goes on,
as on Ray, without a limit.

A *collected* stream has no generator object: its completion is a value that refers to all items (``num_returns`` is
"dynamic"). The owner itself notes these references. The worker must not hold them: it may be the owner, too, and then
its items may not have arrived yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.client.core.payloads import Outcome
from zray.client.core.references import ReferenceTable
from zray.client.core.states import ERROR, HANDLE, INLINE
from zray.failures import alias_of
from zray.ids import TASK_ID_BYTES, put_id, return_id, task_of
from zray.named_tuples import NamedTuple
from zray.protocol.messages import StreamCredit

FIRST_ITEM = 2
"""The index of the first item."""
WINDOW = 256
"""The number of items that may be under way if the program does not limit them."""
NO_LIMIT = 1 << 62
END_OF_STREAM = "ObjectRefStreamEndOfStreamError"


def item_id(task_id: bytes, position: int) -> bytes:
    """The object of an item; ``position`` is 0 for the first."""
    return return_id(task_id, FIRST_ITEM + position)


def position_of(object_id: bytes) -> int:
    """The position of an item in its stream."""
    return int.from_bytes(object_id[TASK_ID_BYTES:], "big") - FIRST_ITEM


class StreamSpec(NamedTuple):
    """What a call asks of its stream. ``collected``: its completion refers to all items. ``backpressure``: the number
    of items that may exist and not be taken; 0: no limit."""

    collected: bool
    backpressure: int


class Stream:
    """One stream. ``received``: the number of its items; they arrive in order. ``opened``: the number of items to which
    the program has, or had, a reference; the last of them is the next one, which may not have arrived. ``keeps``: items
    are kept until they are taken. ``granted``: the limit that the worker knows. ``worker``: the process that runs
    this ``attempt``; empty until its first message arrives."""

    __slots__ = ("attempt", "backpressure", "collected", "ended", "granted", "keeps", "opened", "received", "worker")

    def __init__(self, spec: StreamSpec) -> None:
        self.backpressure = spec.backpressure
        self.collected = spec.collected
        self.keeps = True
        self.received = 0
        self.opened = 0
        self.granted = 0
        self.ended = False
        self.attempt = 0
        self.worker = b""

    @property
    def error_indices(self) -> range:
        """The indices of the objects that an error of the task will be."""
        return range(1, 2) if self.collected else range(FIRST_ITEM + self.received, FIRST_ITEM + self.received + 1)

    @property
    def limit(self) -> int:
        """How many items the worker may send in all."""
        if not self.keeps:
            return NO_LIMIT
        if self.backpressure:
            return max(0, self.opened - 1) + self.backpressure
        return self.received + WINDOW


class StreamTable:
    """The streams of one process. ``send(dest, message)`` sends to another process."""

    def __init__(self, references: ReferenceTable, send: Callable[[bytes, Any], None]) -> None:
        self.streams: dict[bytes, Stream] = {}
        self.none = b""
        """The serialized value ``None``: the completion of a generator that has raised."""
        self._references = references
        self._send = send

    # ------------------------------------------------------------------ the program

    def open(self, task_id: bytes, spec: StreamSpec) -> tuple[bytes, ...]:
        """Opens the stream of a new task.

        Returns its handle and its first item, of which the caller holds a reference each; nothing for a collected
        stream.
        """
        stream = self.streams[task_id] = Stream(spec)
        if spec.collected:
            return ()
        handle, first = put_id(task_id), item_id(task_id, 0)
        self._references.own(handle)
        self._references.resolve(handle, HANDLE, b"", b"", 0)
        self._references.own(first)
        stream.opened = 1
        return handle, first

    def is_end(self, object_id: bytes) -> bool:
        """Whether ``object_id`` is not an item, but the end of its stream."""
        stream = self.streams[task_of(object_id)]
        return stream.ended and position_of(object_id) == stream.received

    def take_next(self, object_id: bytes) -> bytes:
        """Returns the item behind ``object_id``, the newest of the program. The caller holds a reference to it."""
        task_id, position = task_of(object_id), position_of(object_id) + 1
        stream = self.streams[task_id]
        stream.opened += 1
        following = item_id(task_id, position)
        if position < stream.received:
            self._references.entries[following].local += 1
            self._references.unpin(following)
        else:
            self._references.own(following)
            if stream.ended:
                self._references.fail(following, END_OF_STREAM, "the generator has ended")
        self._grant(task_id, stream)
        return following

    def handle_freed(self, object_id: bytes) -> bool:
        """Frees the items that were not taken, if ``object_id`` is the handle of a stream. Returns whether it is."""
        task_id = task_of(object_id)
        stream = self.streams.get(task_id)
        if stream is None or object_id != put_id(task_id):
            return False
        stream.keeps = False
        self._free_untaken(task_id, stream)
        if stream.ended:
            del self.streams[task_id]
        else:
            self._grant(task_id, stream)
        return True

    def _free_untaken(self, task_id: bytes, stream: Stream) -> None:
        for position in range(stream.opened, stream.received):
            self._references.unpin(item_id(task_id, position))

    # ------------------------------------------------------------------ the worker

    def begin(self, task_id: bytes, attempt: int) -> tuple[int, ...]:
        """What an attempt is told: the number of items to leave out, the limit, and how far the limit is above the
        number of items that were taken; empty if the task has no stream."""
        stream = self.streams.get(task_id)
        if stream is None:
            return ()
        stream.attempt = attempt
        stream.worker = b""
        stream.granted = stream.limit
        return stream.received, stream.granted, stream.backpressure

    def receive(self, task_id: bytes, source: bytes, outcome: Outcome) -> None:
        """Adds items that have arrived from ``source``. Their references have been adopted."""
        stream = self.streams[task_id]
        stream.worker = source
        for value in outcome.returns:
            self._add(task_id, stream, value, outcome.host)
        self._grant(task_id, stream)

    def _add(self, task_id: bytes, stream: Stream, value: Any, host: bytes) -> None:
        status, data, size, inner = value
        object_id = item_id(task_id, stream.received)
        if stream.keeps and stream.received >= stream.opened:
            self._references.await_return(object_id)
            self._references.pin(object_id)
        stream.received += 1
        self._references.resolve(object_id, status, data, host, size, tuple(inner))

    def _grant(self, task_id: bytes, stream: Stream) -> None:
        """Tells the worker a higher limit, if it is worth a message."""
        limit = stream.limit
        step = 1 if stream.backpressure else WINDOW // 2
        if stream.worker and not stream.ended and limit >= stream.granted + step:
            stream.granted = limit
            self._send(stream.worker, StreamCredit(task_id, stream.attempt, limit))

    def settle(self, task_id: bytes, value: Any, host: bytes) -> None:
        """The task has answered. ``value``: its completion; an error if the generator has raised it."""
        status, data, size, inner = value
        completion, stream = return_id(task_id, 1), self.streams[task_id]
        if status != ERROR and stream.collected:
            items = tuple(item_id(task_id, position) for position in range(stream.received))
            for object_id in items:
                self._references.pin(object_id)
            self._references.resolve(completion, status, data, host, size, (*inner, *items))
        elif status != ERROR or stream.collected:
            self._references.resolve(completion, status, data, host, size, tuple(inner))
        elif data:
            self._references.resolve(completion, INLINE, self.none, b"", 0)
            self._add(task_id, stream, value, host)
        else:  # the error is in the store, as the completion: the item refers to that
            self._references.pin(completion)
            self._references.resolve(completion, status, data, host, size, tuple(inner))
            self._add(task_id, stream, (ERROR, alias_of(completion), 0, (completion,)), b"")
        self._end(task_id, stream)

    def fail(self, task_id: bytes, error: bytes, inner: tuple[bytes, ...]) -> None:
        """The task has failed, and its completion with it. The error is the last item, too."""
        stream = self.streams[task_id]
        if not stream.collected:
            for object_id in inner:
                self._references.pin(object_id)
            self._add(task_id, stream, (ERROR, error, 0, inner), b"")
        self._end(task_id, stream)

    def _end(self, task_id: bytes, stream: Stream) -> None:
        stream.ended = True
        if stream.opened > stream.received:  # the program waits for the next item
            self._references.fail(item_id(task_id, stream.received), END_OF_STREAM, "the generator has ended")
        if stream.collected:
            self._free_untaken(task_id, stream)
        if stream.collected or not stream.keeps:
            del self.streams[task_id]
