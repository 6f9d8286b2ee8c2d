"""Progress bars below each other at the end of a terminal; lines of text elsewhere.

All bars of one stream are in one ``Bars``, those of ``zray.util.progress`` and of ``tqdm_ray`` too. Other output
appears above them: whoever writes it hides the bars meanwhile. A closed bar stays on the terminal, above the others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import unicodedata
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from zray.logs.display import escape_controls
from zray.system.streams import descriptor_of, is_terminal, takes_more, write_text

DRAW_S = 0.1
"""The shortest time between two drawings, in seconds."""
LINE_S = 5.0
"""The time between two lines of a bar where none can be drawn, in seconds."""
BLOCKS, ASCII_BLOCKS = " ▏▎▍▌▋▊▉█", "        #"
MAX_BAR = 40
ERASE_LINE = "\x1b[2K"


class Bar:
    """The state of a bar. ``total`` is None if it is not known."""

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.description = ""
        self.done: float = 0
        self.total: float | None = None
        self.unit = "it"
        self.told_at = began_at

    def text(self, now: float, width: int, blocks: str = BLOCKS) -> str:
        """Returns the bar as one line that takes at most ``width`` columns."""
        elapsed_s = max(0.0, now - self.began_at)
        rate = self.done / elapsed_s if elapsed_s else 0.0
        speed = f"{rate:,.1f} {self.unit}/s" if rate else ""
        head = f"{escape_controls(self.description)}: " if self.description else ""
        if not self.total:
            return cut(f"{head}{_number(self.done)} {self.unit} [{_clock(elapsed_s)} {speed}]", width)
        share = min(1.0, max(0.0, self.done / self.total))
        left = _clock((self.total - self.done) / rate) if rate and share < 1 else "?" if share < 1 else "00:00"
        tail = f" {_number(self.done)}/{_number(self.total)} [{_clock(elapsed_s)}<{left} {speed}]".replace(" ]", "]")
        percent = f"{share:4.0%} "
        room = min(MAX_BAR, width - columns(head) - len(percent) - len(tail) - 2)
        bar = f"|{_blocks(share, room, blocks)}|" if room > 3 else ""
        return cut(head + percent + bar + tail, width)


def _blocks(share: float, length: int, blocks: str) -> str:
    eighths = int(share * length * 8)
    full, rest = divmod(eighths, 8)
    return (blocks[-1] * full + (blocks[rest] if full < length else "")).ljust(length)


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(min(seconds, 359_999)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(_width(char) for char in text)


def _width(char: str) -> int:
    if char.isascii():
        return 1
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Returns the start of a text that takes at most ``width`` columns."""
    used = 0
    for end, char in enumerate(text):
        used += _width(char)
        if used > width:
            return text[:end]
    return text


class Bars:
    """The bars on one stream. Any thread may use them.

    ``_drawn``: how many lines of bars are on the terminal now; ``_hidden``: how many callers hide them.
    """

    def __init__(self, file: Any, now: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._now = now
        self._bars: dict[Hashable, Bar] = {}
        self._lock = threading.RLock()
        self._drawn = 0
        self._drawn_at = 0.0
        self._hidden = 0
        self.is_terminal = is_terminal(file) and os.environ.get("TERM") != "dumb"
        utf = (getattr(file, "encoding", None) or "utf").lower().startswith("utf")
        self._blocks = BLOCKS if utf else ASCII_BLOCKS
        _all.add(self)

    @property
    def file(self) -> Any:
        """The stream."""
        return self._file

    def is_empty(self) -> bool:
        """Whether there is no bar now."""
        return not self._bars

    def update(self, key: Hashable, description: str, done: float, total: float | None, unit: str = "it") -> None:
        """Shows the state of a bar, which begins with its first state. ``key`` names the bar."""
        with self._lock:
            now = self._now()
            bar = self._bars.get(key)
            is_new = bar is None
            if bar is None:
                bar = self._bars[key] = Bar(now)
            bar.description, bar.done, bar.total, bar.unit = description, done, total, unit
            if not self.is_terminal:
                if now - bar.told_at >= LINE_S:
                    self._tell(bar, now)
            elif is_new or now - self._drawn_at >= DRAW_S:
                self._draw(now)

    def close(self, key: Hashable) -> None:
        """Shows the last state of a bar, and forgets the bar."""
        with self._lock:
            bar = self._bars.pop(key, None)
            if bar is None:
                return
            now = self._now()
            if self.is_terminal:
                self._draw(now, above=[bar.text(now, self._width(), self._blocks)])
            else:
                self._tell(bar, now)

    def close_all(self, which: Callable[[Hashable], bool] = lambda key: True) -> None:
        """Closes some of the bars."""
        for key in [key for key in self._bars if which(key)]:
            self.close(key)

    def hide_bars(self) -> None:
        """Removes the bars from the terminal, until ``unhide_bars``. May be nested."""
        with self._lock:
            self._hidden += 1
            if self._hidden == 1 and self._drawn:
                self._write(self._erase())

    def unhide_bars(self) -> None:
        """Draws the bars again."""
        with self._lock:
            self._hidden = max(0, self._hidden - 1)
            if not self._hidden and self._bars and self.is_terminal:
                self._draw(self._now())

    def _draw(self, now: float, above: list[str] | None = None) -> None:
        if (self._hidden and not above) or not takes_more(descriptor_of(self._file)):
            return  # a terminal that nothing reads must stop no program
        self._drawn_at = now
        width, height = self._width(), max(1, self._size().lines - 1)
        shown = [] if self._hidden else list(self._bars.values())[:height]
        lines = [bar.text(now, width, self._blocks) for bar in shown]
        text = self._erase() + "".join(f"{line}\n" for line in [*(above or ()), *lines])
        self._drawn = len(lines)
        self._write(text)

    def _erase(self) -> str:
        """What moves the cursor to the first bar, and removes the bars."""
        text = f"\x1b[{self._drawn}A\r\x1b[J" if self._drawn else ""
        self._drawn = 0
        return text

    def _tell(self, bar: Bar, now: float) -> None:
        bar.told_at = now
        head = f"{escape_controls(bar.description)}: " if bar.description else ""
        of = f" of {_number(bar.total)}" if bar.total else ""
        self._write(f"{head}{_number(bar.done)}{of} {bar.unit}\n")

    def _width(self) -> int:
        return self._size().columns - 1

    def _size(self) -> os.terminal_size:
        """The size of this terminal: ``shutil`` measures stdout, which may be a file."""
        if "COLUMNS" not in os.environ:
            with contextlib.suppress(OSError):
                return os.get_terminal_size(descriptor_of(self._file))
        return shutil.get_terminal_size()

    def _write(self, text: str) -> None:
        write_text(self._file, text)


_all: weakref.WeakSet[Bars] = weakref.WeakSet()


def _after_fork() -> None:
    """A child that was forked while another thread drew would find the lock taken for ever."""
    for bars in _all:
        bars._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
