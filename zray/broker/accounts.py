"""The accounts of jobs and their lines: what each uses now, and its recent average. See ``zray/broker/shares.py``.

Pure: the caller passes the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from zray.broker.resources import Shape

MEMORY_S = 0.5
"""The time constant of the average. Use that ended more than twice that long ago counts for little."""
FORGOTTEN_S = 4 * MEMORY_S
STARVED_S = 1.0
STARVED_TIMES = 3
"""A line is starved when it has waited for ``STARVED_S``, and ``STARVED_TIMES`` times as long as it had its last grant.

It may then hold a host before it is next.
"""
HOLD_S = 0.1
"""How long a host is held the first time. Each further hold lasts twice as long as the one before."""

Parts = dict[str, int]
"""Shares of the cluster's amount of each resource, in units of 1 / ``zray.broker.shares.WHOLE``."""


class Account:
    """What is used now, and the recent average.

    ``promised``: the change of ``used`` when the workers that make room have done so.
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
        self.average: dict[str, float] = {}  # exponentially weighted, as of settled_at
        self.settled_at = now
        self.served = 0  # the number of the latest grant
        self.holders = 0  # workers whose grant is charged to it
        self.claims = 0  # workers that make room for it
        self.granted: dict[int, int] = {}  # jobs only: number of workers that hold a grant, by depth
        self.ended_at: dict[int, float] = {}  # jobs only: when a grant ended last, by depth
        self.lending: dict[int, int] = {}  # jobs only: number of workers that have lent their CPUs, by depth

    def settle(self, now: float) -> None:
        """Brings the average up to date."""
        if now == self.settled_at:
            return
        before, self.settled_at = self.settled_at, now
        if not self.used:
            return  # nothing was ever charged to it, as with most lines while a thousand wait
        decay = math.exp((before - now) / MEMORY_S)
        average = self.average
        for name, used in self.used.items():
            average[name] = used + (average.get(name, 0.0) - used) * decay

    def charge(self, less: Parts, more: Parts, now: float) -> None:
        """Subtracts ``less`` from what is used, and adds ``more``, from now on."""
        self.settle(now)
        used = self.used
        for name, part in less.items():
            used[name] -= part
        for name, part in more.items():
            used[name] = used.get(name, 0) + part

    def level(self, names: Iterable[str]) -> float:
        """The largest sum of present use and average, of the named resources. The lowest level is served next."""
        used, average = self.used, self.average
        highest = 0.0
        if used:
            for name in names:  # a loop, not max(): each pass compares all lines that wait
                level = used.get(name, 0) + average.get(name, 0.0)
                if level > highest:
                    highest = level
        return highest

    def expected_level(self, names: Iterable[str], parts: Parts, sign: int = 1) -> float:
        """``level`` after the workers that make room have done so, with ``parts`` added or (``sign`` -1) subtracted."""
        return max(
            (
                self.used.get(name, 0) + self.average.get(name, 0.0) + self.promised.get(name, 0)
                + sign * parts.get(name, 0)
                for name in names
            ),
            default=0.0,
        )  # fmt: skip


class Share(Account):
    """The account of a line, and how long the line has waited."""

    __slots__ = ("depth", "held_s", "hold_s", "job", "job_id", "lenders", "plan", "rank", "rests_until", "shape",
                 "since", "starting", "waiting")  # fmt: skip

    def __init__(self, job: Account, job_id: bytes, shape: Shape, depth: int, now: float) -> None:
        super().__init__(now)
        self.job = job
        self.job_id = job_id
        self.depth = depth
        self.lenders: set[bytes] = set()  # its workers that wait in get and have lent their CPUs
        self.shape = shape
        self.rank = -shape.priority  # among the lines of its job: the lowest is first. See ``zray.broker.priorities``
        self.waiting = 0  # number of tasks or actors in the line
        self.since = 0.0  # when it began to wait, or was served last
        self.held_s = 0.0  # how long it held its latest grant
        self.starting = 0  # workers that are being started for it
        self.hold_s = HOLD_S
        self.rests_until = 0.0  # no host is held for it before this time
        self.plan: Callable[[], list[tuple[Any, Shape]]] | None = None
        """If it needs several hosts at once: which hosts could be freed for it, and of what. Empty if they cannot."""

    def standing(self) -> tuple[float, int, float, int]:
        """The sort key of lines that wait. The smallest is next."""
        names = self.shape.amounts
        return self.job.level(names), self.rank, self.level(names) if self.used else 0.0, self.served

    def waits(self, count: int, now: float) -> None:
        """Sets how many wait in the line."""
        if not self.waiting:
            self.since = now
        elif not count:
            self.hold_s = HOLD_S
        self.waiting = count

    def waits_for(self, other: Share) -> bool:
        """Whether its own tasks may wait for the tasks of another line. It must take nothing from that line then."""
        return bool(self.lenders) and self.job is other.job and self.depth < other.depth

    def waits_for_deeper(self, waiting: Iterable[Share]) -> bool:
        """Whether its own tasks wait, and its job has deeper work that they may wait for."""
        if not self.lenders:
            return False
        job, recently = self.job, self.settled_at - STARVED_S
        at_work = any(depth > self.depth for depth in job.granted)
        at_work = at_work or any(depth > self.depth and at > recently for depth, at in job.ended_at.items())
        return at_work or any(self.waits_for(other) for other in waiting)

    def lends(self, worker_id: bytes, lends: bool) -> None:
        """Notes whether a worker that holds one of its grants has lent its CPUs."""
        if lends == (worker_id in self.lenders):
            return
        (self.lenders.add if lends else self.lenders.discard)(worker_id)
        count(self.job.lending, self.depth, 1 if lends else -1)

    def is_forgotten(self, now: float) -> bool:
        """Whether nothing is used, and earlier use no longer counts."""
        return not self.holders and now - self.settled_at > FORGOTTEN_S

    def is_starved(self, now: float) -> bool:
        """Whether it has waited so long that it is served although it is not next."""
        return now - self.since >= max(STARVED_S, STARVED_TIMES * self.held_s)


def count(counts: dict[int, int], key: int, more: int) -> None:
    """Adds ``more`` to a count. Counts of zero are removed."""
    left = counts.get(key, 0) + more
    if left:
        counts[key] = left
    else:
        del counts[key]


def add(parts: Parts, more: Parts, sign: int) -> None:
    """Adds ``more`` to ``parts``, or (``sign`` -1) subtracts it."""
    for name, part in more.items():
        parts[name] = parts.get(name, 0) + sign * part
