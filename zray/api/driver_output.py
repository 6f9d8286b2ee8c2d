"""Shows output of the cluster on the driver's terminal: workers' output, and warnings.

A thread of its own shows them. It starts with the first line. So a terminal that nothing reads blocks no other thread,
and a stream that raises makes no other code fail. ``show`` and ``warn`` only put into a ``SimpleQueue``. A destructor
or a signal handler may use a ``SimpleQueue`` even if it has interrupted another use of it; a lock would not allow that.

The thread moves lines into one backlog for each stream. It writes as much as the stream's descriptor takes without
blocking, at most ``PIPE_BUF`` at a time. So it never holds the lock of ``sys.stdout`` while it waits, and it can be
ended at any time.

Memory is bounded by the bytes that the broker may send before they are taken (``zray.protocol.log_window``), and by two
backlogs (``zray.logs.display.Backlog``). Further lines are left out and counted. The count is shown when there is room.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
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
from zray.logs import bar_lines
from zray.logs.display import Backlog, LogDeduplicator, MissingLines, ShownLine, escape_controls
from zray.protocol.log_window import LogIntake
from zray.protocol.records import PrintedLines
from zray.system.streams import (
    current_stream,
    descriptor_of,
    has_no_reader,
    is_closed,
    is_terminal,
    takes_more,
    write_text,
)
from zray.system.threads import start_thread

STUCK_S = 1.0
"""``close`` gives up if nothing was shown for this long, in seconds."""
CLOSE_S = 10.0
"""``close`` gives up after this long, in seconds, even if lines are still being shown."""
MAX_BATCH_LINES = 2000
"""The number of lines after which the thread writes before it takes the next message."""
MAX_WARNINGS = 100
"""The number of warnings that may wait. If there are more, the oldest are dropped."""
FORK_WAIT_S = 1.0
"""How long a fork waits for a write to end, in seconds."""
STREAMS = ("stdout", "stderr")

logger = logging.getLogger("zray")


class DriverOutput:
    """Shows lines and warnings until ``close``.

    ``show_logs``: whether lines of workers are shown. ``taken``: called with the number of bytes of lines that were
    taken; the broker may then send as many more. ``dedup_logs``: equal lines are shown once, with their number.
    """

    def __init__(self, show_logs: bool, taken: Callable[[int], None], dedup_logs: bool = True) -> None:
        self.subscribers: list[Callable[[PrintedLines], None]] = []
        """Called with the lines of workers before they are shown, in the middle of a turn: they may only put into a
        ``SimpleQueue``."""
        self._show_logs = show_logs
        self._taken = taken
        self._queue: queue.SimpleQueue[ShowLogs] = queue.SimpleQueue()
        self._warnings: deque[tuple[int, str]] = deque(maxlen=MAX_WARNINGS)
        self._wake_fd = -1  # open while there is a thread
        self._starting = threading.Lock()  # held from the start of the thread on; no code waits for it
        self._ended = threading.Lock()  # held while the thread runs
        self._ident = 0
        self._closing = False
        self._abandoned = False
        self._intake = LogIntake()
        self._lines = LogDeduplicator(5.0 if dedup_logs else 0.0)
        self._missing = MissingLines()
        self._backlogs = {stream: Backlog() for stream in STREAMS}
        self._written = 0  # number of writes: shows whether there is progress
        self._complained: set[str] = set()

    # ------------------------------------------------------------------ called by the thread that takes a turn

    def show(self, effect: ShowLogs) -> None:
        """Shows lines of workers, as ``(name pid=123) text``."""
        if self._show_logs and not self._closing:
            for subscriber in tuple(self.subscribers):
                for entry in effect.entries:
                    subscriber(entry)
            self._queue.put(effect)
            self._wake()

    def warn(self, effect: Warn) -> None:
        """Logs a warning of the broker."""
        self._say(logging.WARNING, effect.text)

    def error(self, effect: Unhandled) -> None:
        """Logs the error of a task whose result no process has fetched."""
        self._say(logging.ERROR, effect.text)

    def _say(self, level: int, text: str) -> None:
        if not self._closing:
            self._warnings.append((level, text))
            self._wake()

    def close(self) -> None:
        """Shows the lines that are left, as long as the streams take them, and ends the thread. May be called twice."""
        if self._closing:
            return
        self._closing = True
        if self._wake_fd < 0:
            if self._warnings or not self._queue.empty():  # no thread could be started: the interpreter is ending
                self._serve(deadline=time.monotonic() + STUCK_S)
            return
        self._wake()
        if threading.get_ident() == self._ident:  # a stream's own write() called close()
            return
        if self._has_ended():
            os.close(self._wake_fd)

    def _has_ended(self) -> bool:
        """Waits for the end of the thread while it makes progress, then tells it to leave out the rest.

        Returns whether the thread has ended.
        """
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
        """Wakes the thread, to look at the queue; starts it if it does not run yet."""
        if self._wake_fd >= 0 or self._start():
            os.eventfd_write(self._wake_fd, 1)

    def _start(self) -> bool:
        if not self._starting.acquire(blocking=False):
            return self._wake_fd >= 0  # another thread is starting it
        try:
            _let_forks_wait()
            wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._ended.acquire()
            self._ident = start_thread(self._run, wake_fd)
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
        """Shows what arrives, until ``close`` was called and everything is shown, or ``deadline`` has passed."""
        while not self._abandoned and time.monotonic() < deadline:
            closing = self._closing
            self._take(closing)
            pending = self._write_what_can_be()
            if not self._queue.empty():
                continue
            if closing and not pending:
                _end_bars()
                return
            self._wait(pending, wake_fd, min(deadline, self._next_deadline()) - time.monotonic())

    def _next_deadline(self) -> float:
        due = self._lines.next_deadline()
        return min(math.inf if due is None else due, self._missing.next_deadline())

    def _take(self, closing: bool) -> None:
        """Moves what has arrived into the backlogs."""
        now = time.monotonic()
        moved = 0
        while moved < MAX_BATCH_LINES and not self._queue.empty():
            effect = self._queue.get()
            for name, pid, stream, lines in effect.entries:
                others = _without_bars(lines)
                if others:
                    self._add(self._lines.feed(now, name, pid, stream, others))
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
        """Writes until nothing is left or no stream takes more.

        Returns the descriptors of the streams that have lines left, by name.
        """
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
        # A stream object of the user, without a descriptor, gets one line at a time, as from print().
        text = self._backlogs[name].take(select.PIPE_BUF if fd >= 0 else 1)
        try:
            with bar_lines.hidden(), _writing:
                write_text(stream, text)
        except BaseException as error:  # the user's stream may raise anything; it may be replaced before the next lines
            if not is_closed(stream) and name not in self._complained:
                self._complained.add(name)
                self._log(
                    logging.WARNING,
                    f"a line that a worker printed could not be shown: sys.{name} raised {error!r:.200}",
                )

    @staticmethod
    def _log(level: int, text: str) -> None:
        with contextlib.suppress(BaseException):  # raised by a logging handler of the user: it cannot be reported
            if is_terminal(current_stream("stderr")):
                text = "\n".join(map(escape_controls, text.split("\n")))
            with bar_lines.hidden():
                logger.log(level, text)

    @staticmethod
    def _wait(pending: dict[str, int], wake_fd: int, timeout_s: float) -> None:
        """Waits until something has arrived, a stream takes more, or ``timeout_s`` seconds have passed."""
        poll = select.poll()
        for fd in pending.values():
            poll.register(fd, select.POLLOUT)
        if wake_fd >= 0:
            poll.register(wake_fd, select.POLLIN)
        ready = poll.poll(None if timeout_s == math.inf else max(0.0, timeout_s * 1000))
        if any(fd == wake_fd for fd, _ in ready):
            os.eventfd_read(wake_fd)


# ------------------------------------------------------------------------------------------------ progress bars

BARS = "zray.util.bar_manager"
"""The module that draws the bars of workers. Only a program that has bars loads it."""


def _without_bars(lines: list[str]) -> list[str]:
    """Draws the bars whose states are among ``lines``. Returns the other lines."""
    if not any(bar_lines.BEGIN in line for line in lines):
        return lines
    others = []
    for line in lines:
        before, begin, rest = line.partition(bar_lines.BEGIN)
        state = bar_lines.decode(begin + rest) if begin else None
        if state is None:
            others.append(line)
            continue
        if before:  # a line without an end
            others.append(before)
        with contextlib.suppress(Exception):  # raised by a stream of the user's: the last state will come again
            importlib.import_module(BARS).instance().process_state_update(state)
    return others


def _end_bars() -> None:
    """Closes the bars of workers: no more states will come."""
    if bar_lines.shown is not None:
        with contextlib.suppress(Exception):  # raised by a stream of the user's
            importlib.import_module(BARS).instance().end_remote()


# ------------------------------------------------------------------------------------------------ forks


_writing = threading.Lock()
"""Held while a stream is written to. A child forked during a write would find the stream's own lock taken for ever."""
_forker = 0  # the thread that holds _writing during a fork


@functools.cache
def _let_forks_wait() -> None:
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _before_fork() -> None:
    global _forker
    if _writing.acquire(timeout=FORK_WAIT_S):  # times out if the user's own stream blocks, or itself forks
        _forker = threading.get_ident()


def _after_fork() -> None:
    global _forker
    if _forker == threading.get_ident():
        _forker = 0
        _writing.release()
