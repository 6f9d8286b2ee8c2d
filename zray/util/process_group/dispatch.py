"""Decides which job goes to which process. Pure: events come in with the time, actions are returned.

Each process has some jobs under way, so that it need not wait for the next one. How many depends on how long they take:
two if they are long, up to ``MAX_DEPTH`` if they are short. A job must not wait for long behind another one while a
process is idle, because the job in front may be long, or may even wait for the one behind. So a job that has waited for
``PATIENCE_S`` while another process is idle is recalled and goes there.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Generic, TypeVar

J = TypeVar("J")

FIRST_DEPTH = 4
"""The number of jobs under way to a process of which nothing is known yet."""
LEAST_DEPTH = 2
MAX_DEPTH = 64
SHORT_S = 0.002
"""A process that takes less than this for a job, in seconds, gets twice as many."""
LONG_S = 0.02
"""A process that takes more than this for a job, in seconds, gets as few as possible."""
PATIENCE_S = 0.05
"""How long a job may wait behind another one while a process is idle, in seconds."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Start a process with this number."""

    process: int


@dataclasses.dataclass(frozen=True)
class Send(Generic[J]):
    """Send a job to a process."""

    process: int
    job: J


@dataclasses.dataclass(frozen=True)
class Recall(Generic[J]):
    """Try to take a job back. It ends with ``recalled``, or as if nothing had happened if it had begun."""

    process: int
    job: J


@dataclasses.dataclass(frozen=True)
class Stop:
    """End a process that has nothing to do."""

    process: int


Action = Start | Send[J] | Recall[J] | Stop


@dataclasses.dataclass
class _Sent(Generic[J]):
    """A job under way. ``at_s``: when it was sent. ``is_recalled``: a recall has been tried; there is no second one."""

    job: J
    at_s: float
    is_recalled: bool = False


@dataclasses.dataclass
class _Process(Generic[J]):
    """A process of the group.

    ``left``: how many jobs it may still get; None if there is no limit. ``depth``: how many may be under way at once.
    ``used``: the turn in which it last got a job. ``ended_s``: when its last job ended.
    """

    number: int
    left: int | None
    used: int
    depth: int
    ended_s: float = 0.0
    sent: deque[_Sent[J]] = dataclasses.field(default_factory=deque)

    def has_room(self) -> bool:
        return len(self.sent) < self.depth and self.left != 0

    def is_idle(self) -> bool:
        return not self.sent and self.left != 0


