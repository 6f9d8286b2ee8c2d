"""Ray's ``ray.experimental.tqdm_ray``: tells how far a loop in a task or an actor is.

Ray draws bars at the driver. Here each ``tqdm`` writes lines to stderr, as ``download: 40 of 100 it (40 %)``. The
driver shows them with the name of their task, like all output of workers. So bars of many tasks cannot disturb each
other, and files of output stay readable. ``zray.util.progress`` draws a bar for references that a driver waits for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["safe_print", "tqdm"]

T = TypeVar("T")
FLUSH_S = 1.0
"""The shortest time between two lines of one loop, in seconds, if the program sets none."""


class tqdm(Generic[T]):
    """Counts steps, and writes a line about them, at most one in ``flush_interval_s`` seconds and one at the end.

    Args:
        iterable: what to iterate over; None: the program calls ``update``.
        desc: a text in front of the count.
        total: the number of steps; default: the length of ``iterable``, if it has one.
        unit: the name of a step; default: "it".
        position: the place of Ray's bar on the screen. It has no meaning here.
        flush_interval_s: the shortest time between two lines, in seconds.
    """

    def __init__(
        self,
        iterable: Iterable[T] | None = None,
        desc: str | None = None,
        total: int | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None:
        self._iterable = iterable
        self._desc = desc or ""
        self._unit = unit or "it"
        self._interval_s = FLUSH_S if flush_interval_s is None else flush_interval_s
        self._written_at = -self._interval_s
        self._last_line = ""
        self._closed = False
        self.n = 0
        self.total = _length(iterable) if total is None else total

    def set_description(self, desc: str) -> None:
        """Sets the text in front of the count."""
        self._desc = desc
        self.refresh()

    def update(self, n: int = 1) -> None:
        """Counts ``n`` more steps."""
        self.n += n
        self.refresh()

    def refresh(self) -> None:
        """Writes a line, unless the last one was just written."""
        now = time.monotonic()
        if not self._closed and now - self._written_at >= self._interval_s:
            self._written_at = now
            self._write()

    def close(self) -> None:
        """Writes the last line. May be called twice."""
        if not self._closed:
            self._closed = True
            self._write()

    def __iter__(self) -> Iterator[T]:
        """Yields the items, and counts them.

        Raises:
            ValueError: no iterable was given.
        """
        if self._iterable is None:
            raise ValueError("No iterable provided: call update(), or give tqdm() something to iterate over")
        for item in self._iterable:
            yield item
            self.update()
        self.close()

    def _write(self) -> None:
        text = f"{self.n} {self._unit}"
        if self.total:
            text = f"{self.n} of {self.total} {self._unit} ({100 * self.n / self.total:.0f} %)"
        line = f"{self._desc}: {text}" if self._desc else text
        if line != self._last_line:
            self._last_line = line
            print(line, file=sys.stderr, flush=True)


def _length(iterable: Any) -> int | None:
    try:
        return len(iterable)
    except TypeError:
        return None


def safe_print(*args: Any, **kwargs: Any) -> None:
    """Prints. In Ray it takes care of the bars on the screen; here there are none."""
    print(*args, **kwargs)
