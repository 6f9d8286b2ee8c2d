"""The store's decisions, without I/O: sizes of segments, bytes in each place, and which segments make room.

Pure: it uses no files, clocks or locks. Every segment file is in one *place* at a time, and the ledger counts the bytes
in each place. ``zray.store.store`` carries out what is decided here.

A segment file has one of four sizes per doubling, ``2**n * (4..7) / 4`` from 64 KiB, plus a page. The page is for the
trailer and for the pickle that goes with an array of a round size. Without it such an array would fall into the next
size class and waste a fifth of it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable

PAGE_BYTES = 4096
TRAILER_BYTES = 64
SMALLEST_CLASS_BYTES = 64 * 1024


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


@dataclasses.dataclass(frozen=True)
class StoreUsage:
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


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A segment that might make room."""

    path: str
    size: int
    last_use_ns: int
    pinned: bool


def choose(shortage: int, candidates: Iterable[Candidate]) -> list[Candidate]:
    """Returns the least recently used unpinned candidates, as few as cover ``shortage`` bytes.

    All if they do not suffice. A candidate that alone covers what is missing replaces older ones that it makes
    unnecessary.
    """
    chosen: list[Candidate] = []
    covered = 0
    for candidate in sorted((c for c in candidates if not c.pinned), key=lambda c: (c.last_use_ns, c.path)):
        if covered >= shortage:
            break
        chosen.append(candidate)
        covered += candidate.size
    for candidate in list(chosen):
        if covered - candidate.size >= shortage:
            chosen.remove(candidate)
            covered -= candidate.size
    return chosen
