"""Which hosts may take work that has a constraint, and in which order.

The hosts of each choice make a *tier*. A pass looks at the tiers in order. Which hosts belong to a choice depends only
on their labels and identifiers, so it is remembered until a host joins or leaves. Whether an empty host is large enough
is looked up each time, because resources may be added to a host.
"""

from __future__ import annotations

from zray.broker.records import Host
from zray.broker.resources import Shape, describe, describe_host
from zray.scheduling.constraint import Constraint

MAX_KNOWN_SHAPES = 1000


class Eligibility:
    """The tiers of all constrained shapes. ``hosts``: the hosts of the cluster, which another object changes."""

    def __init__(self, hosts: dict[bytes, Host]) -> None:
        self._hosts = hosts
        self._tiers: dict[bytes, list[list[Host]]] = {}  # by shape

    def hosts_have_changed(self) -> None:
        """A host has joined or left."""
        self._tiers.clear()

    def tiers(self, shape: Shape, constraint: Constraint) -> list[list[Host]]:
        """The hosts that may take a shape, by choice, the most preferred first. No host is in two tiers."""
        tiers = self._tiers.get(shape.key)
        if tiers is None:
            if len(self._tiers) >= MAX_KNOWN_SHAPES:
                self._tiers.clear()
            tiers = self._tiers[shape.key] = self._find_tiers(constraint)
        if not constraint.insists:
            return tiers
        for tier in tiers:
            if any(host.pool.could_ever_fit(shape) for host in tier):
                return [tier]
        return []

    def _find_tiers(self, constraint: Constraint) -> list[list[Host]]:
        tiers: list[list[Host]] = []
        left = dict(self._hosts)
        for choice in constraint.choices:
            # A choice of one host is looked up: there may be as many such lines as hosts.
            possible = left.values() if not choice.node_id else filter(None, [left.get(choice.node_id)])
            tier = [host for host in possible if choice.admits(host.host_id, host.info.labels)]
            for host in tier:
                del left[host.host_id]
            if tier:
                tiers.append(tier)
        return tiers

    def refusal(self, shape: Shape, constraint: Constraint) -> str:
        """Why work of a shape must fail; empty if it must not: it can be placed, or waits for hosts to join."""
        if not constraint.fails and not constraint.fails_if_full:
            return ""
        hosts = [host for tier in self.tiers(shape, constraint) for host in tier]
        wanted = str(constraint)
        if not hosts:
            return f"The node that it must run on doesn't exist, or not any more: {wanted}. soft=False was specified."
        able = [host for host in hosts if host.pool.could_ever_fit(shape)]
        if not able:
            has = "; ".join(describe_host(host.pool.total, shape.amounts) for host in hosts)
            asked = describe(shape.amounts)
            return (
                f"The node that it must run on is infeasible: {wanted} has {has}, and it asks for {asked}. soft=False "
                f"was specified."
            )
        if constraint.fails_if_full and not any(host.pool.fits(shape) for host in able):
            return f"The node that it must run on has no room now: {wanted}. _fail_on_unavailable=True was specified."
        return ""
