"""The store's decisions, without I/O: sizes of segments, bytes in each place, and which segments make room.

Pure: it uses no files, clocks or locks. Every segment file is in one *place* at a time, and the ledger counts the bytes
in each place. ``zray.store.store`` carries out what is decided here.

A segment file has one of four sizes per doubling, ``2**n * (4..7) / 4`` from 64 KiB, plus a page. The page is for the
trailer and for the pickle that goes with an array of a round size. Without it such an array would fall into the next
size class and waste a fifth of it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator

from zray.named_tuples import NamedTuple

PAGE_BYTES = 4096
TRAILER_BYTES = 64
SMALLEST_CLASS_BYTES = 64 * 1024
_KEPT_IN_QUEUE = 1024
"""The length to which any queue is kept. A longer one is cut to an eighth of the segments that were looked at."""


class Place(enum.IntEnum):
    """Where a segment file is. The value is the place's column in the ledger file."""

    WRITING = 0
    """It is new, and a writer makes and fills it."""
    LIVE = 1
    """It holds an object that can be read."""
    DOOMED = 2
    """Its object was freed while readers used it. It becomes recyclable when they have ended."""
    FREE = 3
    """Its pages wait for the next object, or a writer is filling them with one."""
    SPILLED = 4
    """It is on disk, outside of the capacity."""
    COPY = 5
    """It holds a copy of an object that another host keeps. It is dropped before anything is spilled."""

    @property
    def directory(self) -> str:
        """The name of its directory within the store's."""
        return _DIRECTORIES[self]


_DIRECTORIES = ("writing", "live", "doomed", "free", "spilled", "copies")


class StoreUsage(NamedTuple):
    """How the bytes of a store are used. All figures are sizes of files, which are rounded up from those of objects."""

    capacity: int
    """The limit of ``used``."""
    used: int
    """All segments in memory: the sum of ``writing``, ``live``, ``copies``, ``doomed`` and ``recyclable``."""
    writing: int
    """New segments that are being made and filled."""
    live: int
    doomed: int
    """Freed, but still pinned by readers at the last look."""
    recyclable: int
    """Free segments, with those that are being filled again."""
    spilled: int
    """Live objects on disk."""
    copies: int = 0
    """Copies of objects that other hosts keep."""


class Ledger:
    """Bytes by place.

    Invariant: no count is negative, and all but the spilled bytes together are within ``capacity``.
    """

    def __init__(self, capacity: int, held: list[int] | memoryview) -> None:
        """``held``: the bytes in each place; the ledger changes this list."""
        self.capacity = capacity
        self.held = held

    @property
    def used(self) -> int:
        """The bytes in memory."""
        return sum(self.held) - self.held[Place.SPILLED]

    def shortage(self, size: int) -> int:
        """Returns how many bytes must leave memory before ``size`` more may enter."""
        return max(0, self.used + size - self.capacity)

    def enter(self, place: Place, size: int) -> None:
        """Counts a new file of ``size`` bytes. The caller has checked that there is no shortage."""
        assert place is Place.SPILLED or not self.shortage(size), "the store would exceed its capacity"
        self.held[place] += size

    def leave(self, place: Place, size: int) -> None:
        """Counts the removal of a file of ``size`` bytes."""
        assert self.held[place] >= size, f"more bytes leave {place.directory} than are there"
        self.held[place] -= size

    def move(self, size: int, source: Place, target: Place) -> None:
        """Counts the move of a file of ``size`` bytes within memory."""
        self.leave(source, size)
        self.held[target] += size

    def usage(self) -> StoreUsage:
        """Returns the figures for reports."""
        return StoreUsage(
            capacity=self.capacity,
            used=self.used,
            writing=self.held[Place.WRITING],
            live=self.held[Place.LIVE],
            doomed=self.held[Place.DOOMED],
            recyclable=self.held[Place.FREE],
            spilled=self.held[Place.SPILLED],
            copies=self.held[Place.COPY],
        )


def segment_bytes(object_bytes: int) -> int:
    """Returns the size of the smallest segment file for an object of ``object_bytes`` bytes and its trailer."""
    need = max(object_bytes + TRAILER_BYTES - PAGE_BYTES, SMALLEST_CLASS_BYTES)
    step = 1 << ((need - 1).bit_length() - 3)
    return -(-need // step) * step + PAGE_BYTES


class Candidate(NamedTuple):
    """A segment that might make room."""

    path: str
    size: int
    last_use_ns: int
    pinned: bool


def choose(shortage: int, candidates: Iterable[Candidate]) -> list[Candidate]:
    """Returns the first unpinned candidates, as few as cover ``shortage`` bytes. It looks at no more than it needs.

    All if they do not suffice. A candidate that alone covers what is missing replaces earlier ones that it makes
    unnecessary.
    """
    chosen: list[Candidate] = []
    covered = 0
    if shortage > 0:
        for candidate in candidates:
            if candidate.pinned:
                continue
            chosen.append(candidate)
            covered += candidate.size
            if covered >= shortage:
                break
    for candidate in list(chosen):
        if covered - candidate.size >= shortage:
            chosen.remove(candidate)
            covered -= candidate.size
    return chosen


class Victims(NamedTuple):
    """The segments that leave memory."""

    needed: list[Candidate]
    """They cover the shortage, if they can."""
    ahead: list[Candidate]
    """They leave with the needed ones, so that the next writers find room."""

    def cover(self, shortage: int) -> bool:
        """Whether the needed ones cover ``shortage`` bytes."""
        return sum(candidate.size for candidate in self.needed) >= shortage


class EvictionQueue:
    """The segments of one place, the least recently used first, in the order that a look at all of them has shown.

    A look at all segments takes the longer the more there are. So the queue keeps their order, and looks again only at
    those whose turn it is. One that was used meanwhile, is pinned or gone leaves the queue. Those that stay are in the
    right order: whatever was used or made since the look at all is younger than they are.
    """

    def __init__(self, look: Callable[[str], Candidate | None]) -> None:
        """``look`` returns the segment at a path as it is now, or None if it is gone."""
        self._look = look
        self._queue: list[tuple[int, str]] = []  # the next one last
        self._kept = _KEPT_IN_QUEUE

    def refill(self, last_uses: Iterable[tuple[int, str]]) -> None:
        """Starts again with all segments of the place: time of the last use in nanoseconds, and path."""
        self._queue = sorted(last_uses, reverse=True)
        self._kept = max(_KEPT_IN_QUEUE, len(self._queue) // 8)

    def take(self, shortage: int, portion: int = 0) -> Victims:
        """Returns the victims for a shortage, both in bytes. If there is no shortage, there are none.

        Some are ahead if all together have at most ``portion`` bytes. If the needed ones do not cover the shortage, the
        queue has to be filled again. All stay in the queue until they are gone.
        """
        if shortage <= 0:
            return Victims([], [])
        candidates = self._oldest()
        needed = choose(shortage, candidates)
        rest = portion - sum(candidate.size for candidate in needed)
        ahead: list[Candidate] = []
        while rest > 0 and (candidate := next(candidates, None)) is not None and candidate.size <= rest:
            ahead.append(candidate)
            rest -= candidate.size
        del self._queue[: -self._kept]  # the youngest, which the next look at all finds again
        return Victims(needed, ahead)

    def _oldest(self) -> Iterator[Candidate]:
        for at in reversed(range(len(self._queue))):
            last_use_ns, path = self._queue[at]
            candidate = self._look(path)
            if candidate is None or candidate.pinned or candidate.last_use_ns != last_use_ns:
                del self._queue[at]
            else:
                yield candidate
