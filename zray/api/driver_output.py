"""What the driver's terminal shows of the cluster: workers' output, and warnings.

A thread of its own shows them, from the first line on, so that a terminal that is not read holds up nothing else, and a
stream that raises makes nobody else fail.  ``show`` and ``warn`` only put into a ``SimpleQueue``, which unlike a lock
may be used by a destructor or a signal handler that has interrupted another use of it.  The thread moves lines into a
backlog for each stream, and writes what the stream's descriptor takes without blocking, at most ``PIPE_BUF`` at a time:
so it never holds the lock of ``sys.stdout`` while it waits, and can be ended at any time.

Memory: what the broker may send before it is taken (``zray.protocol.log_window``), and two backlogs
(``zray.logs.display.Backlog``).  Lines beyond are left out and counted, and the count is shown when there is room.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import logging
import math
import os
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from zray.client.core.effects import ShowLogs, Unhandled, Warn
from zray.logs.display import Backlog, LogDeduplicator, MissingLines, ShownLine, escape_controls
from zray.protocol.log_window import LogIntake
from zray.system.streams import (
    current_stream,
    descriptor_of,
    has_no_reader,
    is_closed,
    is_terminal,
    takes_more,
    write_text,
)

STUCK_S = 1.0
"""``close`` gives up when nothing was shown for so long."""
CLOSE_S = 10.0
"""``close`` gives up after so long, though lines are still being shown."""
MAX_BATCH_LINES = 2000
"""Lines after which no further message is looked at before these are written."""
MAX_WARNINGS = 100
"""Warnings that wait at most; beyond, the oldest are dropped."""
FORK_WAIT_S = 1.0
"""How long a fork waits for the end of a write, in seconds."""
STREAMS = ("stdout", "stderr")

logger = logging.getLogger("zray")


class DriverOutput:
    """Shows lines and warnings; nothing is shown any more after ``close``.

    ``show_logs``: whether lines of workers are shown; ``taken`` is told how many bytes of lines have been taken, which
    makes room for as many more; ``dedup_logs``: lines that are equal are shown once, with their number.
    """

    def __init__(self, show_logs: bool, taken: Callable[[int], None], dedup_logs: bool = True) -> None:
        self._show_logs = show_logs
        self._taken = taken
        self._queue: queue.SimpleQueue[ShowLogs] = queue.SimpleQueue()
        self._warnings: deque[tuple[int, str]] = deque(maxlen=MAX_WARNINGS)
        self._wake_fd = -1  # open while there is a thread
        self._starting = threading.Lock()  # held from the start of the thread on; never waited for
        self._ended = threading.Lock()  # held while the thread runs
        self._ident = 0
        self._closing = False
        self._abandoned = False
        self._intake = LogIntake()
        self._lines = LogDeduplicator(5.0 if dedup_logs else 0.0)
        self._missing = MissingLines()
        self._backlogs = {stream: Backlog() for stream in STREAMS}
        self._written = 0  # pieces, as a sign of progress
        self._complained: set[str] = set()

    # ------------------------------------------------------------------ called by whichever thread turns

    def show(self, effect: ShowLogs) -> None:
        """Lines of workers, as ``(name pid=123) text``."""
        if self._show_logs and not self._closing:
            self._queue.put(effect)
            self._wake()

    def warn(self, effect: Warn) -> None:
        """A warning of the broker."""
        self._say(logging.WARNING, effect.text)

    def error(self, effect: Unhandled) -> None:
        """An error that nobody has fetched."""
        self._say(logging.ERROR, effect.text)

    def _say(self, level: int, text: str) -> None:
        if not self._closing:
            self._warnings.append((level, text))
            self._wake()

    def close(self) -> None:
        """Shows what is there, as long as the streams take it, and ends the thread. May be called twice."""
        if self._closing:
            return
        self._closing = True
        if self._wake_fd < 0:
            if self._warnings or not self._queue.empty():  # no thread could be started: the interpreter is ending
                self._serve(deadline=time.monotonic() + STUCK_S)
            return
        self._wake()
        if threading.get_ident() == self._ident:  # called by what a stream does when it is written to
            return
        if self._has_ended():
            os.close(self._wake_fd)

    def _has_ended(self) -> bool:
        """Waits for the end of the thread, as long as it gets on; then tells it to leave the rest."""
        deadline = time.monotonic() + CLOSE_S
        written = -1
        while not self._ended.acquire(timeout=STUCK_S):
            if self._abandoned:
                return False  # the user's own stream blocks: the thread is left behind
            self._abandoned = self._written == written or time.monotonic() >= deadline
            written = self._written
            self._wake()
        return True

    def _wake(self) -> None:
        """Has the thread look at the queue; starts it if there is none yet."""
        if self._wake_fd >= 0 or self._start():
            os.eventfd_write(self._wake_fd, 1)

    def _start(self) -> bool:
        if not self._starting.acquire(blocking=False):
            return self._wake_fd >= 0  # another thread is about to
        try:
            _let_forks_wait()
            wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._ended.acquire()
            # Not threading.Thread, whose own locks may be held where a destructor calls this.
            self._ident = _thread.start_new_thread(self._run, (wake_fd,))
        except (RuntimeError, OSError):  # no threads or descriptors left, or the interpreter is ending
            self._starting.release()
            return False
        self._wake_fd = wake_fd
        return True

    # ------------------------------------------------------------------ the thread

    def _run(self, wake_fd: int) -> None:
        try:
            self._serve(wake_fd)
        finally:
            self._ended.release()

    def _serve(self, wake_fd: int = -1, deadline: float = math.inf) -> None:
        """Shows what comes, until ``close`` was called and all is shown, or there is no more time."""
        while not self._abandoned and time.monotonic() < deadline:
            closing = self._closing
            self._take(closing)
            pending = self._write_what_can_be()
            if not self._queue.empty():
                continue
            if closing and not pending:
                return
            self._wait(pending, wake_fd, min(deadline, self._next_deadline()) - time.monotonic())

    def _next_deadline(self) -> float:
        due = self._lines.next_deadline()
        return min(math.inf if due is None else due, self._missing.next_deadline())

    def _take(self, closing: bool) -> None:
        """Moves what has come into the backlogs."""
        now = time.monotonic()
        moved = 0
        while moved < MAX_BATCH_LINES and not self._queue.empty():
            effect = self._queue.get()
            for name, pid, stream, lines in effect.entries:
                self._add(self._lines.feed(now, name, pid, stream, lines))
                self._intake.take(lines)
                moved += len(lines)
            self._missing.add(effect.left_out)
        last = closing and self._queue.empty()
        self._add(self._lines.flush(math.inf if last else now))
        notice = self._missing.notice(math.inf if last else now)
        if notice:
            self._add([ShownLine("stderr", notice)])
        taken = self._intake.to_tell()
        if taken and not closing:
            self._taken(taken)

    def _add(self, lines: list[ShownLine]) -> None:
        for name, text in lines:
            shown = escape_controls(text) if is_terminal(current_stream(name)) else text
            if not self._backlogs[name].add(shown):
                self._missing.add(1)

    def _write_what_can_be(self) -> dict[str, int]:
        """Writes until nothing is left or no stream takes more; the descriptors of those that have to wait."""
        pending: dict[str, int] = {}
        for name in STREAMS:
            while not self._abandoned and (self._backlogs[name] or (self._warnings and name == "stderr")):
                stream = current_stream(name)
                fd = descriptor_of(stream)
                if stream is None or has_no_reader(fd):
                    self._backlogs[name].clear()
                    if name == "stderr":
                        self._warnings.clear()
                elif takes_more(fd):
                    self._write_some(name, stream, fd)
                    self._written += 1
                else:
                    pending[name] = fd
                    break
        return pending

    def _write_some(self, name: str, stream: Any, fd: int) -> None:
        if self._warnings and name == "stderr":
            self._log(*self._warnings.popleft())
            return
        # To a stream of the user's own kind one line at a time, as print() would.
        text = self._backlogs[name].take(select.PIPE_BUF if fd >= 0 else 1)
        try:
            with _writing:
                write_text(stream, text)
        except BaseException as error:  # whatever a stream of the user's raises: the next lines may find another one
            if not is_closed(stream) and name not in self._complained:
                self._complained.add(name)
                self._log(
                    logging.WARNING,
                    f"a line that a worker printed could not be shown: sys.{name} raised {error!r:.200}",
                )

    @staticmethod
    def _log(level: int, text: str) -> None:
        with contextlib.suppress(BaseException):  # of a handler of the user's: there is nobody left to tell
            if is_terminal(current_stream("stderr")):
                text = "\n".join(map(escape_controls, text.split("\n")))
            logger.log(level, text)

    @staticmethod
    def _wait(pending: dict[str, int], wake_fd: int, timeout_s: float) -> None:
        """Until something has come, one of the streams takes more, or so much time has passed."""
        poll = select.poll()
        for fd in pending.values():
            poll.register(fd, select.POLLOUT)
        if wake_fd >= 0:
            poll.register(wake_fd, select.POLLIN)
        ready = poll.poll(None if timeout_s == math.inf else max(0.0, timeout_s * 1000))
        if any(fd == wake_fd for fd, _ in ready):
            os.eventfd_read(wake_fd)


# ------------------------------------------------------------------------------------------------ forks


_writing = threading.Lock()
"""Held while a stream is written to: a child forked meanwhile would find the stream's own lock taken for ever."""
_forker = 0  # the thread that holds it for the time of a fork


@functools.cache
def _let_forks_wait() -> None:
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _before_fork() -> None:
    global _forker
    if _writing.acquire(timeout=FORK_WAIT_S):  # in vain if the user's own stream blocks, or itself forks
        _forker = threading.get_ident()


def _after_fork() -> None:
    global _forker
    if _forker == threading.get_ident():
        _forker = 0
        _writing.release()
