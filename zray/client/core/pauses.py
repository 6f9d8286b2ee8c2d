"""Pauses of tasks that were stopped for lack of memory, before they are tried again: the longer, the more often."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, Protocol, TypeVar

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class Pausing(Protocol):
    """A task that can pause. ``attempt``: the one that begins after the pause."""

    task_id: bytes
    attempt: int


T = TypeVar("T", bound=Pausing)


class Pauses(Generic[T]):
    """The tasks of one process that were stopped for lack of memory. ``retries``: how often each is tried again; -1:
    without limit.

    ``stops``: how often each unanswered task was stopped. ``_until``: pauses by their end. A task that has been
    cancelled stays there until then.
    """

    def __init__(self) -> None:
        self.retries = -1
        self.stops: dict[bytes, int] = {}
        self._until: list[tuple[float, int, T, int]] = []
        self._numbers = itertools.count()

    def may_retry(self, task: T) -> bool:
        """Whether a stop leaves a task another attempt."""
        return self.retries < 0 or self.stops.get(task.task_id, 0) < self.retries

    def begin(self, task: T, now: float) -> float:
        """Begins the pause of a task that was stopped now. Returns its length in seconds."""
        stops = self.stops[task.task_id] = self.stops.get(task.task_id, 0) + 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(stops - 1, 10))
        heapq.heappush(self._until, (now + pause_s, next(self._numbers), task, task.attempt))
        return pause_s

    def over(self, now: float) -> list[tuple[T, int]]:
        """Takes the tasks whose pause is over, each with the attempt that it then begins."""
        tasks = []
        while self._until and self._until[0][0] <= now:
            _, _, task, attempt = heapq.heappop(self._until)
            tasks.append((task, attempt))
        return tasks
