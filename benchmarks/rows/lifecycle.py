"""Start, weight at rest, end. The peer is not started yet when this group runs: not even imported."""

from __future__ import annotations

import time

import processes
from pace import Pace
from peers import Peer
from rows.small import hello, occupy


def lifecycle(peer: Peer, pace: Pace) -> tuple[float, ...]:
    began = time.perf_counter()
    peer.start()
    submit, gather = peer.task(hello)
    gather([submit()])
    startup_s = time.perf_counter() - began

    submit, gather = peer.task(occupy)
    workers = set(gather([submit(), submit()]))
    idle_mb = processes.settled_pss_mb()
    worker_mb = processes.pss_mb(list(workers)) / len(workers)

    began = time.perf_counter()
    peer.stop()
    return startup_s, idle_mb, worker_mb, time.perf_counter() - began


MEASURES = {("startup", "idle_pss", "worker_pss", "shutdown"): lifecycle}
