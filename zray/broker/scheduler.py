"""Decides which line is served next, and which host gives it a place.

The lines (``zray/broker/lines.py``) are served in turns, one grant at a time; ``zray/broker/shares.py`` decides which
line is next. A pass looks at the head of each line and leaves a line when its head does not fit. It looks only at hosts
that have room or have changed. So the cost of a decision grows neither with the number of tasks nor with the number of
hosts. There is one pass per turn.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator, Iterator

from zray.broker.actor_placement import ActorPlacement
from zray.broker.dispatch import Dispatch
from zray.broker.grants import Grants
from zray.broker.lines import Line, Lines, Waiting
from zray.broker.places import Places
from zray.broker.queues import ActorLine, TaskQueue
from zray.broker.records import Host, Worker
from zray.broker.resources import CPU, Shape
from zray.broker.states import BUSY
from zray.broker.workers import Workers


def _depends_on_changes(line: Line) -> bool:
    """Whether a line gets something only if a host that has changed has room: no host had room at the last pass."""
    return line.full and (not line.near if isinstance(line, TaskQueue) else isinstance(line, ActorLine))


def _next_of(line: Line) -> list[Waiting]:
    """What the next piece of work of a line lacks."""
    return [Waiting(line.share.shape)] if isinstance(line, ActorLine | TaskQueue) else line.wanted()


def _fits_any(shape: Shape, hosts: dict[bytes, Host]) -> bool:
    for host in hosts.values():  # noqa: SIM110 (a loop: it is called for each line in each pass)
        if host.pool.fits(shape):
            return True
    return False


def _load(host: Host) -> float:
    """The part of a host's CPUs that is in use."""
    total = host.pool.total.get("CPU", 0)
    return (total - host.pool.free.get("CPU", 0)) / total if total else 1.0


def _owe(queue: TaskQueue, host: Host, more: int) -> None:
    """Changes how many tasks of a line a host is owed, which is never less than none."""
    owed = queue.owed.get(host.host_id, 0) + more
    if owed > 0:
        queue.owed[host.host_id] = owed
    else:
        queue.owed.pop(host.host_id, None)


