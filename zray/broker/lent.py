"""CPUs that tasks have lent since they wait, and for whom they are.

A task that waits mostly does so for what it has submitted. If whoever is next got what it lends, that would often be an
equal of it, which waits as well: sixteen tasks that each wait for one of their own would take sixteen processes. So
what tasks of a depth have lent on a host is for deeper ones of their job, as much of it as these do not have already.

Equals may wait for each other, too, or for what others submit. So where CPUs were free for a while (``LENT_FOR_S``) and
nobody deeper came, everybody may have what that depth has lent, until it lends anew. Each time that happens the next
time comes sooner, until somebody deeper comes. Other jobs need not wait at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from zray.broker.accounts import Share
from zray.broker.records import LENT_FOR_S, MAX_DEPTH, Host, Loan, Worker
from zray.broker.resources import CPU

SHORTEST_S = 0.01
"""In seconds; less is not worth while."""


class LentCpus:
    """State: the loans whose host has free CPUs, and that are not yet everybody's, by host, job and depth. What is lent
    is written at each host."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: dict[tuple[bytes, bytes, int], tuple[Host, Loan]] = {}

    def lend(self, worker: Worker, cpus: int) -> None:
        """A worker has lent so much from now on; 0: nothing any more."""
        host = worker.host
        more = cpus - worker.lent
        worker.lent = cpus
        if not more:
            return
        host.pool.lend(more)
        key = worker.job_id, worker.depth
        loan = host.lent.get(key)
        if loan is None:
            loan = host.lent[key] = Loan()
        loan.cpus += more
        if more > 0:
            loan.is_open = False
        elif not loan.cpus and loan.kept_for_s == LENT_FOR_S:  # else it is remembered what has become of it
            del host.lent[key]
            self._kept.pop((host.host_id, *key), None)
        self.look(host)

    def look(self, host: Host) -> None:
        """CPUs of a host have been lent, taken or given back."""
        is_free = host.pool.free.get(CPU, 0) > 0
        for (job_id, depth), loan in host.lent.items():
            key = host.host_id, job_id, depth
            if loan.is_open or not loan.cpus or not is_free:
                self._kept.pop(key, None)
            elif key not in self._kept:
                self._kept[key] = host, loan
                loan.idle_since = self._clock()

    def granted(self, worker: Worker) -> None:
        """A worker has got CPUs of a host."""
        for (job_id, depth), loan in worker.host.lent.items():
            if job_id == worker.job_id and depth < worker.depth:
                loan.kept_for_s = LENT_FOR_S
                loan.is_open = False
        self.look(worker.host)

    def are_kept(self, host: Host, share: Share) -> bool:
        """Whether what is free on a host has been lent for others than a line."""
        if not share.shape.cpus or share.depth == MAX_DEPTH:
            return False
        job_id, depth = share.job_id, share.depth
        loans = [loan for key, loan in host.lent.items() if key[0] == job_id and key[1] >= depth]
        lent = sum([loan.cpus for loan in loans if not loan.is_open])
        spare = host.pool.free.get(CPU, 0) - share.shape.cpus
        if spare >= lent:
            return False
        # What those use for whom it has been lent is theirs, wherever on the host it comes from.
        taken = [worker.grant.cpus - worker.lent for worker in host.workers.values()
                 if worker.depth > depth and worker.job_id == job_id and worker.share is not None]  # fmt: skip
        return spare < lent - sum(taken)

    def open(self, now: float) -> list[Host]:
        """Opens to everybody what has been free for long enough. Returns the hosts where that is so."""
        if not self._kept:
            return []
        opened = [
            (key, host, loan) for key, (host, loan) in self._kept.items() if now - loan.idle_since >= loan.kept_for_s
        ]
        for key, _, loan in opened:
            del self._kept[key]
            loan.is_open = True
            loan.kept_for_s = loan.kept_for_s / 4 if loan.kept_for_s > SHORTEST_S else 0.0
        return [host for _, host, _ in opened]

    def due_s(self, now: float) -> float:
        """In so many seconds ``open`` has something to open."""
        times = [loan.idle_since + loan.kept_for_s - now for _, loan in self._kept.values()]
        return max(0.0, min(times, default=math.inf))

    def forget_job(self, hosts: Iterable[Host], job_id: bytes) -> None:
        """A job has ended: what it has lent, its workers take back as they end."""
        for host in hosts:
            for key in [key for key, loan in host.lent.items() if key[0] == job_id and not loan.cpus]:
                del host.lent[key]
                self._kept.pop((host.host_id, *key), None)

    def forget_host(self, host_id: bytes) -> None:
        """A host is gone."""
        for key in [key for key in self._kept if key[0] == host_id]:
            del self._kept[key]
