"""Chooses the hosts of a placement group's bundles: all of them, or none. Pure; it changes no host.

``PACK`` and ``SPREAD`` are wishes, the strict strategies are conditions. Finding the best places is NP-hard, so bundles
that few hosts may take are placed first, then large ones, each where it fits best. ``STRICT_SPREAD`` needs a host for
each bundle, so it is a matching, which is found exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

from zray.broker.records import Host
from zray.broker.resources import CPU, GPU, Pool, Shape

PACK, SPREAD, STRICT_PACK, STRICT_SPREAD = STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")

Admits = Callable[[Host, int], bool]
"""Whether a host may take the bundle with an index, whether it has room or not."""


class Trial:
    """Hosts with the bundles that are tried on them.

    ``admits``: None: any host may take any bundle. ``pool_of`` returns the resources of a host; they are copied.
    """

    def __init__(self, hosts: Sequence[Host], admits: Admits | None, pool_of: Callable[[Host], Pool]) -> None:
        self.hosts = hosts
        self._admits = admits
        self._pool_of = pool_of
        self._pools: dict[bytes, Pool] = {}

    def pool(self, host: Host) -> Pool:
        """The resources of a host, less what the trial has placed there."""
        return self._pools.get(host.host_id) or self._pool_of(host)

    def admits(self, host: Host, index: int) -> bool:
        """Whether bundle ``index`` may be placed on a host."""
        return self._admits is None or self._admits(host, index)

    def choices(self, index: int) -> int:
        """How many hosts may take bundle ``index``; 0 for all bundles if any host may take any."""
        return 0 if self._admits is None else sum(self._admits(host, index) for host in self.hosts)

    def fits(self, host: Host, index: int, shape: Shape) -> bool:
        """Whether bundle ``index`` may be placed on a host, and fits."""
        return self.pool(host).fits(shape) and self.admits(host, index)

    def place(self, host: Host, shape: Shape) -> None:
        """Places a bundle that fits."""
        pool = self._pools.get(host.host_id)
        if pool is None:
            pool = self._pools[host.host_id] = self._pool_of(host).copy()
        pool.take(shape)

    def fitting_together(self, host: Host, bundles: Sequence[tuple[int, Shape]]) -> list[tuple[int, Shape]]:
        """The bundles that fit on a host together. Places none of them."""
        pool = self.pool(host).copy()
        taken = []
        for index, shape in bundles:
            if pool.fits(shape) and self.admits(host, index):
                pool.take(shape)
                taken.append((index, shape))
        return taken


def domains(
    hosts: Sequence[Host], label: str, value: str | None, pool_of: Callable[[Host], Pool]
) -> list[Sequence[Host]]:
    """Splits hosts into sets, of which one must have all bundles of a group: those that share a value of a label.

    The set with the least room comes first. ``label``: empty: all hosts are one set. ``value``: of the hosts that have
    bundles of the group already; None if there are none.
    """
    if not label:
        return [hosts]
    found: dict[str, list[Host]] = {}
    for host in hosts:
        its = host.info.labels.get(label)
        if its is not None and value in (None, its):
            found.setdefault(its, []).append(host)

    def room(members: Sequence[Host]) -> tuple[int, int]:
        left = [_room_left(pool_of(host)) for host in members]
        return sum(gpus for gpus, _ in left), sum(cpus for _, cpus in left)

    return sorted(found.values(), key=room)


def choose(
    strategy: str,
    bundles: Sequence[tuple[int, Shape]],
    trial: Trial,
    used: Collection[bytes] = (),
    target: bytes = b"",
) -> dict[int, Host] | None:
    """Returns the host of each bundle, by its index; None if not all of them fit.

    ``bundles``: the index and shape of each. ``used``: hosts that have other bundles of the group. ``target``: the host
    to prefer, for ``STRICT_PACK``.
    """
    ordered = sorted(bundles, key=lambda bundle: _size(bundle[1]), reverse=True)
    ordered.sort(key=lambda bundle: trial.choices(bundle[0]))
    if strategy == STRICT_SPREAD:
        return _match(ordered, trial, used)
    if strategy == SPREAD:
        return _spread(ordered, trial, used)
    if strategy == STRICT_PACK:
        return _on_one_host(ordered, trial, used, target)
    return _on_one_host(ordered, trial, used, target) or _on_few_hosts(ordered, trial, used)


def _size(shape: Shape) -> tuple[int, int, int]:
    return shape.gpus, shape.cpus, sum(shape.amounts.values())


def _room_left(pool: Pool) -> tuple[int, int]:
    """The sort key of hosts that are to be filled: the fullest one first, and hosts without GPUs first."""
    return pool.free.get(GPU, 0), pool.free.get(CPU, 0)


def _on_one_host(
    bundles: Sequence[tuple[int, Shape]], trial: Trial, used: Collection[bytes], target: bytes
) -> dict[int, Host] | None:
    """The fullest host that takes all bundles. If others of the group are reserved, only their host may do."""
    if len(used) > 1:
        return None
    hosts = [host for host in trial.hosts if not used or host.host_id in used]
    hosts.sort(key=lambda host: (host.host_id != target, *_room_left(trial.pool(host))))
    for host in hosts:
        if len(trial.fitting_together(host, bundles)) == len(bundles):
            return {index: host for index, _ in bundles}
    return None


def _on_few_hosts(
    bundles: Sequence[tuple[int, Shape]], trial: Trial, used: Collection[bytes]
) -> dict[int, Host] | None:
    """Fills one host after the other: those in use first, then always the one that takes most of what is left."""
    found: dict[int, Host] = {}
    hosts = list(trial.hosts)
    left = list(bundles)
    while left and hosts:
        taken = [(host, trial.fitting_together(host, left)) for host in hosts]
        host, mine = max(taken, key=lambda each: (bool(each[1]) and each[0].host_id in used, len(each[1])))
        if not mine:
            return None
        for index, shape in mine:
            trial.place(host, shape)
            found[index] = host
        left = [bundle for bundle in left if bundle[0] not in found]
        hosts.remove(host)
    return None if left else found


def _spread(bundles: Sequence[tuple[int, Shape]], trial: Trial, used: Collection[bytes]) -> dict[int, Host] | None:
    """Gives each bundle to the host with the fewest bundles of the group."""
    counts = {host.host_id: int(host.host_id in used) for host in trial.hosts}
    found: dict[int, Host] = {}
    for index, shape in bundles:
        fitting = [host for host in trial.hosts if trial.fits(host, index, shape)]
        if not fitting:
            return None
        host = min(fitting, key=lambda host: (counts[host.host_id], *_room_left(trial.pool(host))))
        trial.place(host, shape)
        counts[host.host_id] += 1
        found[index] = host
    return found


def _match(bundles: Sequence[tuple[int, Shape]], trial: Trial, used: Collection[bytes]) -> dict[int, Host] | None:
    """A host for each bundle, all different (a bipartite matching, by shortest augmenting paths)."""
    hosts = {host.host_id: host for host in trial.hosts if host.host_id not in used}
    if len(hosts) < len(bundles):
        return None
    shapes = dict(bundles)
    host_of: dict[int, bytes] = {}
    bundle_of: dict[bytes, int] = {}
    for first, _ in bundles:
        reached_from: dict[bytes, int] = {}  # by host: the bundle that would move there
        looking = deque([first])
        free = b""
        while looking and not free:
            index = looking.popleft()
            for host_id, host in hosts.items():
                if host_id in reached_from or not trial.fits(host, index, shapes[index]):
                    continue
                reached_from[host_id] = index
                if host_id not in bundle_of:
                    free = host_id
                    break
                looking.append(bundle_of[host_id])
        if not free:
            return None
        while free:  # moves each bundle of the path to the host behind it
            index = reached_from[free]
            left = host_of.get(index, b"")
            host_of[index], bundle_of[free] = free, index
            free = left
    return {index: hosts[host_id] for index, host_id in host_of.items()}