class Dispatcher(Generic[J]):
    """The jobs and processes of a group of at most ``size`` processes.

    ``quota``: the number of jobs after which a process is replaced; None if it never is. ``ahead``: whether a process
    gets a job before the one before has ended, also if nothing is known yet or jobs are long. If not, only short jobs
    are sent ahead.

    Invariant: a job is either queued or sent to exactly one process. ``check`` asserts it.
    """

    def __init__(self, size: int, quota: int | None = None, *, ahead: bool = True) -> None:
        self._first_depth, self._least_depth = (FIRST_DEPTH, LEAST_DEPTH) if ahead else (1, 1)
        self._size = size
        self._quota = quota
        self._queue: deque[J] = deque()
        self._processes: dict[int, _Process[J]] = {}
        self._numbers = 0
        self._turn = 0
        self._closing = False

    # ------------------------------------------------------------------ questions

    def is_over(self) -> bool:
        """Whether the group is closed and has nothing left."""
        return self._closing and not self._queue and not self._processes

    def pending(self) -> int:
        """The number of jobs that have not ended."""
        return len(self._queue) + sum(len(process.sent) for process in self._processes.values())

    def next_check_s(self, now: float) -> float | None:
        """When ``recall`` should be called, in seconds from now; None if nothing waits for it."""
        if self._queue or not self._has_idle():
            return None
        waiting = [job.at_s for process in self._processes.values() if (job := _last_behind(process)) is not None]
        return max(0.0, min(waiting) + PATIENCE_S - now) if waiting else None

    # ------------------------------------------------------------------ events

    def start_all(self) -> list[Action[J]]:
        """Starts every process at once, before there is a job."""
        return [self._start() for _ in range(self._size - len(self._processes))]

    def submit(self, job: J, now: float) -> list[Action[J]]:
        """A new job. The caller has made sure that the group is not closed."""
        self._queue.append(job)
        return self._assign(now)

    def ended(self, number: int, job: J, now: float) -> list[Action[J]] | None:
        """A job has ended, with whatever outcome. None: the process was forgotten, and the job with it."""
        process = self._processes.get(number)
        sent = None if process is None else self._take(process, job)
        if process is None or sent is None:
            return None
        took_s = now - max(sent.at_s, process.ended_s)
        process.ended_s = now
        if took_s < SHORT_S:
            process.depth = min(2 * process.depth, MAX_DEPTH)
        elif took_s > LONG_S:
            process.depth = self._least_depth
        return self._assign(now)

    def recalled(self, number: int, job: J, now: float) -> list[Action[J]]:
        """A recall has succeeded: the job has not begun, and is the first of the queue again."""
        process = self._processes.get(number)
        if process is None or self._take(process, job) is None:
            return []
        if process.left is not None:
            process.left += 1
        self._queue.appendleft(job)
        return self._assign(now)

    def recall(self, now: float) -> list[Action[J]]:
        """Takes back jobs that have waited behind others for too long: one for each idle process."""
        if self._queue:
            return []
        idle = sum(process.is_idle() for process in self._processes.values()) + self._size - len(self._processes)
        actions: list[Action[J]] = []
        for process in sorted(self._processes.values(), key=lambda process: -len(process.sent)):
            last = _last_behind(process)
            if len(actions) < idle and last is not None and last.at_s + PATIENCE_S <= now:
                last.is_recalled = True
                actions.append(Recall(process.number, last.job))
        return actions

    def close(self) -> list[Action[J]]:
        """No more jobs come. Processes end when all jobs have ended."""
        self._closing = True
        return self._stop_idle()

    def drain(self) -> list[J]:
        """Takes all queued jobs out. Those that are sent stay."""
        queued = list(self._queue)
        self._queue.clear()
        return queued

    def forget_processes(self) -> list[J]:
        """All processes are dead or being killed. Returns the jobs that they had."""
        lost = [sent.job for process in self._processes.values() for sent in process.sent]
        self._processes.clear()
        return lost

    # ------------------------------------------------------------------ decisions

    def _start(self) -> Start:
        number = self._numbers
        self._numbers += 1
        self._processes[number] = _Process(number, self._quota, -1, self._first_depth)
        return Start(number)

    def _has_idle(self) -> bool:
        return len(self._processes) < self._size or any(process.is_idle() for process in self._processes.values())

    def _assign(self, now: float) -> list[Action[J]]:
        actions: list[Action[J]] = self._replace()
        while self._queue:
            process = self._choose()
            if process is None or (process.sent and len(self._processes) < self._size):
                if len(self._processes) >= self._size:
                    break
                actions.append(start := self._start())
                process = self._processes[start.process]
            job = self._queue.popleft()
            process.sent.append(_Sent(job, now))
            self._turn += 1
            process.used = self._turn
            if process.left is not None:
                process.left -= 1
            actions.append(Send(process.number, job))
        return actions + self._stop_idle()

    def _choose(self) -> _Process[J] | None:
        """The process with the fewest jobs; of several, the one that got a job least recently. None if all are full."""
        best: _Process[J] | None = None
        for process in self._processes.values():
            if process.has_room() and (best is None or (len(process.sent), process.used) < (len(best.sent), best.used)):
                best = process
        return best

    def _replace(self) -> list[Action[J]]:
        """Stops processes that have had all of their jobs. New ones are started for what is queued."""
        worn = [process.number for process in self._processes.values() if process.left == 0 and not process.sent]
        for number in worn:
            del self._processes[number]
        return [Stop(number) for number in worn]

    def _stop_idle(self) -> list[Action[J]]:
        if not self._closing or self._queue or any(process.sent for process in self._processes.values()):
            return []
        stopped: list[Action[J]] = [Stop(number) for number in self._processes]
        self._processes.clear()
        return stopped

    @staticmethod
    def _take(process: _Process[J], job: J) -> _Sent[J] | None:
        for index, sent in enumerate(process.sent):
            if sent.job is job:
                del process.sent[index]
                return sent
        return None

    def check(self) -> None:
        """Asserts the invariants. For tests."""
        jobs = [id(job) for job in self._queue]
        for process in self._processes.values():
            jobs.extend(id(sent.job) for sent in process.sent)
            assert process.left is None or process.left >= 0
        assert len(set(jobs)) == len(jobs), "a job is in two places"
        assert len(self._processes) <= self._size
        assert not self._queue or not any(process.has_room() for process in self._processes.values())


def _last_behind(process: _Process[J]) -> _Sent[J] | None:
    """The last job of a process, if it waits behind another one and was not recalled before."""
    if len(process.sent) < 2 or process.sent[-1].is_recalled:
        return None
    return process.sent[-1]
