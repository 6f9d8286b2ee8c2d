"""Placement groups: how many a second a driver can reserve and give back, one after the other."""

from __future__ import annotations

import importlib

from pace import Pace
from peers import Cluster

CYCLES = 20


def cycles(peer: Cluster, pace: Pace) -> float:
    """Creates a group of two bundles, waits until it is reserved, and removes it."""
    module = importlib.import_module(f"{peer.name}.util.placement_group")

    def run(count: int) -> None:
        for _ in range(count):
            group = module.placement_group([{"CPU": 1}, {"CPU": 1}], strategy="PACK")
            assert group.wait(30)
            module.remove_placement_group(group)

    return pace.rate(run, CYCLES)


MEASURES = {("placement_group",): cycles}
