"""Tasks that wait for a worker: one queue for each kind, served in order, except that a host is served what is near it.

A task may name the host that has its arguments (``Envelope.near``). Such tasks wait in a line of their own within the
queue. A host is given the older of the first in its own line and the first of those that may run anywhere; whoever has
room when there is nothing of either takes from the line of a host that has none, so nobody idles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from zray.broker.records import Envelope


class TaskQueue:
    """Envelopes of one job, shape and strategy. Cancelled ones are dropped where they are met."""

    __slots__ = ("_back", "_front", "_length", "anywhere", "full", "near", "news")

    def __init__(self) -> None:
        self.anywhere: deque[Envelope] = deque()
        self.near: dict[bytes, deque[Envelope]] = {}
        self.news: dict[bytes, None] = {}  # hosts whose line has grown since the last pass
        self.full = False  # no host had room at the last pass
        self._length = 0
        self._back = 0
        self._front = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Envelope]:
        yield from self.anywhere
        for line in self.near.values():
            yield from line

    def append(self, envelope: Envelope) -> None:
        """Queues an envelope behind all others."""
        self._back += 1
        envelope.order = self._back
        self._line_of(envelope).append(envelope)
        self._length += 1

    def append_front(self, envelope: Envelope) -> None:
        """Puts an envelope back, before all others."""
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
        self.news[envelope.near] = None
        return line

    def any(self) -> Envelope | None:
        """One that waits, of all that are alike for whoever looks at shape and job."""
        first = self._first(self.anywhere)
        if first is not None or not self.near:
            return first
        for host_id in list(self.near):
            first = self._first(self.near[host_id])
            if first is not None:
                return first
            del self.near[host_id]
        return None

    def next_for(self, host_id: bytes) -> Envelope | None:
        """What the host is to have next; it stays in the queue until ``take``."""
        first = self._first(self.anywhere)
        line = self.near.get(host_id) if self.near else None
        if line is None:
            return first
        near = self._first(line)
        if near is None:
            del self.near[host_id]
            return first
        return near if first is None or near.order < first.order else first

    def take(self, envelope: Envelope) -> None:
        """Removes what ``next_for`` has just returned."""
        line = self.near[envelope.near] if envelope.near else self.anywhere
        line.popleft()
        self._length -= 1

    def release(self, most: int, has_room: Callable[[bytes], bool]) -> bool:
        """Lets up to ``most`` tasks that wait for a host without room run anywhere; whether there were any.

        Called when all that may run anywhere has been given out.
        """
        released: list[Envelope] = []
        for host_id in list(self.near):
            line = self.near[host_id]
            if has_room(host_id):
                continue
            for _ in range(min(most, len(line))):
                envelope = line.popleft()
                envelope.near = b""
                released.append(envelope)
                most -= 1
            if not line:
                del self.near[host_id]
            if not most:
                break
        released.sort(key=lambda envelope: envelope.order)
        self.anywhere.extend(released)
        return bool(released)

    def forget_host(self, host_id: bytes) -> None:
        """A host is gone: what was near it may run anywhere."""
        line = self.near.pop(host_id, None)
        if line:
            for envelope in line:
                envelope.near = b""
            self.anywhere = deque(sorted([*self.anywhere, *line], key=lambda envelope: envelope.order))

    def _first(self, line: deque[Envelope]) -> Envelope | None:
        while line:
            if not line[0].cancelled:
                return line[0]
            line.popleft()
            self._length -= 1
        return None
