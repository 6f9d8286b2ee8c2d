"""Many small calls by `multiprocessing.Pool` and by joblib: on a cluster, in the standard pool, in joblib's own loky.

The standard pool counts as "ppe", whose processes are the standard library's too.
"""

from __future__ import annotations

import importlib
from typing import Any

from pace import Pace
from peers import WORKERS, Cluster, Peer

CALLS = 10_000


def small(number: int) -> int:
    return number


def pool_map(peer: Peer, pace: Pace) -> float:
    """`Pool.map` with its own choice of chunks."""
    name = f"{peer.name}.util.multiprocessing" if isinstance(peer, Cluster) else "multiprocessing"
    with importlib.import_module(name).Pool(WORKERS) as pool:
        return pace.rate(lambda count: pool.map(small, range(count)), CALLS)


def joblib_calls(peer: Peer, pace: Pace) -> float:
    """`joblib.Parallel` with its own choice of batches."""
    joblib: Any = importlib.import_module("joblib")
    if isinstance(peer, Cluster):
        importlib.import_module(f"{peer.name}.util.joblib").register_ray()
    backend = "ray" if isinstance(peer, Cluster) else "loky"
    parallel, delayed = joblib.Parallel(n_jobs=WORKERS, backend=backend), joblib.delayed(small)
    return pace.rate(lambda count: parallel(delayed(number) for number in range(count)), CALLS)


MEASURES = {("pool_map",): pool_map, ("joblib_calls",): joblib_calls}
