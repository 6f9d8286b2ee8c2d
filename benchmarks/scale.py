"""The real cores of a very large cluster in one process: does a decision cost more when there are more hosts?

A simulated network and clock (``zray.testing``), but the broker's, hosts', workers' and drivers' own cores and links.
Timed is what the broker does of its own: handling what has arrived, and placing; not the simulation around it. A
decision is a task or an actor that is placed. Two clusters are compared, with as much work for each host: tasks that
are queued at once, then actors that are created and called once each.

    python -m benchmarks.scale                  # 1,000 hosts, 16,000 workers, 1,000,000 tasks, 40,000 actors
    python -m benchmarks.scale --quick          # 100 hosts and a tenth of the work, in seconds
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.host_figures import Figure, table
from zray.client.core.assignments import CALL, Assignment
from zray.testing.clients import SimDriver
from zray.testing.cluster import SimCluster
from zray.testing.hosts import SimHost
from zray.testing.operations import Get, Program, Sleep
from zray.testing.workers import SimWorker

CPUS = 16
TASK_S = 0.05
ACTOR_BATCH = 500
SUBMIT_BATCH = 1000
MOST_TIMES = 2.0
LIMIT_S = 3600.0


@dataclasses.dataclass
class Cost:
    """What the broker's decisions took."""

    seconds: float = 0.0

    def turn(self, action: Callable[[], None]) -> None:
        began = time.perf_counter()
        action()
        self.seconds += time.perf_counter() - began


@dataclasses.dataclass(frozen=True)
class Result:
    """Microseconds of the broker's for each task and each actor, and what it took to find out."""

    hosts: int
    tasks: int
    actors: int
    workers: int
    us_per_task: float
    us_per_actor: float
    wall_s: float


def program(worker: SimWorker, task: Assignment, refs: list[bytes]) -> Program:
    if task.kind != CALL:
        yield Sleep(TASK_S)
    return []


def run(n_hosts: int, n_tasks: int, n_actors: int, batch: int = SUBMIT_BATCH, pause_s: float = 0.0005) -> Result:
    """Plays one cluster through to the end; raises AssertionError if anything is lost.

    Tasks are submitted in batches, with a pause after each.
    """
    began = time.perf_counter()
    cluster = SimCluster(1, program, large=True)
    cost = Cost()
    for _ in range(n_hosts):
        SimHost(cluster, {"CPU": CPUS * 10_000})
    assert cluster.sim.run(lambda: len(cluster.workers) == CPUS * n_hosts, LIMIT_S), "not all workers have started"
    cluster.on_turn = cost.turn

    answered: list[int] = []

    def tasks(driver: SimDriver) -> Program:
        left = n_tasks
        refs: list[bytes] = []
        while left:
            count = min(batch, left)
            for _ in range(count):
                refs.extend(driver.submit("small", cpus=1))
            left -= count
            yield Sleep(pause_s)
        values = yield Get(refs)
        assert values == [[]] * len(refs)
        answered.append(len(refs))
        for ref in refs:
            driver.drop(ref)

    play(cluster, tasks)
    assert sum(answered) == n_tasks
    us_per_task = cost.seconds / sum(answered) * 1e6
    cost.seconds = 0.0
    called: list[int] = []

    def actors(driver: SimDriver) -> Program:
        left = n_actors
        while left:
            count = min(ACTOR_BATCH, left)
            made = [driver.create_actor() for _ in range(count)]
            refs = [driver.call(actor) for actor in made]
            values = yield Get(refs)
            assert values == [[]] * count
            driver.bag.extend(actor.handle_id for actor in made)  # they live on
            called.append(count)
            left -= count

    play(cluster, actors)
    cluster.broker.check()
    workers = len(cluster.live_workers())
    return Result(n_hosts, sum(answered), sum(called), workers, us_per_task, cost.seconds / sum(called) * 1e6,
                  time.perf_counter() - began)  # fmt: skip


def play(cluster: SimCluster, work: Callable[[SimDriver], Program]) -> None:
    driver = SimDriver(cluster, work)
    assert cluster.sim.run(lambda: driver.done, LIMIT_S), "somebody waits for ever"


def figures_of(result: Result) -> list[Figure]:
    hosts = f"{result.hosts:,} hosts"
    task, actor = result.us_per_task, result.us_per_actor
    end = f"{result.workers:,}; {result.wall_s:.0f} s"
    return [
        Figure(f"{hosts}: a task of {result.tasks:,}", f"{task:.1f} us", "", None, task),
        Figure(f"{hosts}: an actor of {result.actors:,}", f"{actor:.1f} us", "", None, actor),
        Figure(f"{hosts}: workers at the end; simulated in", end, "", None, result.wall_s),
    ]


def multiple(what: str, small: float, large: float) -> Figure:
    times = large / small
    return Figure(f"... {what}: as a multiple", f"{times:.2f}", f"<= {MOST_TIMES:g}", times <= MOST_TIMES, times)


def compare(small: dict[str, Any], large: dict[str, Any]) -> list[Figure]:
    """Both clusters, and what the larger one costs more."""
    few, many = run(**small), run(**large)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [
        *figures_of(few),
        *figures_of(many),
        multiple("task", few.us_per_task, many.us_per_task),
        multiple("actor", few.us_per_actor, many.us_per_actor),
        Figure("memory of the simulation at its peak", f"{peak:.1f} GiB", "", None, peak),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100 hosts, a tenth of the work")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    options = parser.parse_args()
    part = 10 if options.quick else 1
    gc.disable()  # the simulation has no garbage to speak of, and millions of objects to look through
    figures = compare(
        {"n_hosts": 10, "n_tasks": 10_000, "n_actors": 400},
        {"n_hosts": 1000 // part, "n_tasks": 1_000_000 // part, "n_actors": 40_000 // part},
    )
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps({f.name.removeprefix("... "): f.number for f in figures}, indent=1) + "\n")
    return int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
