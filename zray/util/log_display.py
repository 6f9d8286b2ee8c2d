"""How the output of workers is shown at the driver: ``(name pid=123) text``, and the same text of many only once.

A line is shown at once when it comes first.  When *other* processes print the same within the window (numbers apart,
which differ between workers), these lines are held back and shown as one at its end, ``[repeated 7x across
cluster]``.  Lines that only one process prints are never held back.  All as Ray documents it for ``RAY_DEDUP_LOGS``:
once a second process has joined, the first one's further lines count as repetitions too; a single line held back is
shown as it is; an idle window ends the pattern.  Pure: time comes in as an argument.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import NamedTuple

MAX_PATTERNS = 10_000
"""Patterns remembered at once; beyond, the oldest is settled before its time."""

_HAS_NUMBER = re.compile(r"\d")


class ShownLine(NamedTuple):
    """A line for the driver's terminal; ``stream`` is ``stdout`` or ``stderr``."""

    stream: str
    text: str


@dataclasses.dataclass
class _Pattern:
    """One text within its window. ``held`` lines wait, of which ``latest`` is the last; ``sources`` printed any."""

    since: float
    sources: set[tuple[str, int]]
    held: int = 0
    latest: str = ""


class LogDeduplicator:
    """State: ``_recent`` maps (stream, text without numbers) to its pattern, the oldest window first; ``_held`` is
    the number of lines held back over all of them."""

    def __init__(self, window_s: float = 5.0) -> None:
        """``window_s``: how long repetitions are collected, in seconds; 0 shows every line at once."""
        self._window_s = window_s
        self._recent: dict[tuple[str, str], _Pattern] = {}
        self._held = 0

    def feed(self, now: float, name: str, pid: int, stream: str, lines: Iterable[str], ip: str = "") -> list[ShownLine]:
        """Lines that a process printed; returns what to show now.

        ``name`` is that of the task or actor, empty if unknown; ``ip`` that of its host, empty on this machine.
        """
        shown = self.flush(now)
        prefix = _prefix(name, pid, ip)
        for line in lines:
            text = f"{prefix} {line}"
            if not self._hold_back(now, (ip, pid), stream, line, text):
                shown.append(ShownLine(stream, text))
        while len(self._recent) > MAX_PATTERNS:
            self._settle(next(iter(self._recent)), now, shown)
        return shown

    def flush(self, now: float) -> list[ShownLine]:
        """Ends the windows that are over; at ``math.inf`` all of them."""
        shown: list[ShownLine] = []
        while self._recent:
            key, pattern = next(iter(self._recent.items()))
            if now < pattern.since + self._window_s:
                break
            self._settle(key, now, shown)
        return shown

    def next_deadline(self) -> float | None:
        """When ``flush`` should be called next; None while nothing is held back."""
        if not self._held:
            return None
        return next(iter(self._recent.values())).since + self._window_s

    def _hold_back(self, now: float, source: tuple[str, int], stream: str, line: str, text: str) -> bool:
        words = " ".join(word for word in line.split() if not _HAS_NUMBER.search(word))
        if not words or self._window_s <= 0:  # a line of nothing but numbers: these are what is to be seen
            return False
        pattern = self._recent.setdefault((stream, words), _Pattern(now, set()))
        pattern.sources.add(source)
        if len(pattern.sources) == 1:
            return False
        pattern.held += 1
        pattern.latest = text
        self._held += 1
        return True

    def _settle(self, key: tuple[str, str], now: float, shown: list[ShownLine]) -> None:
        """Shows what a pattern holds. While it goes on repeating it keeps its sources and starts a new window."""
        pattern = self._recent.pop(key)
        self._held -= pattern.held
        if pattern.held == 1:
            shown.append(ShownLine(key[0], pattern.latest))
        elif pattern.held > 1:
            shown.append(ShownLine(key[0], f"{pattern.latest} [repeated {pattern.held}x across cluster]"))
            if now < float("inf") and len(self._recent) < MAX_PATTERNS:
                self._recent[key] = _Pattern(now, pattern.sources)


def _prefix(name: str, pid: int, ip: str) -> str:
    where = f", ip={ip}" if ip else ""
    return f"({name} pid={pid}{where})" if name else f"(pid={pid}{where})"
