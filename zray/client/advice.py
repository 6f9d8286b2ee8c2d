"""Shows one line, once, for each pattern that makes a driver slow without a visible sign.

- A ``get`` directly after each ``remote``: no two tasks run at the same time.
- The same large value as an argument many times: it is written to the store each time.
- A ``get`` in an event loop: everything else in the loop stops meanwhile.
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
"""The advice is shown after ``ONE_BY_ONE`` waits in a row for the only task under way, of ``ONE_BY_ONE_S`` in all."""
BLOCKED_LOOP_S = 1.0
SENT_AGAIN = 10
SENT_BYTES = 1 << 20
"""The advice is shown if a value is sent ``SENT_AGAIN`` times, each time with at least this many bytes of arguments."""
MAX_REMEMBERED = 16
SHORT_BYTES = 65_536
_SMALL = frozenset((int, float, bool, complex, type(None)))


class Advice:
    """Watches what a driver does. ``tell`` shows a line. ``only_task`` returns the only task under way; it returns an
    empty identifier if there are others, or calls of actors."""

    def __init__(self, tell: Callable[[str], None], only_task: Callable[[], bytes]) -> None:
        self._tell = tell
        self.only_task = only_task
        self._told: set[str] = set()
        self._waits = 0
        self._waited_s = 0.0
        self._sent: dict[int, tuple[weakref.ref[Any], int]] = {}  # by ``id``: a value, and how often it was sent
        self._lock = threading.RLock()  # reentrant: a finalizer may run while it is held, and send something

    def waiting(self) -> _Wait:
        """A context in which a thread waits for objects."""
        return _Wait(self)

    def waited(self, alone: bool, done: bool, in_loop: bool, seconds: float) -> None:
        """Counts a wait that is over. ``alone``: it was for the only task under way; ``done``: that task has ended;
        ``in_loop``: the thread runs an event loop."""
        if in_loop and seconds >= BLOCKED_LOOP_S:
            self._once(
                "loop",
                f"zray.get() or wait() has blocked the running event loop for {seconds:.1f} s: use 'await ref' instead",
            )
        if not alone:
            self._waits, self._waited_s = 0, 0.0
            return
        self._waited_s += seconds
        if not done:  # the program polls: it will wait for the same task again
            return
        self._waits += 1
        if self._waits >= ONE_BY_ONE and self._waited_s >= ONE_BY_ONE_S:
            self._once(
                "one by one",
                f"the last {self._waits} tasks were each waited for before the next one was submitted, so no two ran "
                "at the same time: call remote() for all of them first, then get() the list of references",
            )

    def sent(self, values: Iterable[Any], size: int) -> None:
        """Counts arguments, of ``size`` bytes together, that were written to the store."""
        if size < SENT_BYTES:
            return
        for value in _large(values):
            try:
                mark = weakref.ref(value)
            except TypeError:  # no weak references: a new value at the same address would look like the same one
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
                    f"each time ({size / 1e6:,.0f} MB with the other arguments): call ref = zray.put(value) once, and "
                    "pass ref",
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
    """Returns the arguments of a call that may be large: those with a large ``nbytes``, or the only one not small."""
    others = [value for value in values if type(value) not in _SMALL and not _is_short(value)]
    return others if len(others) == 1 else [value for value in others if _n_bytes(value) >= SENT_BYTES]


def _is_short(value: Any) -> bool:
    return type(value) in (str, bytes) and len(value) < SHORT_BYTES


def _n_bytes(value: Any) -> int:
    try:
        n_bytes = value.nbytes  # arrays, tensors, series
    except Exception:  # raised by the value's own code
        return 0
    return n_bytes if type(n_bytes) is int else 0


def _runs_loop() -> bool:
    """Whether this thread runs an event loop of the program. A notebook's loop does not count: it runs the cells."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None and "ipykernel" not in sys.modules
