"""Passes the output of workers on to the driver of their job. The broker keeps no lines.

At most a window of lines (``zray.protocol.log_window``) is under way to a driver. If the driver takes no lines, further
ones are left out and counted, and the driver gets the number as soon as it takes lines again. So a driver costs the
broker at most ``WINDOW_BYTES`` of output, and so does a host.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from zray.broker.records import Job, Process, Worker
from zray.protocol.log_window import LogIntake, LogWindow
from zray.protocol.messages import FlushLogs, Logs, LogsFlushed, LogsTaken, ProtocolError, WorkerLogs
from zray.protocol.questions import OutputFlushed
from zray.protocol.records import PrintedLines

MAX_FLUSHES = 8
"""The number of open flushes of one process. A process needs only one at a time."""


class _Reader:
    """A driver that shows lines. ``left_out``: the number of lines left out since the driver was last told of it."""

    __slots__ = ("full", "left_out", "window")

    def __init__(self) -> None:
        self.window = LogWindow()
        self.left_out = 0
        self.full = False  # a line has found no room since the driver last took lines


class WorkerOutput:
    """The readers (drivers that were sent lines), the intakes (hosts that have sent lines), and the open flushes.

    A flush has a number, the process that asked, its request, and the hosts that have not answered.
    """

    def __init__(
        self,
        jobs: Mapping[bytes, Job],
        processes: Mapping[bytes, Process],
        hosts: Collection[bytes],
        workers: Mapping[bytes, Worker],
        send: Callable[[bytes, Any], None],
    ) -> None:
        self._jobs = jobs
        self._processes = processes
        self._hosts = hosts
        self._workers = workers
        self._tell = send
        self._readers: dict[bytes, _Reader] = {}
        self._intakes: dict[bytes, LogIntake] = {}
        self._flushes: dict[int, tuple[bytes, int, dict[bytes, None]]] = {}
        self._next_flush = 1

    # ------------------------------------------------------------------ lines

    def on_logs(self, source: Process, message: WorkerLogs) -> None:
        """Passes the output of a host's workers on to the drivers of their jobs.

        Raises ProtocolError if a stream is neither stdout nor stderr.
        """
        if any(entry.stream not in ("stdout", "stderr") for entry in message.entries):
            raise ProtocolError("WorkerLogs with a stream that is neither stdout nor stderr")
        intake = self._intakes.setdefault(source.process_id, LogIntake())
        by_driver: dict[bytes, tuple[list[PrintedLines], int]] = {}
        for worker_id, name, pid, stream, lines in message.entries:
            intake.take(lines)
            driver = self._driver_of(source, worker_id)
            if driver:
                by_driver.setdefault(driver, ([], 0))[0].append(PrintedLines(name, pid, stream, lines))
        for worker_id, count in message.left_out.items():
            driver = self._driver_of(source, worker_id)
            if driver:
                entries, left_out = by_driver.get(driver, ([], 0))
                by_driver[driver] = entries, left_out + count
        for driver, (entries, left_out) in by_driver.items():
            self._pass_on(driver, entries, left_out)
        taken = intake.to_tell()
        if taken:
            self._tell(source.process_id, LogsTaken(taken))

    def on_taken(self, source: Process, message: LogsTaken) -> None:
        """A driver has taken lines: there is room again, and the driver can be told how many lines are missing."""
        reader = self._readers.get(source.process_id)
        if reader is not None:
            reader.window.taken(message.size_bytes)
            reader.full = False
            self._send(source.process_id, reader, [])

    def _driver_of(self, host: Process, worker_id: bytes) -> bytes:
        """The driver of the job of a worker of this host; empty if there is none, or if it does not show lines."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.host.host_id != host.process_id:
            return b""
        job = self._jobs.get(worker.job_id)
        driver = self._processes.get(job.driver) if job is not None else None
        return driver.process_id if driver is not None and driver.info.shows_logs else b""

    def _pass_on(self, driver: bytes, entries: list[PrintedLines], left_out: int) -> None:
        reader = self._readers.setdefault(driver, _Reader())
        admitted = [entry for entry in entries if reader.window.admits(entry.lines)]
        if len(admitted) < len(entries):
            reader.full = True
            left_out += sum(len(entry.lines) for entry in entries) - sum(len(entry.lines) for entry in admitted)
        reader.left_out += left_out
        self._send(driver, reader, admitted)

    def _send(self, driver: bytes, reader: _Reader, entries: list[PrintedLines]) -> None:
        if entries or (reader.left_out and not reader.full):
            self._tell(driver, Logs(entries, reader.left_out))
            reader.left_out = 0

    # ------------------------------------------------------------------ the flush

    def flush(self, source: Process, request: int) -> None:
        """Answers when each host has sent what its workers have printed up to now.

        Raises ProtocolError if the process has ``MAX_FLUSHES`` open flushes already.
        """
        if sum(asker == source.process_id for asker, _, _ in self._flushes.values()) >= MAX_FLUSHES:
            raise ProtocolError(f"{MAX_FLUSHES} flushes of the output are under way for this process already")
        hosts = dict.fromkeys(self._hosts)
        self._flushes[self._next_flush] = (source.process_id, request, hosts)
        for host_id in hosts:
            self._tell(host_id, FlushLogs(self._next_flush))
        self._next_flush += 1
        self._answer_flushes()

    def on_flushed(self, source: Process, message: LogsFlushed) -> None:
        """A host has sent what its workers had printed."""
        flush = self._flushes.get(message.request)
        if flush is not None:
            flush[2].pop(source.process_id, None)
            self._answer_flushes()

    def _answer_flushes(self) -> None:
        for key, (asker, request, hosts) in list(self._flushes.items()):
            if not hosts:
                del self._flushes[key]
                self._tell(asker, OutputFlushed(request))

    # ------------------------------------------------------------------ ends

    def process_lost(self, process_id: bytes) -> None:
        """Forgets a process that is gone, and no longer waits for its flushes."""
        self._readers.pop(process_id, None)
        self._intakes.pop(process_id, None)
        self._flushes = {key: flush for key, flush in self._flushes.items() if flush[0] != process_id}
        for _, _, hosts in self._flushes.values():
            hosts.pop(process_id, None)
        self._answer_flushes()
