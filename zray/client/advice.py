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
SHORT_BYTES = 65_536
_SMALL = frozenset((int, float, bool, complex, type(None)))


class Advice:
    """What a driver has done. ``tell`` shows a line; ``only_task``: the only task that is under way, empty if there are
    others, or calls of actors."""

    def __init__(self, tell: Callable[[str], None], only_task: Callable[[], bytes]) -> None:
        self._tell = tell
        self.only_task = only_task
        self._told: set[str] = set()
        self._waits = 0
        self._waited_s = 0.0
        self._sent: dict[int, tuple[weakref.ref[Any], int]] = {}  # by ``id``: a value, and how often
        self._lock = threading.RLock()  # a finalizer may send something in the midst of it

    def waiting(self) -> _Wait:
        """A context in which a thread waits for objects."""
        return _Wait(self)

    def waited(self, alone: bool, done: bool, in_loop: bool, seconds: float) -> None:
        """A wait is over. ``alone``: for the only thing that was under way, which is ``done``; ``in_loop``: its thread
        runs a loop."""
        if in_loop and seconds >= BLOCKED_LOOP_S:
            self._once(
                "loop",
                f"zray.get() or wait() has blocked the running event loop for {seconds:.1f} s: use 'await ref' instead",
            )
        if not alone:
            self._waits, self._waited_s = 0, 0.0
            return
        self._waited_s += seconds
        if not done:  # it is looked at again and again
            return
        self._waits += 1
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
        for value in _large(values):
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
    __slots__ = ("_advice", "_in_loop", "_since", "_task")

    def __init__(self, advice: Advice) -> None:
        self._advice = advice

    def __enter__(self) -> None:
        self._task = self._advice.only_task()
        self._in_loop = _runs_loop()
        self._since = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        done = self._task != self._advice.only_task()
        self._advice.waited(self._task != b"", done, self._in_loop, time.monotonic() - self._since)


def _large(values: Iterable[Any]) -> list[Any]:
    """Which of a call's arguments may be what is large: those that say so, or the only one that is not small."""
    others = [value for value in values if type(value) not in _SMALL and not _is_short(value)]
    return others if len(others) == 1 else [value for value in others if _n_bytes(value) >= SENT_BYTES]


def _is_short(value: Any) -> bool:
    return type(value) in (str, bytes) and len(value) < SHORT_BYTES


def _n_bytes(value: Any) -> int:
    try:
        n_bytes = value.nbytes  # arrays, tensors, series
    except Exception:  # of the value's own code
        return 0
    return n_bytes if type(n_bytes) is int else 0


def _runs_loop() -> bool:
    """Whether this thread runs an event loop of the program's. A notebook's runs the cells, and nobody minds."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None and "ipykernel" not in sys.modules
