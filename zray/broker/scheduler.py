"""Which envelope goes to which worker, and when new workers are needed.

Queues are kept by (job, shape, whether to spread), so a pass looks at one head per queue and stops at the first that
does not fit: the cost of a decision does not grow with the number of tasks. A pass is run once per turn of the loop.

Credit: a worker gets a second envelope only while the estimated run time of what it holds is small against a round
trip, and only envelopes that may be run twice. It hands back what stands behind a task that turns out long.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

from zray.broker.records import BUSY, IDLE, RETIRED, SERVING, STARTING, Actor, Envelope, Host, Job, Process, Worker
from zray.broker.resources import NOTHING, Shape
from zray.protocol.messages import FLAG_RETRYABLE, FLAG_SPREAD, ActorStart, JobConfig, KillWorker, Run, StartWorker

CREDIT_US = 3000
"""Estimated work that a worker may hold, in microseconds: several round trips through a busy broker."""
MAX_CREDIT = 256
MAX_STARTING_PER_HOST = 16
MAX_ESTIMATES = 10_000
MIN_ESTIMATE_US = 5


QueueKey = tuple[bytes, bytes, bool]


def _queue_key(envelope: Envelope) -> QueueKey:
    return (envelope.job_id, envelope.shape.key, bool(envelope.flags & FLAG_SPREAD))


def _load(host: Host) -> float:
    """The part of a host's CPUs that is in use."""
    total = host.pool.total.get("CPU", 0)
    return (total - host.pool.free.get("CPU", 0)) / total if total else 1.0


