"""Thousands of seeded runs of a cluster on a bad network: nothing is lost, nothing is left, nobody waits forever."""

from __future__ import annotations

import os

import pytest

from tests.simulation.scenario import run_scenario
from zray.testing.network import Weather

SEEDS = int(os.environ.get("ZRAY_TEST_SEEDS", "300"))
BATCH = 50


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_fair_weather(first: int) -> None:
    for seed in range(first, first + BATCH):
        run_scenario(seed, weather=Weather())


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_lost_and_reordered_frames(first: int) -> None:
    for seed in range(first, first + BATCH):
        run_scenario(10_000 + seed)


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_dying_workers(first: int) -> None:
    for seed in range(first, first + BATCH):
        run_scenario(20_000 + seed, deaths=1 + seed % 6)
