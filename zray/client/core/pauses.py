"""Pauses of tasks before they are tried again: the longer, the more often it went wrong.

A task pauses if it was stopped for lack of memory, and if it kills its workers again and again
(``zray.repeated_deaths``).
"""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, Protocol, TypeVar

from zray.repeated_deaths import RepeatedDeaths

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""Of tasks that were stopped for lack of memory."""


class Pausing(Protocol):
    """A task that can pause. ``attempt``: the one that begins after the pause."""

    task_id: bytes
    attempt: int


T = TypeVar("T", bound=Pausing)


class Pauses(Generic[T]):
    """The tasks of one process that pause, or have paused. ``retries``: how often a task that was stopped for lack of
    memory is tried again; -1: without limit.

    ``_stops``: how often each unanswered task was stopped. ``_deaths``: the row of deaths of each that has killed a
    worker. ``_until``: pauses by their end. A task that has been cancelled stays there until then.
    """

    def __init__(self) -> None:
        self.retries = -1
        self._stops: dict[bytes, int] = {}
        self._deaths: dict[bytes, RepeatedDeaths] = {}
        self._until: list[tuple[float, int, T, int]] = []
        self._numbers = itertools.count()

    def __bool__(self) -> bool:
        """Whether a task pauses, or has paused and has no outcome yet."""
        return bool(self._stops or self._deaths)

    def why(self, task_id: bytes) -> str:
        """Why a task pauses, or has paused."""
        deaths = self._deaths.get(task_id)
        if deaths is None:
            return "was stopped because memory was short"
        return f"has killed its worker {deaths.count} times in a row"

    def may_retry(self, task: T) -> bool:
        """Whether a stop leaves a task another attempt."""
        return self.retries < 0 or self._stops.get(task.task_id, 0) < self.retries

    def stopped(self, task: T) -> float:
        """A task was stopped for lack of memory. Returns the length of its pause in seconds."""
        stops = self._stops[task.task_id] = self._stops.get(task.task_id, 0) + 1
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(stops - 1, 10))

    def died(self, task: T, reason: str, now: float) -> tuple[float, str]:
        """A task has killed its worker. Returns the length of its pause in seconds, and why it is not to be tried
        again; empty if it is."""
        deaths = self._deaths.get(task.task_id)
        if deaths is None:
            deaths = self._deaths[task.task_id] = RepeatedDeaths()
        pause_s = deaths.add(reason, now)
        return pause_s, deaths.history() if deaths.are_too_many else ""

    def begin(self, task: T, pause_s: float, now: float) -> None:
        """Begins a pause. The task has the number of its next attempt already."""
        heapq.heappush(self._until, (now + pause_s, next(self._numbers), task, task.attempt))

    def forget(self, task: T) -> None:
        """A task has its outcome."""
        self._stops.pop(task.task_id, None)
        self._deaths.pop(task.task_id, None)

    def over(self, now: float) -> list[tuple[T, int]]:
        """Takes the tasks whose pause is over, each with the attempt that it then begins."""
        tasks = []
        while self._until and self._until[0][0] <= now:
            _, _, task, attempt = heapq.heappop(self._until)
            tasks.append((task, attempt))
        return tasks
