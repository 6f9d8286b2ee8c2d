"""The limits of this process: errors that name a limit, and the number of its descriptors."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource

_LIMITS = {
    errno.EFBIG: (resource.RLIMIT_FSIZE, "write files of at most {:,} bytes", "-f"),
    errno.EMFILE: (resource.RLIMIT_NOFILE, "have {:,} files open", "-n"),
    errno.EAGAIN: (resource.RLIMIT_NPROC, "have {:,} processes and threads, with all others of its user", "-u"),
}


def describe_error(error: OSError) -> str:
    """Returns the system's error text. If a limit of this process is reached, names it and how to raise it."""
    text = error.strerror or str(error)
    if error.errno not in _LIMITS:
        return text
    limit, may, option = _LIMITS[error.errno]
    soft, _ = resource.getrlimit(limit)
    if soft == resource.RLIM_INFINITY:
        return text
    return f"{text}: this process may {may.format(soft)}; raise that limit (ulimit {option})"


def descriptors_left() -> int:
    """Returns about how many more descriptors this process may have; exact when it is 0."""
    try:
        lowest_free = os.eventfd(0)
    except OSError:
        return 0
    os.close(lowest_free)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft - lowest_free


def raise_descriptor_limit() -> None:
    """Raises the limit on descriptors to the system's: a broker may have more peers than the usual 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def past_standard(fd: int) -> int:
    """Moves a descriptor past 0, 1 and 2, which may be closed here and have a meaning in a program that gets it."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)
