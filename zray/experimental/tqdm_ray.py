"""Ray's ``tqdm``: progress bars of tasks and actors, shown at the driver with the rest of their output.

A bar is a line that is written again and again. A worker's line goes to the driver like all of its output, with the
name and the pid of the task in front, so bars of several workers do not disturb each other.
"""

from __future__ import annotations

import builtins
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["safe_print", "tqdm"]

INTERVAL_S = 0.1
"""The time between two states of a bar that are shown, in seconds."""

safe_print: Callable[..., None] = builtins.print
"""The built-in ``print``. Ray has this function to keep bars and printed lines apart, which they are here anyway."""


class tqdm:
    """A progress bar. It has the part of the interface of the library tqdm that Ray's has.

    Args:
        iterable: what to iterate over; each element advances the bar by one. None: ``update`` advances it.
        desc: a text in front.
        total: the number of elements; default: ``len(iterable)`` if it has one, else it is not known.
        unit: the name of one element.
        position: has no meaning: each process writes lines of its own.
        flush_interval_s: the time between two states that are shown, in seconds.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str | None = None,
        total: int | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None:
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]  # it was looked up
        self.n = 0
        """How many elements are done."""
        self.total = total
        self._iterable = iterable
        self._desc = desc or ""
        self._unit = unit or "it"
        self._interval_s = INTERVAL_S if flush_interval_s is None else flush_interval_s
        self._began = time.monotonic()
        self._shown_at = 0.0
        self._closed = False
        self.refresh()

    def set_description(self, desc: str) -> None:
        """Changes the text in front."""
        self._desc = desc
        self._show_in_time()

    def update(self, n: int = 1) -> None:
        """Advances the bar by ``n`` elements."""
        self.n += n
        self._show_in_time()

    def refresh(self) -> None:
        """Shows the present state."""
        self._shown_at = time.monotonic()
        print(f"\r{self}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Shows the last state, and ends the line. May be called again."""
        if not self._closed:
            self._closed = True
            self.refresh()
            print(file=sys.stderr, flush=True)

    def _show_in_time(self) -> None:
        if not self._closed and time.monotonic() - self._shown_at >= self._interval_s:
            self.refresh()

    def __str__(self) -> str:
        front = f"{self._desc}: " if self._desc else ""
        elapsed_s = time.monotonic() - self._began
        rate = f"{self.n / elapsed_s:.2f}{self._unit}/s" if elapsed_s > 0 else f"?{self._unit}/s"
        if not self.total:
            return f"{front}{self.n}{self._unit} [{elapsed_s:.0f}s, {rate}]"
        return f"{front}{100 * self.n / self.total:3.0f}% {self.n}/{self.total} [{elapsed_s:.0f}s, {rate}]"

    def __iter__(self) -> Iterator[Any]:
        if self._iterable is None:
            raise ValueError("No iterable provided: tqdm() without one is advanced by update()")
        try:
            for element in self._iterable:
                yield element
                self.update()
        finally:
            self.close()

    def __enter__(self) -> tqdm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
