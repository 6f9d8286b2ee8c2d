"""Wide calls: thousands of arguments, of returns, of references in one hand."""

from __future__ import annotations

from typing import Any

from pace import Pace
from peers import Cluster


def arguments(peer: Cluster, pace: Pace) -> float:
    """A task is given 10,000 objects and adds them up."""
    api = peer.api
    total = api.remote(lambda *numbers: sum(numbers))
    refs = [api.put(i) for i in range(10_000)]
    return pace.shortest(lambda: api.get(total.remote(*refs)))


def returns(peer: Cluster, pace: Pace) -> float:
    """A task returns 3,000 objects, which are all fetched."""
    api = peer.api
    many = api.remote(num_returns=3_000)(lambda: range(3_000))
    return pace.shortest(lambda: api.get(many.remote()))


def gets(peer: Cluster, pace: Pace) -> float:
    """10,000 objects that were put are fetched in one call."""
    api = peer.api
    refs = [api.put(i) for i in range(10_000)]
    return pace.shortest(lambda: api.get(refs))


def refs(peer: Cluster, pace: Pace) -> float:
    """A task has put 10,000 objects and returned a list of their refs: how often per second can it be fetched."""
    api = peer.api

    def make() -> list[Any]:
        return [api.put(i) for i in range(10_000)]

    nested = api.remote(make).remote()
    api.wait([nested])

    def run(count: int) -> None:
        for _ in range(count):
            api.get(nested)

    return pace.rate(run, 1)


MEASURES = {("arguments_10k",): arguments, ("returns_3k",): returns, ("gets_10k",): gets, ("refs_10k",): refs}
