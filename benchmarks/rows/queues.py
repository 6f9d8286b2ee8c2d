"""The queue of `util.queue`: items that the driver puts and takes back, one after the other."""

from __future__ import annotations

import importlib

from pace import Pace
from peers import Cluster

PAIRS = 50


def put_get(peer: Cluster, pace: Pace) -> float:
    queue = importlib.import_module(f"{peer.name}.util.queue").Queue()

    def run(count: int) -> None:
        for number in range(count):
            queue.put(number)
            assert queue.get() == number

    return pace.rate(run, PAIRS)


MEASURES = {("queue_put_get",): put_get}
