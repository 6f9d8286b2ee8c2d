"""A whole broker without its socket: the two cores, ``Membership`` and ``BrokerCore``, and how they work together.

The shell and the simulation (``zray/testing``) both run this, each with its own ``Connections``.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, Protocol

from zray.broker.core import BrokerCore
from zray.broker.effects import Departed, Journaled
from zray.broker.membership import (
    Congested,
    Dead,
    Follow,
    Heard,
    Joining,
    Membership,
    MembershipEffect,
    Misbehaving,
    NotSent,
    Reply,
    Unfollow,
)
from zray.logs.line import ERROR, LogLine
from zray.protocol.messages import ProtocolError
from zray.protocol.routing import Arrival


class Connections(Protocol):
    """The connections to a broker, by name."""

    def send(self, through: bytes, process_id: bytes, data: bytes) -> bool:
        """Sends a frame to a process by a connection. Returns False if there is no connection of that name."""

    def follow(self, through: bytes) -> None:
        """Watches whether the peer of a connection acknowledges what it is sent: ``Membership`` will ask for it."""

    def unfollow(self, through: bytes) -> None:
        """Ends ``follow`` for a connection."""


class Broker:
    """The two cores of a broker.

    ``log(line)`` writes the log; ``write(changes)`` the journal, if there is one.
    """

    def __init__(
        self,
        core: BrokerCore,
        members: Membership,
        connections: Connections,
        log: Callable[[LogLine], None],
        write: Callable[[list[Journaled]], None] = lambda changes: None,
    ) -> None:
        self.core = core
        self.members = members
        self._connections = connections
        self._log = log
        self._write = write

    def receive(self, arrival: Arrival, now: float) -> None:
        """Handles a frame completely, since the next one may depend on it."""
        self.members.receive(arrival.through, arrival, now)
        self._settle(now)

    def tick(self, now: float) -> None:
        """Does what depends on the time. Called about every ``TICK_S``."""
        self.members.tick(now)
        self._settle(now)
        self.core.tick(now)

    def schedule(self, now: float) -> None:
        """Places what waits. Called at the end of a turn."""
        self.core.schedule(now)

    def _settle(self, now: float) -> None:
        members = self.members
        while members.pending:
            self._perform(members.take_output().effects, now)

    def send(self, now: float) -> None:
        """Sends the messages of this turn, and performs the effects that result from it."""
        core, members = self.core, self.members
        has_departed = False
        while True:
            wanted = core.take_output()
            for dest in list(wanted.sends):  # popped, so that packed messages are freed: there may be megabytes
                members.send(dest, wanted.sends.pop(dest), now)
            changes = []
            for effect in wanted.effects:
                if isinstance(effect, Departed):
                    members.departed(effect.process_id, now)
                    has_departed = True
                elif isinstance(effect, Journaled):
                    changes.append(effect)
                else:
                    self._log(effect)
            if changes:
                self._write(changes)  # before anything of this turn leaves
            output = members.take_output()
            self._transmit(output.sends, now)
            if not output.effects:
                break
            self._perform(output.effects, now)
        if has_departed:
            members.turn_over(now)
            self._settle(now)

    def _transmit(self, sends: dict[bytes, list[Any]], now: float) -> None:
        send, members = self._connections.send, self.members
        for process_id, frames in sends.items():
            through = members.route(process_id)
            for frame in frames:
                arrived = send(through, process_id, frame)
                if not arrived or process_id in members.unreachable:
                    members.transmitted(process_id, arrived, now)

    def _perform(self, effects: list[MembershipEffect], now: float) -> None:
        connections = self._connections
        for effect in effects:
            if isinstance(effect, Heard):
                self._hear(effect, now)
            elif isinstance(effect, Reply):
                connections.send(effect.through, effect.process_id, effect.data)
            elif isinstance(effect, Joining):
                self._join(effect, now)
            elif isinstance(effect, Congested):
                self.core.set_congested(effect.process_id, effect.congested, now)
            elif isinstance(effect, NotSent):
                self.core.rejected(effect.process_id, effect.message, effect.reason, now)
            elif isinstance(effect, Dead):
                self.core.lost(effect.process_id, effect.reason, now)
            elif isinstance(effect, Misbehaving):
                self._report(f"process {effect.process_id.hex()} is declared dead: {effect.reason}")
                self.core.expel(effect.process_id, effect.reason, now)
            elif isinstance(effect, LogLine):
                self._log(effect)
            elif isinstance(effect, Follow):
                connections.follow(effect.through)
            elif isinstance(effect, Unfollow):
                connections.unfollow(effect.through)

    def _report(self, text: str) -> None:
        self._log(LogLine(ERROR, "broker", text))

    def _hear(self, heard: Heard, now: float) -> None:
        for message in heard.messages:
            try:
                self.core.receive(heard.process_id, message, now)
            except ProtocolError as error:
                self.members.blame(heard.process_id, str(error), now)
            except Exception as error:  # a fault of zray must not end the cluster
                self._report(f"cannot handle a {type(message).__name__}:\n{traceback.format_exc()}")
                self.members.blame(heard.process_id, f"{type(message).__name__}: {error}", now)

    def _join(self, joining: Joining, now: float) -> None:
        try:
            cluster = self.core.joined(*joining, now)
        except Exception:  # a fault of zray must not end the cluster
            self._report(f"cannot let a {joining.kind} join:\n{traceback.format_exc()}")
            self.members.decline(joining.process_id, now)
        else:
            self.members.admit(joining.process_id, cluster, now)
