"""CPUs that tasks have lent since they wait, and for whom they are.

A task that waits mostly does so for what it has submitted. If whoever is next got what it lends, that would often be an
equal of it, which waits as well: sixteen tasks that each wait for one of their own would take sixteen processes. So
what tasks of a depth have lent on a host is for deeper ones of their job, as much of it as these do not have already.
Equals may wait for each other, too: they get it when nobody has used it for ``LENT_FOR_S``. Other jobs need not wait.
"""

from __future__ import annotations

from collections.abc import Callable

from zray.broker.records import MAX_DEPTH, Host, Worker
from zray.broker.resources import CPU
from zray.broker.shares import Share

LENT_FOR_S = 0.1
"""In seconds; Ray's worker cap waits a second, then two, four, ..."""


class LentCpus:
    """State: the hosts where CPUs are lent and not yet anybody's. What is lent is written at each host."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._fresh: dict[bytes, Host] = {}

    def lend(self, worker: Worker, cpus: int) -> None:
        """A worker has lent so much from now on; 0: nothing any more."""
        host = worker.host
        more = cpus - worker.lent
        worker.lent = cpus
        if not more:
            return
        host.pool.lend(more)
        key = worker.job_id, worker.depth
        left = host.lent.get(key, 0) + more
        if left:
            host.lent[key] = left
        else:
            del host.lent[key]
        self.used(host)

    def used(self, host: Host) -> None:
        """Somebody has got CPUs of a host, or given them back: what is lent there is used, or was until now."""
        host.lent_since = self._clock()
        self._fresh[host.host_id] = host

    def are_kept(self, host: Host, share: Share) -> bool:
        """Whether what is free on a host has been lent for others than a line."""
        if not share.shape.cpus or share.depth == MAX_DEPTH or self._clock() - host.lent_since >= LENT_FOR_S:
            return False
        job_id, depth = share.job_id, share.depth
        lent = sum([cpus for key, cpus in host.lent.items() if key[0] == job_id and key[1] >= depth])
        spare = host.pool.free.get(CPU, 0) - share.shape.cpus
        if spare >= lent:
            return False
        # What those use for whom it has been lent is theirs, wherever on the host it comes from.
        taken = [worker.grant.cpus - worker.lent for worker in host.workers.values()
                 if worker.depth > depth and worker.job_id == job_id and worker.share is not None]  # fmt: skip
        return spare < lent - sum(taken)

    def opened(self, now: float) -> list[Host]:
        """Hosts where from now on everybody may have what is lent, each once."""
        if not self._fresh:
            return []
        opened = [host for host in self._fresh.values() if now - host.lent_since >= LENT_FOR_S]
        for host in opened:
            del self._fresh[host.host_id]
        return opened

    def forget_host(self, host_id: bytes) -> None:
        """A host is gone."""
        self._fresh.pop(host_id, None)
