"""Threads of zray's own, which leave signals to the main thread.

The kernel hands a signal of a process to any thread that does not block it. Python runs handlers in the main thread
only, and does not wake a main thread that sleeps or waits if another thread has taken the signal: the handler runs when
the main thread goes on by itself. So a program with one thread, whose Ctrl-C, SIGTERM or ``signal.alarm`` always
worked, would miss some of them once zray has threads there. Such threads therefore block all signals, except those that
a thread causes itself.

Programs that are started from such a thread would inherit this. So it must not run the user's code, except in
``signals_taken``.
"""

from __future__ import annotations

import contextlib
import signal
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from typing import Any

_c_signal: Any = signal.signal.__globals__["_signal"]  # typeshed does not know the module
_set_mask = _c_signal.pthread_sigmask  # with numbers: making enums of them raises a hundred exceptions
_OF_THREAD = {
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGPIPE, signal.SIGSEGV, signal.SIGSYS,
    signal.SIGTRAP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGXFSZ,
}  # fmt: skip
_OF_PROCESS = frozenset(map(int, _c_signal.valid_signals())) - frozenset(map(int, _OF_THREAD))


@contextlib.contextmanager
def _masked(how: int) -> Iterator[None]:
    before = _set_mask(how, _OF_PROCESS)
    try:
        yield
    finally:
        _set_mask(signal.SIG_SETMASK, before)


def signals_left_to_main() -> contextlib.AbstractContextManager[None]:
    """Threads that are started in this context block signals. They do so from their first moment on."""
    return _masked(signal.SIG_BLOCK)


def signals_taken() -> contextlib.AbstractContextManager[None]:
    """For code of the user in such a thread: programs that it starts block no signals."""
    return _masked(signal.SIG_UNBLOCK)


def start_thread(run: Callable[..., object], *args: Any) -> int:
    """Starts a thread that blocks signals, and returns its identifier.

    ``threading.Thread`` would take 140 KB in every worker, and needs locks that a destructor's caller may hold.
    Raises RuntimeError if there can be no more threads, or if the interpreter is ending.
    """
    with signals_left_to_main():
        return start_new_thread(run, args)
