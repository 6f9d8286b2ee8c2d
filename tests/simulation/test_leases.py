"""Owners that submit one task after the other: most of these go to leased workers, while others want the CPUs too."""

from __future__ import annotations

import dataclasses

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

LIMIT_S = 200.0
FAULTS = (LaneFaults(after=1), LaneFaults(after=1, full=0.2), LaneFaults(after=2, full=0.1, late=0.2))
PROMPT_S = 0.05
"""How long work may wait for CPUs that a lease holds and no task uses: the target that this design was made for."""


@dataclasses.dataclass
class Counts:
    """What was seen in a run: tasks by lanes, and the longest time from a submission to the beginning of its task."""

    by_lane: int = 0
    longest_s: float = 0.0


class Scenario:
    """Two drivers on two CPUs: one submits tasks one by one, with pauses; the other bursts of short tasks.

    ``kills``: workers die. ``breaks``: sockets break.
    """

    def __init__(self, seed: int, kills: int = 0, breaks: int = 0, network_faults: NetworkFaults | None = None) -> None:
        faults = network_faults or NetworkFaults()
        self.cluster = cluster = SimCluster(seed, self.program, faults, lane_faults=FAULTS[seed % len(FAULTS)])
        self.counts = Counts()
        self.begun: dict[bytes, float] = {}
        self.submitted: dict[bytes, float] = {}
        SimHost(cluster, {"CPU": 20_000})
        self.drivers = [SimDriver(cluster, self.one_by_one), SimDriver(cluster, self.bursts)]
        for _ in range(kills):
            cluster.sim.after(cluster.sim.random.uniform(0.01, 2.0), self.kill_one)
        for _ in range(breaks):
            cluster.sim.after(cluster.sim.random.uniform(0.01, 2.0), cluster.lanes.break_one)

    def run(self, seed: int) -> Counts:
        """Runs it to its end, and until all resources are free again."""
        cluster = self.cluster
        assert cluster.sim.run(lambda: all(each.done for each in self.drivers), LIMIT_S), f"seed {seed} never ends"
        (host,) = cluster.broker.scheduler.hosts.values()
        free = cluster.sim.run(lambda: host.pool.free == host.pool.total, LIMIT_S)
        assert free, f"seed {seed}: a lease is left"
        cluster.broker.check()
        return self.counts

    def kill_one(self) -> None:
        live = self.cluster.live_workers()
        if live:
            self.cluster.kill(self.cluster.sim.random.choice(live))

    def one_by_one(self, driver: SimDriver) -> Program:
        rng = self.cluster.sim.random
        for _ in range(60):
            (called,) = driver.submit("f", cpus=1)
            (value,) = yield Get([called])
            assert value == []
            driver.drop(called)
            yield Sleep(rng.choice([0.0, 0.0, 0.0, 0.0, 0.02, 1.0]))

    def bursts(self, driver: SimDriver) -> Program:
        rng = self.cluster.sim.random
        yield Sleep(2.0)  # the workers have joined
        for _ in range(6):
            yield Sleep(rng.uniform(0.0, 1.0))
            called = [driver.submit("g", cpus=rng.choice([1, 2]))[0] for _ in range(rng.choice([1, 5]))]
            self.submitted.update({task_of(ref): self.cluster.sim.now for ref in called})
            values = yield Get(called)
            assert values == [[]] * len(called)
            for ref in called:
                driver.drop(ref)

    def program(self, worker: SimWorker, task: Assignment, refs: list[bytes]) -> Program:
        self.counts.by_lane += task.by_lane
        since = self.submitted.pop(task.task_id, None)
        if since is not None and not task.attempt:
            self.counts.longest_s = max(self.counts.longest_s, self.cluster.sim.now - since)
        yield Sleep(0.002)
        return []


@batches(100)
def test_tasks_one_by_one_beside_bursts(seeds: range) -> None:
    by_lane = 0
    for seed in seeds:
        by_lane += Scenario(seed).run(seed).by_lane
    assert by_lane > 10 * len(seeds)


@batches(100)
def test_nobody_waits_long_for_what_an_idle_lease_holds(seeds: range) -> None:
    # A burst of up to five tasks of 2 ms on two CPUs. Frames come in order, as through a socket: nothing is sent again.
    in_order = NetworkFaults(least_delay_s=0.0005, most_delay_s=0.0005)
    for seed in seeds:
        longest_s = Scenario(seed, network_faults=in_order).run(seed).longest_s
        assert 0 < longest_s < PROMPT_S, f"seed {seed}: {longest_s}"


@batches(100)
def test_with_deaths_and_broken_lanes_in_bad_weather(seeds: range) -> None:
    by_lane = 0
    for seed in seeds:
        weather = NetworkFaults(loss=0.02, duplication=0.02)
        by_lane += Scenario(seed, kills=seed % 4, breaks=seed % 3, network_faults=weather).run(seed).by_lane
    assert by_lane > 5 * len(seeds)
