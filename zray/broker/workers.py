"""The worker processes: when they are started, which of them is given work, and when they have to end.

Workers are started for a purpose: for a host's CPUs when it joins, for an actor, for a line of tasks that has found no
idle worker, or to set up a runtime environment. A worker without work is kept idle on its host. It is asked to exit
when it was idle for long, or when its host has more idle workers than CPUs. It refuses if its objects are still in use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.broker.grants import Grants
from zray.broker.places import Places
from zray.broker.queues import TaskQueue
from zray.broker.records import Actor, Host, Job, Process, Worker
from zray.broker.resources import Shape
from zray.broker.states import IDLE, PROBED, RETIRED, WorkerState
from zray.protocol.messages import (
    Blocked,
    ExitIfIdle,
    JobConfig,
    KillWorker,
    Leaving,
    ProtocolError,
    StartWorker,
    Staying,
)
from zray.protocol.records import EnvironmentSpec

MAX_STARTING_PER_HOST = 16
"""The most workers that a host starts for tasks at the same time."""
MAX_STARTING_IN_ENVIRONMENTS = 64
"""The most workers that a host starts in runtime environments at the same time. Some may take minutes. So while as many
as ``MAX_STARTING_PER_HOST`` are starting, each further environment still gets one."""
CROWDED_S = 0.5
"""How long a worker in a runtime environment is kept idle while its host has more idle workers than CPUs. A program may
use many environments, each for a short time."""
MAX_BUSY_REPLIES = 6
"""The limit of the back-off for a worker that is busy each time it is asked to exit.

