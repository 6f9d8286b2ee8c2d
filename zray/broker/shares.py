"""Decides which line is served next and which workers make room: fairly between jobs, then between lines of a job.

A line waits for grants of one kind: it holds tasks of one job, shape, strategy and depth, or actors of one job,
placement and depth. Each grant is charged to its line and its job, as parts of what the cluster has of each resource,
until it is given back. Lines are compared by the resources that they ask for. What counts is the largest part of one of
these resources: the part in use now plus the recent average (dominant shares: Ghodsi et al., NSDI 2011). So two jobs
share three CPUs, and a task of three CPUs gets its turn beside tasks of one CPU. The order is: first the job with the
lowest level, then the line with the highest priority (``zray/broker/priorities.py``), then the line with the lowest
level, then the line that was served longest ago. The resources that an
actor keeps as long as it lives are not charged: otherwise the tasks of its job would never get a turn.

A worker that could take more work makes room (it gets no work) while a line waits that has less than the worker's line,
or a line of its job that has a higher priority.
A line that needs more than one worker gives back holds a host when it is next. Then no other line gets any of the
resources that it lacks there, except a line of a job that has nothing. Work on the host may wait for work that has to
run there. So the first hold is short, later holds get longer, and after each the line holds no host for as long as the
hold lasted.

Pure: the caller passes the time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from zray.broker.accounts import Account, Parts, Share, add, count
from zray.broker.priorities import foremost, rank
from zray.broker.records import Host, Worker
from zray.broker.resources import CPU, Shape

WHOLE = 1_000_000_000
"""The share of a grant that takes the cluster's whole amount of a resource."""
PATIENCE_S = 0.005
"""How long a line waits before it holds a host: freeing a host leaves CPUs idle for about a round trip."""
MAX_KNOWN_SHAPES = 1000


