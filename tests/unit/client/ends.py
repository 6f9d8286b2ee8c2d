"""A client core with lanes. The test plays the broker and the sockets."""

from __future__ import annotations

from typing import Any

from tests.unit.client.wiring import HOST, over_the_wire
from zray.client.core.client_core import ClientCore
from zray.protocol.contract import BROKER
from zray.protocol.routing import through_broker


class End:
    """A process: what it has sent and not yet arrived, by the broker (``up``) and by its lane (``frames``)."""

    def __init__(self, own_id: bytes, after: int = 2, windows: Any = None) -> None:
        self.core = ClientCore(own_id, HOST, 1 << 20)
        self.core.lanes.machine = "here"
        self.core.lanes.after = after
        self.up: list[Any] = []
        self.frames: list[bytes] = []
        self.effects: list[Any] = []

    def flush(self) -> None:
        while output := self.core.take_output():
            for name in [dest for dest in output.sends if dest in self.core.lanes]:
                frames = output.sends.pop(name)
                if self.core.lanes.takes_frames(name):
                    self.frames += frames
                else:
                    self.core.lanes.overflowed(name, frames, 0.0)
                    first = through_broker(self.core.take_output().sends)
                    self.up += [over_the_wire(message) for message in first]
            self.up += [over_the_wire(message) for message in through_broker(output.sends)]
            self.effects += output.effects
        self.core.check()

    def take(self, kind: Any) -> list[Any]:
        """Takes the effects of a class."""
        self.flush()
        taken = [effect for effect in self.effects if isinstance(effect, kind)]
        self.effects = [effect for effect in self.effects if not isinstance(effect, kind)]
        return taken

    def tell(self, message: Any) -> None:
        """A message of the broker arrives."""
        self.core.receive(BROKER, over_the_wire(message), 0.0)
        self.flush()
