"""A whole cluster in one process, on a simulated network: real cores and links, a broker that is checked.

Processes can be killed at any moment. Deterministic: the same seed gives the same run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from zray.broker.core import BrokerCore
from zray.client.core.execution import Assignment
from zray.client.core.windows import WINDOWS, Windows
from zray.protocol.codec import read_frame
from zray.protocol.link import Link
from zray.protocol.messages import MAY_SEND, WORKER
from zray.testing.network import Simulation, Weather
from zray.testing.processes import INCARNATION, SILENCE_S, TICK_S, Node, Program, SimHost, SimWorker

TURN_S = 0.0005
"""How long a turn of a large cluster's broker takes, of virtual time: what arrives meanwhile is handled together."""
LARGE_TICK_S = 2.0


class SimCluster:
    """The broker, and everybody else. ``programs(worker, task, references)`` is the user's code.

    ``large``: for thousands of hosts, on a network that loses nothing. The broker then handles what has arrived once a
    turn, as its shell does, and its invariants are not checked at every step, which costs more than all the rest; what
    its decisions take is up to ``on_turn``, which is called with the turn to do.
    ``windows``: those of drivers and workers.
    """

    def __init__(
        self,
        seed: int,
        programs: Callable[[SimWorker, Assignment, list[bytes]], Program],
        weather: Weather = Weather(),  # noqa: B008
        large: bool = False,
        windows: Windows = WINDOWS,
    ) -> None:
        self.windows = windows
        self.sim = Simulation(seed, weather)
        self.large = large
        self.on_turn: Callable[[Callable[[], None]], None] = lambda turn: turn()
        self.worker_tick_s = LARGE_TICK_S if large else TICK_S
        self._arrived: list[tuple[bytes, Any]] = []
        self._active: set[bytes] = set()
        self.programs = programs
        self.nodes: dict[bytes, Node] = {}
        self.workers: list[SimWorker] = []
        self.pids = 0
        self.die_storing = 0  # so many workers are to die between storing a value and answering
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
            return
        self._active.add(source)
        messages = [(source, message) for message in link.receive(read_frame(frame), self.sim.now)]
        if not self.large:
            self._turn(messages)
            return
        if not self._arrived:
            self.sim.after(TURN_S, self._turn_of_all)
        self._arrived.extend(messages)

    def _turn_of_all(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._turn(arrived)

    def _turn(self, arrived: list[tuple[bytes, Any]]) -> None:
        def turn() -> None:
            for source, message in arrived:
                self.broker.receive(source, message, self.sim.now)
            if self.large:
                self.broker.schedule(self.sim.now)

        self.on_turn(turn)
        self.broker_flush()

    def stored(self, host: bytes, object_id: bytes) -> bytes | None:
        """What is in a host's store; None if the host is dead. There must be something: whoever asks holds it."""
        node = self.nodes[host]
        assert isinstance(node, SimHost)
        assert not node.alive or object_id in node.store, "a stored value is gone while it was held"
        return node.store[object_id] if node.alive else None

    def started(self, task_id: bytes) -> None:
        """A worker begins with a task or call."""
        self.starts[task_id] += 1
        assert self.starts[task_id] == 1 or task_id not in self.once, "what has no retries ran twice"

    def broker_flush(self) -> None:
        """Schedules, sends, and checks the broker's invariants."""
        if not self.large:
            before = self._least_free()
            self.broker.schedule(self.sim.now)
            self.broker.check()
            for key, free in self._least_free().items():
                assert free >= min(0, before[key]), "granted more than there is"
        for dest, messages in self.broker.drain().items():
            link = self.links.get(dest)
            if link is not None:
                self._active.add(dest)
                for message in messages:
                    link.send(message)
        active, self._active = self._active, set()
        for dest in sorted(active):
            link = self.links.get(dest)
            node = self.nodes.get(dest)
            for frame in link.outgoing(self.sim.now) if link is not None else ():
                if node is not None:
                    self.sim.transmit(frame, node.deliver)
        departed, self.broker.departed = self.broker.departed, []
        for process_id in departed:
            self.links.pop(process_id, None)

    def _least_free(self) -> dict[tuple[bytes, str], int]:
        """Free resources of each host. CPUs fall below zero when a task that was blocked goes on, by no grant."""
        hosts = self.broker.scheduler.hosts.values()
        return {(host.host_id, name): free for host in hosts for name, free in host.pool.free.items()}

    def _tick(self) -> None:
        now = self.sim.now
        self._active.update(self.links)
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
