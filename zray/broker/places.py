"""Finds hosts that have room, without looking at all hosts.

A decision must not cost more in a cluster of a thousand hosts than in one of ten. So an index keeps the hosts with a
free CPU in two ways: in the order in which they joined, those that are less than half used first, and in a heap by
their load of actors. A line that has found no
room anywhere looks from then on only at hosts that have changed since.

Hosts with GPUs have an index of their own. Work that needs no GPU is sent there only if no other host has room.

Work with a constraint is placed among the few hosts that it admits (``zray.broker.eligibility``), not by the index.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping

from zray.accelerators import FAMILIES
from zray.broker.eligibility import Eligibility
from zray.broker.records import Host
from zray.broker.resources import CPU, Shape


class _Index:
    """The hosts of one kind that have a free CPU."""

    def __init__(self) -> None:
        self.by_number: dict[int, Host] = {}
        self._open: list[int] = []  # numbers, sorted
        self._roomy: list[int] = []  # of these, the hosts that are less than half used, if there are several hosts
        self._heap: list[tuple[float, int]] = []  # (load, number); stale entries are dropped when they are reached
        self._pushed: dict[int, float] = {}  # by number: the load in the host's latest entry in the heap

    def add(self, host: Host) -> None:
        self.by_number[host.number] = host
        if len(self.by_number) == 2:
            for other in self.by_number.values():
                self.touch(other)

    def remove(self, host: Host) -> None:
        del self.by_number[host.number]
        self._pushed.pop(host.number, None)
        _set(self._open, host.number, False)
        _set(self._roomy, host.number, False)

    def touch(self, host: Host) -> None:
        is_open = host.pool.free.get(CPU, 0) > 0
        _set(self._open, host.number, is_open)
        roomy = is_open and len(self.by_number) > 1 and host.pool.is_roomy()
        if roomy is not host.is_roomy:
            host.is_roomy = roomy
            _set(self._roomy, host.number, roomy)
        if is_open and self._pushed.get(host.number) != host.load:
            load = host.load
            self._pushed[host.number] = load
            heapq.heappush(self._heap, (load, host.number))
            if len(self._heap) > 4 * len(self.by_number) + 64:  # most entries are stale
                self._heap = [(pushed, number) for number, pushed in self._pushed.items()]
                heapq.heapify(self._heap)

    def is_open(self, host: Host) -> bool:
        place = bisect.bisect_left(self._open, host.number)
        return place < len(self._open) and self._open[place] == host.number

    def with_free_cpu(self) -> Iterator[Host]:
        """Yields the hosts that are less than half used, then all with a free CPU, each in the order of joining.

        The index may change meanwhile.
        """
        for numbers in (self._roomy, self._open):
            number = 0
            while (place := bisect.bisect_right(numbers, number)) < len(numbers):
                number = numbers[place]
                yield self.by_number[number]

    def least_loaded(self, is_open: Callable[[Host], bool]) -> Host | None:
        """The least loaded of the hosts with a free CPU for which ``is_open`` is true."""
        aside: list[tuple[float, int]] = []
        found: Host | None = None
        while self._heap and found is None:
            entry = self._heap[0]
            load, number = entry
            host = self.by_number.get(number)
            if host is None or self._pushed.get(number) != load:
                heapq.heappop(self._heap)  # stale: the host has a newer entry, or is gone
            elif host.pool.free.get(CPU, 0) <= 0:
                heapq.heappop(self._heap)
                del self._pushed[number]  # the host gets a new entry when it has a free CPU again
            elif is_open(host):
                found = host
            else:
                aside.append(heapq.heappop(self._heap))
        for entry in aside:
            heapq.heappush(self._heap, entry)
        return found


def _set(numbers: list[int], number: int, is_in: bool) -> None:
    """Adds a number to a sorted list, or removes it."""
    place = bisect.bisect_left(numbers, number)
    if place < len(numbers) and numbers[place] == number:
        if not is_in:
            del numbers[place]
    elif is_in:
        numbers.insert(place, number)


def has_accelerators(host: Host) -> bool:
    """Whether a host has GPUs, or devices of another family of accelerators."""
    return any(host.pool.total.get(family) for family in FAMILIES)


class Places:
    """The hosts of a cluster. ``touch`` must be called for each host whose resources or actors have changed."""

    def __init__(self) -> None:
        self.hosts: dict[bytes, Host] = {}
        self.slots = 0
        """The number of tasks of one CPU that could run at the same time."""
        self.changed: dict[bytes, Host] = {}
        self._last_number = 0
        self._plain = _Index()
        self._with_gpus = _Index()
        self._index: dict[bytes, _Index] = {}  # by host: the index that has it
        self._eligibility = Eligibility(self.hosts)

    def _indices_for(self, shape: Shape) -> tuple[_Index, ...]:
        return (self._with_gpus,) if shape.gpus else (self._plain, self._with_gpus)

    def add(self, host: Host) -> None:
        """Adds a host that has joined."""
        self._last_number += 1
        host.number = self._last_number
        self.hosts[host.host_id] = host
        index = self._index[host.host_id] = self._with_gpus if has_accelerators(host) else self._plain
        index.add(host)
        self.slots += host.pool.total.get(CPU, 0) // 10_000
        self._eligibility.hosts_have_changed()
        self.touch(host)

    def remove(self, host: Host) -> None:
        """Removes a host that is gone."""
        del self.hosts[host.host_id]
        self._index.pop(host.host_id).remove(host)
        self.slots -= host.pool.total.get(CPU, 0) // 10_000
        self.changed.pop(host.host_id, None)
        self._eligibility.hosts_have_changed()

    def touch(self, host: Host) -> None:
        """Brings the index up to date after a host has changed."""
        index = self._index.get(host.host_id)
        if index is not None:
            self.changed[host.host_id] = host
            index.touch(host)

    def is_open(self, host: Host) -> bool:
        """Whether the index says that a host has a free CPU."""
        return self._index[host.host_id].is_open(host)

    def in_order(self, hosts: Iterable[Host], shape: Shape) -> list[Host]:
        """Sorts hosts in the order in which to fill them: hosts with GPUs come last if a shape needs none.

        Among hosts of one kind, those that are less than half used come first, and come again in their places.
        """
        kinds: list[list[Host]] = [[], []]
        for host in hosts:
            kinds[not shape.gpus and self._is_spared(host)].append(host)
        return [host for kind in kinds for half in ([host for host in kind if host.is_roomy], kind) for host in half]

    def _is_spared(self, host: Host) -> bool:
        return has_accelerators(host)

    def with_room(self, shape: Shape) -> Iterator[Host]:
        """Yields hosts that may have room for a shape, in the order in which to fill them; see ``in_order``.

        The hosts may change meanwhile.
        """
        if not shape.cpus:
            yield from self.in_order(self.hosts.values(), shape)
            return
        for index in self._indices_for(shape):
            yield from index.with_free_cpu()

    def tiers(self, shape: Shape, among: Mapping[bytes, Host] | None = None) -> Iterable[Iterable[Host]]:
        """Returns hosts that may have room for a shape, in the order in which to fill them.

        A later tier is for work that has found no room in the earlier ones. ``among``: the hosts to look at; None: all.
        The hosts may change meanwhile.
        """
        if shape.constraint is None:
            return (self.with_room(shape) if among is None else self.in_order(among.values(), shape),)
        tiers = self._eligibility.tiers(shape, shape.constraint)
        if among is not None:
            tiers = [[host for host in tier if host.host_id in among] for tier in tiers]
        return [self.in_order(tier, shape) for tier in tiers]

    def eligible(self, shape: Shape) -> Iterable[Host]:
        """Returns all hosts that may take a shape, whether they have room or not."""
        if shape.constraint is None:
            return self.hosts.values()
        return [host for tier in self._eligibility.tiers(shape, shape.constraint) for host in tier]

    def admits(self, host: Host, shape: Shape) -> bool:
        """Whether a host may take a shape, whether it has room or not."""
        return shape.constraint is None or host in self.eligible(shape)

    def prefers(self, host: Host, shape: Shape) -> bool:
        """Whether no other host may take a shape before this one."""
        if shape.constraint is None:
            return True
        tiers = self._eligibility.tiers(shape, shape.constraint)
        return bool(tiers) and host in tiers[0]

    def is_as_good(self, host: Host, chosen: Host, shape: Shape) -> bool:
        """Whether an actor of a shape may as well be placed on ``host`` as on the host that was chosen for it."""
        spared = not shape.gpus and self._is_spared(host) and not self._is_spared(chosen)
        return host.load <= chosen.load and not spared and self.prefers(host, shape)

    def could_ever_fit(self, shape: Shape) -> bool:
        """Whether a host that may take a shape has room for it when the host is empty."""
        return any(host.pool.could_ever_fit(shape) for host in self.eligible(shape))

    def refusal(self, shape: Shape) -> str:
        """Why work of a shape must fail; empty if it must not."""
        return "" if shape.constraint is None else self._eligibility.refusal(shape, shape.constraint)

    def least_loaded(
        self, shape: Shape, is_open: Callable[[Host], bool], among: Mapping[bytes, Host] | None = None
    ) -> Host | None:
        """The host with the fewest actors per CPU, of those for which ``is_open`` is true; None if there is none.

        ``among``: the hosts to choose from; None means all.
        """
        if shape.constraint is not None:
            chosen = (self._least_of(tier, shape, is_open) for tier in self.tiers(shape, among))
            return next((host for host in chosen if host is not None), None)
        if among is None and shape.cpus:
            for index in self._indices_for(shape):
                found = index.least_loaded(is_open)
                if found is not None:
                    return found
            return None
        return self._least_of((self.hosts if among is None else among).values(), shape, is_open)

    def _least_of(self, hosts: Iterable[Host], shape: Shape, is_open: Callable[[Host], bool]) -> Host | None:
        fitting = [host for host in hosts if is_open(host)]
        spares = not shape.gpus
        return min(fitting, key=lambda host: (spares and self._is_spared(host), host.load, host.number), default=None)
