"""Moves the frames of lanes between a client's core and its sockets. All methods are called under the shell's lock."""

from __future__ import annotations

from typing import Any

from zray.client.core.client_core import ClientCore
from zray.client.core.effects import CloseLane, DialLane, LaneEffect, OfferLane
from zray.protocol.messages import ProtocolError
from zray.transport.lanes import Accepted, Arrived, Expired, LaneEvent, Lanes


def refuse(core: ClientCore, effect: LaneEffect, now: float) -> None:
    """Tells the core that an effect was not performed."""
    if isinstance(effect, OfferLane):
        core.lanes.offered(effect.caller, "", b"", now)
    elif isinstance(effect, DialLane):
        core.lanes.dialled(effect.name, False, now)


class LaneSockets:
    """The lanes of one client process. ``path``: where its socket is if it serves an actor; else empty.

    Raises OSError if there are no descriptors.
    """

    def __init__(self, core: ClientCore, path: str, max_message_bytes: int) -> None:
        self._core = core
        self._path = path
        self._sockets = Lanes(path, max_message_bytes)

    def fileno(self) -> int:
        """A descriptor that is readable while something has arrived."""
        return self._sockets.fileno()

    def perform(self, effect: LaneEffect, now: float) -> None:
        """Performs an effect of the core."""
        if isinstance(effect, OfferLane):
            name = self._sockets.offer(now)
            self._core.lanes.offered(effect.caller, self._path if name else "", name, now)
        elif isinstance(effect, DialLane):
            self._core.lanes.dialled(effect.name, self._sockets.dial(effect.address, effect.name), now)
        else:
            assert isinstance(effect, CloseLane)
            self._sockets.hang_up(effect.name)

    def receive(self, now: float) -> None:
        """Gives the core what has arrived."""
        for each in self._sockets.receive():
            self._tell(each, now)

    def tick(self, now: float) -> None:
        """Ends what takes too long. Called several times a second."""
        for each in self._sockets.tick(now):
            self._tell(each, now)

    def _tell(self, happened: LaneEvent, now: float) -> None:
        lanes = self._core.lanes
        if isinstance(happened, Arrived):
            try:
                lanes.frame(happened.name, happened.frame, now)
            except ProtocolError:
                lanes.faults += 1
        elif isinstance(happened, Accepted):
            lanes.accepted(happened.name, now)
        elif isinstance(happened, Expired):
            lanes.expired(happened.name, now)
        else:
            lanes.broke(happened.name, now)

    def send(self, sends: dict[bytes, list[Any]]) -> dict[bytes, list[bytes]]:
        """Takes the frames of lanes out of ``sends``, and sends them. Returns those that the sockets did not take, by
        lane."""
        refused: dict[bytes, list[bytes]] = {}
        for name in [dest for dest in sends if dest in self._core.lanes]:
            frames = sends.pop(name)
            left = self._sockets.send(name, frames) if self._core.lanes.takes_frames(name) else frames
            if left:
                refused[name] = list(left)
        return refused

    def close(self) -> None:
        """Closes all sockets."""
        self._sockets.close()
