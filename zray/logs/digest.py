"""Telling of many things that are alike: the first at once, those that follow within a window in one line. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

WINDOW_S = 5.0
LAST_OUTPUT = "; its last output on stderr was:\n"
"""Behind this, what a process has printed stands in the account of its death."""
MAX_NAMES = 5


def in_a_line(account: str) -> str:
    """An account of a death without what the process has printed: that is in the error, if it comes to one."""
    return account.partition(LAST_OUTPUT)[0].partition("\n")[0]


class Digest:
    """News of one kind. ``summary``: how those that were held back are called, for instance "more attempts died".

    ``_until``: when the window ends that the last line began; ``_names``: who has been held back, and how often.
    """

    def __init__(self, summary: str, window_s: float = WINDOW_S) -> None:
        self._summary = summary
        self._window_s = window_s
        self._until = -math.inf
        self._names: Counter[str] = Counter()
        self._last: str | Callable[[], str] = ""

    def add(self, now: float, name: str, line: str | Callable[[], str]) -> str:
        """News of ``name``: what to tell now; empty while a window is open. ``line``: or what makes it, if it is told:
        there may be a million."""
        if now >= self._until and not self._names:
            self._until = now + self._window_s
            return _text(line)
        self._names[name] += 1
        self._last = line
        return ""

    def flush(self, now: float) -> str:
        """What to tell now of what was held back; empty before the window ends, and if there was nothing."""
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
