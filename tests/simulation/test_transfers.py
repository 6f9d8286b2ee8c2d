"""Seeded runs of transfers between hosts: see ``transfers.py`` for what must hold.

``ZRAY_TEST_SEED=123 pytest tests/simulation/test_transfers.py -k channels`` runs one again.
"""

from __future__ import annotations

import pytest

from tests.simulation.seeds import batches
from tests.simulation.transfers import Trouble, World
from zray.transfer import chunks, core, records, requests, windows


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of some hundred bytes have many chunks then."""
    for module in (chunks, core, records, requests, windows):
        monkeypatch.setattr(module, "CHUNK_BYTES", 64)
    monkeypatch.setattr(core, "SMALL_BYTES", 200)
    monkeypatch.setattr(records, "RATE_SPAN_BYTES", 256)


def run(seeds: range, trouble: Trouble) -> int:
    read = 0
    for seed in seeds:
        world = World(seed, trouble)
        try:
            world.run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        read += world.read
    return read


@batches(200, times=10)
def test_fair_weather(seeds: range) -> None:
    assert run(seeds, Trouble()) > 0


@batches(200, times=10)
def test_channels_that_break_or_cannot_be_made(seeds: range) -> None:
    assert run(seeds, Trouble(break_channels=0.5, no_channels=0.5)) > 0


@batches(200, times=10)
def test_dying_hosts(seeds: range) -> None:
    run(seeds, Trouble(deaths=1 + seeds[0] // len(seeds) % 3, break_channels=0.2, no_channels=0.2))


@batches(200, times=10)
def test_damaged_chunks(seeds: range) -> None:
    assert run(seeds, Trouble(damage=0.05)) > 0


@batches(200, times=10)
def test_small_stores_and_readers_that_give_up(seeds: range) -> None:
    assert run(seeds, Trouble(tight=True, withdraw=0.3, evict=0.5)) > 0


@batches(200, times=10)
def test_everything_at_once(seeds: range) -> None:
    run(seeds, Trouble(deaths=2, break_channels=0.3, no_channels=0.3, damage=0.02, withdraw=0.2, evict=0.3, tight=True))
