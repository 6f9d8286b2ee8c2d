"""The host's shell: the loop of the process that makes a machine a member of the cluster.

It forks workers through the zygote, reads what they print, tells the broker how they died, and looks after the store.
It also watches the processes that it must not outlive: the broker, and for a local cluster the driver.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from zray.config import Config
from zray.logs.display import escape_controls
from zray.logs.line import INFO, WARNING, LogLine
from zray.logs.process_log import write
from zray.protocol.contract import BROKER, TICK_S
from zray.protocol.messages import Goodbye, HostInspected, HostReady, LogsFlushed, MemoryShort, ProtocolError
from zray.protocol.records import HostInfo, ProcessMemory, StoreUse
from zray.protocol.routing import through_broker
from zray.store import Store
from zray.system.memory_use import MemoryGauge, largest_processes, own_bytes
from zray.system.processes import describe_exit, end_signals, kill_process, process_start_time, resident_bytes
from zray.transfer.shell import Transfers
from zray.transport.connection import Connection
from zray.transport.lanes import socket_path
from zray.transport.relay import Relay
from zray.worker import recorder
from zray.worker.host.core import (
    Death,
    Fork,
    FreeSegments,
    HostCore,
    HostEffect,
    Kill,
    LogRoom,
    PeerDied,
    PeerSaid,
    ReadLogs,
    SweepOwner,
    TellUse,
)
from zray.worker.host.installations import Install, StopInstaller, Uninstall
from zray.worker.host.installers import NOWHERE, Installers, Places
from zray.worker.host.logs import WorkerLog
from zray.worker.host.memory_watch import MemoryWatch
from zray.worker.host.outputs import Outputs
from zray.worker.host.zygote import ChildExited, ForkFailed, ForkReply, ZygoteClient, ZygoteGone
from zray.worker.start import EnvironmentStart, WorkerStart

PAUSE_S = 1.0
SWEEP_S = 1.0
MOST_LOOKING = 0.01
"""The largest part of its time that a host spends looking through its store for owners it does not know yet."""
MAX_FRAMES_PER_TURN = 200
LARGEST = 8
"""How many of the largest processes are named when memory is short."""
WATCHED_IS_GONE = "the process that this host depends on has ended"
"""Why a host ends when its driver or broker has ended."""


class _Forked:
    """What the host keeps of a worker: its output and its flight recorder."""

    __slots__ = ("log", "pid", "recorder", "started")

    def __init__(self, log: WorkerLog, page: int) -> None:
        self.log = log
        self.recorder = page
        self.pid = 0
        self.started: int | None = None

    def page(self) -> bytes:
        """Returns what the worker has recorded."""
        return os.pread(self.recorder, recorder.RECORDER_BYTES, 0)

    def close(self) -> None:
        """Closes the recorder. The log's pipes stay open until they end."""
        os.close(self.recorder)


