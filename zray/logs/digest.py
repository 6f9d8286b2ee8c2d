"""Sums up similar events: the first is told at once, those that follow within a window in one line. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

WINDOW_S = 5.0
LAST_OUTPUT = "; its last output on stderr was:\n"
"""The text between the description of a death and the process's last output."""
MAX_NAMES = 5


def in_a_line(account: str) -> str:
    """Returns the description of a death without the process's output, which is in the error, if there is one."""
    return account.partition(LAST_OUTPUT)[0].partition("\n")[0]


class Digest:
    """Events of one kind. ``summary``: what to call those held back, for instance "more attempts died".

    ``_until``: the end of the window that the last line began. ``_names``: the names held back, and how often.
    """

    def __init__(self, summary: str, window_s: float = WINDOW_S) -> None:
        self._summary = summary
        self._window_s = window_s
        self._until = -math.inf
        self._names: Counter[str] = Counter()
        self._last: str | Callable[[], str] = ""

    def add(self, now: float, name: str, line: str | Callable[[], str]) -> str:
        """Returns what to tell now of an event of ``name``; empty while a window is open.

        ``line``: the text, or a function that makes it if it is told, as there may be a million events.
        """
        if now >= self._until and not self._names:
            self._until = now + self._window_s
            return _text(line)
        self._names[name] += 1
        self._last = line
        return ""

    def flush(self, now: float) -> str:
        """Returns what to tell now of what was held back; empty before the window ends, or if there was nothing."""
        if now < self._until or not self._names:
            return ""
        names, self._names = self._names, Counter()
        self._until = now + self._window_s
        count = sum(names.values())
        if count == 1:
            return _text(self._last)
        shown = ", ".join(f"{name} {times}x" for name, times in names.most_common(MAX_NAMES))
        more = f" and {len(names) - MAX_NAMES} others" if len(names) > MAX_NAMES else ""
        return f"{count} {self._summary} ({shown}{more}), the last: {_text(self._last)}"


def _text(line: str | Callable[[], str]) -> str:
    return line if isinstance(line, str) else line()
