"""Lanes on the simulated machine: sockets in order and without loss, which may be full, and break at any moment.

As in a kernel, what one end has sent is with the other end at once, also if the sender dies. The other end is woken a
moment later, but reads its lanes before it handles a message of the broker.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

from zray.client.core.client_core import ClientCore
from zray.client.core.effects import CloseLane, DialLane, OfferLane
from zray.protocol.routing import through_broker
from zray.testing.network import Simulation
from zray.transport.lanes import OFFER_S


class Process(Protocol):
    """What a lane needs of a driver or worker."""

    process_id: bytes
    alive: bool
    core: ClientCore

    def pass_on(self, action: Callable[[], None]) -> None:
        """Does an action, or holds it back while the process is stopped."""

    def lanes_read(self) -> None:
        """Frames of lanes have come."""


DELAYS_S = (0.0001, 0.0005, 0.02)
"""A process may be woken sooner than the broker would pass a message on, or much later."""


@dataclasses.dataclass
class LaneFaults:
    """``after``: how many answers through the broker a caller gets before it asks for a lane, and an owner for a lease;
    0: there are neither.
    ``full``: the probability that a socket takes only some of the frames. ``late``: that a lane is dialled after its
    offer has expired."""

    after: int = 0
    full: float = 0.0
    late: float = 0.0


class _End:
    """One end of a socket: what has come, and whether the connection has ended for it. ``told``: its process knows."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.frames: list[bytes] = []
        self.is_accepted = False
        self.has_ended = False
        self.told = False


class _Socket:
    """A connection, or the offer of one."""

    def __init__(self, worker: Process) -> None:
        self.worker = _End(worker)
        self.caller: _End | None = None
        self.is_broken = False

    def ends(self) -> list[_End]:
        return [self.worker, *([self.caller] if self.caller is not None else [])]

    def end_of(self, process: Process) -> _End | None:
        return next((end for end in self.ends() if end.process is process), None)

    def other(self, end: _End) -> _End | None:
        return self.caller if end is self.worker else self.worker


class SimLanes:
    """All lanes of a simulated cluster. ``broken``: how many were broken on purpose."""

    def __init__(self, sim: Simulation, faults: LaneFaults) -> None:
        self._sim = sim
        self._faults = faults
        self._sockets: dict[bytes, _Socket] = {}  # by name
        self._of: dict[bytes, list[bytes]] = {}  # by process: the names of its lanes
        self.broken = 0

    def prepare(self, process: Process) -> None:
        """Says whether a new process has lanes."""
        lanes = process.core.lanes
        lanes.machine = "simulated" if self._faults.after else ""
        lanes.after = self._faults.after
        process.core.leases.after = self._faults.after or math.inf

    # ------------------------------------------------------------------ effects

    def perform(self, process: Process, effect: Any) -> None:
        """Performs an effect of a core."""
        lanes, now = process.core.lanes, self._sim.now
        if isinstance(effect, OfferLane):
            name = self._sim.new_id()
            self._sockets[name] = _Socket(process)
            self._of.setdefault(process.process_id, []).append(name)
            lanes.offered(effect.caller, "here", name, now)
            self._sim.after(OFFER_S, lambda: self._expire(name))
        elif isinstance(effect, DialLane):
            lanes.dialled(effect.name, self._dial(process, effect.name), now)
        elif isinstance(effect, CloseLane):
            self._hang_up(process, effect.name)

    def _dial(self, caller: Process, name: bytes) -> bool:
        socket = self._sockets.get(name)
        is_late = self._sim.random.random() < self._faults.late
        if socket is None or socket.caller is not None or not socket.worker.process.alive or is_late:
            return False
        socket.caller = _End(caller)
        self._of.setdefault(caller.process_id, []).append(name)
        self._wake(socket.worker)
        return True

    def _expire(self, name: bytes) -> None:
        socket = self._sockets.get(name)
        if socket is not None and socket.caller is None:
            del self._sockets[name]
            if socket.worker.process.alive:
                socket.worker.process.pass_on(lambda: socket.worker.process.core.lanes.expired(name, self._sim.now))

    def _hang_up(self, process: Process, name: bytes) -> None:
        socket = self._sockets.get(name)
        end = socket.end_of(process) if socket is not None else None
        if socket is None or end is None:
            return
        end.has_ended = end.told = True
        end.frames.clear()
        other = socket.other(end)
        if other is not None:
            other.has_ended = True
            self._wake(other)

    # ------------------------------------------------------------------ frames

    def send(self, process: Process, sends: dict[bytes, list[Any]]) -> list[Any]:
        """Takes the frames of lanes out of ``sends``. Returns the messages that carry what was not taken."""
        messages: list[Any] = []
        lanes = process.core.lanes
        for name in [dest for dest in sends if dest in lanes]:
            frames = sends.pop(name)
            left = self._take(process, name, frames) if lanes.takes_frames(name) else frames
            if left:
                lanes.overflowed(name, left, self._sim.now)
                messages += through_broker(process.core.take_output().sends)
        return messages

    def _take(self, process: Process, name: bytes, frames: list[bytes]) -> list[bytes]:
        socket = self._sockets.get(name)
        end = socket.end_of(process) if socket is not None else None
        other = socket.other(end) if socket is not None and end is not None else None
        if socket is None or end is None or other is None or end.has_ended or other.has_ended:
            return frames
        n_taken = len(frames)
        if self._sim.random.random() < self._faults.full:
            n_taken = self._sim.random.randrange(n_taken)
        other.frames.extend(frames[:n_taken])
        self._wake(other)
        return frames[n_taken:]

    def _wake(self, end: _End) -> None:
        process = end.process
        delay_s = self._sim.random.uniform(0.0, self._sim.random.choice(DELAYS_S))
        self._sim.after(delay_s, lambda: process.pass_on(lambda: self._woken(process)))

    def _woken(self, process: Process) -> None:
        if process.alive:
            self.receive(process)
            process.lanes_read()

    def receive(self, process: Process) -> None:
        """Gives a process what has come by its lanes."""
        lanes, now = process.core.lanes, self._sim.now
        for name in self._of.get(process.process_id, ()):
            socket = self._sockets.get(name)
            end = socket.end_of(process) if socket is not None else None
            if socket is None or end is None or socket.caller is None:
                continue
            if end is socket.worker and not end.is_accepted:
                end.is_accepted = True
                lanes.accepted(name, now)
            frames, end.frames = end.frames, []
            for frame in frames:
                lanes.frame(name, frame, now)
            if end.has_ended and not end.told:
                end.told = True
                lanes.broke(name, now)

    # ------------------------------------------------------------------ faults

    def died(self, process: Process) -> None:
        """A process was killed: the kernel closes its sockets."""
        for name in self._of.pop(process.process_id, ()):
            socket = self._sockets.get(name)
            end = socket.end_of(process) if socket is not None else None
            if socket is not None and end is not None and (other := socket.other(end)) is not None:
                other.has_ended = True
                self._wake(other)

    def break_one(self) -> None:
        """Breaks a random connection between two living processes. A part of what was under way is lost."""
        rng = self._sim.random
        open_ones = [
            socket for socket in self._sockets.values()
            if socket.caller is not None and all(end.process.alive and not end.has_ended for end in socket.ends())
        ]  # fmt: skip
        if not open_ones:
            return
        self.broken += 1
        for end in rng.choice(open_ones).ends():
            del end.frames[rng.randrange(len(end.frames) + 1) :]
            end.has_ended = True
            self._wake(end)
