"""The hosts of a simulated cluster: the real core, and a shell that starts simulated workers."""

from __future__ import annotations

from typing import Any, Protocol

from zray.protocol.contract import BROKER
from zray.protocol.messages import HOST, WORKER, HostReady
from zray.protocol.records import HostInfo
from zray.protocol.routing import through_broker
from zray.testing.nodes import Network, Node
from zray.worker.host.core import Death, Fork, FreeSegments, HostCore, Kill


class DeadWorker(Protocol):
    """What a host learns of a worker that has died: its flight recorder, and the objects that it has stored."""

    process_id: bytes
    recorder: bytes
    stored: list[bytes]


class HostCluster(Network, Protocol):
    """What a host uses. ``pids``: the last PID."""

    pids: int

    def start_worker(self, worker_id: bytes, host: SimHost, pid: int) -> None:
        """Starts a worker of a host."""


class SimHost(Node):
    """A host: it has its workers started, and keeps the objects that they store."""

    cluster: HostCluster

    def __init__(self, cluster: HostCluster, resources: dict[str, int], labels: dict[str, str] | None = None) -> None:
        self.core = HostCore("simulated")
        self.store: dict[bytes, bytes] = {}
        self._unsent: dict[bytes, list[Any]] = {}
        super().__init__(cluster, cluster.sim.new_id(), HOST)
        info = HostInfo(hostname="simulated", labels=labels or {}, pins_cpus=True)
        self._unsent[BROKER] = [HostReady(resources, info)]
        self.flush()

    def handle(self, message: Any) -> None:
        self.core.receive(BROKER, message, self.cluster.sim.now)
        self._perform()

    def _perform(self) -> None:
        output = self.core.take_output()
        output.add_sends_to(self._unsent)
        for effect in output.effects:
            if isinstance(effect, Fork):
                self.cluster.sim.after(0.003, lambda worker_id=effect.worker_id: self._forked(worker_id))  # type: ignore[misc]
            elif isinstance(effect, Kill):
                victim = self.cluster.nodes.get(effect.worker_id)
                if victim is not None and victim.kind == WORKER:
                    self.cluster.kill(victim)
            elif isinstance(effect, FreeSegments):
                for object_id in effect.object_ids:
                    self.store.pop(object_id, None)

    def output(self) -> list[Any]:
        self._perform()
        unsent, self._unsent = self._unsent, {}
        return through_broker(unsent)

    def _forked(self, worker_id: bytes) -> None:
        if not self.alive or worker_id not in self.core.workers:
            return
        self.cluster.pids += 1
        pid = self.cluster.pids
        self.cluster.start_worker(worker_id, self, pid)
        self.core.forked(worker_id, pid, self.cluster.sim.now)
        self.flush()

    def worker_died(self, worker: DeadWorker) -> None:
        """The zygote reports a worker's death, a moment later."""

        def tell() -> None:
            if self.alive:
                stored = [object_id for object_id in worker.stored if object_id in self.store]
                self.core.exited(
                    worker.process_id, Death("was killed", 9, 0, worker.recorder, "", stored), self.cluster.sim.now
                )
                self.flush()

        self.cluster.sim.after(0.001, tell)
