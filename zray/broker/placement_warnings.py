"""Warnings about work that cannot be placed: nothing fits it, or actors hold its CPUs. Each is given once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from zray.broker.explanations import Explanations, holds
from zray.broker.lines import Lines
from zray.broker.placement_groups import PlacementGroups
from zray.broker.records import Actor, Job
from zray.broker.resources import CPU, Shape, describe
from zray.broker.workers import Workers

ACTORS_LOOKED_AT = 100
"""How many actors of one line a warning looks at: all of them wait for the same resources."""
STALLED_WARN_S = 10.0
"""How long work may wait for CPUs that actors hold, in seconds, before the user is told."""


class Subject(Protocol):
    """The tables of the broker's core that are read here."""

    jobs: dict[bytes, Job]
    lines: Lines
    workers: Workers
    groups: PlacementGroups


class PlacementWarnings:
    """The warnings of one broker. ``warn`` shows one to the driver of a job. ``infeasible_warn_s``: how long work waits
    before, in seconds."""

    def __init__(
        self, core: Subject, explanations: Explanations, warn: Callable[[Job, str], None], infeasible_warn_s: float
    ) -> None:
        self._core = core
        self._explanations = explanations
        self._warn = warn
        self._infeasible_warn_s = infeasible_warn_s
        self._unplaced_since: dict[tuple[bytes, bytes], float] = {}
        self._warned: set[tuple[bytes, bytes]] = set()

    def tick(self, now: float) -> None:
        """Warns of tasks and actors that no host can take, or that wait for CPUs of actors: once for each line."""
        lines = self._core.lines
        waiting: dict[tuple[bytes, bytes], tuple[Shape, str]] = {}
        tasks: Counter[tuple[bytes, bytes]] = Counter()
        for (job_id, key, *_), queue in lines.queues.items():
            if (first := queue.any()) is not None:
                tasks[job_id, key] += len(queue)
                waiting[job_id, key] = (first.shape, f"{tasks[job_id, key]} task(s)")
        for (job_id, key, _), line in lines.actors.items():
            for actor in itertools.islice(line.actors.values(), ACTORS_LOOKED_AT):
                waiting[job_id, key] = (actor.placement, f"actor {actor.label}")
        self._unplaced_since = {key: self._unplaced_since.get(key, now) for key in waiting}
        self._warned &= set(waiting)
        for place, (shape, what) in waiting.items():
            waited_s = now - self._unplaced_since[place]
            if place in self._warned or waited_s < self._infeasible_warn_s:
                continue
            text = self._explanations.infeasible(shape, what)
            if not text and waited_s >= STALLED_WARN_S:
                text = self._starved(shape, what)
            job = self._core.jobs.get(place[0])
            if text and job is not None:
                self._warned.add(place)
                self._warn(job, text)
        for group in self._core.groups.reports.take_stuck(now - self._infeasible_warn_s):
            job = self._core.jobs.get(group.job_id)
            if job is not None:
                self._warn(job, f"placement group {group.label} waits: {self._core.groups.reports.why(group)}")

    def _starved(self, shape: Shape, what: str) -> str:
        """A warning if actors hold CPUs that a shape asks for; else an empty string."""
        holders: list[Actor] = [
            worker.actor
            for worker in self._core.workers.workers.values()
            if worker.actor is not None and holds(worker, CPU)
        ]
        if not holders or not shape.cpus or self._explanations.starting_in(shape):
            return ""
        names = ", ".join(sorted({actor.label for actor in holders})[:5])
        return (
            f"{what} asking for {describe(shape.amounts)} have been waiting for {STALLED_WARN_S:.0f} s: CPUs are held "
            f"by {len(holders)} actor(s) for as long as they live ({names}). Create them with fewer num_cpus, or drop "
            f"their handles."
        )
