"""Decides which envelope goes to which worker, and when new workers are needed.

Tasks wait in queues by (job, shape, whether to spread, depth), actors in lines by (job, placement, depth). The lines
are served in turns, one grant at a time; ``zray/broker/shares.py`` decides which line is next. A pass looks at the head
of each line and leaves a line when its head does not fit. It looks only at hosts that have room or have changed. So the
cost of a decision grows neither with the number of tasks nor with the number of hosts. There is one pass per turn.

Credit: a worker gets a second envelope only while the estimated run time of its envelopes is small against a round
trip, and only envelopes that may be run twice. If a task turns out to be long, the worker hands back the envelopes
behind it. A worker that has to make room gets no more envelopes.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from zray.broker.accounts import Share
from zray.broker.cpus import CpuClaims
from zray.broker.lent import LentCpus
from zray.broker.places import Places
from zray.broker.queues import ActorLine, TaskQueue
from zray.broker.records import Actor, Envelope, Host, Job, Process, Worker
from zray.broker.resources import CPU, NOTHING, Shape
from zray.broker.shares import Shares
from zray.broker.states import BUSY, IDLE, PROBED, RETIRED, SERVING, WorkerState
from zray.protocol.messages import (
    FLAG_RETRYABLE,
    FLAG_SPREAD,
    ActorStart,
    ExitIfIdle,
    JobConfig,
    KillWorker,
    ProtocolError,
    Run,
    StartWorker,
)
from zray.protocol.records import EnvironmentSpec

CREDIT_US = 3000
"""The estimated work that a worker may hold, in microseconds: several round trips through a busy broker."""
MAX_CREDIT = 256
"""The most envelopes that a worker may hold."""
MAX_STARTING_PER_HOST = 16
"""The most workers that a host starts for tasks at the same time."""
MAX_STARTING_IN_ENVIRONMENTS = 64
"""The most workers that a host starts in runtime environments at the same time. Some may take minutes. So while as many
as ``MAX_STARTING_PER_HOST`` are starting, each further environment still gets one."""
MAX_ESTIMATES = 10_000
"""The most functions whose run time is remembered."""
MIN_ESTIMATE_US = 5
_NO_ENVIRONMENT = EnvironmentSpec()


class OtherLine(Protocol):
    """A line of what needs no worker. It serves itself."""

    share: Share
    full: bool

    def __len__(self) -> int: ...

    def waiting(self) -> int:
        """How many wait."""

    def serve(self, changed: dict[bytes, Host]) -> Iterator[None]:
        """Serves as many as there is room for: one for each step. ``changed``: hosts that have changed since."""


K = TypeVar("K")
L = TypeVar("L", ActorLine, TaskQueue, OtherLine)
Line: TypeAlias = ActorLine | TaskQueue | OtherLine


def _depends_on_changes(line: Line) -> bool:
    """Whether a line gets something only if a host that has changed has room: no host had room at the last pass."""
    return line.full and (not line.near if isinstance(line, TaskQueue) else isinstance(line, ActorLine))


def _fits_any(shape: Shape, hosts: dict[bytes, Host]) -> bool:
    for host in hosts.values():  # noqa: SIM110 (a loop: it is called for each line in each pass)
        if host.pool.fits(shape):
            return True
    return False


def _load(host: Host) -> float:
    """The part of a host's CPUs that is in use."""
    total = host.pool.total.get("CPU", 0)
    return (total - host.pool.free.get("CPU", 0)) / total if total else 1.0