The broker asks it again after 2, 4, ... and at most 64 times the idle time.
"""
_NO_ENVIRONMENT = EnvironmentSpec()


class Workers:
    """All workers, by identifier. ``send(dest, message)``; ``new_id()`` makes their identifiers.

    ``clock()``: the time of the present event, in seconds. ``environments``: the runtime environments that jobs have
    announced, by job and identifier.
    """

    def __init__(
        self,
        grants: Grants,
        places: Places,
        jobs: dict[bytes, Job],
        processes: dict[bytes, Process],
        send: Callable[[bytes, Any], None],
        new_id: Callable[[], bytes],
        clock: Callable[[], float],
    ) -> None:
        self.workers: dict[bytes, Worker] = {}
        self.environments: dict[tuple[bytes, bytes], EnvironmentSpec] = {}
        self._grants = grants
        self._places = places
        self._jobs = jobs
        self._processes = processes
        self._send = send
        self._new_id = new_id
        self._clock = clock

    def check_environment(self, job_id: bytes, shape: Shape) -> None:
        """Raises ProtocolError if a job has not announced the runtime environment of a shape."""
        if shape.environment_id and (job_id, shape.environment_id) not in self.environments:
            raise ProtocolError("work in a runtime environment that its job has not announced")

    # ------------------------------------------------------------------ starts

    def start(self, host: Host, actor: Actor | None = None, job_id: bytes = b"", environment_id: bytes = b"") -> Worker:
        """Makes the record of a new worker and has its host fork the process.

        ``environment_id``: the runtime environment that the job ``job_id`` has announced; empty for none.
        """
        worker = Worker(self._new_id(), host, environment_id)
        worker.actor = actor
        self.workers[worker.worker_id] = worker
        host.workers[worker.worker_id] = worker
        if actor is None:
            host.starting[worker.worker_id] = worker
        environment = _NO_ENVIRONMENT
        if environment_id:
            environment = self.environments[job_id, environment_id]
            worker.asked_at = self._clock()
        self._send(host.host_id, StartWorker(worker.worker_id, environment))
        self._places.touch(host)
        return worker

    def start_for(self, queue: TaskQueue, host: Host) -> None:
        """Starts workers for the tasks of a queue that fit into a host, unless enough are starting there."""
        shape = queue.share.shape
        starting = host.count_starting(shape.environment_id)
        wanted = host.pool.how_many_fit(shape, 1 if host.lent else len(queue)) - starting
        most = MAX_STARTING_PER_HOST - starting
        if shape.environment_id and len(host.starting) >= MAX_STARTING_PER_HOST:
            most = 0 if starting or len(host.starting) >= MAX_STARTING_IN_ENVIRONMENTS else 1
        for _ in range(min(wanted, most)):
            self.start(host, job_id=queue.job_id, environment_id=shape.environment_id)

    def reserve_for(self, queue: TaskQueue, host: Host) -> bool:
        """Gives a starting worker a grant for a line. Without it, other lines would take the resources until it joins.

        Returns False if the line has enough starting workers, or the host too many.
        """
        if queue.share.starting >= len(queue):
            return False
        plain = [worker for worker in host.starting.values() if not worker.environment_id]
        worker = next((worker for worker in plain if worker.reserved is None), None)
        if worker is None:
            if len(plain) >= MAX_STARTING_PER_HOST:
                return False
            worker = self.start(host)
        queue.share.starting += 1
        worker.reserved = queue
        self._grants.grant(worker, queue.share)
        self._grants.cpus.claim(worker, worker.grant.cpus_used)
        return True

    def end_start(self, worker: Worker) -> TaskQueue | None:
        """A worker has joined, or will not. Returns the queue for which it was reserved."""
        worker.host.starting.pop(worker.worker_id, None)
        queue, worker.reserved = worker.reserved, None
        assert queue is None or isinstance(queue, TaskQueue), "only lines of tasks reserve workers"
        if queue is not None:
            queue.share.starting -= 1
        return queue

    # ------------------------------------------------------------------ idle workers

    def take_idle(self, host: Host, job_id: bytes, shape: Shape) -> Worker | None:
        """Takes an idle worker of the job, or one that has no job yet, in the shape's environment; None if there is
        none.

        A process keeps the same GPUs, or none, until it ends: libraries read ``CUDA_VISIBLE_DEVICES`` only once, and
        keep memory on the GPUs that they have used.
        """
        gpus = host.pool.next_gpus(shape) if shape.gpus else []
        fresh = shape.environment_id
        for pool in (job_id + fresh, fresh):
            idle = host.idle.get(pool, [])
            # The last used worker is last. One that blocks, in a thread that a task left behind, would hand work back.
            for worker in reversed(idle):
                if not worker.blocked and (worker.used_gpus == gpus or pool is fresh):
                    idle.remove(worker)
                    if pool is fresh:
                        self.assign(worker, job_id)
                    return worker
        return None

    def assign(self, worker: Worker, job_id: bytes) -> None:
        """Gives a worker that has joined to a job, for good."""
        job = self._jobs[job_id]
        worker.job_id = job_id
        self._processes[worker.worker_id].job_id = job_id
        job.workers[worker.worker_id] = None
        self._send(worker.worker_id, JobConfig(job_id, job.settings))

    def release(self, worker: Worker) -> None:
        """A worker has no work: takes back its grant, if it has one, and makes it idle."""
        self._grants.release(worker)
        self._make_idle(worker)

    def _make_idle(self, worker: Worker) -> None:
        worker.enter(IDLE)
        worker.idle_since = self._clock()
        worker.host.idle.setdefault(worker.pool, []).append(worker)
        self._places.touch(worker.host)

    def on_blocked(self, source: Process, message: Blocked) -> None:
        """A worker begins to wait in ``get``, or goes on."""
        worker = self.workers[source.process_id]
        if worker.blocked == message.blocked:
            return
        if message.blocked:
            self._grants.lend(worker)
        else:
            self._grants.take_back(worker)

    # ------------------------------------------------------------------ ends

    def probe(self, worker: Worker, reason: str, surplus: bool) -> None:
        """Asks an idle worker to exit, see ``ExitIfIdle``. It gets no work until it has answered."""
        worker.host.idle[worker.pool].remove(worker)
        worker.enter(PROBED)
        self._send(worker.worker_id, ExitIfIdle(reason, surplus))

    def on_staying(self, source: Process, message: Staying) -> None:
        """A worker was asked to exit, and stays."""
        worker = self.workers[source.process_id]
        if worker.state is PROBED:
            worker.kept = not message.busy
            worker.busy_replies += message.busy
            self._make_idle(worker)

    def on_leaving(self, source: Process, message: Leaving) -> None:
        """A worker will end, and takes no more work."""
        worker = self.workers[source.process_id]
        if worker.actor is not None:
            raise ProtocolError("Leaving from a worker whose actor has not ended")
        worker.retiring = True
        if not worker.outstanding and worker.state is not RETIRED:
            self.retire(worker)

    def retire(self, worker: Worker) -> None:
        """A worker takes no more work. Its process ends when its objects are not needed any more."""
        worker.enter(RETIRED)
        self._free(worker)

    def kill(self, worker: Worker, reason: str, kind: str = "WorkerCrashedError") -> None:
        """Has a worker killed by its host. The worker gets no more work until then. ``kind``: the error to report."""
        worker.retiring = True
        if worker.state in (IDLE, PROBED):
            self.retire(worker)
        self._send(worker.host.host_id, KillWorker(worker.worker_id, reason, kind))

    def remove(self, worker: Worker) -> None:
        """A worker is dead: frees what it held, and removes its record from all tables."""
        worker.enter(WorkerState.DEAD)
        self._free(worker)
        self._grants.cpus.drop(worker)
        self.part(worker)
        del self.workers[worker.worker_id]
        del worker.host.workers[worker.worker_id]
        job = self._jobs.get(worker.job_id)
        if job is not None:
            del job.workers[worker.worker_id]

    def _free(self, worker: Worker) -> None:
        """A worker gets no more work: takes back what it holds, and removes it from all lists of workers to use."""
        idle = worker.host.idle.get(worker.pool)
        if idle is not None and worker in idle:
            idle.remove(worker)
        self.end_start(worker)
        self._grants.release(worker)

    def part(self, worker: Worker) -> None:
        """Separates a worker from its actor, if it has one."""
        if worker.actor is not None:
            worker.actor = None
            worker.host.count_actor(-1)
            self._places.touch(worker.host)

    def reap(self, now: float) -> None:
        """Asks workers to exit that were idle for long, or that are more than their host has CPUs."""
        for host in self._places.hosts.values():
            self._reap_on(host, now)

    def _reap_on(self, host: Host, now: float) -> None:
        idle = [worker for workers in host.idle.values() for worker in workers]
        surplus = len(idle) - host.pool.total.get("CPU", 0) // 10_000
        for worker in sorted(idle, key=lambda worker: worker.idle_since):
            timeout_s = host.info.idle_timeout_s
            if surplus > 0 and worker.environment_id:
                timeout_s = min(timeout_s, CROWDED_S)
            patience_s = timeout_s * 2 ** min(worker.busy_replies, MAX_BUSY_REPLIES)
            if now - worker.idle_since >= patience_s and (surplus > 0 or not worker.kept):
                self.probe(worker, "it was idle", surplus > 0)
                surplus -= 1

    # ------------------------------------------------------------------ tests

    def check(self) -> None:
        """Raises AssertionError if the tables of workers do not agree with their states; for tests."""
        for host in self._places.hosts.values():
            idle = [worker for workers in host.idle.values() for worker in workers]
            assert all(worker.state is IDLE for worker in idle) and len(set(map(id, idle))) == len(idle), "idle list"
            assert host.actors == sum(worker.actor is not None for worker in host.workers.values()), "its actors"
            assert all(self.workers[worker_id] is worker for worker_id, worker in host.workers.items()), "its workers"
        assert len(self.workers) == sum(len(host.workers) for host in self._places.hosts.values()), "all workers"
