"""What waits, in lines: tasks by (job, shape, whether to spread, depth), actors by (job, placement, depth).

What needs no worker, such as a placement group, has lines of its own (``others``), which serve themselves. Lines are
made when something is to wait in them, and are removed when they have been empty for a while. Each has an account of
its job's share (``zray/broker/shares.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeAlias, TypeVar

from zray.broker.accounts import Share
from zray.broker.places import Places
from zray.broker.queues import ActorLine, TaskQueue
from zray.broker.records import Actor, Envelope, Host
from zray.broker.resources import Shape
from zray.broker.shares import Shares
from zray.named_tuples import NamedTuple
from zray.protocol.messages import FLAG_SPREAD


class Waiting(NamedTuple):
    """What waits for a place. ``is_part``: other parts of it need places at the same time."""

    shape: Shape
    is_part: bool = False


class OtherLine(Protocol):
    """A line of what needs no worker. It serves itself."""

    share: Share
    full: bool

    def __len__(self) -> int: ...

    def waiting(self) -> int:
        """How many wait."""

    def wanted(self) -> list[Waiting]:
        """What the next of them lacks."""

    def serve(self, changed: dict[bytes, Host]) -> Iterator[None]:
        """Serves as many as there is room for: one for each step. ``changed``: hosts that have changed since."""


K = TypeVar("K")
L = TypeVar("L", ActorLine, TaskQueue, OtherLine)
Line: TypeAlias = ActorLine | TaskQueue | OtherLine


class Lines:
    """All lines. ``clock()``: the time of the present event, in seconds.

    ``congested``: owners whose tasks must not start now: they do not take their messages. ``refused``: what has left
    its line because it can never be placed, and why; the core takes it.
    """

    def __init__(self, places: Places, shares: Shares, clock: Callable[[], float]) -> None:
        self.queues: dict[tuple[bytes, bytes, bool, int], TaskQueue] = {}
        self.actors: dict[tuple[bytes, bytes, int], ActorLine] = {}
        self.others: dict[Any, OtherLine] = {}
        self.congested: set[bytes] = set()
        self.refused: list[tuple[Envelope | Actor, str]] = []
        self._places = places
        self._hosts = places.hosts
        self._shares = shares
        self._clock = clock

    # ------------------------------------------------------------------ tasks

    def enqueue(self, envelope: Envelope) -> None:
        """Queues an envelope at the end of its queue."""
        spread = envelope.flags & FLAG_SPREAD
        if envelope.near and (spread or len(self._hosts) < 2 or not self._may_be_near(envelope)):
            envelope.near = b""
        self._queue(envelope).append(envelope)

    def requeue(self, envelopes: Iterable[Envelope]) -> None:
        """Puts envelopes back to the front of their queues, in their order."""
        for envelope in reversed(list(envelopes)):
            envelope.worker = None
            if envelope.near and not self._may_be_near(envelope):
                envelope.near = b""
            self._queue(envelope).append_front(envelope)

    def _may_be_near(self, envelope: Envelope) -> bool:
        host = self._hosts.get(envelope.near)
        return host is not None and self._places.prefers(host, envelope.shape)

    def _queue(self, envelope: Envelope) -> TaskQueue:
        key = (envelope.job_id, envelope.shape.key, bool(envelope.flags & FLAG_SPREAD), envelope.depth)
        queue = self.queues.get(key)
        if queue is None:
            share = self._shares.open(envelope.job_id, envelope.shape, envelope.depth)
            queue = self.queues[key] = TaskQueue(envelope.job_id, share, key[2], self.congested)
        return queue

    def set_congested(self, owner: bytes, congested: bool) -> None:
        """Stops starting tasks of an owner while it is congested, and starts them again afterwards."""
        if congested:
            self.congested.add(owner)
            return
        self.congested.discard(owner)
        for queue in self.queues.values():
            queue.unpark(owner)

    def queued_in(self, environment_id: bytes) -> list[Envelope]:
        """The queued envelopes that need a runtime environment."""
        queues = [queue for queue in self.queues.values() if queue.share.shape.environment_id == environment_id]
        return [envelope for queue in queues for envelope in queue if not envelope.cancelled]

    # ------------------------------------------------------------------ actors

    def add_actor(self, actor: Actor) -> None:
        """Queues an actor for a worker of its own."""
        key = (actor.job_id, actor.placement.key, actor.depth)
        line = self.actors.get(key)
        if line is None:
            share = self._shares.open(actor.job_id, actor.placement, actor.depth)
            line = self.actors[key] = ActorLine(share)
        line.actors[actor.actor_id] = actor

    def remove_actor(self, actor: Actor) -> None:
        """Removes a dead actor from its line. Does nothing if the actor did not wait."""
        line = self.actors.get((actor.job_id, actor.placement.key, actor.depth))
        if line is not None:
            line.actors.pop(actor.actor_id, None)

    # ------------------------------------------------------------------ all lines

    def waiting(self, now: float) -> list[Line]:
        """The lines in which something waits that some host may take. Work that must not wait for one is refused."""
        waiting: list[Line] = []
        if self.others:
            waiting += self._waiting_of(self.others, now)
        if self.actors:
            waiting += self._waiting_of(self.actors, now)
        if self.queues:
            waiting += self._waiting_of(self.queues, now)
        if any([line.share.shape.constraint is not None for line in waiting]):  # noqa: C419 (faster, in each pass)
            waiting = [line for line in waiting if not self._is_refused(line)]
        return waiting

    def _waiting_of(self, lines: dict[K, L], now: float) -> list[L]:
        """The lines in which something waits. Lines that were empty and unused for a while are removed."""
        waiting = []
        forgotten = []
        for key, line in lines.items():
            count = line.waiting()
            share = line.share
            if count and share.waiting:  # ``waits`` written out for the usual case, since each pass asks every line
                share.waiting = count
                waiting.append(line)
                continue
            share.waits(count, now)
            if count:
                waiting.append(line)
                continue
            line.full = False  # hosts may get room while the line is empty, and it would not learn of them
            if not line and share.is_forgotten(now):
                forgotten.append(key)
        for key in forgotten:
            del lines[key]
        return waiting

    def _is_refused(self, line: Line) -> bool:
        """Empties a line if no host may ever take its work, and the work must not wait for one."""
        if not isinstance(line, ActorLine | TaskQueue):
            return False
        why = self._places.refusal(line.share.shape)
        if not why:
            return False
        self.refused += [(each, why) for each in line.clear()]
        line.share.waits(0, self._clock())
        return True

    def host_lost(self, host_id: bytes) -> None:
        """A host is gone. Tasks that were near it may run anywhere, and a constraint may admit other hosts now."""
        for queue in self.queues.values():
            queue.forget_host(host_id)
            queue.full = False
        for line in self.actors.values():
            line.full = False

    def close_job(self, job_id: bytes) -> list[Envelope]:
        """Removes the queues of a job that is over. Returns the envelopes that were in them.

        The queues are emptied, too: workers that are being started for them must find nothing to do.
        """
        dropped: list[Envelope] = []
        for key in [key for key in self.queues if key[0] == job_id]:
            queue = self.queues.pop(key)
            queue.share.waits(0, self._clock())
            dropped += queue.clear()
        self._shares.close_job(job_id)
        return dropped

    def check(self) -> None:
        """Raises AssertionError if the length of a queue is wrong; for tests."""
        for queue in self.queues.values():
            assert len(queue) == sum(1 for _ in queue), "the length of a queue"
