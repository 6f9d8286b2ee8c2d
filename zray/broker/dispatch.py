"""Hands tasks to workers, and notes when workers have finished them.

Credit: a worker gets a second envelope only while the estimated run time of its envelopes is small against a round
trip, and only envelopes that may be run twice. If a task turns out to be long, the worker hands back the envelopes
behind it. A worker that has to make room gets no more envelopes.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from zray.broker.accounts import Share
from zray.broker.grants import Grants
from zray.broker.places import Places
from zray.broker.queues import TaskQueue
from zray.broker.records import Envelope, Worker
from zray.broker.states import BUSY
from zray.broker.workers import Workers
from zray.protocol.messages import FLAG_LEASE, FLAG_RETRYABLE, Run

CREDIT_US = 3000
"""The estimated work that a worker may hold, in microseconds: several round trips through a busy broker."""
MAX_CREDIT = 256
"""The most envelopes that a worker may hold."""
MAX_ESTIMATES = 10_000
"""The most functions whose run time is remembered."""
MIN_ESTIMATE_US = 5


def take_off(worker: Worker, envelope: Envelope) -> None:
    """Takes an envelope off a worker, which has finished it or has handed it back."""
    del worker.outstanding[envelope.task_id]
    worker.load_us -= envelope.estimate_us
    worker.overdue = False


class Dispatch:
    """Estimates of run times, and the envelopes that workers have (``Worker.outstanding``).

    ``send(dest, message)``. ``dispatched``: how many envelopes workers were given.
    """

    def __init__(self, places: Places, grants: Grants, workers: Workers, send: Callable[[bytes, Any], None]) -> None:
        self.dispatched = 0
        self._places = places
        self._grants = grants
        self._workers = workers
        self._send = send
        self._leases = itertools.count(1)
        self._estimates: OrderedDict[bytes, int] = OrderedDict()

    # ------------------------------------------------------------------ run times

    def record_run(self, function_id: bytes, run_us: int) -> None:
        """Learns from a run how long a function takes, in microseconds."""
        estimates = self._estimates
        before = estimates.get(function_id)
        run_us = max(run_us, MIN_ESTIMATE_US)
        # Up at once, down slowly: too high an estimate costs some throughput, too low a one makes other tasks wait.
        estimates[function_id] = run_us if before is None or run_us > before else (3 * before + run_us) // 4
        if before is None and len(estimates) > MAX_ESTIMATES:
            estimates.popitem(last=False)

    def run_s(self, queue: TaskQueue) -> float:
        """How long the first task of a queue runs, in seconds, as far as is known; else 0."""
        first = queue.any()
        return self._estimates.get(first.function_id, 0) / 1e6 if first is not None else 0.0

    # ------------------------------------------------------------------ envelopes

    def ration(self, queue: TaskQueue) -> int:
        """The most envelopes of a queue that one worker gets at a time, so that some are left for other workers."""
        return len(queue) // (2 * (self._places.slots or 1)) + 1

    def fill(self, worker: Worker, queue: TaskQueue, ration: int) -> None:
        """Hands envelopes to a worker that holds a grant of their shape."""
        estimates = self._estimates
        outstanding = worker.outstanding
        host_id = worker.host.host_id
        while ration > 0 and len(outstanding) < MAX_CREDIT:
            envelope = queue.next_for(host_id)
            if envelope is None:
                break
            estimate = estimates.get(envelope.function_id, CREDIT_US)
            if outstanding and (
                worker.overdue
                or worker.retiring
                or worker.blocked
                or not envelope.flags & FLAG_RETRYABLE
                or worker.load_us + estimate > CREDIT_US
            ):
                break
            queue.take(envelope)
            ration -= 1
            self.dispatched += 1
            envelope.worker = worker
            envelope.estimate_us = estimate
            worker.load_us += estimate
            outstanding[envelope.task_id] = envelope
            if envelope.flags & FLAG_LEASE:
                envelope.lease = next(self._leases) if self._may_lease(worker, envelope, queue) else 0
            run = Run(envelope.task_id, envelope.attempt, envelope.function_id, envelope.shape.grant_key, worker.gpus,
                      envelope.payload, envelope.lease)  # fmt: skip
            self._send(worker.worker_id, run)
            if not envelope.flags & FLAG_RETRYABLE:
                break

    def _may_lease(self, worker: Worker, envelope: Envelope, queue: TaskQueue) -> bool:
        """Whether a worker may be leased to the owner of the task that it is given, see ``zray.broker.leases``.

        Another task of the line would wait for it. A process that has used GPUs keeps memory on them.
        """
        is_near = envelope.near == worker.host.host_id or len(self._places.hosts) == 1
        return is_near and len(worker.outstanding) == 1 and not queue and not worker.gpus and not worker.blocked

    def refill(self, queue: TaskQueue, workers: dict[bytes, Worker], waiting: Sequence[Share]) -> None:
        """Hands more envelopes of a queue to workers that may hold more, unless they have to make room.

        ``waiting``: the accounts of the lines that wait, the next one first.
        """
        ration = min(self.ration(queue), queue.spare())
        for worker in workers.values():
            if worker.state is not BUSY or not worker.outstanding:
                continue
            if len(waiting) == 1 or not self._grants.shares.makes_room(worker, waiting):
                self.fill(worker, queue, ration)

    def finished(self, worker: Worker, envelope: Envelope) -> None:
        """A worker has finished an envelope, or has handed it back."""
        take_off(worker, envelope)
        if worker.outstanding:
            if worker.share is not None:
                self._grants.refillable.setdefault(worker.share, {})[worker.worker_id] = worker
        elif worker.retiring:
            self._workers.retire(worker)
        elif worker.state is BUSY:
            self._workers.release(worker)

    def check(self) -> None:
        """Raises AssertionError if a worker has envelopes and no grant, or no work and is busy; for tests."""
        for worker in self._workers.workers.values():
            assert bool(worker.outstanding) <= (worker.state is BUSY), "work on a worker that is not busy"
            if worker.outstanding:
                assert worker.share is not None, "a busy worker without a grant"
            assert worker.yields_to is None or worker.share is not None, "a worker makes room but has no grant"
