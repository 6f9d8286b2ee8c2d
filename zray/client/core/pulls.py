"""Objects from other machines, piece by piece: which have been asked for, from whom, and what has arrived.

The reader drives: it asks for ranges, some of them ahead (the window), and a source answers each by itself and
remembers nothing. So nobody is ever sent more than he asked for, and a source that dies ends the pulls from it and
nothing else. The first answer tells the size; then the reader makes room, and the rest is written to its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zray.protocol.messages import Chunk, ProtocolError, Pull, PullFailed

CHUNK_BYTES = 512 * 1024
WINDOW = 8
"""Chunks that a pull asks for ahead: 4 MiB under way fill a link of 1 Gbit/s with a round trip of 30 ms."""


class Puller(Protocol):
    """A thread that waits for a pull."""

    def wake(self) -> None:
        """Something has changed."""


class PullState:
    """A pull under way. ``total``: the object's bytes, -1 until known; ``error``: why it failed."""

    __slots__ = ("error", "first", "number", "object_id", "puller", "received", "room", "source", "total", "wanted")

    def __init__(self, number: int, source: bytes, object_id: bytes, puller: Puller) -> None:
        self.number = number
        self.source = source
        self.object_id = object_id
        self.puller = puller
        self.total = -1
        self.first = b""
        self.room: memoryview | None = None
        self.received = 0
        self.wanted = 0  # up to where it has been asked for
        self.error = ""

    @property
    def done(self) -> bool:
        """Whether everything is in its place."""
        return self.received == self.total


class PullTable:
    """The pulls of one process. ``to_peer`` sends a message to a process, ``watch`` asks to be told of its death."""

    def __init__(self, to_peer: Callable[[bytes, Any], None], watch: Callable[[bytes], None]) -> None:
        self.pulls: dict[int, PullState] = {}
        self._to_peer = to_peer
        self._watch = watch
        self._watched: set[bytes] = set()
        self._last = 0

    def begin(self, source: bytes, object_id: bytes, puller: Puller) -> PullState:
        """Asks for the first piece; ``puller`` is woken when it is there, or cannot be had."""
        self._last += 1
        pull = self.pulls[self._last] = PullState(self._last, source, object_id, puller)
        if source not in self._watched:
            self._watched.add(source)
            self._watch(source)
        self._ask(pull)
        return pull

    def proceed(self, pull: PullState, room: memoryview, puller: Puller) -> None:
        """Has the whole object written to ``room``; ``puller`` is woken at its end, good or bad."""
        pull.room, pull.puller = room, puller
        room[: len(pull.first)] = pull.first
        pull.first = b""
        if pull.done or pull.error:
            puller.wake()
            return
        while pull.wanted < pull.total and pull.wanted < pull.received + WINDOW * CHUNK_BYTES:
            self._ask(pull)

    def end(self, pull: PullState) -> None:
        """Forgets a pull, whatever became of it; what still arrives for it is dropped."""
        self.pulls.pop(pull.number, None)
        pull.room = None

    def _ask(self, pull: PullState) -> None:
        self._to_peer(pull.source, Pull(pull.object_id, pull.number, pull.wanted, CHUNK_BYTES))
        pull.wanted += CHUNK_BYTES

    def on_chunk(self, source: bytes, message: Chunk) -> None:
        """A piece has arrived. Links keep their order, so it is the one behind the last."""
        pull = self.pulls.get(message.pull)
        if pull is None or pull.source != source or pull.error:
            return
        expected = min(CHUNK_BYTES, message.total - message.offset)
        if message.offset != pull.received or len(message.data) != expected or pull.total not in (-1, message.total):
            self._fail(pull, "its host sent something else than was asked for")
            raise ProtocolError("a chunk that was not asked for")
        pull.received += len(message.data)
        if pull.total < 0:
            pull.total, pull.first = message.total, message.data
            pull.puller.wake()
            return
        if pull.room is None:  # ended meanwhile
            return
        pull.room[message.offset : pull.received] = message.data
        if pull.done:
            pull.puller.wake()
        elif pull.wanted < pull.total:
            self._ask(pull)

    def on_failed(self, source: bytes, message: PullFailed) -> None:
        """The source has not got it."""
        pull = self.pulls.get(message.pull)
        if pull is not None and pull.source == source:
            self._fail(pull, message.reason)

    def on_process_died(self, process_id: bytes, reason: str) -> None:
        """Whatever it was to send will not come."""
        self._watched.discard(process_id)
        for pull in self.pulls.values():
            if pull.source == process_id:
                self._fail(pull, f"the host that holds it is gone: {reason}")

    def lose_everything(self, reason: str) -> None:
        """The broker is gone."""
        for pull in self.pulls.values():
            self._fail(pull, reason)

    @staticmethod
    def _fail(pull: PullState, reason: str) -> None:
        if not pull.error and not pull.done:
            pull.error = reason
            pull.puller.wake()
