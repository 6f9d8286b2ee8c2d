"""The host core: which workers this host has, and why each one died; see ``zray/protocol/contract.py``.

Forking and killing are effects.
"""

from __future__ import annotations

import math
from typing import Any

from zray.exceptions import NATIVE_HINT
from zray.ids import owner_of
from zray.logs.digest import LAST_OUTPUT
from zray.logs.line import DEBUG, ERROR, INFO, WARNING, LogLine
from zray.named_tuples import NamedTuple
from zray.protocol.codec import unpack_messages
from zray.protocol.contract import Outbox, Output, event
from zray.protocol.messages import (
    FROM_PEER_TO_HOST,
    Delivered,
    FlushLogs,
    FreeObjects,
    Inspect,
    KeepCopies,
    KillWorker,
    LeftBehind,
    LogsTaken,
    MemoryShort,
    ProcessDied,
    ProtocolError,
    StartWorker,
    Watch,
    WorkerDied,
    WorkerStarted,
)
from zray.protocol.records import EnvironmentSpec
from zray.worker.host.installations import Installations, InstallEffect

CRASHED, OUT_OF_MEMORY = "WorkerCrashedError", "OutOfMemoryError"
SIGKILL = 9
BY_KERNEL = "the kernel's out-of-memory killer has just acted, and is the probable cause"
SHORT_LINE_S = 30.0
"""The shortest time between two lines of the log that memory is short, in seconds."""
_BY_ACCESS = (7, 11)
"""SIGBUS and SIGSEGV: the signals for access to memory that a process may not access."""


class Fork(NamedTuple):
    """Fork a worker. ``directories``: the numbers of those in which the parts of its environment are installed."""

    worker_id: bytes
    environment: EnvironmentSpec = EnvironmentSpec()
    directories: list[int] = []


class Kill(NamedTuple):
    """SIGKILL a worker's process."""

    worker_id: bytes


class SweepOwner(NamedTuple):
    """Remove the segments of a dead owner."""

    process_id: bytes


class ReadLogs(NamedTuple):
    """Send what workers have printed, then tell the broker that it is sent."""

    request: int


class TellUse(NamedTuple):
    """Tell the broker how much memory and object store is in use."""

    request: int


class LogRoom(NamedTuple):
    """The broker has taken ``size_bytes`` of the workers' output: the host may send that much more."""

    size_bytes: int


class PeerSaid(NamedTuple):
    """Another process has sent a message about objects between hosts."""

    source: bytes
    message: Any


class PeerDied(NamedTuple):
    """A watched process has died."""

    message: ProcessDied


class FreeSegments(NamedTuple):
    """Remove segments, as their owner asks."""

    object_ids: list[bytes]


HostEffect = (
    Fork
    | Kill
    | SweepOwner
    | ReadLogs
    | TellUse
    | LogRoom
    | PeerSaid
    | PeerDied
    | FreeSegments
    | InstallEffect
    | LogLine
)


class LocalWorker:
    """A worker of this host.

    ``pid`` is 0 until the worker is forked. ``kill_reason`` is why it is being killed, or empty; ``kill_kind``: the
    error to report then. ``environment``: the runtime environment in which it is started.
    """

    __slots__ = ("environment", "kill_kind", "kill_reason", "pid", "worker_id")

    def __init__(self, worker_id: bytes, environment: EnvironmentSpec) -> None:
        self.worker_id = worker_id
        self.environment = environment
        self.pid = 0
        self.kill_reason = ""
        self.kill_kind = CRASHED


def in_mib(size_bytes: int) -> str:
    """Returns a size as text."""
    return f"{size_bytes / 2**20:,.0f} MiB"


class Death(NamedTuple):
    """What is known about the end of a worker."""

    how: str
    signal: int
    maxrss_bytes: int
    running: bytes
    last_lines: str
    stored: list[bytes]
    """Return values that the worker stored and that are still in the store. They may be unanswered."""
    by_kernel: bool = False
    """The kernel has killed processes for lack of memory just before."""


