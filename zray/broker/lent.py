"""CPUs that waiting tasks have lent, and which tasks may use them.

A task that waits in ``get`` mostly waits for tasks that it has submitted. If its CPUs went to the next task in line,
that would often be a task of the same depth, which would wait too: sixteen tasks that each wait for one of their own
would take sixteen processes. So the CPUs that tasks of one depth have lent on a host are kept for deeper tasks of their
job, less the CPUs that the deeper tasks use already.

Tasks of the same depth may also wait for each other, or for tasks that others submit. So a loan is opened to all tasks
if CPUs of the host were free for a while (``LENT_FOR_S``) and no deeper task came. It stays open until the depth lends
again. Each time a loan is opened, the wait before the next opening gets shorter, until a deeper task comes. Loans of
one job do not hold up other jobs at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from zray.broker.accounts import Share
from zray.broker.records import LENT_FOR_S, MAX_DEPTH, Host, Loan, Worker
from zray.broker.resources import CPU

SHORTEST_S = 0.01
"""The shortest wait before a loan is opened. A shorter one becomes 0."""


class LentCpus:
    """The loans that are not open and whose host has free CPUs, by host, job and depth.

    The loans themselves are in ``Host.lent``.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: dict[tuple[bytes, bytes, int], tuple[Host, Loan]] = {}

    def lend(self, worker: Worker, cpus: int) -> None:
        """Sets how much of its CPUs a worker has lent; 0: nothing."""
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
        elif not loan.cpus and loan.kept_for_s == LENT_FOR_S:  # a shortened kept_for_s must be remembered
            del host.lent[key]
            self._kept.pop((host.host_id, *key), None)
        self.look(host)

    def look(self, host: Host) -> None:
        """Finds which loans of a host are idle, after its CPUs were lent, taken or given back."""
        is_free = host.pool.free.get(CPU, 0) > 0
        for (job_id, depth), loan in host.lent.items():
            key = host.host_id, job_id, depth
            if loan.is_open or not loan.cpus or not is_free:
                self._kept.pop(key, None)
            elif key not in self._kept:
                self._kept[key] = host, loan
                loan.idle_since = self._clock()

    def granted(self, worker: Worker) -> None:
        """A worker has got CPUs of its host: loans of shallower tasks of its job are kept for the full time again."""
        for (job_id, depth), loan in worker.host.lent.items():
            if job_id == worker.job_id and depth < worker.depth:
                loan.kept_for_s = LENT_FOR_S
                loan.is_open = False
        self.look(worker.host)

    def are_kept(self, host: Host, share: Share) -> bool:
        """Whether the free CPUs of a host were lent, and are kept for other lines than this one."""
        if not share.shape.cpus or share.depth == MAX_DEPTH:
            return False
        job_id, depth = share.job_id, share.depth
        loans = [loan for key, loan in host.lent.items() if key[0] == job_id and key[1] >= depth]
        lent = sum([loan.cpus for loan in loans if not loan.is_open])
        spare = host.pool.free.get(CPU, 0) - share.shape.cpus
        if spare >= lent:
            return False
        # CPUs that the deeper tasks use already count as taken from the loan, wherever on the host they come from.
        taken = [worker.grant.cpus - worker.lent for worker in host.workers.values()
                 if worker.depth > depth and worker.job_id == job_id and worker.share is not None]  # fmt: skip
        return spare < lent - sum(taken)

    def open(self, now: float) -> list[Host]:
        """Opens the loans that have been idle for long enough to all tasks. Returns their hosts."""
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
        """In how many seconds ``open`` has something to open; infinite if never."""
        times = [loan.idle_since + loan.kept_for_s - now for _, loan in self._kept.values()]
        return max(0.0, min(times, default=math.inf))

    def forget_job(self, hosts: Iterable[Host], job_id: bytes) -> None:
        """A job has ended: forgets its loans of 0 CPUs. Its workers end the others as they end."""
        for host in hosts:
            for key in [key for key, loan in host.lent.items() if key[0] == job_id and not loan.cpus]:
                del host.lent[key]
                self._kept.pop((host.host_id, *key), None)

    def forget_host(self, host_id: bytes) -> None:
        """Forgets the loans of a host that is gone."""
        for key in [key for key in self._kept if key[0] == host_id]:
            del self._kept[key]
