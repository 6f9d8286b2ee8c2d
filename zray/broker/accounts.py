"""What jobs and their lines use, and have used on average of late; see ``zray/broker/shares.py``.

Pure: it is told the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from zray.broker.resources import Shape

MEMORY_S = 0.5
"""The time constant of what has been used on average: what was used before twice that counts for little."""
FORGOTTEN_S = 4 * MEMORY_S
STARVED_S = 1.0
STARVED_TIMES = 3
"""Whoever has waited so long, and so many times as long as it had its last grant, may hold a host before it is next."""
HOLD_S = 0.1
"""For so long a host is held the first time; twice as long each time after that."""

Parts = dict[str, int]
"""Parts of what the cluster has of each resource, in units of 1 / ``zray.broker.shares.WHOLE``."""


class Account:
    """What is used, and has been on average of late.

    ``promised``: what ``used`` changes by when the workers that make room are through.
    """

    __slots__ = (
        "average",
        "claims",
        "ended_at",
        "granted",
        "holders",
        "lending",
        "promised",
        "served",
        "settled_at",
        "used",
    )

    def __init__(self, now: float) -> None:
        self.used: Parts = {}
        self.promised: Parts = {}
        self.average: dict[str, float] = {}  # at settled_at, weighted exponentially
        self.settled_at = now
        self.served = 0  # the number of the latest grant
        self.holders = 0  # workers that hold a grant of it
        self.claims = 0  # workers that make room for it
        self.granted: dict[int, int] = {}  # of a job: how many of its workers hold a grant, by depth
        self.ended_at: dict[int, float] = {}  # of a job: when a grant ended last, by depth
        self.lending: dict[int, int] = {}  # of a job: how many of its workers have lent their CPUs, by depth

    def settle(self, now: float) -> None:
        """Counts what is used up to now."""
        if now == self.settled_at:
            return
        decay = math.exp((self.settled_at - now) / MEMORY_S)
        self.settled_at = now
        average = self.average
        for name, used in self.used.items():
            average[name] = used + (average.get(name, 0.0) - used) * decay

    def charge(self, less: Parts, more: Parts, now: float) -> None:
        """So much less, and so much more, is used from now on."""
        self.settle(now)
        used = self.used
        for name, part in less.items():
            used[name] -= part
        for name, part in more.items():
            used[name] = used.get(name, 0) + part

    def level(self, names: Iterable[str]) -> float:
        """What it has of some resources: the least is next."""
        used, average = self.used, self.average
        return max((used.get(name, 0) + average.get(name, 0.0) for name in names), default=0.0)

    def expected_level(self, names: Iterable[str], parts: Parts, sign: int = 1) -> float:
        """As ``level``, when those who make room have done so, and with ``parts`` more or (``sign`` -1) less."""
        return max(
            (
                self.used.get(name, 0) + self.average.get(name, 0.0) + self.promised.get(name, 0)
                + sign * parts.get(name, 0)
                for name in names
            ),
            default=0.0,
        )  # fmt: skip


class Share(Account):
    """The account of a line, and since when it waits."""

    __slots__ = ("depth", "held_s", "hold_s", "job", "job_id", "lenders", "rests_until", "shape", "since", "starting",
                 "waiting")  # fmt: skip

    def __init__(self, job: Account, job_id: bytes, shape: Shape, depth: int, now: float) -> None:
        super().__init__(now)
        self.job = job
        self.job_id = job_id
        self.depth = depth
        self.lenders: set[bytes] = set()  # its workers that wait, and have lent their CPUs
        self.shape = shape
        self.waiting = 0  # so many wait
        self.since = 0.0  # when it began to wait, or was served last
        self.held_s = 0.0  # for how long it had its latest grant
        self.starting = 0  # workers that are being started for it
        self.hold_s = HOLD_S
        self.rests_until = 0.0  # no host is held for it before

    def standing(self) -> tuple[float, float, int]:
        """Orders those who wait: the least is next."""
        names = self.shape.amounts
        return self.job.level(names), self.level(names), self.served

    def waits(self, count: int, now: float) -> None:
        """So many wait."""
        if not self.waiting:
            self.since = now
        elif not count:
            self.hold_s = HOLD_S
        self.waiting = count

    def waits_for(self, other: Share) -> bool:
        """Whether what another line has may be what its own tasks wait for: it is to take nothing from there."""
        return bool(self.lenders) and self.job is other.job and self.depth < other.depth

    def waits_for_deeper(self, waiting: Iterable[Share]) -> bool:
        """Whether its own tasks wait, and there is deeper work of its job that may be what they wait for."""
        if not self.lenders:
            return False
        job, recently = self.job, self.settled_at - STARVED_S
        at_work = any(depth > self.depth for depth in job.granted)
        at_work = at_work or any(depth > self.depth and at > recently for depth, at in job.ended_at.items())
        return at_work or any(self.waits_for(other) for other in waiting)

    def lends(self, worker_id: bytes, lends: bool) -> None:
        """Whether a worker that holds a grant of it has lent its CPUs."""
        if lends == (worker_id in self.lenders):
            return
        (self.lenders.add if lends else self.lenders.discard)(worker_id)
        count(self.job.lending, self.depth, 1 if lends else -1)

    def is_forgotten(self, now: float) -> bool:
        """Whether nothing is used, and what was no longer counts."""
        return not self.holders and now - self.settled_at > FORGOTTEN_S

    def is_starved(self, now: float) -> bool:
        """Whether it has waited for so long that it is to be served though it is not next."""
        return now - self.since >= max(STARVED_S, STARVED_TIMES * self.held_s)


def count(counts: dict[int, int], key: int, more: int) -> None:
    """A count by key; there are no zeros."""
    left = counts.get(key, 0) + more
    if left:
        counts[key] = left
    else:
        del counts[key]


def add(parts: Parts, more: Parts, sign: int) -> None:
    """So much more, or (``sign`` -1) less."""
    for name, part in more.items():
        parts[name] = parts.get(name, 0) + sign * part
