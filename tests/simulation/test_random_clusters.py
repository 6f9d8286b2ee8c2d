"""Seeded runs of a whole cluster on a bad network: nothing is lost, nothing is left, nobody waits forever.

A failure names its seed; ``ZRAY_TEST_SEED=123 pytest tests/simulation -k workers`` runs that one again.
"""

from __future__ import annotations

from tests.simulation.scenario import Trouble, run_scenario
from tests.simulation.seeds import batches
from zray.testing.network import NetworkFaults


@batches(200)
def test_fair_weather(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed, network_faults=NetworkFaults())


@batches(200)
def test_lost_and_reordered_frames(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed)


@batches(200)
def test_dying_workers(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed, Trouble(workers=1 + seed % 6))


@batches(100)
def test_dying_hosts(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed, Trouble(hosts=1 + seed % 2))


@batches(100)
def test_dying_drivers(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed, Trouble(drivers=1 + seed % 2))


@batches(200)
def test_cancelling(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed, Trouble(cancels=True))


@batches(200)
def test_everything_at_once(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed, Trouble(workers=seed % 4, hosts=seed % 3, drivers=seed % 2, cancels=True))


@batches(150)
def test_work_that_asks_for_hosts(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed, Trouble(workers=seed % 3, hosts=seed % 3, cancels=bool(seed % 2), choosy=True))


@batches(150)
def test_work_that_runs_too_long(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed, Trouble(workers=seed % 3, hosts=seed % 2, cancels=bool(seed % 2), limits=True))


@batches(100)
def test_work_with_priorities(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed, Trouble(workers=seed % 3, hosts=seed % 2, urgent=True))


def test_a_stream_whose_next_attempt_begins_at_the_limit_of_its_back_pressure() -> None:
    """Its owner told no process of what was taken from then on."""
    run_scenario(1440, Trouble(workers=2, hosts=1, drivers=1, cancels=True))
