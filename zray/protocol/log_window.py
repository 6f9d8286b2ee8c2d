"""How much of the workers' output is under way at a time: from a host to the broker, and from the broker to a driver.

A sender may have ``WINDOW_BYTES`` of lines under way that the receiver has not taken yet.  What does not fit is left
out and counted, since nobody who computes may wait for somebody who reads.  The receiver says what it has taken
(``LogsTaken``), an eighth of the window at a time, so that a few lines cost no message at all.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

WINDOW_BYTES = 16 << 20
"""As much as a worker's log file holds by default."""
LINE_BYTES = 64
"""What a line takes besides its text."""


def size_of(lines: Iterable[str]) -> int:
    """What lines take, in bytes. Both ends of a window reckon alike: a character that is not ASCII counts as four."""
    return sum(len(line) * (1 if line.isascii() else 4) + LINE_BYTES for line in lines)


class LogWindow:
    """The sender's side. ``_room``: bytes that may still be sent."""

    def __init__(self, size_bytes: int = WINDOW_BYTES) -> None:
        self._size_bytes = self._room = size_bytes

    def admits(self, lines: list[str]) -> bool:
        """Whether the lines may be sent now; they count as sent then."""
        size = size_of(lines)
        if size > self._room:
            return False
        self._room -= size
        return True

    def taken(self, size_bytes: int) -> None:
        """The receiver has taken so much. A wrong number opens the window no further than it was."""
        self._room = min(self._size_bytes, self._room + size_bytes)


class LogIntake:
    """The receiver's side. ``_unreported``: bytes that it has taken and not told the sender yet."""

    def __init__(self, size_bytes: int = WINDOW_BYTES) -> None:
        self._tell_at = size_bytes // 8
        self._unreported = 0

    def take(self, lines: list[str]) -> None:
        """Lines have been taken."""
        self._unreported += size_of(lines)

    def to_tell(self) -> int:
        """What to tell the sender now, in bytes; 0: nothing yet."""
        if self._unreported < self._tell_at:
            return 0
        told, self._unreported = self._unreported, 0
        return told
