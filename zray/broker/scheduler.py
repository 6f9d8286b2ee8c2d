"""Which envelope goes to which worker, and when new workers are needed.

Queues are kept by (job, shape, whether to spread), so a pass looks at one head per queue and stops at the first that
does not fit; and it looks at hosts that have room, or where something has changed. So the cost of a decision grows
neither with the number of tasks nor with that of hosts. A pass is run once per turn of the loop.

Credit: a worker gets a second envelope only while the estimated run time of what it holds is small against a round
trip, and only envelopes that may be run twice. It hands back what stands behind a task that turns out long.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from zray.broker.places import Places
from zray.broker.queues import TaskQueue
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
        self.places = Places()
        self.hosts = self.places.hosts
        self.workers: dict[bytes, Worker] = {}
        self.queues: OrderedDict[QueueKey, TaskQueue] = OrderedDict()
        self.congested: set[bytes] = set()  # owners for whom nothing is to be run now: they do not take what there is
        self.actors_waiting: OrderedDict[bytes, OrderedDict[bytes, Actor]] = OrderedDict()
        self._actors_full: set[bytes] = set()  # placements for which no host had room at the last pass
        self._send = send
        self._new_id = new_id
        self._jobs = jobs
        self._processes = processes
        self._estimates: OrderedDict[bytes, int] = OrderedDict()
        self._hungry: dict[tuple[bytes, bytes], dict[bytes, Worker]] = {}  # busy workers that may take more
        self.dispatched = 0

    # ------------------------------------------------------------------ queues

    def enqueue(self, envelope: Envelope) -> None:
        """Queues an envelope behind its like."""
        spread = envelope.flags & FLAG_SPREAD
        if envelope.near and (spread or len(self.hosts) < 2 or envelope.near not in self.hosts):
            envelope.near = b""
        self._queue(_queue_key(envelope)).append(envelope)

    def _queue(self, key: QueueKey) -> TaskQueue:
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = TaskQueue(self.congested)
        return queue

    def set_congested(self, owner: bytes, congested: bool) -> None:
        """So much is under way to an owner that nothing more is to be run for it; or not any more."""
        if congested:
            self.congested.add(owner)
            return
        self.congested.discard(owner)
        for queue in self.queues.values():
            queue.unpark(owner)

    def requeue(self, envelopes: Iterable[Envelope]) -> None:
        """Puts envelopes back to the front, in their order."""
        for envelope in reversed(list(envelopes)):
            envelope.worker = None
            if envelope.near not in self.hosts:
                envelope.near = b""
            self._queue(_queue_key(envelope)).append_front(envelope)

    def remove_host(self, host: Host) -> None:
        """A host is gone: what was near it may run anywhere."""
        self.places.remove(host)
        for queue in self.queues.values():
            queue.forget_host(host.host_id)

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
        changed, self.places.changed = self.places.changed, {}
        if self.actors_waiting:
            self._place_actors(changed)
        hungry, self._hungry = self._hungry, {}
        for key in list(self.queues):
            queue = self.queues[key]
            if queue.any() is not None:
                self._serve(key, queue, changed, hungry)
            if queue.any() is None and not len(queue):
                del self.queues[key]

    def _serve(
        self,
        key: QueueKey,
        queue: TaskQueue,
        changed: dict[bytes, Host],
        hungry: dict[tuple[bytes, bytes], dict[bytes, Worker]],
    ) -> None:
        """Gives out what a queue has: to hosts near it, to those with room, to workers that may hold more."""
        first = queue.any()
        assert first is not None
        job_id, _, spread = key
        shape = first.shape
        share = len(queue) // (2 * (self.places.slots or 1)) + 1
        if queue.near:
            queue.forget_stuck()
            for host in self._hosts_with_news(queue, changed):
                self._serve_host(host, job_id, queue, shape, share)
            queue.look_for_stuck(self._has_room(shape))
        queue.news = {}
        if spread:
            self._spread(job_id, queue, shape, share, changed)
        else:
            self._pack(job_id, queue, shape, share, changed)
        if not queue:
            return
        for worker in list(hungry.get((job_id, shape.key), {}).values()):
            if worker.state == BUSY and worker.outstanding:
                self._fill(worker, queue, share)

    def _hosts_with_news(self, queue: TaskQueue, changed: dict[bytes, Host]) -> list[Host]:
        candidates = {**queue.news, **dict.fromkeys(changed)} if len(changed) < len(queue.near) else queue.near
        return [self.hosts[host_id] for host_id in candidates if host_id in queue.near]

    def _has_room(self, shape: Shape) -> Callable[[bytes], bool]:
        return lambda host_id: self.hosts[host_id].pool.fits(shape)

    def _pack(self, job_id: bytes, queue: TaskQueue, shape: Shape, share: int, changed: dict[bytes, Host]) -> None:
        """One host after the other, as long as there is something for them."""
        fits = False
        for host in list(changed.values()) if queue.full else self.places.with_room(shape):
            fits = self._serve_host(host, job_id, queue, shape, share) or fits
            if not queue:
                return
        queue.full = not fits

    def _spread(self, job_id: bytes, queue: TaskQueue, shape: Shape, share: int, changed: dict[bytes, Host]) -> None:
        """One task to each host, the least loaded first, again and again."""
        placed = fits = True
        while placed and queue:
            placed = fits = False
            for host in sorted(changed.values() if queue.full else self.places.with_room(shape), key=_load):
                if host.pool.fits(shape):
                    fits = True
                    placed = self._serve_once(host, job_id, queue, shape, share) or placed
        queue.full = not fits

    def _serve_host(self, host: Host, job_id: bytes, queue: TaskQueue, shape: Shape, share: int) -> bool:
        """Gives a host as much as it has room for; whether it has room left."""
        while host.pool.fits(shape):
            if not self._serve_once(host, job_id, queue, shape, share):
                return True
        return False

    def _serve_once(self, host: Host, job_id: bytes, queue: TaskQueue, shape: Shape, share: int) -> bool:
        """Gives work to one worker of a host that has room; False if there is no worker, or nothing for it."""
        if queue.next_for(host.host_id) is None:
            return False
        worker = self._idle_worker(host, job_id)
        if worker is None:
            self._start_for_tasks(host, job_id, shape, len(queue))
            return False
        self._grant(worker, shape)
        self._fill(worker, queue, share)
        return True

    def _fill(self, worker: Worker, queue: TaskQueue, share: int) -> None:
        """Hands envelopes to a worker that holds a grant of their shape."""
        estimates = self._estimates
        outstanding = worker.outstanding
        host_id = worker.host.host_id
        while share > 0 and len(outstanding) < MAX_CREDIT:
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
        self._send(host.host_id, StartWorker(worker.worker_id))
        self.places.touch(host)
        return worker

    def make_idle(self, worker: Worker, now: float) -> None:
        """A worker is free."""
        worker.state = IDLE
        worker.idle_since = now
        worker.host.idle.setdefault(worker.job_id, []).append(worker)
        self.places.touch(worker.host)

    def _grant(self, worker: Worker, shape: Shape) -> None:
        worker.gpus = worker.host.pool.take(shape)
        worker.grant = shape
        worker.state = BUSY
        worker.kept = False
        worker.reprieves = 0
        self.places.touch(worker.host)

    def release_grant(self, worker: Worker) -> None:
        """Gives back what a worker holds of its host's resources."""
        worker.host.pool.take_back(worker.lent)
        worker.lent = 0
        worker.host.pool.give_back(worker.grant, worker.gpus)
        worker.grant = NOTHING
        worker.gpus = []
        self.places.touch(worker.host)

    def lend(self, worker: Worker) -> None:
        """A worker blocks: others may use its CPUs."""
        worker.blocked = True
        worker.lent = worker.grant.cpus
        worker.host.pool.lend(worker.lent)
        self.places.touch(worker.host)

    def take_back(self, worker: Worker) -> None:
        """It goes on."""
        worker.blocked = False
        worker.host.pool.take_back(worker.lent)
        worker.lent = 0
        self.places.touch(worker.host)

    def release(self, worker: Worker, now: float) -> None:
        """A busy worker has nothing left to do."""
        self._sated(worker)
        self.release_grant(worker)
        worker.overdue = False
        worker.load_us = 0
        self.make_idle(worker, now)

    def _sated(self, worker: Worker) -> None:
        hungry = self._hungry.get((worker.job_id, worker.grant.key))
        if hungry is not None:
            hungry.pop(worker.worker_id, None)

    def finished(self, worker: Worker, envelope: Envelope, now: float) -> None:
        """A worker is through with an envelope."""
        del worker.outstanding[envelope.task_id]
        worker.load_us -= envelope.estimate_us
        worker.overdue = False
        if worker.outstanding:
            self._hungry.setdefault((worker.job_id, worker.grant.key), {})[worker.worker_id] = worker
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
        self._sated(worker)
        worker.host.starting.discard(worker.worker_id)
        self.release_grant(worker)

    # ------------------------------------------------------------------ actors

    def wait_for_place(self, actor: Actor) -> None:
        """Queues an actor for a worker of its own."""
        self.actors_waiting.setdefault(actor.placement.key, OrderedDict())[actor.actor_id] = actor

    def waits_no_more(self, actor: Actor) -> None:
        """An actor has died; fine if it did not wait."""
        waiting = self.actors_waiting.get(actor.placement.key)
        if waiting is not None:
            waiting.pop(actor.actor_id, None)

    def _place_actors(self, changed: dict[bytes, Host]) -> None:
        for key in list(self.actors_waiting):
            waiting = self.actors_waiting[key]
            while waiting and self._place_actor(next(iter(waiting.values())), changed):
                waiting.popitem(last=False)
            if not waiting:
                del self.actors_waiting[key]
                self._actors_full.discard(key)

    def _place_actor(self, actor: Actor, changed: dict[bytes, Host]) -> bool:
        placement = actor.placement
        if placement.key in self._actors_full:
            fitting = [host for host in changed.values() if host.pool.fits(placement)]
            host = min(fitting, key=lambda host: (len(host.workers), host.number), default=None)
        else:
            host = self.places.least_loaded(placement)
        if host is None:
            self._actors_full.add(placement.key)
            return False
        worker = self._idle_worker(host, actor.job_id)
        if worker is None:
            worker = self.start_worker(host, actor)
            self._grant(worker, placement)
            worker.state = STARTING
        else:
            worker.actor = actor
            self._grant(worker, placement)
            self.begin_actor(worker)
        actor.worker = worker
        return True

    def begin_actor(self, worker: Worker) -> None:
        """The worker is here: has it construct its actor."""
        actor = worker.actor
        assert actor is not None
        worker.state = SERVING
        actor.failed_starts = 0
        worker.served = actor.actor_id
        if worker.job_id != actor.job_id:
            self._assign(worker, actor.job_id)
        spec = {**actor.spec, "creator": actor.creator}
        start = ActorStart(actor.actor_id, actor.incarnation, actor.function_id, spec, worker.gpus, actor.payload)
        self._send(worker.worker_id, start)

    def actor_runs(self, worker: Worker, actor: Actor) -> None:
        """Construction is over: the actor keeps only what it asked for while it lives."""
        worker.host.pool.shrink(worker.grant, actor.running)
        worker.grant = actor.running
        self.places.touch(worker.host)
