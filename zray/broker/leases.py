"""Leases: an owner keeps the worker that has just run a task of it, and sends it further tasks of that shape itself.

A program that waits for each task before it submits the next one pays for two ways through the broker with each. With a
lease its tasks go straight to the worker, by a lane (``zray.client.core.lanes``), and so do the outcomes. The broker
still decides who holds what: a lease begins with a task that the broker has placed, keeps that task's grant, and ends
when anything waits that the host could take. Work never waits behind other work in a leased worker: its owner gives it
a task only while it runs none.

How a lease begins: the owner asks for it with a task (``FLAG_LEASE``). If no other task of that line waits, the worker
is told with ``Run`` that it will be leased. If nothing waits when it has run the task, the worker is LEASED, and the
owner is told (``Leased``).

How it ends: by the owner, who has had nothing for it for a moment (``LeaseEnd``); because work waits (``recall``); or
because the owner is dead. The worker alone knows whether it still runs a task. So it is told in each case
(``LeaseOver``), sends back what comes later, and answers ``LeaseLeft`` when it runs nothing. It need not ask its owner,
who may be in the middle of a long computation.

If a leased worker dies, its owner is told (``LeaseLost``), before it is told of the process's death.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from zray.broker.dispatch import take_off
from zray.broker.lines import Waiting
from zray.broker.memory import OUT_OF_MEMORY, Stop
from zray.broker.places import Places
from zray.broker.records import Envelope, Lease, Process, Worker
from zray.broker.states import BUSY, LEASED
from zray.broker.workers import Workers
from zray.protocol import messages as m

GRACE_S = 1.0
"""How long a worker may take to answer when the owner is dead, or cancels its task by force, before it is killed."""
OWNER_IS_GONE = "the owner of its task is gone"


class Leases:
    """The leased workers. ``waiting()`` returns what waited for a place after the last pass.

    ``send(dest, message)``; ``clock()``: the time of the present event, in seconds.
    """

    def __init__(
        self,
        workers: Workers,
        places: Places,
        processes: Mapping[bytes, Process],
        waiting: Callable[[], Collection[Waiting]],
        send: Callable[[bytes, Any], None],
        clock: Callable[[], float],
    ) -> None:
        self._workers = workers
        self._places = places
        self._processes = processes
        self._waiting = waiting
        self._send = send
        self._clock = clock
        self._leased: dict[bytes, Worker] = {}

    def of(self, owner: bytes) -> list[Worker]:
        """The workers that a process has leased."""
        return [worker for worker in self._leased.values() if worker.lease is not None and worker.lease.owner == owner]

    # ------------------------------------------------------------------ the beginning

    def begin(self, worker: Worker, envelope: Envelope) -> bool:
        """Leases a worker to the owner of the task that it has just run, as it was told. Returns False if work waits,
        or the worker has to do something else.

        It is called before the outcome is sent. The owner must have that first, so ``tell`` follows.
        """
        if self._may_begin(worker, envelope):
            take_off(worker, envelope)
            worker.enter(LEASED)
            worker.lease = Lease(envelope)
            self._leased[worker.worker_id] = worker
            return True
        self._send(worker.worker_id, m.LeaseOver(envelope.lease, False))  # its answer changes nothing
        return False

    def _may_begin(self, worker: Worker, envelope: Envelope) -> bool:
        if worker.state is not BUSY or len(worker.outstanding) > 1 or envelope.cancelled or envelope.stopped:
            return False
        if worker.retiring or worker.blocked or worker.yields_to is not None:
            return False
        return not self._is_wanted(worker)

    def _is_wanted(self, worker: Worker) -> bool:
        """Whether something waits that a worker's host may take, and that lacks something that the worker holds."""
        host = worker.host
        return any(
            _lacks(worker, waiting) and host.pool.could_ever_fit(waiting.shape)
            and self._places.admits(host, waiting.shape)
            for waiting in self._waiting()
        )  # fmt: skip

    def tell(self, worker: Worker) -> None:
        """Tells the owner of a lease that it has begun."""
        if worker.lease is not None:
            lease, grant_key = worker.lease, worker.grant.grant_key
            leased = m.Leased(worker.worker_id, lease.number, lease.envelope.shape.key, grant_key)
            self._send(lease.owner, leased)

    # ------------------------------------------------------------------ the end

    def recall(self) -> None:
        """Takes back the workers that hold what something lacks that waits. Called after each pass."""
        if self._leased and self._waiting():
            for worker in self._leased.values():
                if self._is_wanted(worker):
                    self.take_back(worker)

    def take_back(self, worker: Worker) -> None:
        """Ends a lease, if the worker has one. It stays leased until it has run what it runs."""
        self._end(worker, tell=True)

    def _end(self, worker: Worker, tell: bool, is_dead: bool = False) -> None:
        """Tells a worker that its lease is over, and its owner if ``tell``."""
        lease = worker.lease
        if lease is None or (lease.is_over and not is_dead):
            return
        lease.is_over = True
        self._send(worker.worker_id, m.LeaseOver(lease.number, is_dead))
        if tell:
            self._send(lease.owner, m.LeaseEnded(worker.worker_id, lease.number))

    def on_end(self, source: Process, message: m.LeaseEnd) -> None:
        """The owner has nothing more for a worker."""
        worker, lease = self._find(message.worker_id, message.lease)
        if worker is not None and lease is not None and lease.owner == source.process_id:
            lease.forced = b""
            lease.kill_at = math.inf
            self._end(worker, tell=False)

    def _find(self, worker_id: bytes, number: int) -> tuple[Worker, Lease] | tuple[None, None]:
        """The worker with that lease; None if it has it no more."""
        worker = self._leased.get(worker_id)
        if worker is None or worker.lease is None or worker.lease.number != number:
            return None, None
        return worker, worker.lease

    def on_left(self, source: Process, message: m.LeaseLeft) -> None:
        """A worker has run the last task of its lease, or runs one whose owner is dead."""
        worker, lease = self._find(source.process_id, message.lease)
        if worker is None or lease is None or not lease.is_over:
            return  # the answer to a ``LeaseOver`` in place of a lease
        if message.runs:
            self._workers.kill(worker, OWNER_IS_GONE)
            lease.kill_at = math.inf
        else:
            self._forget(worker)
            if worker.retiring:
                self._workers.retire(worker)
            else:
                self._workers.release(worker)

    def leaves(self, worker: Worker) -> None:
        """A worker takes no more work: it said so itself."""
        lease = worker.lease
        if lease is not None:
            self._forget(worker)
            self._send(lease.owner, m.LeaseEnded(worker.worker_id, lease.number))

    def _forget(self, worker: Worker) -> None:
        del self._leased[worker.worker_id]
        worker.lease = None

    # ------------------------------------------------------------------ force

    def on_cancel(self, source: Process, message: m.LeaseCancel) -> None:
        """The owner cancels, by force, what a worker runs: see ``zray.broker.tasks``."""
        worker, lease = self._find(message.worker_id, message.lease)
        if worker is not None and lease is not None and lease.owner == source.process_id:
            if lease.forced != message.task_id:
                lease.forced = message.task_id
                lease.kill_at = min(lease.kill_at, self._clock() + GRACE_S)
            self._send(worker.worker_id, m.CancelTask(message.task_id, message.mode))

    @staticmethod
    def is_forced(worker: Worker, task_id: bytes) -> bool:
        """Whether the owner of a lease cancels this task by force."""
        return worker.lease is not None and worker.lease.forced == task_id

    def owner_gone(self, owner: bytes) -> None:
        """The owner of leases is dead."""
        for worker in self.of(owner):
            assert worker.lease is not None
            worker.lease.kill_at = min(worker.lease.kill_at, self._clock() + GRACE_S)
            self._end(worker, tell=False, is_dead=True)

    def overdue(self, now: float) -> list[tuple[Worker, bool]]:
        """The workers that have not answered in time, and whether their owner is dead. Each is returned once."""
        found = []
        for worker in self._leased.values():
            lease = worker.lease
            if lease is not None and now >= lease.kill_at:
                lease.kill_at = math.inf
                found.append((worker, lease.owner not in self._processes))
        return found

    # ------------------------------------------------------------------ deaths

    def worker_gone(self, worker: Worker, kind: str, message: str, culprit: bytes | None, stop: Stop | None) -> None:
        """A worker is dead. Tells its owner. The arguments are those of ``Tasks.worker_gone``."""
        lease = worker.lease
        if lease is None:
            return
        self._forget(worker)
        if lease.owner not in self._processes:
            return
        if kind == OUT_OF_MEMORY:
            if not culprit:
                kind, culprit = "WorkerCrashedError", b""  # nothing had begun
            elif stop is not None and not stop.was_alone:
                culprit = b""  # it was stopped to make room for others
        self._send(lease.owner, m.LeaseLost(worker.worker_id, lease.number, kind, message, culprit))

    # ------------------------------------------------------------------ tests

    def check(self) -> None:
        """Raises AssertionError if the table does not agree with the workers. For tests."""
        for worker in self._workers.workers.values():
            assert (worker.state is LEASED) == (worker.lease is not None), "a lease in another state"
            assert (worker.worker_id in self._leased) == (worker.lease is not None), "the table of leases"
            assert worker.lease is None or (worker.share is not None and not worker.outstanding), "what a lease holds"


def _lacks(worker: Worker, waiting: Waiting) -> bool:
    """Whether something that waits lacks what a worker holds. A part of something may lack what another part takes."""
    free, held = worker.host.pool.free, worker.grant.amounts
    return any(
        held.get(name, 0) > 0 and (waiting.is_part or free.get(name, 0) < amount)
        for name, amount in waiting.shape.amounts.items()
    )
