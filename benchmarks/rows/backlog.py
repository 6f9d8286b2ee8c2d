"""A million tasks in the queue: does it get slower as it fills or drains, and what does it weigh.

Both CPUs are held until all tasks are submitted, so that they are really queued. Then they are fetched in the order of
submission, and each tenth is timed, in both directions.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import processes
from pace import Pace
from peers import WORKERS, Cluster


def small() -> bytes:
    return b"ok"


def hold(until: Path) -> None:
    while not until.exists():
        time.sleep(0.02)


def backlog(peer: Cluster, pace: Pace) -> tuple[float, float, float]:
    """Tasks per second over all; the rate of the last tenth to that of the first, the worse of submitting and
    draining; and peak RSS of driver and broker in MB."""
    api, tenth = peer.api, pace.backlog // 10
    submit = api.remote(small).remote
    api.get([submit() for _ in range(1_000)])
    with tempfile.TemporaryDirectory() as directory:
        gate = Path(directory, "open")
        holders = [api.remote(hold).remote(gate) for _ in range(WORKERS)]
        began = time.perf_counter()
        refs: list[list[Any]] = []
        submitted = []
        for _ in range(10):
            start = time.perf_counter()
            refs.append([submit() for _ in range(tenth)])
            submitted.append(time.perf_counter() - start)
        gate.touch()
        api.get(holders)
        drained = []
        for part in refs:
            start = time.perf_counter()
            api.get(part)
            drained.append(time.perf_counter() - start)
        seconds = time.perf_counter() - began
    # Without a process of that name, the whole cluster counts.
    brokers = processes.titled("broker") or processes.descendants()
    ratio = min(submitted[0] / submitted[-1], drained[0] / drained[-1])
    return 10 * tenth / seconds, ratio, processes.peak_rss_mb([os.getpid(), *brokers])


MEASURES = {("backlog_rate", "backlog_ratio", "backlog_rss"): backlog}
