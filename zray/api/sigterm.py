"""SIGTERM ends a driver as Python's own end does: ``finally`` and ``atexit`` are run. As in Ray, exit code 15.

By default the signal would end the process at once. A program that has a handler of its own keeps it. What the program
forks gets the default back, since whoever terminates such a child (``multiprocessing.Pool`` does) relies on it. Python
throws away what has arrived for a child before its interpreter is ready, if there is a handler: so the signal is held
back while a process forks.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import threading
import time
from types import FrameType

SAME_END_S = 5.0
"""Batch systems send the signal several times: those that come within so many seconds ask for the same end."""


class _EndInOrder:
    """A signal handler that raises SystemExit. A signal that comes while that ends the program does not interrupt it; a
    later one raises again, for programs that have caught the first."""

    def __init__(self) -> None:
        self._raised_at = -math.inf

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._raised_at > SAME_END_S:
            self._raised_at = time.monotonic()
            raise SystemExit(number)


def end_in_order() -> None:
    """Sets the handler, if the signal has its default effect and this is the main thread, where alone that can be done.

    It stays after ``shutdown``, since the program may be about to end.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _EndInOrder())
        _default_in_children()


@functools.cache
def _default_in_children() -> None:
    held = threading.local()

    def hold() -> None:
        held.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, held.before)

    def release_in_child() -> None:
        if isinstance(signal.getsignal(signal.SIGTERM), _EndInOrder):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=release_in_child)
