"""Writing to ``sys.stdout`` and ``sys.stderr`` in any state, without waiting for their readers."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import select
import sys
from typing import Any

BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL


def current_stream(name: str) -> Any:
    """Returns the present ``sys.<name>``; None if there is none."""
    return getattr(sys, name, None)


def descriptor_of(stream: Any) -> int:
    """Returns the descriptor that a stream writes to; -1 if it has none or is not a standard text stream."""
    if isinstance(stream, io.TextIOWrapper):
        with contextlib.suppress(ValueError, OSError):  # it is closed, or has no descriptor
            return stream.fileno()
    return -1


def takes_more(fd: int) -> bool:
    """Whether ``PIPE_BUF`` bytes can be written without waiting; True without a descriptor (-1)."""
    return fd < 0 or bool(_events(fd) & select.POLLOUT)


def has_no_reader(fd: int) -> bool:
    """Whether a descriptor has no reader: the reader has closed it, or it is not open."""
    return fd >= 0 and bool(_events(fd) & BROKEN)


def _events(fd: int) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return sum(events for _, events in poll.poll(0))


def is_terminal(stream: Any) -> bool:
    """Whether the stream is a terminal."""
    try:
        return bool(stream.isatty())
    except Exception:  # of a stream of the user's class, or a closed one
        return False


def is_same_terminal(one: Any, other: Any) -> bool:
    """Whether two streams write to the same terminal."""
    fds = [descriptor_of(stream) for stream in (one, other)]
    try:
        return all(map(os.isatty, fds)) and len({os.fstat(fd).st_rdev for fd in fds}) == 1
    except OSError:
        return False


def is_closed(stream: Any) -> bool:
    """Whether a stream reports that it is closed."""
    return getattr(stream, "closed", False) is True


def write_text(stream: Any, text: str) -> None:
    """Writes in one piece and flushes.

    Characters that the stream cannot encode are written as ``\\xff`` or ``\\u4e2d``. Raises what the stream raises.
    """
    try:
        stream.write(text)
    except UnicodeEncodeError as error:
        encoding = getattr(stream, "encoding", None) or error.encoding
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    flush = getattr(stream, "flush", None)
    if flush is not None:
        flush()


def show_fatal_errors() -> None:
    """Makes a fatal signal, such as SIGSEGV, print its thread's Python frames.

    Does nothing if faulthandler is enabled already.
    """
    stream = sys.__stderr__
    if stream is not None and descriptor_of(stream) >= 0 and not faulthandler.is_enabled():
        faulthandler.enable(file=stream, all_threads=False)


def flush_streams() -> None:
    """Flushes ``sys.stdout`` and ``sys.stderr``; for a process that is about to end. Never raises."""
    for name in ("stdout", "stderr"):
        with contextlib.suppress(BaseException):  # of a stream of the user's class: the end must not depend on it
            current_stream(name).flush()


def say(text: str) -> None:
    """Writes a line to descriptor 2 for the operator. Drops what cannot be written at once.

    For loops that other processes depend on: neither an unread pipe nor a stream of the user's may stop them.
    """
    data = text.encode("utf-8", "backslashreplace") + b"\n"
    with contextlib.suppress(OSError):  # the reader has just closed it
        while data and not has_no_reader(2) and takes_more(2):
            data = data[os.write(2, data[: select.PIPE_BUF]) :]


def write_nowhere() -> None:
    """Has what this process writes to stdout and stderr from now on discarded, by descriptor."""
    flush_streams()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        os.dup2(nowhere, fd)
    os.close(nowhere)
