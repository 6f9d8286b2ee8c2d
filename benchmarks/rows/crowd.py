"""Many actors at once: how fast a process can be had, and what it weighs."""

from __future__ import annotations

import time

import processes
from pace import Pace
from peers import Cluster

ACTORS = 50


def crowd(peer: Cluster, pace: Pace) -> tuple[float, float]:
    class Member:  # in here, so that it travels by value: one that imported this module would weigh what that imports
        def answer(self) -> int:
            return 1

    member = peer.api.remote(Member)
    began = time.perf_counter()
    actors = [member.remote() for _ in range(ACTORS)]
    peer.api.get([actor.answer.remote() for actor in actors])
    seconds = time.perf_counter() - began
    return seconds, processes.settled_pss_mb()


MEASURES = {("actors_50", "actors_50_pss"): crowd}