class Scheduler:
    """Queues, run time estimates and placement.

    ``send(dest, message)``; ``new_id()`` makes worker IDs; ``clock()``: the time of the present event, in seconds.
    """

    def __init__(
        self,
        send: Callable[[bytes, Any], None],
        new_id: Callable[[], bytes],
        jobs: dict[bytes, Job],
        processes: dict[bytes, Process],
        clock: Callable[[], float],
    ) -> None:
        self.places = Places()
        self.hosts = self.places.hosts
        self.workers: dict[bytes, Worker] = {}
        self.shares = Shares(clock, self.places.eligible, self.places.admits)
        self.queues: dict[tuple[bytes, bytes, bool, int], TaskQueue] = {}
        self.actors_waiting: dict[tuple[bytes, bytes, int], ActorLine] = {}
        self.other_lines: dict[Any, OtherLine] = {}
        self.on_released: Callable[[Host, Shape], None] = lambda host, shape: None
        """Called when work in a placement group has given back what it held."""
        self.environments: dict[tuple[bytes, bytes], EnvironmentSpec] = {}  # runtime environments, by job and ID
        self.congested: set[bytes] = set()  # owners whose tasks must not start now: they do not take their messages
        self._send = send
        self._new_id = new_id
        self._jobs = jobs
        self._processes = processes
        self._estimates: OrderedDict[bytes, int] = OrderedDict()
        self._refillable: dict[Share, dict[bytes, Worker]] = {}  # busy workers that may take more envelopes
        self._contended = False  # whether more than one line waits
        self.refused: list[tuple[Envelope | Actor, str]] = []  # what can never be placed, and why; the core takes it
        self.lent = LentCpus(clock)
        self.cpus = CpuClaims(send)
        self._clock = clock
        self.dispatched = 0

    # ------------------------------------------------------------------ queues

    def enqueue(self, envelope: Envelope) -> None:
        """Queues an envelope at the end of its queue."""
        spread = envelope.flags & FLAG_SPREAD
        if envelope.near and (spread or len(self.hosts) < 2 or not self._may_be_near(envelope)):
            envelope.near = b""
        self._queue(envelope).append(envelope)

    def _may_be_near(self, envelope: Envelope) -> bool:
        host = self.hosts.get(envelope.near)
        return host is not None and self.places.prefers(host, envelope.shape)

    def _queue(self, envelope: Envelope) -> TaskQueue:
        key = (envelope.job_id, envelope.shape.key, bool(envelope.flags & FLAG_SPREAD), envelope.depth)
        queue = self.queues.get(key)
        if queue is None:
            share = self.shares.open(envelope.job_id, envelope.shape, envelope.depth)
            queue = self.queues[key] = TaskQueue(envelope.job_id, share, key[2], self.congested)
        return queue

    def set_congested(self, owner: bytes, congested: bool) -> None:
        """Stops starting tasks of an owner while it is congested, and starts them again afterwards."""
        if congested:
            self.congested.add(owner)
            return
        self.congested.discard(owner)
        for queue in self.queues.values():
            queue.unpark(owner)

    def requeue(self, envelopes: Iterable[Envelope]) -> None:
        """Puts envelopes back to the front of their queues, in their order."""
        for envelope in reversed(list(envelopes)):
            envelope.worker = None
            if envelope.near and not self._may_be_near(envelope):
                envelope.near = b""
            self._queue(envelope).append_front(envelope)

    def add_host(self, host: Host) -> None:
        """Adds a host that has joined."""
        self.places.add(host)
        self.shares.totals.add(host.pool.total)

    def remove_host(self, host: Host) -> None:
        """Removes a host that is gone. Tasks that were near it may run anywhere."""
        self.places.remove(host)
        self.shares.totals.add(host.pool.total, -1)
        self.shares.forget_host(host.host_id)
        self.lent.forget_host(host.host_id)
        for queue in self.queues.values():
            queue.forget_host(host.host_id)
            queue.full = False  # a constraint may admit other hosts now
        for line in self.actors_waiting.values():
            line.full = False

    def drop_queues(self, job_id: bytes) -> list[Envelope]:
        """Removes the queues of a job. Returns the envelopes that were in them."""
        dropped: list[Envelope] = []
        for key in [key for key in self.queues if key[0] == job_id]:
            queue = self.queues.pop(key)
            queue.share.waits(0, self._clock())
            dropped.extend(queue)
        self.shares.close_job(job_id)
        self.lent.forget_job(self.hosts.values(), job_id)
        return dropped

    def check_environment(self, job_id: bytes, shape: Shape) -> None:
        """Raises ProtocolError if a job has not announced the runtime environment of a shape."""
        if shape.environment_id and (job_id, shape.environment_id) not in self.environments:
            raise ProtocolError("work in a runtime environment that its job has not announced")

    def queued_in(self, environment_id: bytes) -> list[Envelope]:
        """The queued envelopes that need a runtime environment."""
        queues = [queue for queue in self.queues.values() if queue.share.shape.environment_id == environment_id]
        return [envelope for queue in queues for envelope in queue if not envelope.cancelled]

    def record_run(self, function_id: bytes, run_us: int) -> None:
        """Learns from a run how long a function takes, in microseconds."""
        estimates = self._estimates
        before = estimates.get(function_id)
        run_us = max(run_us, MIN_ESTIMATE_US)
        # Up at once, down slowly: too high an estimate costs some throughput, too low a one makes other tasks wait.
        estimates[function_id] = run_us if before is None or run_us > before else (3 * before + run_us) // 4
        if before is None and len(estimates) > MAX_ESTIMATES:
            estimates.popitem(last=False)

    # ------------------------------------------------------------------ the pass

    def run(self, now: float) -> None:
        """Places what can be placed."""
        for host_id in self.shares.end_holds(now):
            if host_id in self.hosts:
                self.places.touch(self.hosts[host_id])
        for host in self.lent.open(now):
            self.places.touch(host)
        changed, self.places.changed = self.places.changed, {}
        refillable, self._refillable = self._refillable, {}
        waiting = self._lines_that_wait(now)
        if any([line.share.shape.constraint is not None for line in waiting]):  # noqa: C419 (faster, in each pass)
            waiting = [line for line in waiting if not self._is_refused(line)]
        if not waiting:
            return
        self._contended = len(waiting) > 1
        if self._contended:
            shares = [line.share for line in waiting]
            self.shares.settle(shares, now)
            self.shares.rank(shares, lambda number: self._run_s(waiting[number]), now)
            served = self._take_turns(self._with_chances(waiting, changed), changed)
        else:
            served = waiting
            deque(self._serve(waiting[0], changed), maxlen=0)
        for line in served:
            line.share.waits(line.waiting(), now)
        left = [line for line in waiting if line.share.waiting]
        if left:
            left.sort(key=lambda line: line.share.standing())
            self._refill(left, refillable)
            self.shares.look_for_holds([line.share for line in left], now)

    def _lines_that_wait(self, now: float) -> list[Line]:
        """The lines in which something waits."""
        waiting: list[Line] = []
        if self.other_lines:
            waiting += self._waiting_of(self.other_lines, now)
        if self.actors_waiting:
            waiting += self._waiting_of(self.actors_waiting, now)
        if self.queues:
            waiting += self._waiting_of(self.queues, now)
        return waiting

    def _waiting_of(self, lines: dict[K, L], now: float) -> list[L]:
        """The lines in which something waits. Lines that were empty and unused for a while are removed."""
        waiting = []
        forgotten = []
        for key, line in lines.items():
            count = line.waiting()
            share = line.share
            if count and share.waiting:  # ``waits`` written out for the usual case, since each pass asks every line
                share.waiting = count
                waiting.append(line)
                continue
            share.waits(count, now)
            if count:
                waiting.append(line)
                continue
            line.full = False  # hosts may get room while the line is empty, and it would not learn of them
            if not line and share.is_forgotten(now):
                forgotten.append(key)
        for key in forgotten:
            del lines[key]
        return waiting

    def _is_refused(self, line: Line) -> bool:
        """Empties a line if no host may ever take its work, and the work must not wait for one."""
        if not isinstance(line, ActorLine | TaskQueue):
            return False
        why = self.places.refusal(line.share.shape)
        if not why:
            return False
        self.refused += [(each, why) for each in line.clear()]
        line.share.waits(0, self._clock())
        return True

    def _with_chances(self, waiting: list[Line], changed: dict[bytes, Host]) -> list[Line]:
        """The lines that may get something in this pass.

        A pass only takes from hosts, unless it reserves bundles, which other work may use at once.
        """
        if any(line.waiting() for line in self.other_lines.values()):
            return waiting
        return [line for line in waiting if not _depends_on_changes(line) or _fits_any(line.share.shape, changed)]

    def _take_turns(self, lines: list[Line], changed: dict[bytes, Host]) -> list[Line]:
        """Gives one grant after the other, each to the line that is next then. Returns the lines that were served.

        A line that can get nothing, because other lines have taken the room, is not served: a thousand lines may wait
        for the same CPU.
        """
        turns = [(line.share.standing(), number) for number, line in enumerate(lines)]
        heapq.heapify(turns)
        least = min([line.share.shape.cpus if _depends_on_changes(line) else 0 for line in lines], default=0)
        with_cpus = list(changed.values()) if least else []
        serving: dict[int, Iterator[None]] = {}  # by the number of the line; one step is one grant
        while turns:
            if least:
                while with_cpus and with_cpus[-1].pool.free.get(CPU, 0) < least:
                    with_cpus.pop()
                if not with_cpus:
                    break
            standing, number = turns[0]
            line = lines[number]
            grants = serving.get(number)
            if grants is None and _depends_on_changes(line) and not _fits_any(line.share.shape, changed):
                heapq.heappop(turns)
                continue
            # If other lines of its job have got grants meanwhile, its standing has changed: it may no longer be next.
            if line.share.standing() == standing:
                if grants is None:
                    grants = serving[number] = self._serve(line, changed)
                if next(grants, self) is self:
                    heapq.heappop(turns)
                    continue
            heapq.heapreplace(turns, (line.share.standing(), number))
        return [lines[number] for number in serving]

    def _run_s(self, line: Line) -> float:
        """How long the first task of a line runs, in seconds, as far as is known; else 0."""
        first = line.any() if isinstance(line, TaskQueue) else None
        return self._estimates.get(first.function_id, 0) / 1e6 if first is not None else 0.0

    def _serve(self, line: Line, changed: dict[bytes, Host]) -> Iterator[None]:
        if isinstance(line, TaskQueue):
            return self._serve_tasks(line, changed)
        return self._place_actors(line, changed) if isinstance(line, ActorLine) else line.serve(changed)

    def _serve_tasks(self, queue: TaskQueue, changed: dict[bytes, Host]) -> Iterator[None]:
        """Gives out the tasks of a queue: first to the hosts that they are near, then to hosts with room."""
        ration = self._ration(queue)
        if queue.near:
            queue.forget_stuck()
            for host in self._hosts_to_look_at(queue, changed):
                yield from self._serve_host(host, queue, ration)
            queue.look_for_stuck(self._has_room(queue.share.shape))
        queue.grown = {}
        yield from (self._spread if queue.spread else self._pack)(queue, ration, changed)

    def _ration(self, queue: TaskQueue) -> int:
        """The most envelopes of a queue that one worker gets at a time, so that some are left for other workers."""
        return len(queue) // (2 * (self.places.slots or 1)) + 1

    def _hosts_to_look_at(self, queue: TaskQueue, changed: dict[bytes, Host]) -> list[Host]:
        candidates = {**queue.grown, **dict.fromkeys(changed)} if len(changed) < len(queue.near) else queue.near
        return [self.hosts[host_id] for host_id in candidates if host_id in queue.near]

    def _has_room(self, shape: Shape) -> Callable[[bytes], bool]:
        return lambda host_id: self.hosts[host_id].pool.fits(shape)

    def _is_open(self, host: Host, share: Share) -> bool:
        """Whether a host has room for a line's shape, and is not held for another line."""
        return host.pool.fits(share.shape) and not ((host.lent or self.shares.holds) and self.keeps_off(host, share))

    def keeps_off(self, host: Host, share: Share) -> bool:
        """Whether a line must get nothing on a host now: lent CPUs are kept for others, or another line holds it."""
        return (bool(host.lent) and self.lent.are_kept(host, share)) or self.shares.keeps_off(host, share)

    def _pack(self, queue: TaskQueue, ration: int, changed: dict[bytes, Host]) -> Iterator[None]:
        """Fills one host after the other: each up to a half, then each to the end.

        Ends when the queue is empty or no host has room.
        """
        fits = False
        shape = queue.share.shape
        for tier in self.places.tiers(shape, changed if queue.full else None):
            for host in tier:
                fits = (yield from self._serve_host(host, queue, ration)) or fits
                if not queue:
                    return
            if fits:  # a worker is being started there: later tiers are for what has no room
                break
        queue.full = not fits

    def _spread(self, queue: TaskQueue, ration: int, changed: dict[bytes, Host]) -> Iterator[None]:
        """Gives one task to each host, the least loaded first, again and again.

        Ends when the queue is empty or no host has room.
        """
        placed = fits = True
        while placed and queue:
            placed = fits = False
            for tier in self.places.tiers(queue.share.shape, changed if queue.full else None):
                for host in sorted(dict.fromkeys(tier), key=_load):
                    if self._is_open(host, queue.share):
                        fits = True
                        if self._serve_once(host, queue, ration):
                            placed = True
                            yield
                if fits:  # as in ``_pack``
                    break
        queue.full = not fits

    def _serve_host(self, host: Host, queue: TaskQueue, ration: int) -> Generator[None, None, bool]:
        """Gives a host as many grants as it has room for, or, if it is less than half used, until half of it is used.

        Returns whether it has room for which there is no worker yet.
        """
        was_roomy = host.is_roomy
        while self._is_open(host, queue.share) and host.is_roomy is was_roomy:
            if not self._serve_once(host, queue, ration):
                return True
            yield
        return False

    def _serve_once(self, host: Host, queue: TaskQueue, ration: int) -> bool:
        """Gives one grant on a host that has room. Returns False if there is no worker for it, or no task."""
        if queue.next_for(host.host_id) is None:
            return False
        worker = self._idle_worker(host, queue.job_id, queue.share.shape)
        if worker is not None:
            self._grant(worker, queue.share)
            if worker.claim != worker.grant.cpus_used or host.shares_cpus:
                self.cpus.claim(worker, worker.grant.cpus_used)
            worker.enter(BUSY)
            self._fill(worker, queue, ration)
            return True
        if self._contended and not queue.share.shape.environment_id:
            return self._reserve(host, queue)
        # A worker in an environment may take minutes to start: it holds no resources meanwhile.
        self._start_for_tasks(host, queue, len(queue))
        return False

    def _refill(self, waiting: Sequence[Line], refillable: dict[Share, dict[bytes, Worker]]) -> None:
        """Hands more envelopes to workers that may hold more, unless they have to make room.

        ``waiting``: the lines that wait, the next one first.
        """
        shares = [line.share for line in waiting]
        for queue in waiting:
            if not isinstance(queue, TaskQueue):
                continue
            workers = refillable.get(queue.share)
            if not workers:
                continue
            ration = self._ration(queue)
            for worker in workers.values():
                if worker.state is not BUSY or not worker.outstanding:
                    continue
                if len(shares) == 1 or not self.shares.makes_room(worker, shares):
                    self._fill(worker, queue, ration)

    def _fill(self, worker: Worker, queue: TaskQueue, ration: int) -> None:
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
            run = Run(envelope.task_id, envelope.attempt, envelope.function_id, envelope.shape.grant_key, worker.gpus,
                      envelope.payload)  # fmt: skip
            self._send(worker.worker_id, run)
            if not envelope.flags & FLAG_RETRYABLE:
                break

    # ------------------------------------------------------------------ workers

    def _idle_worker(self, host: Host, job_id: bytes, shape: Shape) -> Worker | None:
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
                        self._assign(worker, job_id)
                    return worker
        return None

    def _assign(self, worker: Worker, job_id: bytes) -> None:
        job = self._jobs[job_id]
        worker.job_id = job_id
        self._processes[worker.worker_id].job_id = job_id
        job.workers[worker.worker_id] = None
        self._send(worker.worker_id, JobConfig(job_id, job.settings))

    def _start_for_tasks(self, host: Host, queue: TaskQueue, wanted: int) -> None:
        shape = queue.share.shape
        starting = host.count_starting(shape.environment_id)
        wanted = host.pool.how_many_fit(shape, 1 if host.lent else wanted) - starting
        most = MAX_STARTING_PER_HOST - starting
        if shape.environment_id and len(host.starting) >= MAX_STARTING_PER_HOST:
            most = 0 if starting or len(host.starting) >= MAX_STARTING_IN_ENVIRONMENTS else 1
        for _ in range(min(wanted, most)):
            self.start_worker(host, job_id=queue.job_id, environment_id=shape.environment_id)

    def _reserve(self, host: Host, queue: TaskQueue) -> bool:
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
            worker = self.start_worker(host)
        queue.share.starting += 1
        worker.reserved = queue
        self._grant(worker, queue.share)
        self.cpus.claim(worker, worker.grant.cpus_used)
        return True

    def worker_joined(self, worker: Worker, now: float) -> None:
        """A worker that was started for tasks has joined. It gets tasks of the line that reserved it, if some wait."""
        queue = self._no_longer_starting(worker)
        if queue is not None and queue.next_for(worker.host.host_id) is not None and queue.job_id in self._jobs:
            self._assign(worker, queue.job_id)
            worker.enter(BUSY)
            self._fill(worker, queue, self._ration(queue))
        else:
            self.release_grant(worker)
            self.make_idle(worker, now)

    def _no_longer_starting(self, worker: Worker) -> TaskQueue | None:
        """A worker has joined, or is gone. Returns the queue that reserved it."""
        worker.host.starting.pop(worker.worker_id, None)
        queue, worker.reserved = worker.reserved, None
        assert queue is None or isinstance(queue, TaskQueue), "only lines of tasks reserve workers"
        if queue is not None:
            queue.share.starting -= 1
        return queue

    def start_worker(
        self, host: Host, actor: Actor | None = None, job_id: bytes = b"", environment_id: bytes = b""
    ) -> Worker:
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
        self.places.touch(host)
        return worker

    def make_idle(self, worker: Worker, now: float) -> None:
        """A worker has no work: puts it on its host's idle list."""
        worker.enter(IDLE)
        worker.idle_since = now
        worker.host.idle.setdefault(worker.pool, []).append(worker)
        self.places.touch(worker.host)

    def _grant(self, worker: Worker, share: Share) -> None:
        worker.gpus = worker.host.pool.take(share.shape)
        worker.grant = share.shape
        worker.used_gpus = worker.gpus
        worker.depth = share.depth
        if worker.host.lent:
            self.lent.granted(worker)
        for host_id in self.shares.grant(share, worker):
            self.places.touch(self.hosts[host_id])
        worker.kept = False
        worker.busy_replies = 0
        self.places.touch(worker.host)

    def release_grant(self, worker: Worker) -> None:
        """Gives back what a worker holds of its host's resources."""
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
        self.places.touch(worker.host)

    def lend(self, worker: Worker) -> None:
        """A worker blocks: other tasks may use its CPUs."""
        worker.blocked = True
        self.lent.lend(worker, worker.grant.cpus)
        self.shares.lend(worker)
        self.places.touch(worker.host)

    def take_back(self, worker: Worker) -> None:
        """A worker goes on: it has its CPUs again."""
        worker.blocked = False
        if worker.claim < 0:
            self.cpus.wake(worker)
        self.lent.lend(worker, 0)
        self.shares.take_back(worker)
        self.places.touch(worker.host)

    def release(self, worker: Worker, now: float) -> None:
        """A busy worker has no task left: takes back its grant and makes it idle."""
        self._not_refillable(worker)
        self.release_grant(worker)
        self.make_idle(worker, now)

    def _not_refillable(self, worker: Worker) -> None:
        refillable = self._refillable.get(worker.share) if worker.share is not None else None
        if refillable is not None:
            refillable.pop(worker.worker_id, None)

    def finished(self, worker: Worker, envelope: Envelope, now: float) -> None:
        """A worker has finished an envelope, or has handed it back."""
        del worker.outstanding[envelope.task_id]
        worker.load_us -= envelope.estimate_us
        worker.overdue = False
        if worker.outstanding:
            if worker.share is not None:
                self._refillable.setdefault(worker.share, {})[worker.worker_id] = worker
        elif worker.retiring:
            self.retire(worker)
        elif worker.state is BUSY:
            self.release(worker, now)

    def kill(self, worker: Worker, reason: str, kind: str = "WorkerCrashedError") -> None:
        """Has a worker killed by its host. The worker gets no more work until then. ``kind``: the error to report."""
        worker.retiring = True
        if worker.state in (IDLE, PROBED):
            self.retire(worker)
        self._send(worker.host.host_id, KillWorker(worker.worker_id, reason, kind))

    def probe(self, worker: Worker, reason: str, surplus: bool) -> None:
        """Asks an idle worker to exit, see ``ExitIfIdle``. It gets no work until it has answered."""
        worker.host.idle[worker.pool].remove(worker)
        worker.enter(PROBED)
        self._send(worker.worker_id, ExitIfIdle(reason, surplus))

    def retire(self, worker: Worker) -> None:
        """A worker takes no more work. Its process ends when its objects are not needed any more."""
        worker.enter(RETIRED)
        self._free(worker)

    def remove(self, worker: Worker) -> None:
        """A worker is dead: frees what it held, and removes its record from all tables."""
        worker.enter(WorkerState.DEAD)
        self._free(worker)
        self.cpus.drop(worker)
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
        self._not_refillable(worker)
        self._no_longer_starting(worker)
        self.release_grant(worker)

    # ------------------------------------------------------------------ actors

    def wait_for_place(self, actor: Actor) -> None:
        """Queues an actor for a worker of its own."""
        key = (actor.job_id, actor.placement.key, actor.depth)
        line = self.actors_waiting.get(key)
        if line is None:
            share = self.shares.open(actor.job_id, actor.placement, actor.depth)
            line = self.actors_waiting[key] = ActorLine(share)
        line.actors[actor.actor_id] = actor

    def waits_no_more(self, actor: Actor) -> None:
        """Removes a dead actor from its line. Does nothing if the actor did not wait."""
        line = self.actors_waiting.get((actor.job_id, actor.placement.key, actor.depth))
        if line is not None:
            line.actors.pop(actor.actor_id, None)

    def _place_actors(self, line: ActorLine, changed: dict[bytes, Host]) -> Iterator[None]:
        while line.actors:
            host = self._host_for_actor(line, changed)
            if host is None:
                line.full = True
                return
            line.full = False
            self._place_actor(line.actors.popitem(last=False)[1], host, line.share)
            yield

    def _host_for_actor(self, line: ActorLine, changed: dict[bytes, Host]) -> Host | None:
        """The host with the fewest actors per CPU, of those that have room; None if no host has.

        Of equal hosts, the one that has the arguments of the actor's constructor.
        """
        share = line.share
        among = changed if line.full else None
        chosen = self.places.least_loaded(share.shape, lambda host: self._is_open(host, share), among)
        near = self.hosts.get(next(iter(line.actors.values())).near)
        if chosen is None or near is None or near is chosen:
            return chosen
        return near if self.places.is_as_good(near, chosen, share.shape) and self._is_open(near, share) else chosen

    def _place_actor(self, actor: Actor, host: Host, share: Share) -> None:
        worker = self._idle_worker(host, actor.job_id, share.shape)
        host.count_actor(1)
        actor.worker = worker or self.start_worker(host, actor, actor.job_id, share.shape.environment_id)
        actor.worker.actor = actor
        self._grant(actor.worker, share)
        self.cpus.claim(actor.worker, actor.running.cpus_used)  # also while it is constructed: it may start threads
        if worker is not None:
            self.begin_actor(worker)

    def part(self, worker: Worker) -> None:
        """Separates a worker from its actor, if it has one."""
        if worker.actor is not None:
            worker.actor = None
            worker.host.count_actor(-1)
            self.places.touch(worker.host)

    def begin_actor(self, worker: Worker) -> None:
        """Has a worker that has joined construct its actor."""
        actor = worker.actor
        assert actor is not None
        worker.enter(SERVING)
        actor.failed_starts = 0
        worker.served = actor.actor_id
        if worker.job_id != actor.job_id:
            self._assign(worker, actor.job_id)
        start = ActorStart(actor.actor_id, actor.incarnation, actor.function_id, actor.spec, actor.creator,
                           worker.gpus, actor.payload)  # fmt: skip
        self._send(worker.worker_id, start)

    def actor_runs(self, worker: Worker, actor: Actor) -> None:
        """The constructor has returned: the actor keeps only the resources that it asked for its lifetime."""
        worker.host.pool.shrink(worker.grant, actor.running)
        worker.grant = actor.running
        self.shares.give_back(worker)
        self.places.touch(worker.host)

    # ------------------------------------------------------------------ tests

    def check(self) -> None:
        """Raises AssertionError if an account does not agree with the grants; for tests."""
        from zray.broker.accounts_check import check_all  # here, to keep it out of forked workers
        from zray.broker.cpus import check_claims

        workers = self.workers.values()
        waiting = [line.share for line in self.actors_waiting.values()]
        waiting += [queue.share for queue in self.queues.values()]
        check_all(waiting, workers)
        for host in self.hosts.values():
            check_claims(host)
        for worker in workers:
            if worker.outstanding and worker.state is BUSY:
                assert worker.share is not None, "a busy worker without a grant"
            assert worker.yields_to is None or worker.share is not None, "a worker makes room but has no grant"
