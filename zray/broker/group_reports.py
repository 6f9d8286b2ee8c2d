"""What placement groups wait for: whether they could ever fit, and why they wait."""

from __future__ import annotations

from zray.broker.group_records import SHOWN, Group
from zray.broker.packing import PACK, SPREAD
from zray.broker.records import Host
from zray.broker.resources import Pool, Shape, describe
from zray.bundles import plain


class GroupReports:
    """Reports on the groups of one broker. ``groups``: by identifier in hexadecimal."""

    def __init__(self, groups: dict[str, Group], hosts: dict[bytes, Host]) -> None:
        self._groups = groups
        self._hosts = hosts

    def waiting(self) -> list[Group]:
        """The groups that wait for bundles."""
        return [group for group in self._groups.values() if group.line is not None]

    def take_stuck(self, since: float) -> list[Group]:
        """The groups that have waited since then and do not even fit into an empty cluster. Returns each only once."""
        due = [group for group in self.waiting() if not group.looked_at and group.since <= since]
        for group in due:
            group.looked_at = True
        return [group for group in due if not self.could_ever_fit(group)]

    def why_unplaced(self, shape: Shape) -> str:
        """Why work that asks for resources of a group has no place at the moment."""
        group = self._groups.get(shape.group)
        if group is None:
            return f"its placement group {shape.group} is removed"
        if group.line is None:
            return f"it asks for {describe(plain(shape.amounts))} of placement group {group.label}, which is in use"
        return f"it waits for placement group {group.label}: {self.why(group)}"

    def could_ever_fit(self, group: Group) -> bool:
        """Whether the missing bundles of a group would fit if all hosts were empty."""
        return group.hosts_for(list(self._hosts.values()), _emptied) is not None

    def each_would_fit(self, group: Group) -> bool:
        """Whether each bundle of a group would fit alone into an empty host, and the strategy is a wish only."""
        if group.spec.strategy not in (PACK, SPREAD) or group.spec.topology:
            return False
        hosts = [(host, _emptied(host)) for host in self._hosts.values()]
        return all(
            any(pool.fits(shape) and group.admits(host, index) for host, pool in hosts)
            for index, shape in group.missing()
        )

    def why(self, group: Group) -> str:
        """Why a group waits; empty if it does not."""
        return self.why_waits(group, self.could_ever_fit(group)) if group.line is not None else ""

    def why_waits(self, group: Group, could_ever_fit: bool) -> str:
        """Why a group that waits does. ``could_ever_fit``: as found out."""
        asks = _asks(group)
        hosts = self._hosts.values()
        if not could_ever_fit:
            labels = {host.host_id: f", labels {host.info.labels}" if _names_labels(group) else "" for host in hosts}
            have = "; ".join(
                f"{host.info.hostname}: {describe(_emptied(host).total)}{labels[host.host_id]}" for host in hosts
            )
            return (
                f"its bundles ({asks}) do not fit into the cluster, even if it were "
                f"empty ({have or 'there is no host'}): ask for less, or start hosts with zray-worker"
            )
        pools = [(host.info.hostname, host.pool) for host in hosts]
        free = "; ".join(f"{hostname}: {describe(pool.without_bundles(pool.free))}" for hostname, pool in pools)
        return f"its bundles ({asks}) wait for room; free are {free}"


def _names_labels(group: Group) -> bool:
    """Whether the labels of hosts say where a group may be."""
    return bool(group.spec.selectors or group.spec.topology)


def _asks(group: Group) -> str:
    """What the missing bundles of a group ask for, for people."""
    asks = ", ".join(str(shape) for _, shape in group.missing()[:SHOWN])
    return f"{asks}; strategy {group.kind}"


def _emptied(host: Host) -> Pool:
    """The resources of a host without tasks, actors and bundles."""
    return Pool(host.pool.without_bundles(host.pool.total))
