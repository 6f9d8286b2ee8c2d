"""What each optimization gains that can be switched off: a local cluster with all of them, without each, without any.

    python -m benchmarks.optimizations               # a table in Markdown, in a few minutes
    python -m benchmarks.optimizations --rounds 1

For each choice a program of its own starts a cluster, and the choices take turns; the median of the rounds counts.

- *spare*: memory that a fork which waits for work shares with no other process, in MB (10^6 bytes).
- *actor*: PSS of everything but the driver with 50 actors, each called once, over 50, in MB.
- *collected*: what an actor's PSS is after it has collected garbage once (``gc.collect()``), in MB.
- *chunk*: microseconds of CPU time for a buffer of 1 MiB that is got, filled and given back with 15 others, as a
  host does while chunks arrive.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.processes import descendants, private_mb, pss_mb, settled_pss_mb, titled
from zray.config import MIB, OPTIMIZATIONS, TUNE_MALLOC
from zray.config.reading import ALL, from_environment, variable_of
from zray.memory.malloc import keep_what_is_freed

FIGURES = ("spare", "actor", "collected", "chunk")
ACTORS = 50
SPARES = 4
CHUNKS = 16
ROUNDS_OF_CHUNKS = 50
VARIABLE = variable_of("disabled_optimizations")


def main() -> int:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure()))
        return 0
    choices = ["", *OPTIMIZATIONS, ALL]
    found: dict[str, list[list[float]]] = {choice: [] for choice in choices}
    for _ in range(given.rounds):
        for choice in choices:
            found[choice].append(_measured_without(choice))
    print(f"CPython {platform.python_version()}, {' '.join(platform.libc_ver())}, median of {given.rounds} rounds\n")
    print(f"| without | {' | '.join(FIGURES)} |")
    print(f"|---{'|--:' * len(FIGURES)}|")
    for choice, rounds in found.items():
        medians = [statistics.median(each) for each in zip(*rounds, strict=True)]
        print(f"| {choice or 'nothing left out'} | {' | '.join(f'{figure:.2f}' for figure in medians)} |")
    return 0


def _measured_without(choice: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.optimizations", "--measure"],
        cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, VARIABLE: choice, variable_of("idle_timeout_s"): "0.5"},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: list[float] = json.loads(done.stdout)
    return figures


def measure() -> list[float]:
    """The figures of a cluster with the settings that this process has, in the order of ``FIGURES``."""
    import zray

    @zray.remote
    class Actor:
        def where(self) -> int:
            return os.getpid()

        def collect(self) -> None:
            import gc

            gc.collect()

    zray.init(num_cpus=SPARES)
    while len(spares := [pid for pid in titled("zray::IDLE") if _is_asleep(pid)]) < SPARES:
        time.sleep(0.05)  # until idle workers have gone and spares have taken their places
    settled_pss_mb(spares)
    spare_mb = private_mb(spares) / SPARES
    actors = [Actor.options(num_cpus=0).remote() for _ in range(ACTORS)]  # type: ignore[attr-defined]
    zray.get([actor.where.remote() for actor in actors])
    actor_mb = settled_pss_mb() / ACTORS
    zray.get([actor.collect.remote() for actor in actors])
    pids = zray.get([actor.where.remote() for actor in actors])
    collected_mb = pss_mb(pids) / ACTORS
    zray.shutdown()
    assert not descendants()
    return [spare_mb, actor_mb, collected_mb, chunk_us()]


def chunk_us() -> float:
    """Microseconds of CPU time for each of ``CHUNKS`` buffers, on average of many rounds."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    if from_environment().optimizes(TUNE_MALLOC):
        keep_what_is_freed()

    def play() -> None:
        buffers = [libc.malloc(MIB) for _ in range(CHUNKS)]
        for buffer in buffers:
            libc.memset(buffer, 1, MIB)
        for buffer in buffers:
            libc.free(buffer)

    play()
    began = time.process_time()
    for _ in range(ROUNDS_OF_CHUNKS):
        play()
    return (time.process_time() - began) / (ROUNDS_OF_CHUNKS * CHUNKS) * 1e6


def _is_asleep(pid: int) -> bool:
    """Whether it is a spare: a worker has threads of ZeroMQ's."""
    tasks = Path(f"/proc/{pid}/task")
    return tasks.exists() and len(list(tasks.iterdir())) == 1


if __name__ == "__main__":
    sys.exit(main())
