"""Calls of actors: from the driver to one, and from several tasks to several ("n:n")."""

from __future__ import annotations

from typing import Any

from pace import Pace
from peers import WORKERS, Cluster

CALLS = 1_000
CALLERS = 4


class Plain:
    def small(self) -> bytes:
        return b"ok"


class Async:
    async def small(self) -> bytes:
        return b"ok"


def _one_by_one(peer: Cluster, pace: Pace, kind: type) -> float:
    get, actor = peer.api.get, peer.api.remote(kind).remote()

    def run(count: int) -> None:
        for _ in range(count):
            get(actor.small.remote())

    return pace.rate(run, 100)


def _together(peer: Cluster, pace: Pace, kind: type) -> float:
    get, actor = peer.api.get, peer.api.remote(kind).remote()
    return pace.rate(lambda count: get([actor.small.remote() for _ in range(count)]), CALLS)


def n_n(peer: Cluster, pace: Pace) -> float:
    """Tasks call actors, as many at a time as there are CPUs; each goes round all actors and then waits."""
    api = peer.api
    actors = [api.remote(Plain).remote() for _ in range(WORKERS)]

    def call(actors: list[Any], count: int) -> None:
        api.get([actors[i % len(actors)].small.remote() for i in range(count)])

    caller = api.remote(call)
    return pace.rate(
        lambda count: api.get([caller.remote(actors, count // CALLERS) for _ in range(CALLERS)]), CALLERS * CALLS
    )


MEASURES = {
    ("actor_one_by_one",): lambda peer, pace: _one_by_one(peer, pace, Plain),
    ("actor_together",): lambda peer, pace: _together(peer, pace, Plain),
    ("actor_n_n",): n_n,
    ("async_one_by_one",): lambda peer, pace: _one_by_one(peer, pace, Async),
    ("async_together",): lambda peer, pace: _together(peer, pace, Async),
}
