"""Progress bars of tasks and actors at the driver."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import zray as ray
from zray.experimental import tqdm_ray

ray.init(num_cpus=2)

@ray.remote
def work(n):
    print("begins")
    for _ in tqdm_ray.tqdm(range(n), desc="task"):
        pass

@ray.remote
class Worker:
    def work(self):
        bar = tqdm_ray.tqdm(total=7, desc="actor")
        bar.update(7)
        bar.close()

ray.get([work.remote(5), Worker.remote().work.remote()])
ray.shutdown()
"""


def test_bars_in_a_pipe(sandbox):
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert "task: 5 of 5 it" in done.stderr and "actor: 7 of 7 it" in done.stderr
    assert "begins" in done.stdout
    assert "magic" not in done.stdout + done.stderr
