"""A simulated network and clock in one process: seeded, with loss, delay, reordering and duplication."""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class NetworkFaults:
    """The faults of the network. Delays in seconds, the others are probabilities per frame."""

    loss: float = 0.0
    duplication: float = 0.0
    least_delay_s: float = 0.0001
    most_delay_s: float = 0.002


class Simulation:
    """Virtual time: actions happen in the order of their times, ties in the order in which they were planned."""

    def __init__(self, seed: int, network_faults: NetworkFaults = NetworkFaults()) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.network_faults = network_faults
        self.frames = 0
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = 0

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Plans an action."""
        self._counter += 1
        heapq.heappush(self._plan, (self.now + delay_s, self._counter, action))

    def transmit(self, frame: bytes, deliver: Callable[[bytes], None]) -> None:
        """Sends a frame, or loses it, or delivers it twice."""
        self.frames += 1
        rng, network_faults = self.random, self.network_faults
        if rng.random() < network_faults.loss:
            return
        for _ in range(2 if rng.random() < network_faults.duplication else 1):
            self.after(rng.uniform(network_faults.least_delay_s, network_faults.most_delay_s), lambda: deliver(frame))

    def new_id(self) -> bytes:
        """Returns sixteen random bytes."""
        return self.random.randbytes(16)

    def step(self) -> bool:
        """Does the next planned action. Returns False when there is none."""
        if not self._plan:
            return False
        time, _, action = heapq.heappop(self._plan)
        self.now = max(self.now, time)
        action()
        return True

    def run(self, until: Callable[[], bool], limit_s: float) -> bool:
        """Runs until the condition holds. Returns False when ``limit_s`` of virtual time passed first."""
        deadline = self.now + limit_s
        while not until():
            if self.now > deadline or not self.step():
                return until()
        return True
