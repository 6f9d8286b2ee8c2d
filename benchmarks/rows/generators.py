"""Streams: the values of a generator, each an object of its own, taken by the driver as they come."""

from __future__ import annotations

from collections.abc import Iterator

from pace import Pace
from peers import Cluster

ITEMS = 2_000


def numbers(count: int) -> Iterator[int]:
    """Not by `yield from`: Ray 2.60 calls `send` of what a generator delegates to, and a range has no such method."""
    for number in range(count):  # noqa: UP028
        yield number


def items(peer: Cluster, pace: Pace) -> float:
    """Takes each item and gets its value, before it takes the next."""
    get, task = peer.api.get, peer.api.remote(numbers).options(num_returns="streaming")

    def run(count: int) -> None:
        assert sum(1 for ref in task.remote(count) if get(ref) >= 0) == count

    return pace.rate(run, ITEMS)


MEASURES = {("stream_items",): items}
