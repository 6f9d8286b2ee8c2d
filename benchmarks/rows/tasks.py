"""Small tasks: what a task costs beside its work."""

from __future__ import annotations

from pace import Pace
from peers import Cluster, Peer


def small() -> bytes:
    return b"ok"


def one_by_one(peer: Peer, pace: Pace) -> float:
    submit, gather = peer.task(small)

    def run(count: int) -> None:
        for _ in range(count):
            gather([submit()])

    return pace.rate(run, 100)


def together(peer: Peer, pace: Pace) -> float:
    submit, gather = peer.task(small)
    return pace.rate(lambda count: gather([submit() for _ in range(count)]), 10_000)


def wait(peer: Cluster, pace: Pace) -> float:
    """Rounds of: 1,000 tasks are started, and `wait` is asked for the next one until there is none."""
    submit, _ = peer.task(small)

    def run(rounds: int) -> None:
        for _ in range(rounds):
            pending = [submit() for _ in range(1_000)]
            while pending:
                _, pending = peer.api.wait(pending)

    return pace.rate(run, 1)


MEASURES = {("tasks_one_by_one",): one_by_one, ("tasks_together",): together, ("wait",): wait}
