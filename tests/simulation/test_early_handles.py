"""Handles that travel by ways of the user's own: they are used before, while and after their actor is announced."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.simulation.scenario import BAD_WEATHER, LIMIT_S
from tests.simulation.seeds import batches
from zray.client.core.assignments import Assignment
from zray.protocol.messages import ActorKill
from zray.testing.clients import SimActor, SimDriver
from zray.testing.cluster import SimCluster
from zray.testing.hosts import SimHost
from zray.testing.operations import Get, Program, Sleep
from zray.testing.workers import SimWorker

Handles = list[SimActor]


def idle(worker: SimWorker, task: Assignment, refs: list[bytes]) -> Program:
    """A method that takes a moment."""

    def program() -> Program:
        yield Sleep(0.001)
        return []

    return program()


def member(board: Handles) -> Callable[[SimDriver], Program]:
    """A driver that puts its handles on the board at once, and calls and kills whatever is on it."""

    def start(driver: SimDriver) -> Program:
        rng = driver.cluster.sim.random
        results: list[bytes] = []
        for _ in range(20):
            if rng.random() < 0.3:
                board.append(driver.create_actor(rng.choice([0, 1])))
                driver.core.references.pin(board[-1].handle_id)  # pickled by the user
            if board:
                actor = rng.choice(board[-6:])
                driver.core.references.load(actor.handle_id)
                results.append(driver.call(actor, retries=rng.choice([0, 2])))
                driver.drop(actor.handle_id)
                if rng.random() < 0.1:
                    driver.core.to_broker(ActorKill(actor.actor_id, True))
            yield Sleep(rng.choice([0.0, 0.001, 0.05]))
        yield Get(results)
        for ref in results:
            driver.drop(ref)

    return start


def play(seed: int, deaths: int) -> None:
    cluster = SimCluster(seed, idle, BAD_WEATHER)
    rng = cluster.sim.random
    for _ in range(2):
        SimHost(cluster, {"CPU": 40_000})
    board: Handles = []
    drivers = [SimDriver(cluster, member(board)) for _ in range(3)]

    def kill(driver: SimDriver) -> None:
        driver.done = True
        cluster.kill(driver)

    for driver in rng.sample(drivers, deaths):
        cluster.sim.after(rng.uniform(0.0, 0.5), partial(kill, driver))
    ended = cluster.sim.run(lambda: all(driver.done for driver in drivers), LIMIT_S)
    assert ended, f"ZRAY_TEST_SEED={seed}: a call waits for ever"
    cluster.broker.check()


@batches(25)
def test_every_call_has_an_outcome(seeds: range) -> None:
    for seed in seeds:
        play(seed, deaths=0)


@batches(25)
def test_every_call_has_an_outcome_though_creators_die(seeds: range) -> None:
    for seed in seeds:
        play(seed, deaths=2)
