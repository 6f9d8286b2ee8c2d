"""A process on the simulated network: how it joins, is linked to the broker, and is stopped for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zray import version
from zray.protocol.codec import KIND_HANDSHAKE, pack_handshake, read_frame, unpack_handshake
from zray.protocol.link import Link
from zray.protocol.messages import DRIVER, FROM_BROKER, PROTOCOL_VERSION, WORKER, Hello, Refused
from zray.protocol.records import JoinInfo
from zray.protocol.routing import Arrival
from zray.testing.network import Simulation

HELLO_S = 0.25
HEARTBEAT_S = 1.0
TICK_S = 0.25
SILENCE_S = 6.0


class Connections(Protocol):
    """The broker's side of the simulated network."""

    def dialled(self, through: bytes, owner: Node) -> None:
        """A process has dialled the broker."""


class Network(Protocol):
    """What every process uses: the network, the broker, and the other processes. See ``zray.testing.cluster``."""

    sim: Simulation
    worker_tick_s: float
    connections: Connections
    nodes: dict[bytes, Node]

    def receive(self, arrival: Arrival) -> None:
        """A frame has reached the broker."""

    def kill(self, node: Node) -> None:
        """Kills a process."""


class Node:
    """A process on the simulated network: it joins, has a link to the broker, and handles messages.

    ``through``: the name of the connection that it shares; if empty, it dials one of its own. ``key``: the key that it
    presents.
    """

    def __init__(self, cluster: Network, process_id: bytes, kind: str, through: bytes = b"") -> None:
        self.cluster = cluster
        self.process_id = process_id
        self.kind = kind
        self.alive = True
        self.through = through or cluster.sim.new_id()
        self.key = b"driver" if kind == DRIVER else b"host"
        self.info = JoinInfo()
        self.link: Link | None = None
        self._incarnation = b""
        self._waiting: list[Any] = []  # messages to send when it has joined
        self._held: list[Callable[[], None]] | None = None  # actions held back while the process is stopped
        cluster.nodes[process_id] = self
        if not through:
            cluster.connections.dialled(self.through, self)
        cluster.sim.after(0.0, self._say_hello)
        cluster.sim.after(TICK_S, self._tick)

    def handle(self, message: Any) -> None:
        """Handles a message from the broker."""

    def output(self) -> list[Any]:
        """Returns the messages to send."""
        return []

    def ticked(self) -> None:
        """Time has passed."""

    def refused(self, reason: str) -> None:
        """The broker has refused it, or has declared it dead."""
        self.cluster.kill(self)

    def _say_hello(self) -> None:
        if not self.alive or self.link is not None:
            return
        if self._held is None:
            here = PROTOCOL_VERSION, version.python_version(), version.VERSION
            self.transmit(pack_handshake(Hello(*here, self.kind, self.process_id, self.info)))
        self.cluster.sim.after(HELLO_S, self._say_hello)

    def transmit(self, frame: bytes) -> None:
        """Sends a frame to the broker."""

        def send(frame: bytes) -> None:
            self.cluster.receive(Arrival(self.process_id, self.through, self.key, frame))

        self.relay().pass_on(lambda: self.cluster.sim.transmit(frame, send))

    def relay(self) -> Node:
        """Returns the process whose connection it uses."""
        return self

    def pass_on(self, action: Callable[[], None]) -> None:
        """Does an action on its connection, or holds it back while the process is stopped."""
        if self._held is not None:
            self._held.append(action)
        else:
            action()

    def deliver(self, data: bytes) -> None:
        """A frame has arrived."""
        if not self.alive:
            return
        if self._held is not None:
            self._held.append(lambda: self.deliver(data))
            return
        frame = read_frame(data)
        if frame.kind == KIND_HANDSHAKE:
            self._on_handshake(unpack_handshake(frame))
        elif self.link is not None and frame.incarnation == self._incarnation:
            for message in self.link.receive(frame, self.cluster.sim.now):
                self.handle(message)
        self.flush()

    def _on_handshake(self, answer: Any) -> None:
        if isinstance(answer, Refused):
            self.refused(answer.reason)
        elif self.link is None:
            self._incarnation = answer.incarnation
            self.link = Link(answer.incarnation, FROM_BROKER, self.cluster.sim.now, HEARTBEAT_S, SILENCE_S)

    def flush(self) -> None:
        """Sends what is queued."""
        if not self.alive or self._held is not None:
            return
        self._waiting.extend(self.output())
        if self.link is None:
            return
        for message in self._waiting:
            self.link.send(message)
        self._waiting.clear()
        for frame in self.link.outgoing(self.cluster.sim.now):
            self.transmit(frame)

    def _tick(self) -> None:
        if not self.alive:
            return
        if self.link is not None and self._held is None:
            self.link.tick(self.cluster.sim.now)
            self.ticked()
            self.flush()
        self.cluster.sim.after(self.cluster.worker_tick_s if self.kind == WORKER else TICK_S, self._tick)

    # ------------------------------------------------------------------ faults

    def pause(self) -> None:
        """Stops the process (SIGSTOP): frames that arrive stay in the kernel."""
        if self._held is None:
            self._held = []

    def go_on(self) -> None:
        """Continues the process (SIGCONT)."""
        held, self._held = self._held, None
        for action in held or ():
            action()
