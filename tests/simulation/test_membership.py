"""Seeded runs with processes that are stopped, with intruders, and with reconnects under the names of others.

A failure names its seed, as in ``test_random_clusters.py``.
"""

from __future__ import annotations

from collections import Counter

from tests.simulation.scenario import Trouble, run_scenario
from tests.simulation.seeds import batches
from zray.testing.intruders import Intruder


@batches(100)
def test_stopped_and_resumed(seeds: range) -> None:
    """A host that was silent for too long is declared dead, and ends when it goes on; a driver and a worker live."""
    for seed in seeds:
        run_scenario(seed, Trouble(hosts=1, pauses=1 + seed % 4))


@batches(100)
def test_intruders(seeds: range) -> None:
    """Nobody gets in, and nobody is blamed for what others say in its name."""
    refusals: Counter[str] = Counter()
    for seed in seeds:
        cluster = run_scenario(seed, Trouble(workers=seed % 3, hosts=seed % 2, intruders=1 + seed % 3))
        intruders = [node for node in cluster.nodes.values() if isinstance(node, Intruder)]
        for intruder in intruders:
            assert intruder.process_id not in cluster.members.members
            assert intruder.process_id not in cluster.broker.processes
            refusals.update(reason.partition(":")[0] for reason in intruder.refusals)
        assert not cluster.reports, "a member was blamed"
    assert refusals["another process has joined under its name"], "nothing was tried"


@batches(100)
def test_everything_about_members_at_once(seeds: range) -> None:
    for seed in seeds:
        run_scenario(seed, Trouble(workers=seed % 3, hosts=seed % 3, drivers=seed % 2, pauses=seed % 4, intruders=1))
