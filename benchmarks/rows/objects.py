"""Values: small ones, which are bookkeeping, and large ones, which are bandwidth."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from pace import Pace
from peers import Cluster, Peer

MIB = 1024 * 1024
SIZE_BYTES = 100 * MIB
WARMING = 5  # times the measured time: Ray frees late and so goes through gigabytes of pages before it recycles any


def put_small(peer: Cluster, pace: Pace) -> float:
    put = peer.api.put

    def run(count: int) -> None:
        for _ in range(count):
            put(0)

    return pace.rate(run, 100)


def get_small(peer: Cluster, pace: Pace) -> float:
    get, ref = peer.api.get, peer.api.put(0)

    def run(count: int) -> None:
        for _ in range(count):
            get(ref)

    return pace.rate(run, 100)


def put_large(peer: Cluster, pace: Pace) -> tuple[float, float, float]:
    """The share of memcpy that `put` reaches, and both in GB/s."""
    source = np.ones(SIZE_BYTES, np.uint8)
    target = np.ones_like(source)  # its pages exist, like those of a recycled segment

    def take_turns(least_s: float) -> tuple[float, float, float]:
        """In turns, so that both meet the same noise."""
        put_s = copy_s = 0.0
        rounds = 0
        while put_s < least_s:
            began = time.perf_counter()
            ref = peer.api.put(source)
            del ref
            put_s += time.perf_counter() - began
            began = time.perf_counter()
            np.copyto(target, source)
            copy_s += time.perf_counter() - began
            rounds += 1
        moved_gb = rounds * SIZE_BYTES / 1e9
        return copy_s / put_s, moved_gb / put_s, moved_gb / copy_s

    take_turns(WARMING * pace.loop_s)
    return take_turns(pace.loop_s)


def take(array: Any) -> int:
    return len(array)


def make(size: int) -> Any:
    return np.ones(size, np.uint8)


def argument(peer: Peer, pace: Pace) -> float:
    submit, gather = peer.task(take)
    array = np.ones(MIB, np.uint8)
    return pace.rate(lambda count: gather([submit(array) for _ in range(count)]), 100)


def result(peer: Peer, pace: Pace) -> float:
    submit, gather = peer.task(make)
    return pace.rate(lambda count: gather([submit(MIB) for _ in range(count)]), 100)


MEASURES = {
    ("put_small",): put_small,
    ("get_small",): get_small,
    ("put_share", "put_rate", "memcpy"): put_large,
    ("argument_1mib",): argument,
    ("result_1mib",): result,
}
