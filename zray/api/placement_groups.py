"""Placement groups: bundles of resources that are reserved together, for tasks and actors that belong together.

``zray.util.placement_group`` has the public names. ``zray/broker/placement_groups.py`` describes how groups are placed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from zray.api.group_arguments import read_group
from zray.api.group_arguments import validate_placement_group as validate_placement_group
from zray.api.group_placement import bundle_specs_of, rows_of
from zray.api.group_placement import check_placement_group_index as check_placement_group_index
from zray.api.runtime import ClusterRuntime, context, runtime
from zray.bundles import GROUP_ID_BYTES, group_of
from zray.client.session import Session
from zray.exceptions import SystemFailure, TaskPlacementGroupRemoved, ZrayError
from zray.object_ref import ObjectRef
from zray.options.given import check_text
from zray.protocol.messages import GroupCreate, GroupNamed, GroupRemove
from zray.protocol.questions import GroupRow
from zray.public_ids import PlacementGroupID
from zray.serialization import serialize

if TYPE_CHECKING:
    from zray.client.groups import GroupWatches


LEAST_MS = 0.001
"""The least time that the table tells of a group that is created: one that has room at once waits for 0 s."""


class PlacementGroup:
    """A handle to a placement group. Handles of the same group are equal, and can be sent to other processes.

    Attributes: ``id``.
    """

    def __init__(self, id: PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None) -> None:
        self.id = id
        self.bundle_cache = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """A handle of no group."""
        return PlacementGroup(PlacementGroupID.nil())

    @property
    def is_empty(self) -> bool:
        """Whether it is a handle of no group."""
        return self.id.is_nil()

    def ready(self) -> ObjectRef:
        """Returns a reference whose value is this handle, once all bundles are reserved.

        If the group is removed before that, ``get`` raises TaskPlacementGroupRemoved.
        """
        session = _session()
        if self.is_empty:
            return session.objects.put(self)
        return _watches(session).ready(self.id.binary(), serialize(self).to_bytes())

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Waits until all bundles are reserved. Returns False if they are not within ``timeout_seconds``.

        Raises:
            TaskPlacementGroupRemoved: the group is removed, or unknown.
        """
        ref = self.ready()
        ready, _ = runtime().wait([ref], 1, max(0.0, float(timeout_seconds)), True)
        if not ready:
            return False
        try:
            runtime().get([ref], None)
        except TaskPlacementGroupRemoved as error:
            raise TaskPlacementGroupRemoved(f"Placement group {self.id!r} does not exist: {error}") from None
        return True

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The resources of each bundle.

        Raises:
            ValueError: the group does not exist.
        """
        if not self.bundle_cache:
            self.bundle_cache = bundle_specs_of(_session(), self.id.binary())
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """The number of bundles."""
        return len(self.bundle_specs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: dict[str, str] | None = None,
) -> PlacementGroup:
    """Creates a placement group: reserves all bundles, or none as long as there is no room for all of them.

    Returns at once; ``PlacementGroup.ready`` and ``wait`` tell when the bundles are reserved.

    Args:
        bundles: the resources of each bundle, such as ``[{"CPU": 2}, {"CPU": 1, "GPU": 1}]``; memory is in bytes.
        strategy: ``"PACK"`` (the default): on as few hosts as possible; ``"SPREAD"``: on as many as possible;
            ``"STRICT_PACK"``: all on one host; ``"STRICT_SPREAD"``: each on another host.
        name: a name for ``get_placement_group``, unique within the namespace.
        lifetime: None: the group is removed when its job ends (or the detached actor that creates it);
            ``"detached"``: it stays until it is removed.
        _soft_target_node_id: the host to prefer, as hexadecimal digits; for ``"STRICT_PACK"``.
        bundle_label_selector: a label selector for each bundle, such as ``[{"zone": "in(a,b)"}, {}]``: the bundle goes
            to a host that fulfils it, now and if the bundle needs another place later.
        topology_strategy: another way to give the strategy: ``{"ray.io/node-id": strategy}``. A second label, with
            ``"STRICT_PACK"``, asks for hosts that have the same value for it: ``{"ray.io/gpu-domain": "STRICT_PACK"}``
            keeps the group within one of these domains. If some of its hosts die, their bundles wait for room in the
            same domain; if all die, another domain may have the group.

    Raises:
        ValueError: an argument has a wrong value, or another group has the name (then it is a RaySystemError, too).
    """
    spec = read_group(
        bundles, strategy, lifetime, _soft_target_node_id, bundle_label_selector, topology_strategy
    )._replace(
        name=check_text(name, "placement_group()", "name") if name else "",
        namespace=runtime().namespace,
    )
    session = _session()
    group_id = os.urandom(GROUP_ID_BYTES - len(session.current_job())) + session.current_job()
    if not spec.name:
        session.tell([GroupCreate(group_id, 0, spec)])
    else:
        core = session.core
        answer = session.ask(lambda done: core.to_broker(GroupCreate(group_id, core.new_request(done), spec)))
        if isinstance(answer, GroupNamed) and answer.is_taken:
            raise PlacementGroupNameTaken(
                f"Failed to create placement group {group_id.hex()!r} because name {name!r} already exists: choose "
                f"another name, or get the group with get_placement_group({name!r})"
            )
    return PlacementGroup(
        PlacementGroupID(group_id), [{key: float(amount) for key, amount in bundle.items()} for bundle in bundles]
    )


class PlacementGroupNameTaken(SystemFailure, ValueError):
    """The caller's fault: another placement group of the namespace has the name."""


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Removes a placement group. Tasks and actors that run or wait in it end with an error.

    Returns at once. Does nothing if the group is removed already.
    """
    assert placement_group is not None, "remove_placement_group() needs a placement group"
    group_id = placement_group.id.binary()
    _session().tell([GroupRemove(group_id)])


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """Returns the placement group that has a name in this namespace.

    Raises:
        ValueError: there is none, or the name is empty.
    """
    if not placement_group_name:
        raise ValueError("Please supply a non-empty value to get_placement_group")
    rows = _rows(name=check_text(placement_group_name, "get_placement_group()", "placement_group_name"))
    if not rows:
        raise ValueError(f"Failed to look up placement group with name: {placement_group_name}")
    return PlacementGroup(PlacementGroupID(rows[0].group_id), rows[0].bundles)


def get_current_placement_group() -> PlacementGroup | None:
    """Returns the placement group in which the running task or actor is; None if it is in none, and in a driver."""
    runtime()
    name = group_of(context().resources)
    return PlacementGroup(PlacementGroupID.from_hex(name)) if name else None


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[Any, Any]:
    """Returns the state of a placement group, or of all of them by their identifiers in hexadecimal.

    Removed groups are listed for a while. A group that the cluster does not know gives an empty dictionary.
    """
    if placement_group is not None:
        rows = _rows(group=placement_group.id.binary())
        return _table_entry(rows[0]) if rows else {}
    return {row.group_id.hex(): _table_entry(row) for row in _rows()}


def _table_entry(row: GroupRow) -> dict[str, Any]:
    waited_ms = max(row.waited_s * 1000, LEAST_MS)
    created = row.state == "CREATED"
    return {
        "placement_group_id": row.group_id.hex(),
        "name": row.name,
        "bundles": dict(enumerate(row.bundles)),
        "bundles_to_node_id": {index: host.hex() for index, host in enumerate(row.hosts)},
        "strategy": row.strategy,
        "state": row.state,
        "stats": {
            "end_to_end_creation_latency_ms": waited_ms if created else 0.0,
            "scheduling_latency_ms": waited_ms if created else 0.0,
            "scheduling_attempt": row.attempts,
            "highest_retry_delay_ms": 0.0,
            "scheduling_state": scheduling_state(row),
        },
    }


def scheduling_state(row: GroupRow) -> str:
    """Ray's name of what a group waits for."""
    if row.state in ("CREATED", "REMOVED"):
        return "FINISHED" if row.state == "CREATED" else "REMOVED"
    if not row.attempts:
        return "QUEUED"
    return "NO_RESOURCES" if row.can_be_placed else "INFEASIBLE"


# --------------------------------------------------------------------------------------------- session


def _session() -> Session:
    """The session of this process. Raises ZrayError in local mode."""
    current = runtime()
    if not isinstance(current, ClusterRuntime):
        raise ZrayError("there are no placement groups in local mode")
    return current.session


def _watches(session: Session) -> GroupWatches:
    if session.groups is None:
        from zray.client.groups import GroupWatches

        session.groups = GroupWatches(session)
    return session.groups


def _rows(group: bytes = b"", name: str = "") -> list[GroupRow]:
    return rows_of(_session(), group, name)
