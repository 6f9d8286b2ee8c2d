"""What the core of transfers keeps of each pull, and of each process that it pulls from."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

from zray.protocol.messages import Pull
from zray.transfer.chunks import CHUNK_BYTES
from zray.transfer.effects import Origin
from zray.transfer.states import CHANNEL, DIALLING, DIRECT, GONE, LOCATING, PULL, RELAYED, PullState

DIRECT_WINDOW = 16
"""Chunks under way from one peer by a channel: 16 MiB fill 10 Gbit/s with a round trip of 13 ms."""
RELAYED_WINDOW = 4
"""Chunks under way from one peer through the broker, for all pulls together.

Heartbeats queue behind them: 3.4 s at 10 Mbit/s.
"""
RATE_SPAN_BYTES = 4 * CHUNK_BYTES


class Peer:
    """A process that this one pulls from.

    ``state``: of the channel to it. ``asked``: the chunks under way from it, of all pulls.
    """

    __slots__ = ("asked", "damaged", "dialled_at", "process_id", "pulls", "rate", "redial_at", "since", "since_bytes",
                 "state")  # fmt: skip

    def __init__(self, process_id: bytes) -> None:
        self.process_id = process_id
        self.state = RELAYED
        self.dialled_at = 0.0
        self.redial_at = 0.0
        self.asked: set[tuple[int, int]] = set()  # pull, chunk
        self.pulls: OrderedDict[int, Incoming] = OrderedDict()
        self.damaged = 0
        self.rate = 0.0  # bytes a second, as measured last; 0: not yet
        self.since = 0.0
        self.since_bytes = 0

    def enter(self, state: int) -> None:
        """Changes the state; raises IllegalTransition if the new state may not follow."""
        self.state = CHANNEL.after[self.state][state]

    @property
    def window(self) -> int:
        """The most chunks that may be under way."""
        return _WINDOWS[self.state]

    def measure(self, n_bytes: int, now: float) -> None:
        """Counts arrived bytes towards the rate."""
        self.since_bytes += n_bytes
        if self.since_bytes >= RATE_SPAN_BYTES and now > self.since:
            self.rate = self.since_bytes / (now - self.since)
            self.since, self.since_bytes = now, 0


# Dialling takes milliseconds, if it succeeds. Meanwhile little goes through the broker.
_WINDOWS = {RELAYED: RELAYED_WINDOW, DIALLING: 1, DIRECT: DIRECT_WINDOW, GONE: 0}


class Incoming:
    """An object that is being pulled. ``state``: see ``zray.transfer.states``.

    Every chunk is in exactly one place: not asked for (from ``unasked`` on, or in ``again``), under way (in ``asked``
    of one peer), or here (in ``have``).
    """

    __slots__ = ("again", "asked_owner_at", "have", "hint", "left", "lost", "n_chunks", "number", "object_id", "parked",
                 "prepared", "question", "readers", "room", "size", "sources", "state", "unasked")  # fmt: skip

    def __init__(self, number: int, object_id: bytes, hint: bytes, size: int) -> None:
        self.number = number
        self.object_id = object_id
        self.hint = hint
        self.size = size
        self.state: PullState = LOCATING
        self.readers: list[Any] = []
        self.sources: dict[bytes, Peer] = {}
        self.lost: list[bytes] = []  # sources that have failed
        self.room: memoryview | None = None
        self.prepared = 0  # chunks whose place can be written to; pages for the others are being made
        self.n_chunks = -(-size // CHUNK_BYTES)
        self.have = bytearray(self.n_chunks)
        self.left = self.n_chunks
        self.unasked = 0
        self.again: deque[int] = deque()
        self.parked: dict[int, list[tuple[Origin, Pull]]] = {}
        self.asked_owner_at: float | None = None  # None: it is not being asked
        self.question = 0  # how often the owner was asked: it counts on this pull then

    def enter(self, state: int) -> None:
        """Changes the state; raises IllegalTransition if the new state may not follow."""
        self.state = PULL.after[self.state][state]

    def next_chunk(self) -> int:
        """Takes the next chunk to ask for; returns -1 when there is none."""
        if self.again:
            return self.again.popleft()
        if self.unasked < self.prepared:
            self.unasked += 1
            return self.unasked - 1
        return -1
