"""Start, weight at rest, end. The peer is not started yet when this group runs: not even imported."""

from __future__ import annotations

import time

import processes
from pace import Pace
from peers import Peer
from rows.small import hello, occupy

REST_S = 8.0
"""Until a cluster is idle: zray ends a worker that has idled for 5 s, and a fork that waits takes its place."""


def lifecycle(peer: Peer, pace: Pace) -> tuple[float, ...]:
    began = time.perf_counter()
    peer.start()
    submit, gather = peer.task(hello)
    gather([submit()])
    startup_s = time.perf_counter() - began

    submit, gather = peer.task(occupy)
    workers = set(gather([submit(), submit()]))
    worked_mb = processes.settled_pss_mb(list(workers)) / len(workers)
    time.sleep(REST_S)
    idle_mb = processes.settled_pss_mb()
    idle = [pid for pid in workers if processes.exists(pid)] or processes.titled("::IDLE")
    worker_mb = processes.pss_mb(idle) / len(idle)

    began = time.perf_counter()
    peer.stop()
    return startup_s, idle_mb, worked_mb, worker_mb, time.perf_counter() - began


MEASURES = {("startup", "idle_pss", "worker_worked_pss", "worker_pss", "shutdown"): lifecycle}
