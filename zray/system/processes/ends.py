"""How processes end: waiting for an end, and wait statuses in words."""

from __future__ import annotations

import math
import os
import select
import signal

_CAUSES = {
    signal.SIGSEGV: "segmentation fault",
    signal.SIGKILL: "out of memory, or killed by hand",
    signal.SIGABRT: "aborted",
    signal.SIGBUS: "bus error: memory that could not be provided",
    signal.SIGTERM: "terminated",
    signal.SIGXCPU: "CPU time limit exceeded",
}


def await_end(pid: int, timeout_s: float) -> bool:
    """Waits until a process has ended; it is then to be reaped if it is a child. Returns False after ``timeout_s``.

    Raises OSError if there is no descriptor for it, ProcessLookupError if there is no such process.
    """
    with os.fdopen(os.pidfd_open(pid), "rb", 0) as pidfd:
        poll = select.poll()  # ``select`` takes no descriptor beyond 1,023
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(math.ceil(timeout_s * 1000)))


def describe_exit(status: int) -> str:
    """Describes a wait status: ``killed by SIGSEGV (segmentation fault)`` or ``exit code 3``."""
    if not os.WIFSIGNALED(status):
        return f"exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    try:
        sig = signal.Signals(number)
    except ValueError:  # a real-time signal: it has no name
        return f"killed by signal {number}"
    cause = _CAUSES.get(sig) or (signal.strsignal(number) or "").lower()
    return f"killed by {sig.name} ({cause})"
