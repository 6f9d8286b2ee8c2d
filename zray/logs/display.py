"""How the driver shows workers' output: ``(name pid=123) text``, and the same text of many processes only once.

A line is shown at once when it comes first. When *other* processes print the same within the window, their lines are
held back and shown as one line at its end, ``[repeated 7x across cluster]``. Lines that only one process prints are
never held back. This is as Ray documents it for ``RAY_DEDUP_LOGS``: once a second process has joined, further lines of
the first one count as repetitions too; a single held line is shown as it is; an idle window ends the pattern. But Ray
treats lines that differ only in numbers as the same and shows one of them: losses, epochs and scores of the others are
lost. So here lines have to be equal. Pure: time comes in as an argument.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from collections.abc import Iterable

from zray.named_tuples import NamedTuple

MAX_PATTERNS = 10_000
"""The most patterns remembered at once; beyond that, the oldest is settled early."""
MAX_PATTERN_CHARACTERS = 1000
"""Longer lines are not checked for repetitions, and are shown at once."""
BACKLOG_CHARACTERS = 8 << 20
"""How much may wait for one stream, with 64 characters added for each line."""
NOTICE_S = 10.0
"""How often the driver reports missing lines, while more and more are missing."""


class ShownLine(NamedTuple):
    """A line for the driver's terminal; ``stream`` is ``stdout`` or ``stderr``."""

    stream: str
    text: str


@dataclasses.dataclass
class _Pattern:
    """One text within its window. ``held``: lines that wait; ``latest``: the last one; ``sources``: who printed it."""

    since: float
    sources: set[tuple[str, int]]
    held: int = 0
    latest: str = ""


class LogDeduplicator:
    """Holds back repeated lines.

    State: ``_recent`` maps (stream, line) to its pattern, the oldest window first; ``_held`` is the number of all lines
    held back.
    """

    def __init__(self, window_s: float = 5.0) -> None:
        """``window_s``: how long repetitions are collected, in seconds; 0 shows every line at once."""
        self._window_s = window_s
        self._recent: dict[tuple[str, str], _Pattern] = {}
        self._held = 0

    def feed(self, now: float, name: str, pid: int, stream: str, lines: Iterable[str], ip: str = "") -> list[ShownLine]:
        """Takes lines that a process printed; returns what to show now.

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
        """Ends the windows that are over, at ``math.inf`` all of them; returns what to show."""
        shown: list[ShownLine] = []
        while self._recent:
            key, pattern = next(iter(self._recent.items()))
            if now < pattern.since + self._window_s:
                break
            self._settle(key, now, shown)
        return shown

    def next_deadline(self) -> float | None:
        """Returns when ``flush`` should be called next; None while nothing is held back."""
        if not self._held:
            return None
        return next(iter(self._recent.values())).since + self._window_s

    def _hold_back(self, now: float, source: tuple[str, int], stream: str, line: str, text: str) -> bool:
        if len(line) > MAX_PATTERN_CHARACTERS:
            return False
        if not line.strip() or self._window_s <= 0:
            return False
        pattern = self._recent.setdefault((stream, line), _Pattern(now, set()))
        pattern.sources.add(source)
        if len(pattern.sources) == 1:
            return False
        pattern.held += 1
        pattern.latest = text
        self._held += 1
        return True

    def _settle(self, key: tuple[str, str], now: float, shown: list[ShownLine]) -> None:
        """Shows what a pattern holds. While the pattern repeats, it keeps its sources and starts a new window."""
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


# ------------------------------------------------------------------------------------------------ what waits


class Backlog:
    """Lines that wait until a stream takes them. ``_rest``: the rest of a line that has been taken in part."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._size = 0
        self._rest = ""

    def __bool__(self) -> bool:
        return bool(self._lines or self._rest)

    def add(self, line: str) -> bool:
        """Adds a line. Returns False if there is no room for it."""
        size = len(line) + 64
        if self._size + size > BACKLOG_CHARACTERS:
            return False
        self._size += size
        self._lines.append(line)
        return True

    def take(self, max_bytes: int) -> str:
        """Takes whole lines of at most ``max_bytes`` together, each with its newline, and at least one.

        It takes a part of a longer line (unless ``max_bytes`` is 1: then one line, however long it is).
        """
        taken: list[str] = []
        room = max_bytes
        while self:
            text = self._rest or self._lines[0] + "\n"
            size = len(text) if text.isascii() else 4 * len(text)
            if taken and size > room:
                break
            if not self._rest:
                self._size -= len(self._lines.popleft()) + 64
            self._rest = ""
            if size > room > 1:
                end = max(1, room if text.isascii() else room // 4)
                text, self._rest = text[:end], text[end:]
            taken.append(text)
            room -= size
            if room <= 0:
                break
        return "".join(taken)

    def clear(self) -> None:
        """Drops all lines."""
        self._lines.clear()
        self._size = 0
        self._rest = ""


class MissingLines:
    """Lines that could not be shown: counted, and reported in one line at a time."""

    def __init__(self) -> None:
        self._count = 0
        self._told_at = -math.inf

    def add(self, count: int) -> None:
        """Counts ``count`` more missing lines."""
        self._count += count

    def next_deadline(self) -> float:
        """Returns when ``notice`` next returns something; infinity if nothing is missing."""
        return self._told_at + NOTICE_S if self._count else math.inf

    def notice(self, now: float) -> str:
        """Returns the report that is due, if any; at ``math.inf`` whatever is missing."""
        if not self._count or now < self._told_at + NOTICE_S:
            return ""
        count, self._count = self._count, 0
        self._told_at = now
        return (
            f"[zray: {count:,} lines of workers are not shown here, since they came faster than this program takes "
            f"them; the newest are in the files in logs_dir, see zray.init()]"
        )


# ------------------------------------------------------------------------------------------------ terminals


_COLOR = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # complete control sequences: for colors, and those that move the cursor or erase
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]"  # control characters except the tab
    r"|[\u202a-\u202e\u2066-\u2069]"  # changes of the direction of writing
)
_RESET = "\x1b[0m"


def escape_controls(line: str) -> str:
    """Returns a line that is safe for a terminal: colors and bold stay, to the end of the line.

    Sequences that move the cursor or erase are removed; other control characters are shown as ``\\x07``.
    """
    if line.isascii() and line.isprintable():
        return line
    shown = _CONTROL.sub(_escaped_part, line)
    colors = _COLOR.findall(shown)
    return shown + _RESET if colors and colors[-1] not in (_RESET, "\x1b[m") else shown


def _escaped_part(found: re.Match[str]) -> str:
    text = found[0]
    if len(text) > 1:
        return text if _COLOR.fullmatch(text) else ""
    return text.encode("ascii", "backslashreplace").decode() if ord(text) > 0x9F else f"\\x{ord(text):02x}"
