"""Standard streams of the zygote and of its workers."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys

_IOLBF = 1
_libc = ctypes.CDLL(None)


def occupy_standard_fds() -> None:
    """Makes sure that descriptors 0, 1 and 2 are open. Else a socket or pipe could get one, and be printed to."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def make_standard_streams() -> None:
    """Makes the standard streams for all workers, once: a stream knows only the number of its descriptor.

    They are new since the launcher's streams may have been closed. They are line buffered, like a terminal's, so that
    what a task prints is visible at once. C's stdout is set to the same.
    """
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _line_writer(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _line_writer(2)  # type: ignore[misc]
    _libc.setvbuf(ctypes.c_void_p.in_dll(_libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))


def adopt_standard_fds(fds: list[int]) -> list[int]:
    """Puts stdin, stdout and stderr in place. Returns the descriptors that are left."""
    stdin = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((stdin, 0), (fds[0], 1), (fds[1], 2)):
        os.dup2(source, target)
        os.close(source)
    return fds[2:]


def flush_output() -> None:
    """Writes what Python and C have buffered."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # the launcher's may be closed
            with contextlib.suppress(OSError, ValueError):  # the reader is gone
                stream.flush()
    _libc.fflush(None)


def _line_writer(fd: int) -> io.TextIOWrapper:
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
