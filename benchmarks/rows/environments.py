"""Runtime environments: how long the first task in a new one takes."""

from __future__ import annotations

import os
import time

from pace import Pace
from peers import Cluster

ENVIRONMENTS = 5


def first_task(peer: Cluster, pace: Pace) -> tuple[float]:
    def value() -> str:  # in here, so that it travels by value
        return os.environ["BENCHMARK_VALUE"]

    task = peer.api.remote(value)
    best = float("inf")
    for number in range(ENVIRONMENTS):
        there = task.options(runtime_env={"env_vars": {"BENCHMARK_VALUE": str(number)}})
        began = time.perf_counter()
        assert peer.api.get(there.remote()) == str(number)
        best = min(best, time.perf_counter() - began)
    return (best * 1000,)


MEASURES = {("environment_first",): first_task}
