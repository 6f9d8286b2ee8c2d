"""Makes SIGTERM end a driver as Python itself ends: ``finally`` and ``atexit`` run. The exit code is 15, as in Ray.
By default the signal would end the process at once. A program with a handler of its own keeps it. Child processes that
the program forks get the default back, because code that terminates them (such as ``multiprocessing.Pool``) relies on
it. If there is a handler, Python discards a signal that arrives at a child before its interpreter is ready. So the
signal is blocked during a fork.
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
"""Signals within this many seconds count as one request to end: batch systems send the signal several times."""


class _EndInOrder:
    """A signal handler that raises SystemExit.

    A further signal within ``SAME_END_S`` does not interrupt the end of the program. A later one raises again, for
    programs that have caught the first SystemExit.
    """

    def __init__(self) -> None:
        self._raised_at = -math.inf

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._raised_at > SAME_END_S:
            self._raised_at = time.monotonic()
            raise SystemExit(number)


def end_in_order() -> None:
    """Sets the handler if the signal has its default effect and this is the main thread: only that can set handlers.

    The handler stays after ``shutdown``, because the program may be about to end.
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