class Scheduler:
    """Queues, run time estimates and placement. ``send(dest, message)``; ``new_id()`` makes worker IDs."""

    def __init__(
        self,
        send: Callable[[bytes, Any], None],
        new_id: Callable[[], bytes],
        jobs: dict[bytes, Job],
        processes: dict[bytes, Process],
    ) -> None:
        self.hosts: dict[bytes, Host] = {}
        self.workers: dict[bytes, Worker] = {}
        self.queues: OrderedDict[QueueKey, deque[Envelope]] = OrderedDict()
        self.actors_waiting: OrderedDict[bytes, deque[Actor]] = OrderedDict()
        self._send = send
        self._new_id = new_id
        self._jobs = jobs
        self._processes = processes
        self._estimates: OrderedDict[bytes, int] = OrderedDict()
        self._hungry: dict[bytes, Worker] = {}  # busy workers that may take more
        self.dispatched = 0

    # ------------------------------------------------------------------ queues

    def enqueue(self, envelope: Envelope) -> None:
        """Queues an envelope behind its like."""
        key = _queue_key(envelope)
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = deque()
        queue.append(envelope)

    def requeue(self, envelopes: Iterable[Envelope]) -> None:
        """Puts envelopes back to the front, in their order."""
        for envelope in reversed(list(envelopes)):
            envelope.worker = None
            self.queues.setdefault(_queue_key(envelope), deque()).appendleft(envelope)

    def drop_queues(self, job_id: bytes) -> list[Envelope]:
        """Forgets everything that a job has queued."""
        dropped: list[Envelope] = []
        for key in [key for key in self.queues if key[0] == job_id]:
            dropped.extend(self.queues.pop(key))
        return dropped

    def record_run(self, function_id: bytes, run_us: int) -> None:
        """Learns how long a function runs."""
        estimates = self._estimates
        before = estimates.get(function_id)
        run_us = max(run_us, MIN_ESTIMATE_US)
        # Up at once, down slowly: overestimating costs a little rate, underestimating makes others wait.
        estimates[function_id] = run_us if before is None or run_us > before else (3 * before + run_us) // 4
        if before is None and len(estimates) > MAX_ESTIMATES:
            estimates.popitem(last=False)

    # ------------------------------------------------------------------ the pass

    def run(self, now: float) -> None:
        """Places what can be placed."""
        if self.actors_waiting:
            self._place_actors()
        hungry, self._hungry = self._hungry, {}
        for key in list(self.queues):
            queue = self.queues[key]
            while queue and queue[0].cancelled:
                queue.popleft()
            if queue:
                self._serve(key, queue, hungry)
            if not queue:
                del self.queues[key]

    def _serve(self, key: QueueKey, queue: deque[Envelope], hungry: dict[bytes, Worker]) -> None:
        job_id, _, spread = key
        shape = queue[0].shape
        slots = sum(host.pool.total.get("CPU", 0) for host in self.hosts.values()) // 10_000 or 1
        share = len(queue) // (2 * slots) + 1
        placed = True
        while placed and queue:
            placed = False
            hosts = sorted(self.hosts.values(), key=_load) if spread else self.hosts.values()
            for host in hosts:
                while queue and host.pool.fits(shape):
                    worker = self._idle_worker(host, job_id)
                    if worker is None:
                        self._start_for_tasks(host, job_id, shape, len(queue))
                        break
                    self._grant(worker, shape)
                    self._fill(worker, queue, share)
                    if spread:
                        placed = True
                        break
        if not queue:
            return
        for worker in list(hungry.values()):
            if worker.grant is shape and worker.job_id == job_id and worker.state == BUSY and worker.outstanding:
                self._fill(worker, queue, share)
                if not queue:
                    return

    def _fill(self, worker: Worker, queue: deque[Envelope], share: int) -> None:
        """Hands envelopes to a worker that holds a grant of their shape."""
        estimates = self._estimates
        outstanding = worker.outstanding
        while queue and share > 0 and len(outstanding) < MAX_CREDIT:
            envelope = queue[0]
            if envelope.cancelled:
                queue.popleft()
                continue
            estimate = estimates.get(envelope.function_id, CREDIT_US)
            if outstanding and (
                worker.overdue
                or worker.retiring
                or worker.blocked
                or not envelope.flags & FLAG_RETRYABLE
                or worker.load_us + estimate > CREDIT_US
            ):
                break
            queue.popleft()
            share -= 1
            self.dispatched += 1
            envelope.worker = worker
            envelope.estimate_us = estimate
            worker.load_us += estimate
            outstanding[envelope.task_id] = envelope
            run = Run(envelope.task_id, envelope.attempt, envelope.function_id, envelope.shape.key, worker.gpus,
                      envelope.payload)  # fmt: skip
            self._send(worker.worker_id, run)
            if not envelope.flags & FLAG_RETRYABLE:
                break
        if not outstanding:
            self.release(worker, 0.0)

    # ------------------------------------------------------------------ workers

    def _idle_worker(self, host: Host, job_id: bytes) -> Worker | None:
        for key in (job_id, b""):
            idle = host.idle.get(key, [])
            # The warmest is last. One that blocks, in a thread that a task left behind, would hand its work back.
            worker = next((worker for worker in reversed(idle) if not worker.blocked), None)
            if worker is not None:
                idle.remove(worker)
                if worker.job_id != job_id:
                    self._assign(worker, job_id)
                return worker
        return None

    def _assign(self, worker: Worker, job_id: bytes) -> None:
        job = self._jobs[job_id]
        worker.job_id = job_id
        self._processes[worker.worker_id].job_id = job_id
        job.workers[worker.worker_id] = None
        self._send(worker.worker_id, JobConfig(job_id, job.config))

    def _start_for_tasks(self, host: Host, job_id: bytes, shape: Shape, wanted: int) -> None:
        wanted = host.pool.how_many_fit(shape, wanted) - len(host.starting)
        for _ in range(min(wanted, MAX_STARTING_PER_HOST - len(host.starting))):
            self.start_worker(host)

    def start_worker(self, host: Host, actor: Actor | None = None) -> Worker:
        """Has a host fork a worker."""
        worker = Worker(self._new_id(), host)
        worker.actor = actor
        self.workers[worker.worker_id] = worker
        host.workers[worker.worker_id] = worker
        if actor is None:
            host.starting.add(worker.worker_id)
        self._send(host.host_id, StartWorker(worker.worker_id, b"", {}))
        return worker

    def make_idle(self, worker: Worker, now: float) -> None:
        """A worker is free."""
        worker.state = IDLE
        worker.idle_since = now
        worker.host.idle.setdefault(worker.job_id, []).append(worker)

    def _grant(self, worker: Worker, shape: Shape) -> None:
        worker.gpus = worker.host.pool.take(shape)
        worker.grant = shape
        worker.state = BUSY

    def release_grant(self, worker: Worker) -> None:
        """Gives back what a worker holds of its host's resources."""
        worker.host.pool.take_back(worker.lent)
        worker.lent = 0
        worker.host.pool.give_back(worker.grant, worker.gpus)
        worker.grant = NOTHING
        worker.gpus = []

    def release(self, worker: Worker, now: float) -> None:
        """A busy worker has nothing left to do."""
        self.release_grant(worker)
        worker.overdue = False
        worker.load_us = 0
        self._hungry.pop(worker.worker_id, None)
        self.make_idle(worker, now)

    def finished(self, worker: Worker, envelope: Envelope, now: float) -> None:
        """A worker is through with an envelope."""
        del worker.outstanding[envelope.task_id]
        worker.load_us -= envelope.estimate_us
        worker.overdue = False
        if worker.outstanding:
            self._hungry[worker.worker_id] = worker
        elif worker.retiring:
            self.retire(worker)
        elif worker.state == BUSY:
            self.release(worker, now)

    def kill(self, worker: Worker, reason: str) -> None:
        """Has its host kill a worker, which gets nothing more to do until then."""
        worker.retiring = True
        if worker.state == IDLE:
            self.retire(worker)
        self._send(worker.host.host_id, KillWorker(worker.worker_id, reason))

    def retire(self, worker: Worker) -> None:
        """A worker takes no more work; its process goes when nobody needs its objects."""
        self.forget(worker)
        worker.state = RETIRED

    def forget(self, worker: Worker) -> None:
        """A worker takes no more work, or is dead: out of every table of the scheduler."""
        idle = worker.host.idle.get(worker.job_id)
        if idle is not None and worker in idle:
            idle.remove(worker)
        self._hungry.pop(worker.worker_id, None)
        worker.host.starting.discard(worker.worker_id)
        self.release_grant(worker)

    # ------------------------------------------------------------------ actors

    def wait_for_place(self, actor: Actor) -> None:
        """Queues an actor for a worker of its own."""
        self.actors_waiting.setdefault(actor.placement.key, deque()).append(actor)

    def _place_actors(self) -> None:
        for key in list(self.actors_waiting):
            waiting = self.actors_waiting[key]
            while waiting and self._place_actor(waiting[0]):
                waiting.popleft()
            if not waiting:
                del self.actors_waiting[key]

    def _place_actor(self, actor: Actor) -> bool:
        fitting = [host for host in self.hosts.values() if host.pool.fits(actor.placement)]
        if not fitting:
            return False
        host = min(fitting, key=lambda host: len(host.workers))
        worker = self._idle_worker(host, actor.job_id)
        if worker is None:
            worker = self.start_worker(host, actor)
            self._grant(worker, actor.placement)
            worker.state = STARTING
        else:
            worker.actor = actor
            self._grant(worker, actor.placement)
            self.begin_actor(worker)
        actor.worker = worker
        return True

    def begin_actor(self, worker: Worker) -> None:
        """The worker is here: has it construct its actor."""
        actor = worker.actor
        assert actor is not None
        worker.state = SERVING
        if worker.job_id != actor.job_id:
            self._assign(worker, actor.job_id)
        spec = {**actor.spec, "creator": actor.creator}
        start = ActorStart(actor.actor_id, actor.incarnation, actor.function_id, spec, worker.gpus, actor.payload)
        self._send(worker.worker_id, start)

    def actor_runs(self, worker: Worker, actor: Actor) -> None:
        """Construction is over: the actor keeps only what it asked for while it lives."""
        worker.host.pool.shrink(worker.grant, actor.running)
        worker.grant = actor.running
