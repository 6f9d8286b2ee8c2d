"""Placement groups on the simulated cluster: created and removed at random, with work in them, while processes die.
Some ask for labels of their hosts, or stay within one rack.

After every turn of the broker its invariants are checked (``BrokerCore.check``): what is reserved, granted and free
adds up, and every bundle is in one place. At the end nothing is left.
"""

from __future__ import annotations

from typing import Any

from tests.simulation.scenario import BAD_WEATHER, LIMIT_S, is_clean, kill_somebody, leftovers, random_program
from tests.simulation.seeds import batches
from zray.broker.packing import STRATEGIES
from zray.broker.resources import shape_key
from zray.bundles import ANY, GROUP_ID_BYTES, asked
from zray.protocol.messages import GroupCreate, GroupRemove, GroupSettled, GroupWatch
from zray.protocol.records import GroupSpec, Selector
from zray.scheduling.constraint import IN, NOT_IN, Term
from zray.testing.clients import SimActor, SimDriver
from zray.testing.cluster import SimCluster
from zray.testing.hosts import SimHost
from zray.testing.operations import Get, Program, Sleep

BUNDLES = [{"CPU": 10_000}, {"CPU": 5_000}, {"CPU": 10_000, "x": 10_000}, {"x": 5_000}]
SELECTORS: list[list[Term]] = [[], [Term("rack", IN, ["1"])], [Term("rack", NOT_IN, ["2"])]]
STEPS = 25


class Groups:
    """The groups of one driver. ``asked``: the questions that wait for an answer."""

    def __init__(self, driver: SimDriver) -> None:
        self.driver = driver
        self.rng = driver.cluster.sim.random
        self.live: dict[bytes, list[dict[str, int]]] = {}
        self.asked = 0

    def create(self) -> None:
        group_id = self.rng.randbytes(GROUP_ID_BYTES)
        bundles = [self.rng.choice(BUNDLES) for _ in range(self.rng.randrange(1, 4))]
        selectors = [Selector(self.rng.choice(SELECTORS)) for _ in bundles] if self.rng.random() < 0.2 else []
        topology = "rack" if self.rng.random() < 0.2 else ""
        spec = GroupSpec("", "", self.rng.choice(STRATEGIES), bundles, False, b"", selectors, topology)
        self.driver.core.to_broker(GroupCreate(group_id, 0, spec))
        self.live[group_id] = bundles

    def remove(self) -> None:
        group_id = self.rng.choice(list(self.live))
        del self.live[group_id]
        self.driver.core.to_broker(GroupRemove(group_id))

    def watch(self) -> None:
        core = self.driver.core
        self.asked += 1
        core.to_broker(GroupWatch(core.new_request(self._answered), self.rng.choice(list(self.live))))

    def _answered(self, answer: Any) -> None:
        assert answer is None or isinstance(answer, GroupSettled)
        self.asked -= 1

    def shape(self) -> bytes:
        """The shape of work that fits into a bundle of a group."""
        group_id = self.rng.choice(list(self.live))
        index = self.rng.randrange(len(self.live[group_id]))
        amounts = self.rng.choice([self.live[group_id][index], {}])
        return shape_key(asked(amounts, group_id.hex(), self.rng.choice([ANY, index])))


def driver_with_groups(driver: SimDriver) -> Program:
    groups, rng = Groups(driver), driver.cluster.sim.random
    bag: list[bytes] = []
    actors: list[SimActor] = []
    for _ in range(STEPS):
        if not groups.live or rng.random() < 0.3:
            groups.create()
        elif rng.random() < 0.2:
            groups.remove()
        elif rng.random() < 0.2:
            groups.watch()
        elif rng.random() < 0.3:
            actors.append(driver.create_actor(rng.choice([0, 2]), shape=groups.shape()))
            bag.append(driver.call(actors[-1], retries=rng.choice([0, 3])))
        else:
            bag.extend(driver.submit("3", retries=rng.choice([0, 3]), shape=groups.shape()))
        if rng.random() < 0.3:
            bag.extend(driver.submit("2", cpus=1))
        yield Sleep(rng.choice([0.0, 0.001, 0.02]))
    yield Sleep(rng.choice([0.0, 12.0]))  # the death of a host is noticed only after some seconds
    while groups.live:
        groups.remove()
        yield Sleep(0.001)
    for value in (yield Get(list(bag))):
        bag.extend(value or [])
    for ref in bag:
        driver.drop(ref)
    for actor in actors:
        driver.drop(actor.handle_id)
    while groups.asked:
        yield Sleep(0.1)
    return None


def run(seed: int, hosts: int = 0, workers: int = 0, drivers: int = 0, joiners: int = 0) -> None:
    """Runs one seed. ``hosts``, ``workers``, ``drivers``: how many of them die; ``joiners``: hosts that join later."""
    cluster = SimCluster(seed, random_program, BAD_WEATHER)
    sim = cluster.sim

    def new_host() -> SimHost:
        return SimHost(
            cluster,
            {"CPU": sim.random.choice([10_000, 20_000, 30_000]), "x": sim.random.choice([0, 20_000])},
            {"rack": sim.random.choice(["1", "2"])},
        )

    joined: list[SimHost] = []
    nodes = [new_host() for _ in range(2 + hosts)]
    made = [SimDriver(cluster, driver_with_groups) for _ in range(2)]
    for victim in [*nodes[1 : 1 + hosts], *made[:drivers]]:
        sim.after(sim.random.uniform(0.05, 3.0), lambda victim=victim: cluster.kill(victim))  # type: ignore[misc]
    for _ in range(workers):
        sim.after(sim.random.uniform(0.01, 1.0), lambda: kill_somebody(cluster))
    for _ in range(joiners):
        sim.after(sim.random.uniform(0.05, 9.0), lambda: joined.append(new_host()))
    try:
        assert sim.run(lambda: all(driver.done or not driver.alive for driver in made), LIMIT_S), (
            "a driver waits forever"
        )
        assert sim.run(lambda: is_clean(cluster, made), LIMIT_S), f"left over: {leftovers(cluster, made)}"
    except Exception as error:
        raise AssertionError(f"{error!r}: run it again with ZRAY_TEST_SEED={seed}") from error


@batches(100)
def test_fair_weather(seeds: range) -> None:
    for seed in seeds:
        run(seed)


@batches(100)
def test_dying_hosts(seeds: range) -> None:
    for seed in seeds:
        run(seed, hosts=1 + seed % 2, joiners=seed % 3)


@batches(100)
def test_everything_at_once(seeds: range) -> None:
    for seed in seeds:
        run(seed, hosts=seed % 3, workers=seed % 5, drivers=seed % 2, joiners=1)
