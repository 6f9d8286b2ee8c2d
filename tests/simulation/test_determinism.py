"""A seed is a run: without that, no failure could be looked at twice."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
from tests.simulation.scenario import Trouble, run_scenario
for seed in range(5):
    cluster = run_scenario(seed, Trouble(workers=2, drivers=1, cancels=True))
    print(cluster.sim.frames, cluster.sim.now, [worker.seen for worker in cluster.workers])
"""


def test_the_same_seed_is_the_same_run_in_every_process() -> None:
    outputs = []
    for hash_seed in ("1", "2"):  # which decides the order in which a set is walked through
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        outputs.append(run.stdout)
    assert outputs[0] == outputs[1]
