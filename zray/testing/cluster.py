"""A whole cluster in one process, on a simulated network: real cores and links, a broker that is checked.

Processes can be killed at any moment. Deterministic: the same seed gives the same run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from zray.broker.core import BrokerCore
from zray.client.core.execution import Assignment
from zray.protocol.codec import read_frame
from zray.protocol.link import Link
from zray.protocol.messages import MAY_SEND, WORKER
from zray.testing.network import Simulation, Weather
from zray.testing.processes import INCARNATION, SILENCE_S, TICK_S, Node, Program, SimHost, SimWorker


class SimCluster:
    """The broker, and everybody else. ``programs(worker, task, references)`` is the user's code."""

    def __init__(
        self,
        seed: int,
        programs: Callable[[SimWorker, Assignment, list[bytes]], Program],
        weather: Weather = Weather(),  # noqa: B008
    ) -> None:
        self.sim = Simulation(seed, weather)
        self.programs = programs
        self.nodes: dict[bytes, Node] = {}
        self.workers: list[SimWorker] = []
        self.pids = 0
        self.freed: list[bytes] = []
        self.once: set[bytes] = set()  # tasks and calls without retries
        self.starts: Counter[bytes] = Counter()  # how often each task or call was started
        self.broker = BrokerCore(self.sim.new_id)
        self.links: dict[bytes, Link] = {}
        self._tick()

    def add_link(self, process_id: bytes, kind: str) -> None:
        """The broker's end of a link."""
        self.links[process_id] = Link(INCARNATION, MAY_SEND[kind], self.sim.now, silence_s=SILENCE_S)

    def broker_receives(self, source: bytes, frame: bytes) -> None:
        """A turn of the broker's loop."""
        link = self.links.get(source)
        if link is None:
            self.sim.after(0.001, self.nodes[source].refused)
        else:
            for message in link.receive(read_frame(frame), self.sim.now):
                self.broker.receive(source, message, self.sim.now)
            self.broker_flush()

    def started(self, task_id: bytes) -> None:
        """A worker begins with a task or call."""
        self.starts[task_id] += 1
        assert self.starts[task_id] == 1 or task_id not in self.once, "what has no retries ran twice"

    def broker_flush(self) -> None:
        """Schedules, sends, and checks the broker's invariants."""
        before = self._least_free()
        self.broker.schedule(self.sim.now)
        self.broker.check()
        for key, free in self._least_free().items():
            assert free >= min(0, before[key]), "granted more than there is"
        for dest, messages in self.broker.drain().items():
            link = self.links.get(dest)
            if link is not None:
                for message in messages:
                    link.send(message)
        for dest, link in list(self.links.items()):
            for frame in link.outgoing(self.sim.now):
                node = self.nodes.get(dest)
                if node is not None:
                    self.sim.transmit(frame, node.deliver)
            if dest not in self.broker.processes:
                del self.links[dest]

    def _least_free(self) -> dict[tuple[bytes, str], int]:
        """Free resources of each host. CPUs fall below zero when a task that was blocked goes on, by no grant."""
        hosts = self.broker.scheduler.hosts.values()
        return {(host.host_id, name): free for host in hosts for name, free in host.pool.free.items()}

    def _tick(self) -> None:
        now = self.sim.now
        for process_id, link in list(self.links.items()):
            node = self.nodes.get(process_id)
            if not link.tick(now) and node is not None and node.kind != WORKER:
                self.broker.lost(process_id, "silent")
        self.broker.tick(now)
        self.broker_flush()
        self.sim.after(TICK_S, self._tick)

    def kill(self, node: Node) -> None:
        """SIGKILL. A worker's host is told; a host takes its workers along."""
        if not node.alive:
            return
        node.alive = False
        if isinstance(node, SimWorker):
            node.host.worker_died(node)
        elif isinstance(node, SimHost):
            for worker in self.workers:
                if worker.host is node and worker.alive:
                    worker.alive = False

    def live_workers(self) -> list[SimWorker]:
        """Workers that have not been killed."""
        return [worker for worker in self.workers if worker.alive]