class Scheduler:
    """The pass over the lines that wait, and the placement of tasks."""

    def __init__(
        self,
        places: Places,
        lines: Lines,
        grants: Grants,
        workers: Workers,
        dispatch: Dispatch,
        actor_placement: ActorPlacement,
    ) -> None:
        self.hosts = places.hosts
        self._places = places
        self._lines = lines
        self._grants = grants
        self._shares = grants.shares
        self._workers = workers
        self._dispatch = dispatch
        self._actor_placement = actor_placement
        self._spreads = 0  # how many tasks of lines that spread were given to hosts
        self._contended = False  # whether more than one line waits
        self.left: list[Waiting] = []
        """What the last pass has left waiting: the next of each line."""

    def add_host(self, host: Host) -> None:
        """Adds a host that has joined."""
        self._places.add(host)
        self._grants.add_host(host)

    def remove_host(self, host: Host) -> None:
        """Removes a host that is gone."""
        self._places.remove(host)
        self._grants.host_lost(host)
        self._lines.host_lost(host.host_id)

    def worker_joined(self, worker: Worker) -> None:
        """A worker has joined. It is told its CPUs, and is given what it was started for, if that still waits."""
        if worker.cpus:
            self._grants.cpus.tell(worker)
        if worker.retiring:
            self._workers.retire(worker)
        elif worker.actor is not None:
            self._actor_placement.begin(worker)
        else:
            queue = self._workers.end_start(worker)
            if queue is None or queue.next_for(worker.host.host_id) is None:
                self._workers.release(worker)
                return
            self._workers.assign(worker, queue.job_id)
            worker.enter(BUSY)
            self._dispatch.fill(worker, queue, self._dispatch.ration(queue))

    # ------------------------------------------------------------------ the pass

    def run(self, now: float) -> None:
        """Places what can be placed."""
        for host_id in self._shares.end_holds(now):
            if host_id in self.hosts:
                self._places.touch(self.hosts[host_id])
        for host in self._grants.lent.open(now):
            self._places.touch(host)
        changed, self._places.changed = self._places.changed, {}
        refillable, self._grants.refillable = self._grants.refillable, {}
        waiting = self._lines.waiting(now)
        self.left = []
        if not waiting:
            return
        self._contended = len(waiting) > 1
        if self._contended:
            shares = [line.share for line in waiting]
            self._shares.settle(shares, now)
            self._shares.rank(shares, lambda number: self._run_s(waiting[number]), now)
            served = self._take_turns(waiting, changed)
        else:
            served = waiting
            deque(self._serve(waiting[0], changed), maxlen=0)
        for line in served:
            line.share.waits(line.waiting(), now)
        left = [line for line in waiting if line.share.waiting]
        if left:
            self.left = [each for line in left for each in _next_of(line)]
            left.sort(key=lambda line: line.share.standing())
            shares = [line.share for line in left]
            for line in left:
                workers = refillable.get(line.share)
                if workers and isinstance(line, TaskQueue):
                    self._dispatch.refill(line, workers, shares)
            self._shares.look_for_holds(shares, now)

    def _run_s(self, line: Line) -> float:
        """How long the first task of a line runs, in seconds, as far as is known; else 0."""
        return self._dispatch.run_s(line) if isinstance(line, TaskQueue) else 0.0

    def _take_turns(self, lines: list[Line], changed: dict[bytes, Host]) -> list[Line]:
        """Gives one grant after the other, each to the line that is next then. Returns the lines that were served.

        A line that can get nothing is not served: a thousand lines may wait for the same CPU. A line without a chance
        at the start has none later, since a pass only takes from hosts, unless it reserves bundles, which other work
        may use at once. A line with a chance may have lost it to others when its turn comes.
        """
        depends = [_depends_on_changes(line) for line in lines]
        all_have_chances = any(line.waiting() for line in self._lines.others.values())
        turns = [
            (line.share.standing(), number) for number, line in enumerate(lines)
            if all_have_chances or not depends[number] or _fits_any(line.share.shape, changed)
        ]  # fmt: skip
        heapq.heapify(turns)
        least = min([lines[number].share.shape.cpus if depends[number] else 0 for _, number in turns], default=0)
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
            if grants is None and depends[number] and not _fits_any(line.share.shape, changed):
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

    def _serve(self, line: Line, changed: dict[bytes, Host]) -> Iterator[None]:
        if isinstance(line, TaskQueue):
            return self._serve_tasks(line, changed)
        return self._actor_placement.serve(line, changed) if isinstance(line, ActorLine) else line.serve(changed)

    def _serve_tasks(self, queue: TaskQueue, changed: dict[bytes, Host]) -> Iterator[None]:
        """Gives out the tasks of a queue: first to the hosts that they are near, then to hosts with room."""
        ration = self._dispatch.ration(queue)
        if queue.near:
            queue.forget_stuck()
            for host in self._hosts_to_look_at(queue, changed):
                yield from self._serve_host(host, queue, ration)
            queue.look_for_stuck(self._has_room(queue.share.shape))
        queue.grown = {}
        yield from (self._spread if queue.spread else self._pack)(queue, ration, changed)

    def _hosts_to_look_at(self, queue: TaskQueue, changed: dict[bytes, Host]) -> list[Host]:
        candidates = {**queue.grown, **dict.fromkeys(changed)} if len(changed) < len(queue.near) else queue.near
        return [self.hosts[host_id] for host_id in candidates if host_id in queue.near]

    def _has_room(self, shape: Shape) -> Callable[[bytes], bool]:
        return lambda host_id: self.hosts[host_id].pool.fits(shape)

    def _pack(self, queue: TaskQueue, ration: int, changed: dict[bytes, Host]) -> Iterator[None]:
        """Fills one host after the other: each up to a half, then each to the end.

        Ends when the queue is empty or no host has room.
        """
        fits = False
        shape = queue.share.shape
        for tier in self._places.tiers(shape, changed if queue.full else None):
            for host in tier:
                fits = (yield from self._serve_host(host, queue, ration)) or fits
                if not queue:
                    return
            if fits:  # a worker is being started there: later tiers are for what has no room
                break
        queue.full = not fits

    def _spread(self, queue: TaskQueue, ration: int, changed: dict[bytes, Host]) -> Iterator[None]:
        """Gives one task to each host, the least loaded first, again and again.

        Of equal hosts, the first is the one that got none for longest. A host without an idle worker has its turns,
        too: it is owed tasks, which wait until its workers have started. Ends when no task is left for other hosts, or
        no host has room.
        """
        self._settle_debts(queue)
        placed = fits = True
        while placed and queue:
            placed = fits = False
            for tier in self._places.tiers(queue.share.shape, changed if queue.full else None):
                for host in sorted(dict.fromkeys(tier), key=lambda host: (_load(host), host.spread_at)):
                    if not self._grants.is_open(host, queue.share):
                        continue
                    fits = True
                    spare = queue.spare(host.host_id)
                    if spare > 0 and self._serve_once(host, queue, min(ration, spare)):
                        self._spread_to(host)
                        _owe(queue, host, -1)
                        placed = True
                        yield
                    elif queue.spare() > 0 and self._may_owe(queue, host):
                        self._spread_to(host)
                        _owe(queue, host, 1)
                        placed = True
                if fits:  # as in ``_pack``
                    break
        queue.full = not fits

    def _spread_to(self, host: Host) -> None:
        self._spreads += 1
        host.spread_at = self._spreads

    def _may_owe(self, queue: TaskQueue, host: Host) -> bool:
        """Whether a host has room and workers that start for one more task of a line than it is owed."""
        return queue.next_for(host.host_id) is not None and queue.owed.get(host.host_id, 0) < self._most(queue, host)

    def _most(self, queue: TaskQueue, host: Host) -> int:
        """The most tasks of a line that a host may be owed."""
        shape = queue.share.shape
        workers = host.count_workers_for(shape.environment_id, queue.job_id)
        return host.pool.how_many_fit(shape, workers) if self._grants.is_open(host, queue.share) else 0

    def _settle_debts(self, queue: TaskQueue) -> None:
        """Other hosts may have what a host is owed if it is gone, or has lost its room or the workers that started."""
        for host_id, owed in list(queue.owed.items()):
            host = self.hosts.get(host_id)
            most = self._most(queue, host) if host is not None else 0
            if most == 0:
                del queue.owed[host_id]
            else:
                queue.owed[host_id] = min(owed, most)

    def _serve_host(self, host: Host, queue: TaskQueue, ration: int) -> Generator[None, None, bool]:
        """Gives a host as many grants as it has room for, or, if it is less than half used, until half of it is used.

        Returns whether it has room for which there is no worker yet.
        """
        was_roomy = host.is_roomy
        while self._grants.is_open(host, queue.share) and host.is_roomy is was_roomy:
            if not self._serve_once(host, queue, ration):
                return True
            yield
        return False

    def _serve_once(self, host: Host, queue: TaskQueue, ration: int) -> bool:
        """Gives one grant on a host that has room. Returns False if there is no worker for it, or no task."""
        if queue.next_for(host.host_id) is None:
            return False
        worker = self._workers.take_idle(host, queue.job_id, queue.share.shape)
        if worker is not None:
            self._grants.grant(worker, queue.share)
            if worker.claim != worker.grant.cpus_used or host.shares_cpus:
                self._grants.cpus.claim(worker, worker.grant.cpus_used)
            worker.enter(BUSY)
            self._dispatch.fill(worker, queue, ration)
            return True
        if self._contended and not queue.share.shape.environment_id:
            return self._workers.reserve_for(queue, host)
        # A worker in an environment may take minutes to start: it holds no resources meanwhile.
        self._workers.start_for(queue, host)
        return False
