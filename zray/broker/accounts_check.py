"""Whether the accounts are what the grants say; for tests and the simulation."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zray.broker.accounts import Account, Parts, Share, add
from zray.broker.records import Worker


def check_all(waiting: Iterable[Share], workers: Iterable[Worker]) -> None:
    """Raises AssertionError if the account of a line or of a job is not what the grants say; for tests.

    ``waiting``: the lines that something waits in; those of ``workers`` are looked at as well.
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
        assert sum(job.lending.values()) == len(lending), "who of a job lends, by depth"


def _check(account: Account, workers: Collection[Worker]) -> None:
    used: Parts = {}
    for worker in workers:
        add(used, worker.charge, 1)
    assert {name: part for name, part in account.used.items() if part} == used, "what is used"
    assert account.holders == len(workers), "who holds a grant"


def _check_line(share: Share, mine: Collection[Worker], claims: Collection[Worker]) -> None:
    """With what it is promised: ``mine`` work for it, ``claims`` make room for it."""
    _check(share, mine)
    assert share.starting == sum(worker.reserved is not None for worker in mine), "who is being started"
    promised: Parts = {}
    for worker in claims:
        add(promised, worker.promise[0], 1)
    for worker in mine:
        if worker.yields_to is not None:
            add(promised, worker.promise[1], -1)
    assert share.claims == len(claims), "who makes room"
    assert {k: v for k, v in share.promised.items() if v} == {k: v for k, v in promised.items() if v}, "promises"
