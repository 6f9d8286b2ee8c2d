"""Writing to ``sys.stdout`` and ``sys.stderr``, whatever they are, without waiting for whoever reads them."""

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
    """What ``sys.<name>`` is at the moment; None if there is none."""
    return getattr(sys, name, None)


def descriptor_of(stream: Any) -> int:
    """The descriptor that a stream writes to; -1 if it does not, or is of the user's own kind."""
    if isinstance(stream, io.TextIOWrapper):
        with contextlib.suppress(ValueError, OSError):  # it is closed, or has none
            return stream.fileno()
    return -1


def takes_more(fd: int) -> bool:
    """Whether ``PIPE_BUF`` bytes can be written without waiting; true of what is no descriptor (-1)."""
    return fd < 0 or bool(_events(fd) & select.POLLOUT)


def has_no_reader(fd: int) -> bool:
    """Whether a descriptor leads nowhere: its reader has closed it, or it is not open."""
    return fd >= 0 and bool(_events(fd) & BROKEN)


def _events(fd: int) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return sum(events for _, events in poll.poll(0))


def is_terminal(stream: Any) -> bool:
    """Whether somebody looks at it directly."""
    try:
        return bool(stream.isatty())
    except Exception:  # of a stream of the user's own kind, or a closed one
        return False


def is_closed(stream: Any) -> bool:
    """Whether a stream says that it is closed."""
    return getattr(stream, "closed", False) is True


def write_text(stream: Any, text: str) -> None:
    """Writes in one piece and flushes. What the stream's encoding does not have is written as ``\\xff`` or ``\\u4e2d``.

    Raises what the stream raises.
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
    """Has a fatal signal, such as SIGSEGV, print where Python code was in its thread, unless that was set already."""
    stream = sys.__stderr__
    if stream is not None and descriptor_of(stream) >= 0 and not faulthandler.is_enabled():
        faulthandler.enable(file=stream, all_threads=False)


def flush_streams() -> None:
    """Flushes ``sys.stdout`` and ``sys.stderr``, whatever has become of them: for a process that is about to end."""
    for name in ("stdout", "stderr"):
        with contextlib.suppress(BaseException):  # of a stream of the user's own kind: the end must not depend on it
            current_stream(name).flush()


def say(text: str) -> None:
    """A line on descriptor 2 for whoever looks after this process. What cannot be written at once is dropped.

    For loops that others depend on: neither a pipe that is not read nor a stream of the user's may stop them.
    """
    data = text.encode("utf-8", "backslashreplace") + b"\n"
    with contextlib.suppress(OSError):  # the reader has gone in this very moment
        while data and not has_no_reader(2) and takes_more(2):
            data = data[os.write(2, data[: select.PIPE_BUF]) :]
