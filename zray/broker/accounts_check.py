"""Checks that the accounts agree with the grants; for tests and the simulation."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zray.broker.accounts import Account, Parts, Share, add
from zray.broker.records import Worker


def check_all(waiting: Iterable[Share], workers: Iterable[Worker]) -> None:
    """Raises AssertionError if the account of a line or of a job does not agree with the grants; for tests.

    ``waiting``: the lines in which something waits. The lines of ``workers`` are checked too.
    """
    lines: dict[Share, list[Worker]] = {share: [] for share in waiting}
    claims: dict[Share, list[Worker]] = {}
    for worker in workers:
        if worker.share is not None:
            lines.setdefault(worker.share, []).append(worker)
        if worker.yields_to is not None:
            claims.setdefault(worker.yields_to, []).append(worker)
    jobs: dict[Account, list[Worker]] = {}
    for share, mine in lines.items():
        _check_line(share, mine, claims.get(share, ()))
        jobs.setdefault(share.job, []).extend(mine)
    for job, theirs in jobs.items():
        _check(job, theirs)
        assert sum(job.granted.values()) == job.holders, "grants of a job by depth"
        lending = [worker for worker in theirs if worker.share is not None and worker.worker_id in worker.share.lenders]
        assert sum(job.lending.values()) == len(lending), "workers of a job that lend, by depth"


def _check(account: Account, workers: Collection[Worker]) -> None:
    used: Parts = {}
    for worker in workers:
        add(used, worker.charge, 1)
    assert {name: part for name, part in account.used.items() if part} == used, "what is used"
    assert account.holders == len(workers), "workers that hold a grant"


def _check_line(share: Share, mine: Collection[Worker], claims: Collection[Worker]) -> None:
    """Checks a line and its promises. ``mine``: the workers with its grants; ``claims``: those that make it room."""
    _check(share, mine)
    assert share.starting == sum(worker.reserved is not None for worker in mine), "workers that are being started"
    promised: Parts = {}
    for worker in claims:
        add(promised, worker.promise[0], 1)
    for worker in mine:
        if worker.yields_to is not None:
            add(promised, worker.promise[1], -1)
    assert share.claims == len(claims), "workers that make room"
    assert {k: v for k, v in share.promised.items() if v} == {k: v for k, v in promised.items() if v}, "promises"
