"""The lines of tasks and actors that wait for a worker, one for each kind.

Actors are served in order. So are tasks, except that tasks wait for the host that they are near.

A task may name the host that has its arguments (``Envelope.near``). Such tasks wait in a line of their own within the
queue, one per host. A host gets the oldest of three tasks: the first in its own line, the first of those that may run
anywhere, and the first in the lines of hosts that have no room. So no host idles, and no task waits behind one that
came later.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Set

from zray.broker.accounts import Share
from zray.broker.records import Actor, Envelope


class ActorLine:
    """Actors of one job and placement that wait for a place."""

    __slots__ = ("actors", "full", "share")

    def __init__(self, share: Share) -> None:
        self.share = share
        self.actors: OrderedDict[bytes, Actor] = OrderedDict()
        self.full = False  # no host had room at the last pass

    def __len__(self) -> int:
        return len(self.actors)

    def waiting(self) -> int:
        """The number of actors that wait."""
        return len(self.actors)

    def clear(self) -> list[Actor]:
        """Removes all actors. Returns them."""
        removed, self.actors = list(self.actors.values()), OrderedDict()
        return removed


class TaskQueue:
    """Envelopes of one job, shape, strategy and depth. Cancelled ones are dropped when they reach the head."""

    __slots__ = (
        "_back",
        "_congested",
        "_front",
        "_length",
        "_parked",
        "_stuck",
        "anywhere",
        "full",
        "grown",
        "job_id",
        "near",
        "owed",
        "share",
        "spread",
    )  # fmt: skip

    def __init__(self, job_id: bytes, share: Share, spread: bool = False, congested: Set[bytes] = frozenset()) -> None:
        """``congested``: owners whose tasks must not start now. Their envelopes are parked when they reach the head."""
        self.job_id = job_id
        self.share = share
        self.spread = spread
        self._congested = congested
        self._parked: dict[bytes, list[Envelope]] = {}
        self.anywhere: deque[Envelope] = deque()
        self.near: dict[bytes, deque[Envelope]] = {}
        self.grown: dict[bytes, None] = {}  # hosts whose line has got tasks since the last pass
        self.full = False  # no host had room at the last pass
        self.owed: dict[bytes, int] = {}
        """By host: how many tasks wait for workers that are being started there. Only a line that spreads has such."""
        self._length = 0
        self._back = 0
        self._front = 0
        self._stuck: list[tuple[int, bytes]] = []  # heads of the lines of hosts without room: order, host

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Envelope]:
        yield from self.anywhere
        for line in (*self.near.values(), *self._parked.values()):
            yield from line

    def clear(self) -> list[Envelope]:
        """Removes all envelopes. Returns them."""
        removed = list(self)
        self.anywhere.clear()
        for lines in (self.near, self._parked, self.grown, self.owed):
            lines.clear()
        self._stuck = []
        self._length = 0
        return removed

    def append(self, envelope: Envelope) -> None:
        """Queues an envelope behind all others."""
        self._back += 1
        envelope.order = self._back
        self._line_of(envelope).append(envelope)
        self._length += 1

    def append_front(self, envelope: Envelope) -> None:
        """Puts an envelope back in front of all others."""
        self._front -= 1
        envelope.order = self._front
        self._line_of(envelope).appendleft(envelope)
        self._length += 1

    def _line_of(self, envelope: Envelope) -> deque[Envelope]:
        if not envelope.near:
            return self.anywhere
        line = self.near.get(envelope.near)
        if line is None:
            line = self.near[envelope.near] = deque()
        self.grown[envelope.near] = None
        return line

    def any(self) -> Envelope | None:
        """Any envelope that waits; None if there is none. All of them have the same job and shape."""
        first = self._first(self.anywhere)
        if first is not None or not self.near:
            return first
        for host_id in list(self.near):
            first = self._first(self.near[host_id])
            if first is not None:
                return first
            del self.near[host_id]
        return None

    def waiting(self) -> int:
        """The approximate number of tasks that wait; 0 exactly if none can be served."""
        if self.anywhere:  # ``any`` written out for the usual case, since each pass asks every queue
            first = self.anywhere[0]
            if not first.cancelled and first.owner not in self._congested:
                return self._length
        return self._length if self.any() is not None else 0

    def spare(self, host_id: bytes = b"") -> int:
        """How many tasks a host may get. Those that are meant for workers that are being started elsewhere are not."""
        if not self.spread:
            return self._length
        owed = sum(self.owed.values()) - self.owed.get(host_id, 0)
        return self._length - owed - self.share.starting

    def forget_stuck(self) -> None:
        """Begins a new pass: hosts that had no room may have some now."""
        self._stuck = []

    def look_for_stuck(self, has_room: Callable[[bytes], bool]) -> None:
        """Finds the lines of hosts that have no room. Until the next pass, other hosts may take from them."""
        self._stuck = [
            (first.order, host_id) for host_id in list(self.near)
            if not has_room(host_id) and (first := self._first(self.near[host_id])) is not None
        ]  # fmt: skip
        heapq.heapify(self._stuck)

    def next_for(self, host_id: bytes) -> Envelope | None:
        """The task that a host gets next, or None. It stays in the queue until ``take``."""
        oldest = self._first(self.anywhere)
        if not self.near:
            return oldest
        line = self.near.get(host_id)
        mine = self._first(line) if line is not None else None
        for candidate in (mine, self._first_stuck()):
            if candidate is not None and (oldest is None or candidate.order < oldest.order):
                oldest = candidate
        return oldest

    def _first_stuck(self) -> Envelope | None:
        while self._stuck:
            order, host_id = self._stuck[0]
            line = self.near.get(host_id)
            first = self._first(line) if line is not None else None
            if first is not None and first.order == order:
                return first
            heapq.heappop(self._stuck)
            if first is not None:
                heapq.heappush(self._stuck, (first.order, host_id))
        return None

    def take(self, envelope: Envelope) -> None:
        """Removes the envelope that ``next_for`` has just returned."""
        line = self.near[envelope.near] if envelope.near else self.anywhere
        line.popleft()
        self._length -= 1
        if envelope.near and not line:
            del self.near[envelope.near]

    def forget_host(self, host_id: bytes) -> None:
        """A host is gone: tasks that were near it may run anywhere."""
        for envelope in itertools.chain.from_iterable(self._parked.values()):
            if envelope.near == host_id:
                envelope.near = b""
        line = self.near.pop(host_id, None)
        if line:
            for envelope in line:
                envelope.near = b""
            self.anywhere = deque(sorted([*self.anywhere, *line], key=lambda envelope: envelope.order))

    def _first(self, line: deque[Envelope]) -> Envelope | None:
        while line:
            first = line[0]
            if first.cancelled:
                line.popleft()
                self._length -= 1
            elif first.owner in self._congested:
                self._parked.setdefault(first.owner, []).append(line.popleft())
            else:
                return first
        return None

    def unpark(self, owner: bytes) -> None:
        """Puts the parked envelopes of an owner back to their places."""
        parked = self._parked.pop(owner, [])
        lines: dict[bytes, list[Envelope]] = {}
        for envelope in parked:
            lines.setdefault(envelope.near, []).append(envelope)
        for envelopes in lines.values():
            line = self._line_of(envelopes[0])
            whole = sorted([*line, *envelopes], key=lambda envelope: envelope.order)
            line.clear()
            line.extend(whole)
