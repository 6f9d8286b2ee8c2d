"""Bounds the workers' output that is under way: from a host to the broker, and from the broker to a driver.

A sender may have ``WINDOW_BYTES`` of lines under way that the receiver has not taken yet. Lines that do not fit are
left out and counted, since a process that computes must not wait for one that reads. The receiver reports how much it
has taken (``LogsTaken``) an eighth of the window at a time, so that a few lines cost no message at all. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

WINDOW_BYTES = 16 << 20
"""The size of a window: as much as a worker's log file holds by default."""
LINE_BYTES = 64
"""What a line counts in addition to its text."""


def size_of(lines: Iterable[str]) -> int:
    """The size of lines in bytes, as both ends of a window count it.

    Each character of a line that is not all ASCII counts four bytes.
    """
    return sum(len(line) * (1 if line.isascii() else 4) + LINE_BYTES for line in lines)


class LogWindow:
    """The sender's side. ``_room``: bytes that may still be sent."""

    def __init__(self, size_bytes: int = WINDOW_BYTES) -> None:
        self._size_bytes = self._room = size_bytes

    def admits(self, lines: list[str]) -> bool:
        """Whether the lines may be sent now. If so, they count as sent."""
        size = size_of(lines)
        if size > self._room:
            return False
        self._room -= size
        return True

    def taken(self, size_bytes: int) -> None:
        """The receiver has taken this much. A wrong number never opens the window beyond its size."""
        self._room = min(self._size_bytes, self._room + size_bytes)


class LogIntake:
    """The receiver's side. ``_unreported``: bytes that it has taken and not reported to the sender yet."""

    def __init__(self, size_bytes: int = WINDOW_BYTES) -> None:
        self._tell_at = size_bytes // 8
        self._unreported = 0

    def take(self, lines: list[str]) -> None:
        """Counts lines as taken."""
        self._unreported += size_of(lines)

    def to_tell(self) -> int:
        """The number of bytes to report to the sender now; 0: nothing yet."""
        if self._unreported < self._tell_at:
            return 0
        told, self._unreported = self._unreported, 0
        return told
