"""Tasks that wait for tasks, deeper than there are CPUs: never a deadlock, never a grant too many."""

from __future__ import annotations

from tests.simulation.scenario import LIMIT_S, kill_somebody
from tests.simulation.seeds import batches
from zray.client.core.assignments import Assignment
from zray.testing.clients import SimDriver
from zray.testing.cluster import SimCluster
from zray.testing.hosts import SimHost
from zray.testing.operations import Get, Program, Sleep
from zray.testing.workers import SimWorker

DEPTH = 10
WIDTH = 2


def tree(worker: SimWorker, task: Assignment, refs: list[bytes]) -> Program:
    """Submits children of the next generation, and waits for all of them; every other generation has one only."""
    depth = int(worker.function_of(task))

    def program() -> Program:
        yield Sleep(0.001)
        if depth < DEPTH:
            children = []
            for _ in range(1 + depth % WIDTH):
                children.extend(worker.submit(str(depth + 1), retries=-1, parent=task.task_id))
            worker.block()
            yield Get(children)
            worker.unblock()
            for child in children:
                worker.drop(child)
        return []

    return program()


def roots(driver: SimDriver) -> Program:
    results = [ref for _ in range(3) for ref in driver.submit("0", retries=-1)]
    yield Get(results)
    for ref in results:
        assert driver.value(ref) == [], "a branch of the tree was lost"
        driver.drop(ref)


def grow(seed: int, deaths: int) -> None:
    cluster = SimCluster(seed, tree)
    SimHost(cluster, {"CPU": 10_000})
    driver = SimDriver(cluster, roots)
    for _ in range(deaths):
        cluster.sim.after(cluster.sim.random.uniform(0.01, 2), lambda: kill_somebody(cluster))
    assert cluster.sim.run(lambda: driver.done, LIMIT_S), f"ZRAY_TEST_SEED={seed}: a deadlock"


@batches(6)
def test_deep_trees_on_one_cpu(seeds: range) -> None:
    for seed in seeds:
        grow(seed, deaths=0)


@batches(6)
def test_deep_trees_whose_workers_die(seeds: range) -> None:
    for seed in seeds:
        grow(seed, deaths=3)
