"""What workers hold of their hosts' resources.

A worker gets a *grant* of the shape of a line, lends its CPUs while its task waits, and gives the grant back when it
has no more work. Each of these steps changes several accounts, and they must agree: the host's pool, the share of the
line and of its job (``zray/broker/shares.py``), the loans (``zray/broker/lent.py``), the claims of CPUs
(``zray/broker/cpus.py``), and the index of hosts with room (``zray/broker/places.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from zray.broker.accounts import Share
from zray.broker.cpus import CpuClaims
from zray.broker.lent import LentCpus
from zray.broker.places import Places
from zray.broker.records import Host, Worker
from zray.broker.resources import NOTHING, Shape
from zray.broker.shares import Shares


class Grants:
    """The grants of all workers. ``send(dest, message)``; ``clock()``: the time of the present event, in seconds.

    ``refillable``: by line, busy workers that have finished work since the last pass, and may take more under the same
    grant. A worker leaves it when its grant ends.
    """

    def __init__(self, places: Places, send: Callable[[bytes, Any], None], clock: Callable[[], float]) -> None:
        self.shares = Shares(clock, places.eligible, places.admits)
        self.lent = LentCpus(clock)
        self.cpus = CpuClaims(send)
        self.refillable: dict[Share, dict[bytes, Worker]] = {}
        self.on_released: Callable[[Host, Shape], None] = lambda host, shape: None
        """Called when work in a placement group has given back what it held."""
        self._places = places
        self._hosts = places.hosts

    # ------------------------------------------------------------------ hosts

    def is_open(self, host: Host, share: Share) -> bool:
        """Whether a host has room for a line's shape, and is not held for another line."""
        return host.pool.fits(share.shape) and not ((host.lent or self.shares.holds) and self.keeps_off(host, share))

    def keeps_off(self, host: Host, share: Share) -> bool:
        """Whether a line must get nothing on a host now: lent CPUs are kept for others, or another line holds it."""
        return (bool(host.lent) and self.lent.are_kept(host, share)) or self.shares.keeps_off(host, share)

    def add_host(self, host: Host) -> None:
        """A host has joined."""
        self.shares.totals.add(host.pool.total)

    def host_lost(self, host: Host) -> None:
        """A host is gone. Its workers still give back what they hold."""
        self.shares.totals.add(host.pool.total, -1)
        self.shares.forget_host(host.host_id)
        self.lent.forget_host(host.host_id)

    def close_job(self, job_id: bytes) -> None:
        """A job is over. Its workers still give back what they hold."""
        self.lent.forget_job(self._hosts.values(), job_id)

    # ------------------------------------------------------------------ workers

    def grant(self, worker: Worker, share: Share) -> None:
        """Gives a worker a grant of a line's shape. Its host has room for it."""
        worker.gpus = worker.host.pool.take(share.shape)
        worker.grant = share.shape
        worker.used_gpus = worker.gpus
        worker.depth = share.depth
        if worker.host.lent:
            self.lent.granted(worker)
        for host_id in self.shares.grant(share, worker):
            self._places.touch(self._hosts[host_id])
        worker.kept = False
        worker.busy_replies = 0
        self._places.touch(worker.host)

    def release(self, worker: Worker) -> None:
        """Takes back what a worker holds of its host's resources."""
        if worker.share is not None and worker.share in self.refillable:
            self.refillable[worker.share].pop(worker.worker_id, None)
        self.shares.give_back(worker)
        if worker.lent:
            self.lent.lend(worker, 0)
        held, worker.grant = worker.grant, NOTHING
        worker.host.pool.give_back(held, worker.gpus)
        if worker.host.lent:
            self.lent.look(worker.host)
        worker.gpus = []
        if held.group:
            self.on_released(worker.host, held)
        self._places.touch(worker.host)

    def shrink(self, worker: Worker, shape: Shape) -> None:
        """A worker's actor is constructed: it keeps only a part of its grant, for its lifetime."""
        worker.host.pool.shrink(worker.grant, shape)
        worker.grant = shape
        self.shares.give_back(worker)
        self._places.touch(worker.host)

    def lend(self, worker: Worker) -> None:
        """A worker blocks: other tasks may use its CPUs."""
        worker.blocked = True
        self.lent.lend(worker, worker.grant.cpus)
        self.shares.lend(worker)
        self._places.touch(worker.host)

    def take_back(self, worker: Worker) -> None:
        """A worker goes on: it has its CPUs again."""
        worker.blocked = False
        if worker.claim < 0:
            self.cpus.wake(worker)
        self.lent.lend(worker, 0)
        self.shares.take_back(worker)
        self._places.touch(worker.host)

    # ------------------------------------------------------------------ tests

    def check(self, waiting: Iterable[Share]) -> None:
        """Raises AssertionError if an account does not agree with the grants; for tests.

        ``waiting``: the accounts of the lines of tasks and actors.
        """
        from zray.broker.accounts_check import check_all  # here, to keep it out of forked workers
        from zray.broker.cpus import check_claims

        check_all(waiting, [worker for host in self._hosts.values() for worker in host.workers.values()])
        for host in self._hosts.values():
            check_claims(host)
            _check_pool(host)
            assert (host.pool.free.get("CPU", 0) > 0) == self._places.is_open(host), "the index of hosts with room"


def _check_pool(host: Host) -> None:
    """Raises AssertionError if what is free and what is held on a host are not all that it has."""
    held: dict[str, int] = dict(host.pool.free)
    for worker in host.workers.values():
        for name, amount in worker.grant.amounts.items():
            held[name] += amount
        held["CPU"] = held.get("CPU", 0) - worker.lent
    for bundle in itertools.chain.from_iterable(host.bundles.values()):
        for name, amount in bundle.shape.amounts.items():
            held[name] += amount
    assert {k: v for k, v in held.items() if v} == {k: v for k, v in host.pool.total.items() if v}, "resources"
    lent = sum(worker.lent for worker in host.workers.values())
    assert sum(loan.cpus for loan in host.lent.values()) == lent, "what is lent"
