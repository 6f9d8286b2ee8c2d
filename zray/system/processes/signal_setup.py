"""Signals of a program that starts: what it undoes of its parent's, and which ones ask it to end."""

from __future__ import annotations

import signal
from collections.abc import Collection


def accept_signals(spared: Collection[signal.Signals] = ()) -> None:
    """Undoes what a program has inherited of its parent's signals.

    These are the mask of the thread that started it, which may block all signals (threads of uWSGI), and ignored
    signals. ``spared`` stay ignored, if they are. Call it in the main thread of a program that starts. Python itself
    ignores SIGPIPE and SIGXFSZ.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ, *spared}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def accept_signals_of_a_command() -> None:
    """Like ``accept_signals``, for a program that a user may start with nohup, which ignores SIGHUP."""
    accept_signals(spared=(signal.SIGHUP,))


def end_signals() -> list[signal.Signals]:
    """Returns the signals that ask a command to end: SIGTERM, and SIGHUP when its terminal is gone, unless nohup has
    that ignored. Ctrl-C, which is SIGINT, is not among them."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if is_ignored else [signal.SIGTERM, signal.SIGHUP]


def end_orderly() -> None:
    """Makes ``end_signals`` raise SystemExit(0), so that ``finally`` blocks run; for a program that starts.

    Only the first one does so: batch systems send SIGTERM several times, and a second one must not interrupt the
    cleanup.
    """
    numbers = end_signals()

    def end(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(0)

    for each in numbers:
        signal.signal(each, end)
