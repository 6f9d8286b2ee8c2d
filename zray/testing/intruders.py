"""Simulated processes that are not members of a cluster, and try to join or to send in a member's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zray import version
from zray.protocol.codec import (
    KIND_DATA,
    KIND_HANDSHAKE,
    pack_body,
    pack_frame,
    pack_handshake,
    read_frame,
    unpack_handshake,
)
from zray.protocol.messages import DRIVER, HOST, PROTOCOL_VERSION, WORKER, Goodbye, Hello, HostReady, Refused
from zray.protocol.records import HostInfo, JoinInfo
from zray.protocol.routing import Arrival
from zray.testing.nodes import Node

if TYPE_CHECKING:
    from zray.testing.cluster import SimCluster

MOST_PAUSE_S = 0.2
KEYS = (b"driver", b"host", b"nobody")
"""An intruder may have the valid key of another role."""


class Intruder(Node):
    """Tries to join again and again. ``known``: identifiers of processes that have joined, dead or alive."""

    def __init__(self, cluster: SimCluster) -> None:
        super().__init__(cluster, cluster.sim.new_id(), "intruder")
        self._members = cluster.members
        self._broker_incarnation = cluster.incarnation
        self.known: list[bytes] = []
        self.refusals: list[str] = []

    def _say_hello(self) -> None:
        if not self.alive:
            return
        rng = self.cluster.sim.random
        self.known.extend(each for each in self._members.members if each not in self.known)
        for _ in range(rng.randrange(1, 4) if self.known else 0):
            name, data = self._attempt(rng.choice(self.known))
            arrival = Arrival(name, self.through, rng.choice(KEYS), data)
            self._dial(arrival)
        self.cluster.sim.after(rng.uniform(0.0, MOST_PAUSE_S), self._say_hello)

    def _dial(self, arrival: Arrival) -> None:
        self.cluster.sim.transmit(arrival.data, lambda frame: self.cluster.receive(arrival._replace(data=frame)))

    def _attempt(self, victim: bytes) -> tuple[bytes, bytes]:
        """Returns the name to send under, and the data."""
        rng = self.cluster.sim.random
        kind = rng.choice([DRIVER, HOST, WORKER])
        hello = Hello(PROTOCOL_VERSION, version.python_version(), version.VERSION, kind, victim, JoinInfo())
        incarnation = rng.choice([bytes(8), self._broker_incarnation])
        said = rng.choice([Goodbye("I was it"), HostReady({"CPU": 10_000}, HostInfo(hostname="intruder"))])
        attempts = [
            (victim, pack_handshake(hello)),
            (victim, pack_handshake(hello._replace(process_id=self.process_id))),
            (victim, pack_frame(KIND_DATA, incarnation, rng.randrange(1, 5), 0, pack_body([said]))),
            (victim, rng.randbytes(rng.randrange(60))),
            (self.process_id, rng.randbytes(rng.randrange(60))),
            (self.process_id, pack_frame(KIND_DATA, incarnation, 1, 0, pack_body([said]))),
            (self.process_id, pack_handshake(hello._replace(process_id=self.process_id, protocol=0))),
            (self.process_id, pack_handshake(hello._replace(process_id=self.process_id, kind=WORKER))),
        ]
        return rng.choice(attempts)

    def deliver(self, data: bytes) -> None:
        """Handles an answer, which must be a refusal."""
        frame = read_frame(data)
        assert frame.kind == KIND_HANDSHAKE, "an intruder was sent data"
        answer = unpack_handshake(frame)
        assert isinstance(answer, Refused), "an intruder was accepted"
        self.refusals.append(answer.reason)
