"""Ray's ``tqdm_ray``: progress bars of tasks and actors, one each at the end of the driver's terminal.

A bar of a worker sends its state about once a second with the worker's output (``zray.logs.bar_lines``). So there are
none with ``log_to_driver=False``. In a file or pipe, and in a notebook, a bar is a line now and then.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from zray.client import session as sessions
from zray.logs import bar_lines
from zray.util.bar_manager import instance, safe_print
from zray.util.nodes import get_node_ip_address

T = TypeVar("T")
__all__ = ["instance", "safe_print", "tqdm"]


class tqdm(Generic[T]):
    """A progress bar, in a task, an actor or the driver.

    Args:
        iterable: what to iterate over; the bar advances with each element, and ends with the last one.
        desc: a text in front of the bar.
        total: how many steps there are; default: the length of ``iterable``, if it has one.
        unit: the name of a step.
        position: as in Ray; it has no effect, as bars are drawn in the order in which they begin.
        flush_interval_s: the shortest time between two states that are shown, in seconds.

    Attributes: ``n``, the steps done; ``total``. Both can be set, and are shown with the next state.
    """

    DEFAULT_FLUSH_INTERVAL_SECONDS = 1.0

    def __init__(
        self,
        iterable: Iterable[T] | None = None,
        desc: str | None = None,
        total: int | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None:
        sized: Any = iterable
        if total is None and hasattr(sized, "__len__"):
            total = len(sized)
        self._iterable = iterable
        self._desc = desc or ""
        self.total = total
        self.n = 0
        self._unit = unit or "it"
        self._position = position or 0
        self._uuid = uuid.uuid4().hex
        self._ip = get_node_ip_address()
        self._interval_s = self.DEFAULT_FLUSH_INTERVAL_SECONDS if flush_interval_s is None else flush_interval_s
        self._shown_at = -self._interval_s
        self._closed = False

    def set_description(self, desc: str) -> None:
        """Changes the text in front of the bar."""
        self._desc = desc
        self._show()

    def update(self, n: int = 1) -> None:
        """Advances by ``n`` steps."""
        self.n += n
        self._show()

    def refresh(self) -> None:
        """Shows the state, if the last one is old enough."""
        self._show()

    def close(self) -> None:
        """Shows the last state, and ends the bar. May be called twice."""
        if not self._closed:
            self._closed = True
            self._show(force=True)

    def __iter__(self) -> Iterator[T]:
        if self._iterable is None:
            raise ValueError("this bar has no iterable: call update(), or give it one")
        try:
            for element in self._iterable:
                self.update(1)
                yield element
        finally:
            self.close()

    def __enter__(self) -> tqdm[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _show(self, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._shown_at < self._interval_s:
            return
        self._shown_at = now
        session = sessions.current()
        if session is not None and not session.job_id:  # a worker, whose driver draws
            print(bar_lines.encode(self._state()), flush=True)
        else:
            instance().process_state_update(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "x": self.n,
            "pos": self._position,
            "desc": self._desc,
            "total": self.total,
            "unit": self._unit,
            "ip": self._ip,
            "pid": os.getpid(),
            "uuid": self._uuid,
            "closed": self._closed,
        }