class Totals:
    """The sum of the resources of all hosts. The shares of a shape are parts of it."""

    def __init__(self) -> None:
        self._total: dict[str, int] = {}
        self._parts: dict[bytes, Parts] = {}  # by shape

    def add(self, amounts: dict[str, int], sign: int = 1) -> None:
        """Adds the resources of a host that joins, or (``sign`` -1) subtracts those of one that leaves."""
        self._parts.clear()
        for name, amount in amounts.items():
            total = self._total.get(name, 0) + sign * amount
            if total:
                self._total[name] = total
            else:
                self._total.pop(name, None)

    def parts(self, shape: Shape) -> Parts:
        """The parts of the cluster's resources that a grant of a shape takes. The result must not be changed."""
        parts = self._parts.get(shape.key)
        if parts is None:
            if len(self._parts) >= MAX_KNOWN_SHAPES:
                self._parts.clear()
            total = self._total
            parts = {name: amount * WHOLE // (total.get(name) or amount) for name, amount in shape.amounts.items()}
            self._parts[shape.key] = parts
        return parts


class Hold:
    """Keeps a host for a line until the host has room for it.

    ``shape``: what the line needs there; ``names``: the resources of these that the host has lacked, which are kept for
    the line; ``begun``: the number of the latest
    grant before the hold. A job that has nothing may get one grant in spite of the hold.
    """

    __slots__ = ("begun", "names", "shape", "share", "until")

    def __init__(self, host: Host, share: Share, shape: Shape, begun: int, until: float) -> None:
        self.share = share
        self.shape = shape
        self.begun = begun
        self.until = until
        self.names: set[str] = set()
        self._look(host)

    def _look(self, host: Host) -> None:
        free = host.pool.free
        self.names.update(name for name, amount in self.shape.amounts.items() if free.get(name, 0) < amount)

    def keeps_off(self, host: Host, share: Share, shape: Shape) -> bool:
        """Whether another line must not get a grant of a shape here.

        A line of the same job may get one if it has a higher priority, or if it is deeper and tasks of the job may wait
        for it.
        """
        mine = self.share
        if mine is share or (mine.job is share.job and share.rank < mine.rank):
            return False
        if mine.job is share.job and any(mine.depth <= depth < share.depth for depth in mine.job.lending):
            return False
        if not share.job.holders and share.job.served <= self.begun:
            return False
        self._look(host)
        return not self.names.isdisjoint(shape.amounts)


class Shares:
    """The accounts of all jobs, the workers that make room for lines, and the hosts that are held."""

    def __init__(
        self,
        clock: Callable[[], float],
        eligible: Callable[[Shape], Iterable[Host]],
        admits: Callable[[Host, Shape], bool],
    ) -> None:
        """``eligible(shape)``, ``admits(host, shape)``: see ``zray.broker.places``."""
        self.totals = Totals()
        self._clock = clock
        self._eligible = eligible
        self._admits = admits
        self._jobs: dict[bytes, Account] = {}
        self._holds: dict[bytes, Hold] = {}  # by host
        self._grants = 0
        self._with_priorities: set[Account] = set()

    def open(self, job_id: bytes, shape: Shape, depth: int = 0) -> Share:
        """Opens the account of a new line of a job. ``depth``: see ``Process.depth``."""
        job = self._jobs.get(job_id)
        if job is None:
            job = self._jobs[job_id] = Account(self._clock())
        if shape.priority:
            self._with_priorities.add(job)
        return Share(job, job_id, shape, depth, self._clock())

    def close_job(self, job_id: bytes) -> None:
        """Forgets a job that has ended."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            self._with_priorities.discard(job)

    # ------------------------------------------------------------------ comparing

    def settle(self, waiting: Collection[Share], now: float) -> None:
        """Brings the accounts of the lines that wait up to date, before they are compared."""
        for share in waiting:
            share.settle(now)
            if share.job.settled_at != now:
                share.job.settle(now)

    def rank(self, waiting: Collection[Share], run_s: Callable[[int], float], now: float) -> None:
        """Ranks the lines of jobs that use priorities. ``run_s(n)``: how long the work of the ``n``-th line runs."""
        if self._with_priorities:
            rank([(share, run_s(number)) for number, share in enumerate(waiting)
                  if share.job in self._with_priorities], now)  # fmt: skip

    # ------------------------------------------------------------------ grants

    def grant(self, share: Share, worker: Worker) -> list[bytes]:
        """Charges a grant of the line's shape to the line. Returns the hosts that are no longer held for the line."""
        share.holders += 1
        share.job.holders += 1
        count(share.job.granted, share.depth, 1)
        worker.share = share
        self._charge(worker, self.totals.parts(share.shape))
        return self.served(share)

    def served(self, share: Share) -> list[bytes]:
        """Notes that a line was served. Returns the hosts that are no longer held for the line."""
        self._grants += 1
        share.served = share.job.served = self._grants
        share.rank = -share.shape.priority
        share.since = self._clock()
        ended = [host_id for host_id, hold in self._holds.items() if hold.share is share] if self._holds else []
        for host_id in ended:
            del self._holds[host_id]
        return ended

    def lend(self, worker: Worker) -> None:
        """A worker blocks: its CPUs are not charged until it goes on."""
        if worker.share is not None:
            worker.share.lends(worker.worker_id, True)
            self._charge(worker, {name: part for name, part in worker.charge.items() if name != CPU})

    def take_back(self, worker: Worker) -> None:
        """A worker goes on: its CPUs are charged again."""
        if worker.share is not None:
            worker.share.lends(worker.worker_id, False)
            self._charge(worker, self.totals.parts(worker.grant))

    def give_back(self, worker: Worker) -> None:
        """Ends the charge of a grant: it has ended, or an actor keeps it for its lifetime."""
        self._end_claim(worker)
        share = worker.share
        if share is not None:
            self._charge(worker, {})
            share.lends(worker.worker_id, False)
            count(share.job.granted, share.depth, -1)
            share.job.ended_at[share.depth] = self._clock()
            share.held_s = self._clock() - share.since
            share.holders -= 1
            share.job.holders -= 1
            worker.share = None

    def _charge(self, worker: Worker, parts: Parts) -> None:
        share = worker.share
        assert share is not None
        now = self._clock()
        share.charge(worker.charge, parts, now)
        share.job.charge(worker.charge, parts, now)
        worker.charge = parts

    # ------------------------------------------------------------------ making room

    def makes_room(self, worker: Worker, waiting: Iterable[Share]) -> bool:
        """Whether a worker must make room, for a line that waits or for the hold of its host.

        ``waiting``: the lines that wait, sorted by ``standing``.
        """
        mine, target = worker.share, worker.yields_to
        assert mine is not None
        if target is not None:
            if target.waiting:
                return True
            self._end_claim(worker)
        hold = self._holds.get(worker.host.host_id)
        if hold is not None and hold.keeps_off(worker.host, mine, worker.grant):
            return True
        for share in waiting:
            if share is mine or share.claims >= share.waiting or share.waits_for(mine):
                continue
            if not self._is_due(share, worker):
                continue
            if _fits_in_place_of(share.shape, worker) and self._admits(worker.host, share.shape):
                self._claim(share, worker)
                return True
        return False

    def _is_due(self, share: Share, worker: Worker) -> bool:
        """Whether a worker's grant should go to a line.

        It should if the line has less than the worker's line, and has nothing or still has no more after the change.
        Between lines of one job, the priority comes first.
        """
        mine = worker.share
        assert mine is not None
        if share.job is mine.job and share.rank != mine.rank:
            return share.rank < mine.rank
        theirs, own = (share, mine) if share.job is mine.job else (share.job, mine.job)
        names = share.shape.amounts
        if theirs.expected_level(names, {}) >= own.expected_level(names, {}):
            return False
        has_nothing = theirs.holders + theirs.claims == 0
        after = theirs.expected_level(names, self.totals.parts(share.shape))
        return has_nothing or after <= own.expected_level(names, worker.charge, -1)

    def _claim(self, share: Share, worker: Worker) -> None:
        worker.yields_to = share
        worker.promise = self.totals.parts(share.shape), worker.charge
        self._promise(worker, share, 1)

    def _end_claim(self, worker: Worker) -> None:
        """A worker has made room, or no longer needs to."""
        share, worker.yields_to = worker.yields_to, None
        if share is not None:
            self._promise(worker, share, -1)

    def _promise(self, worker: Worker, share: Share, sign: int) -> None:
        mine = worker.share
        assert mine is not None
        gain, loss = worker.promise
        for winner in (share, share.job):
            winner.claims += sign
            add(winner.promised, gain, sign)
        for loser in (mine, mine.job):
            add(loser.promised, loss, -sign)

    # ------------------------------------------------------------------ held hosts

    @property
    def holds(self) -> bool:
        """Whether any host is held."""
        return bool(self._holds)

    def keeps_off(self, host: Host, share: Share) -> bool:
        """Whether a host is held for another line, which keeps this line off it."""
        hold = self._holds.get(host.host_id)
        return hold is not None and hold.keeps_off(host, share, share.shape)

    def end_holds(self, now: float) -> list[bytes]:
        """Ends holds whose time is over or whose line no longer waits. Returns their hosts."""
        if not self._holds:
            return []
        ended = [
            host_id for host_id, hold in self._holds.items() if now >= hold.until or not hold.share.waiting
        ]  # fmt: skip
        for share in {self._holds.pop(host_id).share: None for host_id in ended}:  # some hold several hosts
            share.rests_until = now + share.hold_s
            share.hold_s *= 2
        return ended

    def look_for_holds(self, waiting: Collection[Share], now: float) -> None:
        """Holds a host for a line that is starved, or that is next and has waited for ``PATIENCE_S``.

        Only one line of a job holds a host at a time. A line whose tasks may wait for deeper tasks holds none. Nor does
        one behind a line of its job with a higher priority, unless no host is large enough for that line.
        ``waiting``: the lines that wait, sorted by ``standing``.
        """
        waiting = [share for share in waiting if not share.waits_for_deeper(waiting)]
        if self._with_priorities:
            waiting = foremost(waiting, lambda share: self._may_hold(share, now))
        served = {id(hold.share.job) for hold in self._holds.values()}
        starved = [share for share in waiting if share.is_starved(now)]
        for share in sorted(starved, key=lambda share: share.since):
            if id(share.job) not in served and self._hold(share, now) is not None:
                return
        for share in waiting:
            if id(share.job) in served:
                continue
            if now - share.since < PATIENCE_S or self._hold(share, now) is not None:
                return  # the lines behind it are not next

    def _hold(self, share: Share, now: float) -> bool | None:
        """Holds a host for a line. Returns True if it does, and False if all hosts that are large enough are held.

        Returns None if no host is large enough, or if the line must not hold one yet.
        """
        if not self._may_hold(share, now):
            return None
        if share.plan is not None:
            return self._hold_several(share, share.plan(), now)
        host = max(
            (host for host in self._large_enough(share) if host.host_id not in self._holds),
            key=lambda host: host.pool.free.get(CPU, 0),
            default=None,
        )
        if host is not None:
            self._holds[host.host_id] = Hold(host, share, share.shape, self._grants, now + share.hold_s)
        return host is not None

    def _may_hold(self, share: Share, now: float) -> bool:
        """Whether a line may hold hosts now, and there are any that could be freed for it."""
        if now < share.rests_until:
            return False
        possible = bool(share.plan()) if share.plan is not None else next(self._large_enough(share), None) is not None
        if not possible:
            share.rests_until = now + share.hold_s  # so that the next passes need not look at the hosts again
        return possible

    def _large_enough(self, share: Share) -> Iterator[Host]:
        return (host for host in self._eligible(share.shape) if _could_be_freed(host, share.shape))

    def _hold_several(self, share: Share, plan: list[tuple[Host, Shape]], now: float) -> bool:
        """As ``_hold``, for a line that needs several hosts at once."""
        if any(host.host_id in self._holds for host, _ in plan):
            return False
        for host, shape in plan:
            self._holds[host.host_id] = Hold(host, share, shape, self._grants, now + share.hold_s)
        return True

    def forget_host(self, host_id: bytes) -> None:
        """Forgets a host that is gone."""
        self._holds.pop(host_id, None)


def _fits_in_place_of(shape: Shape, worker: Worker) -> bool:
    """Whether a shape fits into a worker's host after the worker has given back its grant."""
    free, grant = worker.host.pool.free, worker.grant.amounts
    for name, amount in shape.amounts.items():
        returned = grant.get(name, 0) - (worker.lent if name == CPU else 0)
        if free.get(name, 0) + returned < amount:
            return False
    return True


def _could_be_freed(host: Host, shape: Shape) -> bool:
    """Whether a shape fits into a host after the tasks there have ended. Actors keep what they have."""
    if not host.pool.could_ever_fit(shape):
        return False
    kept = [worker.grant.amounts for worker in host.workers.values() if worker.share is None]
    kept += [bundle.shape.amounts for bundles in host.bundles.values() for bundle in bundles]
    return all(
        host.pool.total[name] - sum(grant.get(name, 0) for grant in kept) >= amount
        for name, amount in shape.amounts.items()
    )
