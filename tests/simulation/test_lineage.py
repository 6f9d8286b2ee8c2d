"""Values that are lost with their hosts, and made again: chains of tasks while hosts die and others join."""

from __future__ import annotations

import dataclasses

from tests.simulation.scenario import is_clean, leftovers
from tests.simulation.seeds import batches
from zray.client.core.assignments import Assignment
from zray.ids import task_of
from zray.testing.clients import SimDriver
from zray.testing.cluster import SimCluster
from zray.testing.hosts import SimHost
from zray.testing.lanes import LaneFaults
from zray.testing.network import NetworkFaults
from zray.testing.operations import Get, Program, Sleep
from zray.testing.workers import SimWorker

LIMIT_S = 400.0
UNLIMITED = -1


@dataclasses.dataclass
class Counts:
    """What was seen in a run: attempts of tasks that had an outcome before, and values that could not be got."""

    rerun: int = 0
    lost: int = 0


class Scenario:
    """A driver makes chains of stored values and drops most of the references between; hosts die meanwhile.

    ``retries``: of each task. ``deaths``: how many hosts die; another joins each time.
    """

    def __init__(self, seed: int, retries: int, deaths: int, network_faults: NetworkFaults) -> None:
        self.retries = retries
        self.counts = Counts()
        self.cluster = cluster = SimCluster(
            seed, self.work, network_faults, lane_faults=LaneFaults(after=2), stored_part=0.8
        )
        rng = cluster.sim.random
        self.hosts = [SimHost(cluster, {"CPU": 20_000}) for _ in range(3)]
        self.driver = SimDriver(cluster, self.chains)
        for _ in range(deaths):
            cluster.sim.after(rng.uniform(0.05, 30.0), self.lose_a_host)

    def run(self, seed: int) -> Counts:
        """Runs it to its end, and until nothing is left."""
        cluster, driver = self.cluster, self.driver
        assert cluster.sim.run(lambda: driver.done, LIMIT_S), f"seed {seed} never ends"
        assert cluster.sim.run(lambda: is_clean(cluster, [driver]), LIMIT_S), (
            f"seed {seed}: {leftovers(cluster, [driver])}"
        )
        assert not driver.core.lineage.records, f"seed {seed}: records are left"
        assert not driver.core.lineage.n_bytes
        return self.counts

    def lose_a_host(self) -> None:
        victim = self.cluster.sim.random.choice(self.hosts)
        self.hosts.remove(victim)
        self.cluster.kill(victim)
        self.hosts.append(SimHost(self.cluster, {"CPU": 20_000}))

    def chains(self, driver: SimDriver) -> Program:
        rng = self.cluster.sim.random
        held: list[bytes] = []
        for _ in range(30):
            used = rng.sample(held, min(len(held), rng.randrange(3)))
            nested = rng.sample(held, min(len(held), rng.choice([0, 0, 1])))
            made = driver.submit("f", used, nested, self.retries, cpus=1, n_returns=rng.choice([1, 1, 1, 2]))
            held += made
            while len(held) > 4:
                driver.drop(held.pop(rng.randrange(len(held))))
            yield Sleep(rng.choice([0.0, 0.1, 0.5, 2.0]))
            if rng.random() < 0.3:
                yield from self.get(driver, rng.sample(held, 2) if len(held) > 1 else held)
        yield Sleep(10.0)
        yield from self.get(driver, held)
        for object_id in held:
            driver.drop(object_id)

    def get(self, driver: SimDriver, object_ids: list[bytes]) -> Program:
        values = yield Get(object_ids)
        self.counts.lost += values.count(None)
        for value in values:
            for inner in value or ():
                driver.drop(inner)
        self.counts.rerun = sum(self.cluster.starts[task] > 1 for task in {task_of(each) for each in object_ids})

    def work(self, worker: SimWorker, task: Assignment, refs: list[bytes]) -> Program:
        yield Sleep(self.cluster.sim.random.choice([0.002, 0.05, 0.5]))
        if refs and self.cluster.sim.random.random() < 0.3:  # a value with references inside
            for object_id in refs:
                worker.load([object_id], b"")
            return refs
        return []


@batches(100)
def test_with_retries_nothing_is_lost(seeds: range) -> None:
    rerun = 0
    for seed in seeds:
        counts = Scenario(seed, UNLIMITED, 1 + seed % 4, NetworkFaults()).run(seed)
        assert not counts.lost, f"seed {seed}: {counts.lost} values"
        rerun += counts.rerun
    assert rerun, "no value was made again"


@batches(100)
def test_with_few_retries_in_bad_weather_nothing_waits_for_ever(seeds: range) -> None:
    for seed in seeds:
        Scenario(seed, seed % 3, 1 + seed % 5, NetworkFaults(loss=0.02, duplication=0.02)).run(seed)
