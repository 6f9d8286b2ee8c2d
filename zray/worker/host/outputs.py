"""The output of all workers of a host: which pipes are read when, and the lines on their way to the broker.

A pipe from which little was read is not looked at for ``PAUSE_S``. Otherwise a worker that prints line after line costs
the host, the broker and the driver one turn and one message for each: 10,000 lines a second and all CPUs (two of them,
CPython 3.11, 2026-11-30). A pipe with much in it is read at once again, so pauses slow no worker down that fills it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator

from zray.protocol.messages import WorkerLogs
from zray.worker.host.logs import READ_BYTES, Outlet, Said, WorkerLog

PAUSE_S = 0.01
"""The pause after a read that found little. A person does not notice it, and a pipe takes 64 KiB in the meantime."""
MUCH_BYTES = READ_BYTES // 4
"""A read that finds this much in one pipe of a worker is followed by no pause."""
MAX_READS_PER_FLUSH = 64


class Outputs:
    """The pipes of workers, within the host's ``poll``, and what they said.

    State: ``_logs`` has the logs by pipe. ``_paused`` has those not looked at now, and until when, the first to end
    first.
    """

    def __init__(self, poll: select.poll, clock: Callable[[], float] = time.monotonic) -> None:
        self._poll = poll
        self._clock = clock
        self._outlet = Outlet()
        self._logs: dict[int, WorkerLog] = {}
        self._paused: dict[WorkerLog, float] = {}

    def __contains__(self, fd: int) -> bool:
        """Whether a descriptor is a pipe of a worker."""
        return fd in self._logs

    def add(self, log: WorkerLog) -> None:
        """Looks at a worker's pipes from now on, until they end."""
        for fd in log.filenos():
            self._logs[fd] = log
            self._poll.register(fd, select.POLLIN)

    def read(self, fd: int) -> None:
        """Reads the output of the worker with this pipe; to be called if the poll says so."""
        if log := self._logs.get(fd):  # else it has ended in this turn
            self.take(log, log.read)
            if log.filenos() and log.last_read < MUCH_BYTES and log not in self._paused:
                self._paused[log] = self._clock() + PAUSE_S
                self._look(log, 0)

    def resume(self) -> None:
        """Ends the pauses that are over. The pipes are read in the next turn."""
        now = self._clock()
        while self._paused:
            log, until = next(iter(self._paused.items()))
            if now < until:
                break
            del self._paused[log]
            self._look(log, select.POLLIN)

    def wait_s(self, longest_s: float) -> float:
        """Returns how long the host may wait for its descriptors: ``longest_s``, or until the first pause ends."""
        if not self._paused:
            return longest_s
        return max(0.0, min(longest_s, next(iter(self._paused.values())) - self._clock()))

    def tick(self) -> None:
        """Takes due unfinished lines; to be called every quarter of a second."""
        for log in dict.fromkeys(self._logs.values()):  # in the order in which the workers were started
            self.take(log, log.tick)

    def read_everything(self) -> None:
        """Empties all pipes, up to a limit, and takes unfinished lines too: the process that asked is about to end."""
        for log in dict.fromkeys(self._logs.values()):
            for _ in range(MAX_READS_PER_FLUSH):
                if not self.take(log, log.read):
                    break
            self.take(log, log.cut)

    def take(self, log: WorkerLog, read: Callable[[], Iterator[Said]]) -> bool:
        """Takes the lines that ``read``, a method of ``log``, yields. Returns whether there were any."""
        before = set(log.filenos())
        lines = list(read())
        for closed in before - set(log.filenos()):
            self._poll.unregister(closed)
            del self._logs[closed]
        if before and not log.filenos():
            self._paused.pop(log, None)
        for stream, name, printed in lines:
            self._outlet.add(log.worker_id, name, log.pid, stream, printed)
        return bool(lines)

    def taken(self, size_bytes: int) -> None:
        """The broker has taken ``size_bytes`` of lines."""
        self._outlet.taken(size_bytes)

    def to_send(self, ending: bool = False) -> WorkerLogs | None:
        """Returns what to send now. ``ending``: a worker ends, so the count of left-out lines is sent in any case."""
        return self._outlet.take(ending)

    def _look(self, log: WorkerLog, events: int) -> None:
        for fd in log.filenos():
            self._poll.modify(fd, events)  # without events the end of the pipe is still reported
