"""Which hosts have room, without looking at all of them.

A decision must not cost more in a cluster of a thousand hosts than in one of ten. So hosts with a free CPU are kept in
an index, in the order in which they joined, and again in a heap by the number of their workers; and whatever has found
no room anywhere looks, from then on, only at hosts where something has changed since.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Iterator

from zray.broker.records import Host
from zray.broker.resources import CPU, Shape


class Places:
    """The hosts of a cluster. ``touch`` has to be called for each host where resources or workers have changed."""

    def __init__(self) -> None:
        self.hosts: dict[bytes, Host] = {}
        self.slots = 0
        """Tasks of one CPU that could run at the same time."""
        self.changed: dict[bytes, Host] = {}
        self._last_number = 0
        self._open: list[int] = []  # numbers of hosts with a free CPU, sorted
        self._by_number: dict[int, Host] = {}
        self._heap: list[tuple[int, int]] = []  # (workers, number); stale ones are dropped where they are met
        self._pushed: dict[int, int] = {}  # by number: the workers that its latest entry in the heap says

    def add(self, host: Host) -> None:
        """A host has joined."""
        self._last_number += 1
        host.number = self._last_number
        self.hosts[host.host_id] = host
        self._by_number[host.number] = host
        self.slots += host.pool.total.get(CPU, 0) // 10_000
        self.touch(host)

    def remove(self, host: Host) -> None:
        """A host is gone."""
        del self.hosts[host.host_id], self._by_number[host.number]
        self.slots -= host.pool.total.get(CPU, 0) // 10_000
        self.changed.pop(host.host_id, None)
        self._pushed.pop(host.number, None)
        self._set_open(host.number, False)

    def touch(self, host: Host) -> None:
        """Something about a host has changed."""
        if host.host_id not in self.hosts:
            return
        self.changed[host.host_id] = host
        is_open = host.pool.free.get(CPU, 0) > 0
        self._set_open(host.number, is_open)
        n_workers = len(host.workers)
        if is_open and self._pushed.get(host.number) != n_workers:
            self._pushed[host.number] = n_workers
            heapq.heappush(self._heap, (n_workers, host.number))
            if len(self._heap) > 4 * len(self.hosts) + 64:  # mostly stale ones
                self._heap = [(n_workers, number) for number, n_workers in self._pushed.items()]
                heapq.heapify(self._heap)

    def _set_open(self, number: int, is_open: bool) -> None:
        place = bisect.bisect_left(self._open, number)
        if place < len(self._open) and self._open[place] == number:
            if not is_open:
                del self._open[place]
        elif is_open:
            self._open.insert(place, number)

    def is_open(self, host: Host) -> bool:
        """Whether the index says that a host has a free CPU."""
        place = bisect.bisect_left(self._open, host.number)
        return place < len(self._open) and self._open[place] == host.number

    def with_room(self, shape: Shape) -> Iterator[Host]:
        """Hosts that may have room for a shape, in the order in which they joined. May be changed meanwhile."""
        if not shape.cpus:
            yield from list(self.hosts.values())
            return
        number = 0
        while True:
            place = bisect.bisect_right(self._open, number)
            if place == len(self._open):
                return
            number = self._open[place]
            yield self._by_number[number]

    def least_loaded(self, shape: Shape, is_open: Callable[[Host], bool]) -> Host | None:
        """Of the hosts that are open for a shape (have room for it), the one with the fewest workers."""
        if not shape.cpus:
            fitting = [host for host in self.hosts.values() if is_open(host)]
            return min(fitting, key=lambda host: (len(host.workers), host.number), default=None)
        aside: list[tuple[int, int]] = []
        found: Host | None = None
        while self._heap and found is None:
            entry = self._heap[0]
            n_workers, number = entry
            host = self._by_number.get(number)
            if host is None or self._pushed.get(number) != n_workers:
                heapq.heappop(self._heap)  # stale: there is another entry of that host, or it is gone
            elif host.pool.free.get(CPU, 0) <= 0:
                heapq.heappop(self._heap)
                del self._pushed[number]  # when it has a free CPU again, it gets another
            elif is_open(host):
                found = host
            else:
                aside.append(heapq.heappop(self._heap))
        for entry in aside:
            heapq.heappush(self._heap, entry)
        return found
