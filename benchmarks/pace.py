"""How long rows are measured, and the loops that take the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

WARM_UP_S = 0.3


@dataclass(frozen=True)
class Pace:
    loop_s: float
    """Least time that a loop is measured for, in seconds."""
    backlog: int
    """Tasks of the backlog row."""

    def rate(self, run: Callable[[int], object], size: int) -> float:
        """Operations per second of `run(size)`, which does `size` operations, repeated for at least `loop_s`."""
        _repeat(lambda: run(max(1, size // 10)), WARM_UP_S)
        rounds, seconds = _repeat(lambda: run(size), self.loop_s)
        return rounds * size / seconds

    def shortest(self, run: Callable[[], object]) -> float:
        """Seconds of the fastest of the runs, at least three, that `loop_s` has room for."""
        run()
        times: list[float] = []
        while len(times) < 3 or sum(times) < self.loop_s:
            times.append(_repeat(run, 0)[1])
        return min(times)


def _repeat(run: Callable[[], object], least_s: float) -> tuple[int, float]:
    """Runs at least once and until the time is over. Returns how often, and how long it took in seconds."""
    rounds, began = 0, time.perf_counter()
    while True:
        run()
        rounds += 1
        seconds = time.perf_counter() - began
        if seconds >= least_s:
            return rounds, seconds


FULL = Pace(loop_s=1.0, backlog=1_000_000)
QUICK = Pace(loop_s=0.3, backlog=50_000)
