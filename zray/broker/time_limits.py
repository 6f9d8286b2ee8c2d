"""Tasks and calls that may run only for a limited time (the option ``timeout_s``).

A worker tells the broker when such a call begins (``TimeLimited``) and when it ends (``TimeLimitOver``). When the time
is over, the broker tells the worker (``TimeIsUp``), which interrupts the call and answers it. If the call has not ended
``GRACE_S`` later, its host kills the worker, and the owner learns it when the worker is dead (``TimedOut``): another
attempt must not begin before. So the limit holds also if the worker is stopped, or runs code that nothing interrupts.

The broker keeps the time, and not the worker: there is one clock for both steps, and workers need no timer. Calls
without a limit cost nothing here.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

from zray.broker.records import Process, Worker
from zray.broker.states import BUSY, SERVING
from zray.broker.workers import Workers
from zray.protocol.messages import ProtocolError, TimedOut, TimeIsUp, TimeLimited, TimeLimitOver

GRACE_S = 1.0
"""How long a call may take to end after it was interrupted."""
MAX_LIMIT_S = 1e10


class _Call:
    """A call that runs, or has run, under a limit. ``grace``: its time is over; ``killed``: its worker is killed for
    it; ``over``: it has ended."""

    __slots__ = ("attempt", "grace", "killed", "limit_s", "over", "owner", "task_id", "worker_id")

    def __init__(self, worker_id: bytes, message: TimeLimited) -> None:
        self.worker_id = worker_id
        self.owner = message.owner
        self.task_id = message.task_id
        self.attempt = message.attempt
        self.limit_s = message.limit_s
        self.grace = False
        self.killed = False
        self.over = False


class TimeLimits:
    """The calls that run under a limit, by worker, and when to look at them next."""

    def __init__(
        self,
        workers: Workers,
        processes: dict[bytes, Process],
        send: Callable[[bytes, Any], None],
        clock: Callable[[], float],
    ) -> None:
        self._workers = workers
        self._processes = processes
        self._send = send
        self._clock = clock
        self._calls: dict[bytes, dict[bytes, _Call]] = {}
        self._n_calls = 0
        self._due: list[tuple[float, int, _Call]] = []
        self._numbers = itertools.count()

    def on_limited(self, source: Process, message: TimeLimited) -> None:
        """A call begins."""
        worker = self._workers.workers[source.process_id]
        if not 0 < message.limit_s <= MAX_LIMIT_S:
            raise ProtocolError("a limit that is no number of seconds")
        calls = self._calls.get(worker.worker_id, {})
        if worker.state is BUSY:
            envelope = worker.outstanding.get(message.task_id)
            if envelope is None or envelope.attempt != message.attempt or envelope.owner != message.owner:
                raise ProtocolError("a limit for a task that the worker was not given")
        elif worker.state is SERVING and worker.actor is not None and message.task_id.startswith(message.owner):
            spec = worker.actor.spec
            if len(calls) >= spec.max_concurrency + sum(spec.groups.values()):
                raise ProtocolError("more limited calls than the actor runs at once")
        elif worker.lease is not None:
            if message.owner != worker.lease.owner or not message.task_id.startswith(message.owner) or calls:
                raise ProtocolError("a limit for a task that the owner of a lease did not give, or for two at once")
        else:
            return  # its actor is dead, or its task is nobody's: the worker is about to end
        self._forget(worker.worker_id, message.task_id)  # announced twice
        call = _Call(worker.worker_id, message)
        self._calls.setdefault(worker.worker_id, {})[message.task_id] = call
        self._n_calls += 1
        self._look_again(call, message.limit_s)

    def on_over(self, source: Process, message: TimeLimitOver) -> None:
        """A call has ended."""
        self._forget(source.process_id, message.task_id)

    def _forget(self, worker_id: bytes, task_id: bytes) -> None:
        calls = self._calls.get(worker_id, {})
        call = calls.pop(task_id, None)
        if call is not None:
            call.over = True
            if not calls:
                del self._calls[worker_id]
            self._n_calls -= 1
            self._shrink()

    def _look_again(self, call: _Call, in_s: float) -> None:
        heapq.heappush(self._due, (self._clock() + in_s, next(self._numbers), call))

    def _shrink(self) -> None:
        """Forgets calls that have ended long before their limit, if they are the most."""
        if len(self._due) > 64 and len(self._due) > 2 * self._n_calls:
            self._due = [each for each in self._due if not each[2].over]
            heapq.heapify(self._due)

    def due_s(self, now: float) -> float:
        """In how many seconds ``look`` has something to do; infinite if nothing runs under a limit."""
        return max(0.0, self._due[0][0] - now) if self._due else math.inf

    def look(self, now: float) -> None:
        """Ends the calls whose time is over, and the workers whose calls have not ended in spite of that."""
        while self._due and self._due[0][0] <= now:
            _, _, call = heapq.heappop(self._due)
            if call.over:
                continue
            if not call.grace:
                call.grace = True
                self._send(call.worker_id, TimeIsUp(call.task_id))
                self._look_again(call, GRACE_S)
            elif not call.killed:
                call.killed = True
                worker = self._workers.workers[call.worker_id]
                self._workers.kill(worker, f"its call {_ran_on(call)}")

    def worker_gone(self, worker: Worker) -> None:
        """A worker is dead. Tells the owners of the calls for which it was killed."""
        for call in self._calls.pop(worker.worker_id, {}).values():
            call.over = True
            self._n_calls -= 1
            if call.killed and call.owner in self._processes:
                where = f"pid {worker.pid} on {worker.host.label}"
                text = f"{_ran_on(call)}, so its worker was killed ({where})"
                self._send(call.owner, TimedOut(call.task_id, call.attempt, worker.served, text))
        self._shrink()

    def check(self) -> None:
        """Raises AssertionError if a call belongs to no worker, or will never be looked at. For tests."""
        assert self._n_calls == sum(map(len, self._calls.values())), "the number of limited calls"
        waiting = {id(call) for _, _, call in self._due}
        for worker_id, calls in self._calls.items():
            assert worker_id in self._workers.workers, "a limited call of a dead worker"
            assert all(call.killed or id(call) in waiting for call in calls.values()), "a limit that is not looked at"


def _ran_on(call: _Call) -> str:
    return f"ran longer than timeout_s={call.limit_s:g}, and did not end within {GRACE_S:g} s after it was interrupted"
