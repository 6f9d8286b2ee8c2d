"""A whole cluster in one process, on a simulated network: real cores and links, and a broker that is checked.

Processes can be killed at any moment. Deterministic: the same seed gives the same run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from zray.broker.broker import Broker
from zray.broker.core import BrokerCore
from zray.broker.membership import Membership, Rules
from zray.client.core.assignments import Assignment
from zray.client.core.windows import WINDOWS, Windows
from zray.logs.line import ERROR, LogLine
from zray.protocol.link import MAX_MESSAGE_BYTES
from zray.protocol.routing import Arrival
from zray.testing.clients import SimProcess
from zray.testing.hosts import SimHost
from zray.testing.lanes import LaneFaults, SimLanes
from zray.testing.network import NetworkFaults, Simulation
from zray.testing.nodes import HEARTBEAT_S, SILENCE_S, TICK_S, Connections, Node
from zray.testing.operations import Program
from zray.testing.workers import SimWorker

TURN_S = 0.0005
"""How long a turn of the broker takes, in virtual time: frames that arrive meanwhile are handled together."""
ALONE_PART = 0.7
"""The part of the frames in a small cluster for which a turn takes no time, so that they are handled one by one."""
LARGE_TICK_S = 2.0


class CheckedCore(BrokerCore):
    """A broker's core that is checked after each scheduling pass."""

    def schedule(self, now: float) -> None:
        before = self._least_free()
        super().schedule(now)
        self.check()
        for key, free in self._least_free().items():
            assert free >= min(0, before.get(key, 0)), "granted more than there is"

    def _least_free(self) -> dict[tuple[bytes, str], int]:
        """Returns the free resources of each host.

        CPUs fall below zero when a blocked task goes on, without a grant.
        """
        hosts = self.scheduler.hosts.values()
        return {(host.host_id, name): free for host in hosts for name, free in host.pool.free.items()}


class SimConnections:
    """The broker's side of the connections of the simulated network, by their names."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self._owners: dict[bytes, Node] = {}
        self.followed: set[bytes] = set()

    def dialled(self, through: bytes, owner: Node) -> None:
        """A process has dialled the broker."""
        self._owners[through] = owner

    def send(self, through: bytes, process_id: bytes, data: bytes) -> bool:
        """Sends a frame to a process. A host's connection also leads to its workers."""
        owner = self._owners.get(through)
        if owner is None or not owner.alive:
            return False
        node = self._cluster.nodes.get(process_id, owner)
        if node.through != through:
            node = owner
        self._cluster.sim.transmit(data, lambda frame: owner.pass_on(lambda: node.deliver(frame)))
        return True

    def follow(self, through: bytes) -> None:
        self.followed.add(through)

    def unfollow(self, through: bytes) -> None:
        self.followed.discard(through)


class SimCluster:
    """The broker and all other processes. ``programs(worker, task, references)`` is the user's code.

    ``large``: for thousands of hosts, on a network without loss. The broker then handles arrived frames once a turn, as
    its shell does. Its invariants are not checked at every step, which would cost more than all the rest. ``on_turn``
    is called with the turn to do, and decides what a turn costs. ``windows``: those of drivers and workers.
    ``lane_faults``: whether processes have lanes, and what goes wrong with these. ``stored_part``: the part of the
    calls whose values are stored; other values are in the answer.
    """

    def __init__(
        self,
        seed: int,
        programs: Callable[[SimWorker, Assignment, list[bytes]], Program],
        network_faults: NetworkFaults = NetworkFaults(),  # noqa: B008
        large: bool = False,
        windows: Windows = WINDOWS,
        lane_faults: LaneFaults = LaneFaults(),  # noqa: B008
        stored_part: float = 0.2,
    ) -> None:
        self.windows = windows
        self.stored_part = stored_part
        self.sim = Simulation(seed, network_faults)
        self.lanes = SimLanes(self.sim, lane_faults)
        self.large = large
        self.on_turn: Callable[[Callable[[], None]], None] = lambda turn: turn()
        self.worker_tick_s = LARGE_TICK_S if large else TICK_S
        self._turn_is_planned = False
        self.programs = programs
        self.nodes: dict[bytes, Node] = {}
        self.workers: list[SimWorker] = []
        self.pids = 0
        self.die_storing = 0  # how many workers will die between storing a value and answering
        self.freed: list[bytes] = []
        self.once: set[bytes] = set()  # tasks and calls without retries
        self.starts: Counter[bytes] = Counter()  # how often each task or call was started
        self.reports: list[str] = []  # errors that the broker has logged
        self.connections: Connections = SimConnections(self)
        self.broker = BrokerCore(self.sim.new_id) if large else CheckedCore(self.sim.new_id)
        self.revoked: set[bytes] = set()  # keys
        rules = Rules(HEARTBEAT_S, SILENCE_S, MAX_MESSAGE_BYTES, is_tcp=True)
        self.incarnation = self.sim.random.randbytes(8)
        self.members = Membership(self.incarnation, rules, self._role_of, self.broker.may_join)
        self._broker = Broker(self.broker, self.members, self.connections, self._log)
        self._tick()

    def _log(self, line: LogLine) -> None:
        if line.level >= ERROR:
            self.reports.append(line.text)

    def receive(self, arrival: Arrival) -> None:
        """A frame has reached the broker."""
        self._broker.receive(arrival, self.sim.now)
        if self._turn_is_planned:
            return
        if not self.large and self.sim.random.random() < ALONE_PART:
            self._turn()
        else:
            self._turn_is_planned = True
            self.sim.after(TURN_S, self._turn)

    def _turn(self) -> None:
        """Runs a turn of the broker's loop."""
        self._turn_is_planned = False
        self.on_turn(lambda: self._broker.schedule(self.sim.now))
        self._broker.send(self.sim.now)
        self.members.check()

    def stored(self, host: bytes, object_id: bytes) -> bytes | None:
        """Returns an object in a host's store; None if the host is dead.

        It must exist, since the process that asks holds it.
        """
        node = self.nodes[host]
        assert isinstance(node, SimHost)
        assert not node.alive or object_id in node.store, "a stored value was removed while it was held"
        return node.store[object_id] if node.alive else None

    def started(self, task_id: bytes) -> None:
        """A worker begins a task or call."""
        self.starts[task_id] += 1
        assert self.starts[task_id] == 1 or task_id not in self.once, "a task or call without retries ran twice"

    def _tick(self) -> None:
        self._broker.tick(self.sim.now)
        self._turn()
        self.sim.after(TICK_S, self._tick)

    def _role_of(self, key: bytes) -> str | None:
        """Returns the role of a key, which is its name."""
        role = key.decode()
        return role if role in ("host", "driver") and key not in self.revoked else None

    def start_worker(self, worker_id: bytes, host: SimHost, pid: int) -> None:
        """Starts a worker of a host."""
        SimWorker(self, worker_id, host, pid)

    def kill(self, node: Node) -> None:
        """Kills a process. A worker's host is told; a host's workers die with it."""
        if not node.alive:
            return
        node.alive = False
        if isinstance(node, SimProcess):
            self.lanes.died(node)
        if isinstance(node, SimWorker):
            node.host.worker_died(node)
        elif isinstance(node, SimHost):
            for worker in self.workers:
                if worker.host is node and worker.alive:
                    worker.alive = False
                    self.lanes.died(worker)

    def live_workers(self) -> list[SimWorker]:
        """Returns the workers that have not been killed."""
        return [worker for worker in self.workers if worker.alive]
