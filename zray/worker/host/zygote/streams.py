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
    """Sees to it that 0, 1 and 2 are taken: a socket or pipe that got one of them would be printed to."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def make_standard_streams() -> None:
    """Streams for the workers, made once: a stream knows the number of its descriptor, not what is behind it.

    Made anew since the launcher's may have been closed, and by lines, as a terminal's, since what a task prints is
    to be seen when it prints it; the same for C's.
    """
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _line_writer(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _line_writer(2)  # type: ignore[misc]
    _libc.setvbuf(ctypes.c_void_p.in_dll(_libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))


def adopt_standard_fds(fds: list[int]) -> list[int]:
    """Puts stdin, stdout and stderr in place; returns the descriptors that are left."""
    stdin = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((stdin, 0), (fds[0], 1), (fds[1], 2)):
        os.dup2(source, target)
        os.close(source)
    return fds[2:]


def flush_output() -> None:
    """Writes out what Python and C have buffered."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # the launcher's may be closed
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                stream.flush()
    _libc.fflush(None)


def _line_writer(fd: int) -> io.TextIOWrapper:
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