class HostShell:
    """One host.

    ``worker_start``: the template of what a worker is told. ``watched``: descriptors; when one ends, the
    host ends. ``transfers`` gets a function that sends messages to the broker. ``relay``: through which the workers
    reach the broker; None if they connect directly. ``upkeep``: looks after the session's files; called about once a
    second. ``places``: where processes that install for runtime environments find things.
    """

    def __init__(
        self,
        connection: Connection,
        host_id: bytes,
        zygote: ZygoteClient,
        store: Store,
        logs: str,
        worker_start: WorkerStart,
        config: Config,
        watched: list[int],
        transfers: Transfers,
        relay: Relay | None = None,
        upkeep: Callable[[float], None] = lambda now: None,
        places: Places = NOWHERE,
    ) -> None:
        self.core = HostCore(socket.gethostname())
        self._transfers = transfers
        transfers.send = self._tell
        self._connection = connection
        self._relay = relay
        self._upkeep = upkeep
        self._host_id = host_id
        self._zygote = zygote
        self._store = store
        self._logs_dir = logs
        self._worker_start = worker_start
        self._config = config
        self._installers = Installers(zygote, places, self._installer_ended)
        self._gauge = MemoryGauge()
        refresh_s = config.memory_monitor_refresh_ms / 1000
        self._memory = MemoryWatch(config.memory_usage_threshold, refresh_s, self._gauge.kills())
        self._poll_s = min(TICK_S, refresh_s or TICK_S)
        self._watched = watched
        self._unsent: dict[bytes, list[Any]] = {}  # by destination
        self._forked: dict[bytes, _Forked] = {}
        self._orphan_logs: list[WorkerLog] = []  # of dead workers whose children still print
        self._last_tick = 0.0
        self._last_sweep = 0.0
        self._look_for_owners_at = 0.0
        self._end = ""
        self._more = False
        self._poll = select.poll()
        self._outputs = Outputs(self._poll)
        self._wake_read, self._wake_write = os.pipe()
        if relay is not None:
            connection.pass_down = relay.pass_down
            self._poll.register(relay.fileno(), select.POLLIN)
        for fd in (connection.socket.fileno(), zygote.fileno(), self._wake_read, transfers.fileno(), *watched):
            self._poll.register(fd, select.POLLIN)

    def end(self, reason: str) -> None:
        """Ends the loop after the present turn."""
        self._end = self._end or reason

    def serve(self, resources: dict[str, int], info: HostInfo, on_ready: Callable[[], object]) -> str:
        """Runs the loop and returns why it ended.

        Calls ``on_ready`` when signals are handled and the broker knows the host.
        """
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, *end_signals()):
            signal.signal(number, lambda number, _: self.end(f"signal {number}"))
        self._tell(BROKER, HostReady(resources, info))
        self._turn()
        ready_told = False
        while not self._end:
            if not ready_told and self._connection.link.idle:  # the broker has acknowledged HostReady
                ready_told = True
                self._log(f"has joined the cluster at {self._connection.address}")
                on_ready()
            wait_s = 0 if self._more else self._outputs.wait_s(self._poll_s)
            self.one_turn([fd for fd, _ in self._poll.poll(wait_s * 1000)])
        self._log(f"ends: {self._end}")
        self._connection.flush([Goodbye(f"the host ends: {self._end}")])
        self._connection.close()
        return self._end

    def _log(self, text: str) -> None:
        write(LogLine(INFO, "host", f"host {self._host_id.hex()} {text}"))

    def one_turn(self, ready: list[int]) -> None:
        """Handles everything that is ready."""
        for fd in ready:
            if fd in self._outputs:
                self._outputs.read(fd)
            elif fd == self._wake_read:
                os.read(fd, 4096)
            elif fd == self._zygote.fileno():
                self._zygote_events()
            elif fd in self._watched and not os.read(fd, 4096):
                self.end(WATCHED_IS_GONE)
        self._turn()

    def _turn(self) -> None:
        """One pass over what has arrived. Sets ``_more`` if more is waiting: the host's other duties come first."""
        connection, relay = self._connection, self._relay
        now = time.monotonic()
        for message in connection.receive(MAX_FRAMES_PER_TURN):
            try:
                self.core.receive(BROKER, message, now)
            except ProtocolError:
                connection.dropped_frames += 1
        self._perform_effects()
        more_transfers = self._transfers.turn()
        self._outputs.resume()
        self._queue_logs()
        self._tick(now := time.monotonic())
        if now >= self._memory.look_at:
            self._look_at_memory(now)
        self._perform_effects()
        if relay is not None:
            relay.pass_up()  # first: what a worker has said before its death
        sends, self._unsent = self._unsent, {}
        connection.flush(through_broker(sends))
        self._more = more_transfers or connection.readable or (relay is not None and relay.readable)

    def _tick(self, now: float) -> None:
        if now - self._last_tick < TICK_S:
            return
        link = self._connection.link
        if self._last_tick and now - self._last_tick > PAUSE_S:
            link.restart_silence(now)
        self._last_tick = now
        self.core.tick(now)
        self._outputs.tick()
        self._transfers.tick(now)
        if self._connection.refused is not None:
            self.end(f"the broker has declared this host dead: {self._connection.refused.reason}")
        elif not link.tick(now):
            self.end("the broker has not been heard for too long")
        if now - self._last_sweep >= SWEEP_S:
            self._last_sweep = now
            self._keep_files(now)
        if now >= self._look_for_owners_at:
            self._maintain_store(lambda: self.core.stores_for(self._store.owners(), now))
            took_s = time.monotonic() - now
            self._look_for_owners_at = now + max(SWEEP_S, took_s / MOST_LOOKING)

    def _look_at_memory(self, now: float) -> None:
        """Looks how much memory is in use. If it is short, the broker learns what the workers use."""
        use = self._gauge.read()
        self._memory.counted(self._gauge.kills(), now)
        if not self._memory.looked(use.used, use.limit, now) or self.core.is_killing:
            return
        pids = {forked.pid: worker_id for worker_id, forked in self._forked.items() if forked.pid}
        workers = {pids[pid]: size for pid, size in own_bytes(pids).items()}
        largest = [ProcessMemory(*each) for each in largest_processes(LARGEST)]
        short = MemoryShort(use.used, use.limit, use.whose, self._memory.threshold, workers, largest)
        self.core.memory_short(short, now)
        self._memory.took(time.monotonic() - now)

    def _keep_files(self, now: float) -> None:
        """Restores the session's files: a cleaner of temporary files, or a person, may have removed them."""
        if not self._store.exists():
            self.end(f"its object store {self._store.path} has been removed by another program")
            return
        self._maintain_store(self._store.sweep)
        self._upkeep(now)
        self._transfers.listen_again()
        if self._relay is not None:
            self._relay.keep()

    # ------------------------------------------------------------------ effects

    def _tell(self, dest: bytes, message: Any) -> None:
        """Queues a message of the shell itself; it is sent at the end of the turn."""
        self._unsent.setdefault(dest, []).append(message)

    def _perform_effects(self) -> None:
        """Performs the core's effects; queues its messages for the end of the turn."""
        while output := self.core.take_output():
            output.add_sends_to(self._unsent)
            for effect in output.effects:
                self._perform(effect)

    def _perform(self, effect: HostEffect) -> None:
        if isinstance(effect, Fork):
            self._fork(effect)
        elif isinstance(effect, Kill):
            if forked := self._forked.get(effect.worker_id):  # else it ended in this turn
                kill_process(forked.pid, forked.started)
        elif isinstance(effect, ReadLogs):
            self._outputs.read_everything()
            self._queue_logs()
            self._tell(BROKER, LogsFlushed(effect.request))
        elif isinstance(effect, TellUse):
            self._tell(BROKER, self._use(effect.request))
        elif isinstance(effect, LogRoom):
            self._outputs.taken(effect.size_bytes)
        elif isinstance(effect, PeerSaid):
            try:
                self._transfers.receive(effect.source, effect.message)
            except ProtocolError:
                self._connection.dropped_frames += 1
        elif isinstance(effect, PeerDied):
            self._transfers.process_died(effect.message)
        elif isinstance(effect, FreeSegments):
            self._transfers.freed(effect.object_ids)
            self._maintain_store(lambda: self._store.free(effect.object_ids))
        elif isinstance(effect, SweepOwner):
            self._maintain_store(lambda: self._store.free_owned_by(effect.process_id))
        elif isinstance(effect, (Install, StopInstaller, Uninstall)):
            self._installers.perform(effect)
        elif isinstance(effect, LogLine):
            write(effect)

    def _installer_ended(self, number: int, failure: str) -> None:
        self.core.installer_ended(number, failure, time.monotonic())

    def _use(self, request: int) -> HostInspected:
        """Returns how much memory and object store this host uses, in bytes."""
        pids = [forked.pid for forked in self._forked.values() if forked.pid]
        usage = self._store.usage()
        store = StoreUse(usage.capacity, usage.used, usage.recyclable, usage.spilled)
        return HostInspected(request, store, {pid: resident_bytes(pid) for pid in pids})

    @staticmethod
    def _maintain_store(action: Callable[[], object]) -> None:
        """Runs upkeep of the store. A failure, if another program changed the directories, must not end the host."""
        try:
            action()
        except OSError as error:
            write(LogLine(WARNING, "host", f"upkeep of the object store failed: {error}"))

    def _fork(self, effect: Fork) -> None:
        worker_id = effect.worker_id
        if gone := self._installers.missing(effect.directories):
            self.core.directories_gone(worker_id, gone, time.monotonic())
            return
        given: list[int] = []  # descriptors that only the worker needs
        try:
            out_read, out_write = os.pipe()
            err_read, err_write = os.pipe()
            page = os.memfd_create("zray-recorder", os.MFD_CLOEXEC)
            os.ftruncate(page, recorder.RECORDER_BYTES)
            if effect.environment.text:
                paths = [self._installers.path(number) for number in effect.directories]
                given.append(EnvironmentStart(effect.environment, paths).to_file())
        except OSError as error:
            self.core.fork_failed(worker_id, str(error), time.monotonic())
            return
        secret = os.urandom(16).hex()
        log = WorkerLog(out_read, err_read, self._logs_dir, self._config.log_file_max_bytes, worker_id, secret)
        self._forked[worker_id] = _Forked(log, page)
        self._outputs.add(log)
        payload = self._worker_start._replace(worker_id=worker_id, log_secret=secret).to_bytes()
        try:
            self._zygote.request_fork(worker_id, payload, [out_write, err_write, page, *given])
        except OSError as error:  # no descriptors are left for the copies
            self._release_worker(worker_id)
            self.core.fork_failed(worker_id, str(error), time.monotonic())
        finally:
            for fd in (out_write, err_write, *given):
                os.close(fd)

    # ------------------------------------------------------------------ events of the zygote

    def _zygote_events(self) -> None:
        for event in self._zygote.read_events():
            if self._installers.takes(event):
                continue
            if isinstance(event, ForkReply):
                forked = self._forked[event.worker_id]
                forked.pid = forked.log.pid = event.pid
                forked.started = process_start_time(event.pid)
                self.core.forked(event.worker_id, event.pid, time.monotonic())
            elif isinstance(event, ForkFailed):
                self._release_worker(event.worker_id)
                self.core.fork_failed(event.worker_id, event.reason, time.monotonic())
            elif isinstance(event, ChildExited):
                self._exited(event)
            elif isinstance(event, ZygoteGone):
                self.core.zygote_gone(event.reason, time.monotonic())
                self._turn()
                self.end(f"the process that forks workers is gone: {event.reason}")

    def _exited(self, event: ChildExited) -> None:
        forked = self._forked[event.worker_id]
        self._outputs.take(forked.log, forked.log.drain)
        page = forked.page()
        tail = "\n".join(map(escape_controls, forked.log.stderr_tail.text().split("\n")))
        number = os.WTERMSIG(event.status) if os.WIFSIGNALED(event.status) else 0
        stored = self._still_here(recorder.stored(page))
        now = time.monotonic()
        if number == signal.SIGKILL:
            self._memory.counted(self._gauge.kills(), now)
        death = Death(
            describe_exit(event.status), number, event.maxrss_bytes, recorder.begun(page), tail.strip(), stored,
            self._memory.by_kernel(now),
        )  # fmt: skip
        self._release_worker(event.worker_id)
        self._queue_logs(ending=True)  # before WorkerDied: the broker forgets the worker's job then
        self.core.exited(event.worker_id, death, now)

    def _still_here(self, object_ids: list[bytes]) -> list[bytes]:
        found: list[bytes] = []
        self._maintain_store(lambda: found.extend(filter(self._store.contains, object_ids)))
        return found

    def _release_worker(self, worker_id: bytes) -> None:
        forked = self._forked.pop(worker_id)
        forked.close()
        with contextlib.suppress(OSError):  # it is there only if the worker died while it listened
            os.unlink(socket_path(self._worker_start.directory, worker_id))

    def _queue_logs(self, ending: bool = False) -> None:
        if message := self._outputs.to_send(ending):
            self._tell(BROKER, message)