class HostCore:
    """The workers of this host, by ID."""

    def __init__(self, hostname: str) -> None:
        self.workers: dict[bytes, LocalWorker] = {}
        self._outbox: Outbox[HostEffect] = Outbox()
        self._perform = self._outbox.perform
        self._to_broker = self._outbox.to_broker
        self._send = self._outbox.send
        self._hostname = hostname
        self.installations = Installations(self._perform)
        self._told_short_at = -math.inf  # when the log was last told that memory is short
        self._owners: set[bytes] = set()  # owners of the objects in the store, as of the last look

    def receive(self, source: bytes, message: Any, now: float) -> None:
        """Handles a message of the broker."""
        if isinstance(message, StartWorker):
            if message.worker_id not in self.workers:
                self.workers[message.worker_id] = LocalWorker(message.worker_id, message.environment)
                if self.installations.wants(message.worker_id, message.environment, now):
                    self._fork(message.worker_id)
        elif isinstance(message, KillWorker):
            worker = self.workers.get(message.worker_id)
            if worker is not None and not worker.kill_reason:
                worker.kill_reason, worker.kill_kind = message.reason, message.kind
                self._log(INFO, f"worker {worker.worker_id.hex()} (pid {worker.pid}) is being killed: {message.reason}")
                if worker.pid:
                    self._perform(Kill(worker.worker_id))
                elif self.installations.is_waiting(worker.worker_id):
                    self._never_started(worker, CRASHED, f"it was killed: {message.reason}", now)
        elif isinstance(message, FlushLogs):
            self._perform(ReadLogs(message.request))
        elif isinstance(message, Inspect):
            self._perform(TellUse(message.request))
        elif isinstance(message, LogsTaken):
            self._perform(LogRoom(message.size_bytes))
        elif isinstance(message, Delivered):
            for inner in unpack_messages(message.rows, FROM_PEER_TO_HOST):
                self._peer_said(message.source, inner)
        elif isinstance(message, ProcessDied):
            self._perform(PeerDied(message))
            if message.process_id in self._owners:
                self._owners.discard(message.process_id)
                self._perform(SweepOwner(message.process_id))

    def _peer_said(self, source: bytes, message: Any) -> None:
        """Only the owner of an object, which its identifier names, may have it freed or its copy kept."""
        if isinstance(message, (FreeObjects, KeepCopies)) and any(owner_of(i) != source for i in message.object_ids):
            raise ProtocolError(f"{type(message).__name__} of objects that the sender does not own")
        if isinstance(message, FreeObjects):
            self._perform(FreeSegments(message.object_ids))
        else:
            self._perform(PeerSaid(source, message))

    def _log(self, level: int, text: str) -> None:
        self._perform(LogLine(level, "host", text))

    def _fork(self, worker_id: bytes) -> None:
        environment = self.workers[worker_id].environment
        self._perform(Fork(worker_id, environment, self.installations.numbers(environment)))

    def _never_started(self, worker: LocalWorker, kind: str, message: str, now: float) -> None:
        """Reports that a worker was not forked."""
        del self.workers[worker.worker_id]
        self.installations.leaves(worker.worker_id, now)
        self._to_broker(WorkerDied(worker.worker_id, b"", kind, message))

    def tick(self, now: float) -> None:
        """Lets time pass."""
        self.installations.tick(now)

    def due_s(self, now: float) -> float:
        """Returns infinity: nothing here is more urgent than a regular tick."""
        return math.inf

    def take_output(self) -> Output[HostEffect]:
        """Returns messages and effects since the last call."""
        return self._outbox.take()

    def check(self) -> None:
        """Raises AssertionError if an invariant does not hold; for tests."""
        assert all(worker_id == worker.worker_id for worker_id, worker in self.workers.items()), "workers by ID"
        self.installations.check()

    @event
    def stores_for(self, owners: set[bytes], now: float) -> None:
        """Has the broker tell when one of ``owners`` dies: the processes that own objects in the store now."""
        for owner in owners - self._owners:
            self._to_broker(Watch(owner))
        self._owners = owners

    @event
    def installer_ended(self, number: int, failure: str, now: float) -> None:
        """A process that installs a part of environments has ended. ``failure``: why it has failed, or empty."""
        ready, lost, why = self.installations.finished(number, failure, now)
        for worker_id in ready:
            self._fork(worker_id)
        for worker_id in lost:
            self._never_started(self.workers[worker_id], "RuntimeEnvSetupError", f"on {self._hostname}: {why}", now)

    @event
    def directories_gone(self, worker_id: bytes, numbers: list[int], now: float) -> None:
        """Parts of a worker's environment are not where they were installed. Has them installed again."""
        for number in numbers:
            self.installations.forget(number)
        if self.installations.wants(worker_id, self.workers[worker_id].environment, now):
            self._fork(worker_id)

    @event
    def forked(self, worker_id: bytes, pid: int, now: float) -> None:
        """The zygote has forked a worker."""
        worker = self.workers[worker_id]
        worker.pid = pid
        self._log(DEBUG, f"worker {worker_id.hex()} is process {pid}")
        self._to_broker(WorkerStarted(worker_id, pid))
        if worker.kill_reason:
            self._perform(Kill(worker_id))

    @event
    def fork_failed(self, worker_id: bytes, reason: str, now: float) -> None:
        """The machine could not start another process."""
        worker = self.workers[worker_id]
        message = f"a worker process could not be started on {self._hostname}: {reason}"
        self._log(ERROR, f"worker {worker_id.hex()}: {message}")
        self._never_started(worker, CRASHED, message, now)

    @event
    def exited(self, worker_id: bytes, death: Death, now: float) -> None:
        """A worker has ended."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return
        self.installations.leaves(worker_id, now)
        how = f"was {death.how}" if death.signal else f"ended with {death.how}"
        why = f"was killed: {worker.kill_reason}" if worker.kill_reason else how
        kind = worker.kill_kind if worker.kill_reason else CRASHED
        if death.by_kernel and death.signal == SIGKILL and not worker.kill_reason:
            kind, why = OUT_OF_MEMORY, f"{how}: {BY_KERNEL}"
        text = (
            f"the worker process (pid {worker.pid} on {self._hostname}) {why}; "
            f"it had used up to {death.maxrss_bytes / 2**20:.0f} MiB of memory"
        )
        level = WARNING if death.signal and not worker.kill_reason else DEBUG
        running = f"; it was running task {death.running.hex()}" if death.running else ""
        self._log(level, f"worker {worker_id.hex()}: {text}{running}")
        if death.last_lines:
            text += f"{LAST_OUTPUT}{death.last_lines}"
        if death.signal in _BY_ACCESS:
            text += f"\n{NATIVE_HINT}"
        self._to_broker(WorkerDied(worker_id, death.running, kind, text))
        owned: dict[bytes, list[bytes]] = {}
        for object_id in death.stored:
            owned.setdefault(owner_of(object_id), []).append(object_id)
        for owner, object_ids in owned.items():  # behind WorkerDied: after that no answer of the worker counts
            self._send(owner, LeftBehind(object_ids))

    @property
    def is_killing(self) -> bool:
        """Whether a worker is being killed: the memory that it has used will be free soon."""
        return any(worker.kill_reason for worker in self.workers.values())

    @event
    def memory_short(self, message: MemoryShort, now: float) -> None:
        """Memory is nearly used up: asks the broker to choose what is stopped."""
        if now - self._told_short_at >= SHORT_LINE_S:
            self._told_short_at = now
            largest = ", ".join(f"{each.name} (pid {each.pid}) {in_mib(each.own)}" for each in message.largest[:3])
            self._log(
                WARNING,
                f"memory is short: {in_mib(message.used)} of {in_mib(message.limit)} of {message.whose} are in use, "
                f"more than {message.threshold:.1%}; most is used by {largest}",
            )
        self._to_broker(message)

    @event
    def zygote_gone(self, reason: str, now: float) -> None:
        """All workers died with the zygote."""
        for worker_id in list(self.workers):
            self.exited(worker_id, Death(f"killed with its parent: {reason}", 9, 0, b"", "", []), now)
