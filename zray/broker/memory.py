"""What is stopped when the memory of a host is nearly used up, before the kernel kills processes at random.

A host says so (``MemoryShort``) each time that it looks and its memory is still short. Then one worker is stopped, and
no other before that one has ended. The order:

1. Leased workers that use much memory are taken back (``zray.broker.leases``): those that run nothing are idle then.
   Idle workers that keep much memory are asked to exit. They refuse if their objects are still in use.
2. Tasks that can be tried again; then actors that can be restarted; then other tasks; then other actors.
3. Among these, work of the caller that has most of them there, so that each caller keeps something that runs.
4. Of that caller the newest, which has probably done least. So the oldest task of each caller comes to its end.

Workers that use little are spared: their end would free nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from zray.broker.records import Host, Process, Worker
from zray.broker.states import IDLE, PROBED
from zray.broker.workers import Workers
from zray.ids import TASK_ID_BYTES, owner_of
from zray.logs.line import WARNING, LogLine
from zray.named_tuples import NamedTuple
from zray.protocol.messages import FLAG_RETRYABLE, MemoryShort, ProtocolError
from zray.protocol.records import ProcessMemory

OUT_OF_MEMORY = "OutOfMemoryError"
GIB = 2**30
LEAST_BYTES = 64 * 2**20
"""Workers that use less are not stopped. On small machines, less than ``LEAST_SHARE`` of the memory."""
LEAST_SHARE = 0.02
LEAST_OF_LARGEST = 0.1
"""Nor are those that use less than this part of what the largest one uses."""
ANSWER_S = 1.0
"""How long the answer of an idle worker that was asked to exit is awaited, in seconds."""
NOTHING_LINE_S = 60.0
"""The shortest time between two lines of the log that nothing can be stopped on a host, in seconds."""
NEWEST = b"\xff" * TASK_ID_BYTES
KINDS = ("tasks that can be tried again", "actors that can be restarted", "tasks", "actors")
"""What is stopped, in this order."""
ADVICE = (
    "What helps: fewer tasks at a time (num_cpus= or memory= of each), less data in each, or more memory. "
    "ZRAY_MEMORY_USAGE_THRESHOLD of the host changes the threshold; ZRAY_MEMORY_MONITOR_REFRESH_MS=0 never stops "
    "anything, and leaves it to the kernel."
)


class Candidate(NamedTuple):
    """A worker that may be stopped. ``kind``: the position in ``KINDS``; ``caller``: who submitted its work;
    ``order``: among the work of that caller, the larger the newer; ``own``: the memory that its end would free."""

    worker_id: bytes
    kind: int
    caller: bytes
    order: bytes
    own: int


class Choice(NamedTuple):
    """The worker to stop. ``was_alone``: no other work uses much memory there; ``why``: for the user."""

    worker_id: bytes
    was_alone: bool
    why: str


class Stop(NamedTuple):
    """A worker that is being stopped. ``account``: what to add to the description of its death."""

    was_alone: bool
    account: str


def choose(candidates: Collection[Candidate]) -> Choice | None:
    """Chooses what is stopped; None if there is nothing. See the start of this module."""
    if not candidates:
        return None
    kind = min(each.kind for each in candidates)
    alike = [each for each in candidates if each.kind == kind]
    count = Counter(each.caller for each in alike)
    own = Counter[bytes]()
    for each in alike:
        own[each.caller] += each.own
    caller = max(count, key=lambda each: (count[each], own[each]))
    chosen = max((each for each in alike if each.caller == caller), key=lambda each: each.order)
    if len(candidates) == 1:
        why = "It was alone: nothing else that zray runs there uses much memory."
    elif count[caller] == 1:
        why = f"Among {len(candidates)} that use much memory there, {KINDS[kind]} are stopped first."
    else:
        why = f"It was the newest of the {count[caller]} {KINDS[kind]} of its caller there."
    return Choice(chosen.worker_id, len(candidates) == 1, why)


def least_bytes(limit: int) -> int:
    """The memory that a worker must use to be stopped, on a machine with ``limit`` bytes."""
    return max(1, min(LEAST_BYTES, int(limit * LEAST_SHARE)))


class MemoryPressure:
    """Stops workers of hosts whose memory is short.

    ``take_back(worker)`` ends a lease; ``perform(effect)`` logs a line; ``clock()``: the present event's time, in
    seconds.

    ``_stops``: the workers that are being stopped; ``_told_at``: when the log was told that nothing can be stopped.
    """

    def __init__(
        self,
        hosts: Mapping[bytes, Host],
        workers: Workers,
        take_back: Callable[[Worker], None],
        perform: Callable[[LogLine], None],
        clock: Callable[[], float],
    ) -> None:
        self._hosts = hosts
        self._workers = workers
        self._take_back = take_back
        self._perform = perform
        self._clock = clock
        self._stops: dict[bytes, Stop] = {}
        self._told_at: dict[bytes, float] = {}
        self._asked_at: dict[bytes, float] = {}  # idle workers that were asked to exit

    def on_short(self, source: Process, message: MemoryShort) -> None:
        """The memory of a host is short: stops a worker, unless one is ending already."""
        if message.limit <= 0:
            raise ProtocolError("memory without a limit is short")
        host = self._hosts.get(source.process_id)
        if host is None or any(worker_id in self._stops for worker_id in host.workers):
            return
        least = least_bytes(message.limit)
        if self._empty_idle(host, message.workers, least):
            return
        choice = choose(candidates_of(host.workers.values(), message.workers, least))
        state = _state_of(message)
        if choice is None:
            self._tell_that_nothing_helps(host, state)
            return
        worker = host.workers[choice.worker_id]
        used = f"Its worker used {message.workers[choice.worker_id] / GIB:.2f} GiB."
        account = f"{choice.why} {used}\n{_table(host, message.largest)}\n{ADVICE}"
        self._stops[choice.worker_id] = Stop(choice.was_alone, account)
        self._log(f"worker {choice.worker_id.hex()} on host {host.label} is stopped: {state}. {choice.why}")
        self._workers.kill(worker, f"the node is running low on memory: {state}", OUT_OF_MEMORY)

    def _empty_idle(self, host: Host, own: dict[bytes, int], least: int) -> bool:
        """Asks idle workers that use much memory to exit. Returns whether an answer is awaited.

        One that has refused is not asked again before it has worked again.
        """
        awaited = False
        for worker in list(host.workers.values()):
            if own.get(worker.worker_id, 0) < least:
                continue
            if worker.state is IDLE and not worker.busy_replies:
                self._asked_at[worker.worker_id] = self._clock()
                self._workers.probe(worker, "memory is short", True)
            if worker.lease is not None and not worker.lease.is_over:
                self._asked_at[worker.worker_id] = self._clock()
                self._take_back(worker)
            if worker.state is PROBED or worker.lease is not None:  # one that is stopped, or works, does not answer
                awaited |= self._clock() - self._asked_at.get(worker.worker_id, -math.inf) < ANSWER_S
        return awaited

    def _tell_that_nothing_helps(self, host: Host, state: str) -> None:
        now = self._clock()
        told_at = self._told_at.get(host.host_id)
        if told_at is None or now - told_at >= NOTHING_LINE_S:
            self._told_at[host.host_id] = now
            self._log(f"host {host.label} is running low on memory: {state}, and no task or actor there uses much")

    def ended(self, worker_id: bytes) -> Stop | None:
        """A worker has ended. Returns its record, if it was being stopped."""
        if self._asked_at:
            self._asked_at.pop(worker_id, None)
        return self._stops.pop(worker_id, None) if self._stops else None

    def host_lost(self, host_id: bytes) -> None:
        """A host is gone."""
        self._told_at.pop(host_id, None)

    def _log(self, text: str) -> None:
        self._perform(LogLine(WARNING, "broker", text))


def candidates_of(workers: Collection[Worker], own: dict[bytes, int], least: int) -> list[Candidate]:
    """The workers that may be stopped. ``own``: the memory that the end of each would free, in bytes."""
    working = [
        worker for worker in workers
        if (worker.outstanding or worker.lease or worker.actor) and not worker.retiring and worker.worker_id in own
    ]  # fmt: skip
    most = max((own[worker.worker_id] for worker in working), default=0)
    least = max(least, int(most * LEAST_OF_LARGEST))
    return [_candidate(worker, size) for worker in working if (size := own[worker.worker_id]) >= least]


def _candidate(worker: Worker, own: int) -> Candidate:
    actor: Any = worker.actor
    if actor is not None:
        kind = 1 if actor.restarts_left and not actor.released else 3
        return Candidate(worker.worker_id, kind, owner_of(actor.actor_id), actor.actor_id, own)
    if worker.lease is not None:  # its task can be tried again, and is one of the newest of its owner
        return Candidate(worker.worker_id, 0, worker.lease.owner, NEWEST, own)
    envelope = next(iter(worker.outstanding.values()))
    kind = 0 if envelope.flags & FLAG_RETRYABLE or envelope.cancelled or envelope.stopped else 2
    return Candidate(worker.worker_id, kind, envelope.owner, envelope.task_id, own)


def _state_of(message: MemoryShort) -> str:
    return (
        f"{message.used / GIB:.2f} of {message.limit / GIB:.2f} GiB of {message.whose} in use "
        f"({message.used / message.limit:.1%}, the threshold is {message.threshold:.1%})"
    )


def _table(host: Host, largest: list[ProcessMemory]) -> str:
    rows = [f"{each.pid:>9} {each.own / GIB:>8.2f} {each.resident / GIB:>8.2f}  {each.name}" for each in largest]
    head = f"The largest processes of {host.info.hostname} then, in GiB (own: without files and shared memory):"
    return "\n".join([head, "      PID      own      RSS  name", *rows])
