"""Answers, and references in them, that travel by lanes while the processes that send them die."""

from __future__ import annotations

from tests.simulation.seeds import batches
from zray.client.core.assignments import Assignment
from zray.ids import task_of
from zray.testing.clients import SimActor, SimDriver
from zray.testing.cluster import SimCluster
from zray.testing.hosts import SimHost
from zray.testing.lanes import LaneFaults
from zray.testing.network import NetworkFaults
from zray.testing.operations import Get, Program, Sleep
from zray.testing.workers import SimWorker

ROUNDS = 12
LIMIT_S = 120.0


class Scenario:
    """A driver calls a middleman, which gets a reference from its owner and passes it on, and may then be killed.

    Its answer is in the lane when the broker reports the death, so the call has not failed. When the owner learns of
    the death, it asks the driver whether the reference has arrived, and must not get its answer before that.
    """

    def __init__(self, seed: int) -> None:
        self.cluster = SimCluster(seed, self.program, NetworkFaults(), lane_faults=LaneFaults(after=1))
        self.answered: set[bytes] = set()  # calls that were answered by a lane
        self.owner: SimActor | None = None
        self.middleman: SimActor | None = None
        self.passed_on = 0
        SimHost(self.cluster, {"CPU": 40_000})
        self.driver = SimDriver(self.cluster, self.main)

    def ends(self) -> bool:
        """Runs it. Returns whether it came to its end."""
        return self.cluster.sim.run(lambda: self.driver.done, LIMIT_S)

    def main(self, driver: SimDriver) -> Program:
        self.owner = driver.create_actor()
        self.middleman = driver.create_actor(restarts=-1)
        for _ in range(ROUNDS):
            called = driver.call(self.middleman)
            (refs,) = yield Get([called])
            assert refs is not None or task_of(called) not in self.answered, "a call failed that was answered"
            driver.drop(called)
            yield Sleep(driver.cluster.sim.random.choice([0.0, 0.01, 0.1]))
            for ref in refs or ():
                (value,) = yield Get([ref])  # fails if its owner has freed it
                assert value == []
                self.passed_on += 1
                driver.drop(ref)
        driver.drop(self.owner.handle_id)
        driver.drop(self.middleman.handle_id)

    def program(self, worker: SimWorker, task: Assignment, refs: list[bytes]) -> Program:
        return self.method(worker, task)

    def method(self, worker: SimWorker, task: Assignment) -> Program:
        assert self.owner is not None and self.middleman is not None
        if worker.core.execution.actor_id == self.owner.actor_id:
            yield Sleep(0.0)
            return [worker.put([])]
        called = worker.call(self.owner, retries=-1)
        (found,) = yield Get([called])
        worker.drop(called)
        rng = worker.cluster.sim.random
        if worker.core.lanes.serves(self.driver.process_id) and rng.random() < 0.5:
            worker.cluster.sim.after(0.003, lambda: self.kill(worker, task))
        return found or []

    def kill(self, worker: SimWorker, task: Assignment) -> None:
        """Kills the middleman, which has answered: the owner of what it has answered has acknowledged by now."""
        if worker.core.execution.is_running(task.task_id) or not worker.core.references.acknowledged:
            worker.cluster.sim.after(0.001, lambda: self.kill(worker, task))
            return
        self.answered.add(task.task_id)
        worker.cluster.kill(worker)


@batches(100)
def test_a_reference_that_its_announcer_does_not_outlive(seeds: range) -> None:
    for seed in seeds:
        scenario = Scenario(seed)
        assert scenario.ends(), f"seed {seed} never ends"
        assert scenario.passed_on and scenario.answered, f"seed {seed} shows nothing"
