"""What the kernel is told of this process: whom it outlives, adopts and lets look into it, and when it goes first."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

PR_SET_NAME = 15
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def set_parent_death_signal(sig: signal.Signals, parent_pid: int) -> None:
    """Has the kernel send ``sig`` to this process when its parent ends.

    More exactly, when the *thread* that forked it ends: fork from a thread that lasts. If the parent is no longer
    ``parent_pid``, it has already ended, and this sends the signal at once.
    """
    prctl(_PR_SET_PDEATHSIG, int(sig))
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), sig)


def set_child_subreaper() -> None:
    """Makes this process, instead of init, the parent of descendants whose own parent has ended."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_dumpable(dumpable: bool) -> None:
    """Sets whether this user's other processes may look into this one (``/proc``, debugger).

    This also sets whether it dumps core.
    """
    prctl(_PR_SET_DUMPABLE, int(dumpable))


def prctl(option: int, value: int | bytes) -> None:
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value!r}): {os.strerror(number)}")


def prefer_in_oom() -> None:
    """Makes the kernel choose this process and its children first when memory runs out.

    Else it may choose a program that holds more: the driver, the broker, or another user's.
    """
    with contextlib.suppress(OSError):  # a sandbox forbids it
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)  # ``open`` touches more memory
        try:
            os.write(fd, b"1000")
        finally:
            os.close(fd)
