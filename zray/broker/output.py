"""The broker's part in what workers print: it passes lines on to the driver of their job, and keeps none.

A driver that does not take its lines gets no more of them than a window (``zray.protocol.log_window``): the others are
left out and counted, and the driver is told the number as soon as it takes lines again.  So a driver costs the broker
at most ``WINDOW_BYTES`` of output, and a host as much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zray.broker.records import Job, Process
from zray.broker.scheduler import Scheduler
from zray.protocol.log_window import LogIntake, LogWindow
from zray.protocol.messages import FlushLogs, Logs, LogsFlushed, LogsTaken, ProtocolError, WorkerLogs
from zray.protocol.questions import OutputFlushed
from zray.protocol.records import PrintedLines

MAX_FLUSHES = 8
"""Of one process at a time; it needs one."""


class _Reader:
    """A driver that shows lines. ``left_out``: lines that it was not sent and has not been told of."""

    __slots__ = ("full", "left_out", "window")

    def __init__(self) -> None:
        self.window = LogWindow()
        self.left_out = 0
        self.full = False  # something has found no room since the driver took lines last


class WorkerOutput:
    """State: a reader for each driver that has been sent lines, an intake for each host that has sent some, and who
    waits for a flush: its number, the asker, his request, and the hosts that have not answered."""

    def __init__(
        self,
        jobs: Mapping[bytes, Job],
        processes: Mapping[bytes, Process],
        scheduler: Scheduler,
        send: Callable[[bytes, Any], None],
    ) -> None:
        self._jobs = jobs
        self._processes = processes
        self._scheduler = scheduler
        self._tell = send
        self._readers: dict[bytes, _Reader] = {}
        self._intakes: dict[bytes, LogIntake] = {}
        self._flushes: dict[int, tuple[bytes, int, dict[bytes, None]]] = {}
        self._next_flush = 1

    # ------------------------------------------------------------------ lines

    def on_logs(self, source: Process, message: WorkerLogs) -> None:
        """Passes what a host's workers printed on to the drivers of their jobs. Raises ProtocolError."""
        if any(entry.stream not in ("stdout", "stderr") for entry in message.entries):
            raise ProtocolError("lines of an unknown stream of output")
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
        """A driver has taken lines: there is room, and it can be told of what is missing."""
        reader = self._readers.get(source.process_id)
        if reader is not None:
            reader.window.taken(message.size_bytes)
            reader.full = False
            self._send(source.process_id, reader, [])

    def _driver_of(self, host: Process, worker_id: bytes) -> bytes:
        """The driver whose job a worker of this host works for; empty if there is none who would show its lines."""
        worker = self._scheduler.workers.get(worker_id)
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
        """Answers when every host has sent what its workers have printed up to now.

        Raises ProtocolError for a process that asks again and again before it is answered.
        """
        if sum(asker == source.process_id for asker, _, _ in self._flushes.values()) >= MAX_FLUSHES:
            raise ProtocolError(f"{MAX_FLUSHES} flushes of the output are under way for this process already")
        hosts = dict.fromkeys(self._scheduler.hosts)
        self._flushes[self._next_flush] = (source.process_id, request, hosts)
        for host_id in hosts:
            self._tell(host_id, FlushLogs(self._next_flush))
        self._next_flush += 1
        self._answer_flushes()

    def on_flushed(self, source: Process, message: LogsFlushed) -> None:
        """A host has sent what there was."""
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
        """A process that may be sent lines, or send some, or owe or await a flush, is gone."""
        self._readers.pop(process_id, None)
        self._intakes.pop(process_id, None)
        self._flushes = {key: flush for key, flush in self._flushes.items() if flush[0] != process_id}
        for _, _, hosts in self._flushes.values():
            hosts.pop(process_id, None)
        self._answer_flushes()
