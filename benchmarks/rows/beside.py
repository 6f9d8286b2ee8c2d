"""A second driver beside a million queued tasks: how long one small task of its takes, one after the other.

The queued tasks keep their workers busy for 0.5 ms each, so the queue is as good as full for the whole measurement.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from pace import Pace
from peers import Cluster

SECOND = """
import json, sys, time
import zray
zray.init(sys.argv[1], log_to_driver=False)
small = zray.remote(lambda: b"ok")
took = []
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    zray.get(small.remote())
    took.append((time.perf_counter() - start) * 1e3)
    time.sleep(0.02)
print(json.dumps(took))
"""


def work() -> bytes:
    until = time.perf_counter() + 0.0005
    while time.perf_counter() < until:
        pass
    return b"ok"


def beside(peer: Cluster, pace: Pace) -> tuple[float, float]:
    """Milliseconds of a task of the second driver: the median, and the 99th percentile, the first one included."""
    api: Any = peer.api
    submit = api.remote(work).remote
    api.get([submit() for _ in range(1_000)])
    refs = [submit() for _ in range(pace.backlog)]
    count = 500 if pace.backlog >= 1_000_000 else 100
    address = api.get_runtime_context().gcs_address
    second = subprocess.run(
        [sys.executable, "-c", SECOND, address, str(count)], capture_output=True, text=True, check=True
    )
    ready, _ = api.wait(refs, num_returns=len(refs), timeout=0)
    if len(ready) > len(refs) // 2:
        raise RuntimeError("too little was left of the queue")
    took = sorted(json.loads(second.stdout))
    return took[len(took) // 2], took[int(len(took) * 0.99)]


MEASURES = {("beside_median", "beside_p99"): beside}
