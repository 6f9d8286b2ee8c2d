"""One line each, and once, for what makes a driver slow and cannot be seen in what it prints.

- ``get`` right behind each ``remote``: nothing runs beside anything else.
- The same large value as an argument again and again: it is written to the store each time.
- ``get`` within an event loop: whatever else it runs stands still.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

ONE_BY_ONE = 20
ONE_BY_ONE_S = 5.0
"""So many waits in a row for the only call under way, of so many seconds in all, are told of."""
BLOCKED_LOOP_S = 1.0
SENT_AGAIN = 10
SENT_BYTES = 1 << 20
"""A value that is sent so often, each time with so many bytes of arguments, is told of."""
MAX_REMEMBERED = 16
_PLAIN = frozenset((int, float, bool, str, bytes, complex, type(None)))


class Advice:
    """What a driver has done. ``tell`` shows a line; ``one_task``: whether a single task, and no call of an actor, is
    under way."""

    def __init__(self, tell: Callable[[str], None], one_task: Callable[[], bool]) -> None:
        self._tell = tell
        self.one_task = one_task
        self._told: set[str] = set()
        self._waits = 0
        self._waited_s = 0.0
        self._sent: dict[int, tuple[weakref.ref[Any], int]] = {}  # by ``id``: a value, and how often
        self._lock = threading.Lock()

    def waiting(self) -> _Wait:
        """A context in which a thread waits for objects."""
        return _Wait(self)

    def waited(self, alone: bool, in_loop: bool, seconds: float) -> None:
        """A wait is over. ``alone``: for the only thing that was under way; ``in_loop``: its thread runs a loop."""
        if in_loop and seconds >= BLOCKED_LOOP_S:
            self._once(
                "loop",
                f"zray.get() or wait() has blocked the running event loop for {seconds:.1f} s: use 'await ref' instead",
            )
        if not alone:
            self._waits, self._waited_s = 0, 0.0
            return
        self._waits += 1
        self._waited_s += seconds
        if self._waits >= ONE_BY_ONE and self._waited_s >= ONE_BY_ONE_S:
            self._once(
                "one by one",
                f"the last {self._waits} tasks were each waited for before the next one was submitted, so nothing ran "
                "beside anything else: call remote() for all of them first, then get() the list of references",
            )

    def sent(self, values: Iterable[Any], size: int) -> None:
        """Arguments of ``size`` bytes were written to the store."""
        if size < SENT_BYTES:
            return
        for value in values:
            if type(value) in _PLAIN:
                continue
            try:
                mark = weakref.ref(value)
            except TypeError:  # of such a kind: another that is made when it is gone could not be told from it
                continue
            with self._lock:
                known, count = self._sent.pop(id(value), (mark, 0))
                count = count + 1 if known() is value else 1
                self._sent[id(value)] = mark, count
                if len(self._sent) > MAX_REMEMBERED:
                    del self._sent[next(iter(self._sent))]
            if count == SENT_AGAIN:
                self._once(
                    "sent",
                    f"the same {type(value).__name__} has been an argument {count} times, and is written to the store "
                    f"each time ({size / 1e6:,.0f} MB with what came along): ref = zray.put(value) once, and pass ref",
                )

    def _once(self, key: str, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._tell(text)


class _Wait:
    __slots__ = ("_advice", "_alone", "_in_loop", "_since")

    def __init__(self, advice: Advice) -> None:
        self._advice = advice

    def __enter__(self) -> None:
        self._alone = self._advice.one_task()
        self._in_loop = _runs_loop()
        self._since = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._advice.waited(self._alone, self._in_loop, time.monotonic() - self._since)


def _runs_loop() -> bool:
    """Whether this thread runs an event loop of the program's. A notebook's runs the cells, and nobody minds."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None and "ipykernel" not in sys.modules
