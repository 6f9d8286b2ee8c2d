"""Tasks and actors in placement groups: what they ask for, and in which group they run.

That follows from their options, and from the group of the code that creates them if it captures what that creates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from zray.bundles import ANY, asked, group_of
from zray.client.context import current_task
from zray.client.session import Session
from zray.named_tuples import NamedTuple
from zray.options import ActorOptions, TaskOptions
from zray.options.amounts import UNITS
from zray.protocol.codec import shape_key
from zray.protocol.questions import GroupList, GroupRow, GroupsQuery
from zray.user_warnings import warn_user


class Identifier(Protocol):
    """The identifier of a group: ``zray.public_ids.PlacementGroupID``."""

    def hex(self) -> str: ...


class Handle(Protocol):
    """A handle of a group: ``zray.util.placement_group.PlacementGroup``."""

    @property
    def id(self) -> Identifier: ...
    @property
    def is_empty(self) -> bool: ...
    @property
    def bundle_specs(self) -> Sequence[Mapping[str, float]]: ...


class _Place(NamedTuple):
    """A place in a group. ``group``: in hexadecimal; empty for no group. ``bundles``: those that may be used."""

    group: str
    bundle: int
    bundles: Sequence[Mapping[str, float]]
    captures: bool


def placed_task(session: Session, options: TaskOptions, environment_id: bytes, name: str) -> tuple[bytes, bool]:
    """Returns the shape of a task that may run in a group, and whether the group captures what the task creates.

    ``environment_id``: see ``shape_key``.

    Raises ValueError if the group has no such bundle, or the bundle is too small.
    """
    place = _place_for(session, options)
    amounts = options.resource_amounts()
    if not place.group:
        return shape_key(amounts, options.constraint_row(), environment_id, options.priority), False
    _check_fits(place, amounts, name, "the resource request")
    return shape_key(
        asked(amounts, place.group, place.bundle), options.constraint_row(), environment_id, options.priority
    ), place.captures


def placed_actor(
    session: Session, options: ActorOptions, environment_id: bytes, name: str
) -> tuple[bytes, bytes, bool]:
    """As ``placed_task``. Returns the shapes for placing the actor, and for as long as it lives."""
    place = _place_for(session, options)
    placement, running = options.placement_amounts(), options.running_amounts()
    if not place.group:
        return (
            shape_key(placement, options.constraint_row(), environment_id, options.priority),
            shape_key(running),
            False,
        )
    _check_fits(place, running, name, "the resource request")
    _check_fits(place, placement, name, "what its start requires (1 CPU unless num_cpus is given),")
    in_group = [asked(amounts, place.group, place.bundle) for amounts in (placement, running)]
    return (
        shape_key(in_group[0], options.constraint_row(), environment_id, options.priority),
        shape_key(in_group[1]),
        place.captures,
    )


def _place_for(session: Session, options: TaskOptions | ActorOptions) -> _Place:
    """Returns the place that options and context ask for."""
    context = current_task.get()
    strategy: Any = options.scheduling_strategy
    if strategy is None:
        given: Any = options.placement_group
        index, captures = options.placement_group_bundle_index, options.placement_group_capture_child_tasks
        _warn_of_old_options(options)
    elif hasattr(strategy, "placement_group_bundle_index"):
        given, index = strategy.placement_group, strategy.placement_group_bundle_index
        captures = strategy.placement_group_capture_child_tasks
    else:  # another strategy, which leads out of the group
        return _Place("", ANY, [], False)
    if given is not None and given != "default" and not hasattr(type(given), "bundle_specs"):
        raise AssertionError(f"placement_group={given!r} is not a PlacementGroup")
    captures = context.captures if captures is None else bool(captures)
    if given == "default":
        group = group_of(context.resources) if captures else ""
        specs = bundle_specs_of(session, bytes.fromhex(group)) if group else []
    elif given is None or given.is_empty:
        group, specs = "", []
    else:
        group, specs = given.id.hex(), given.bundle_specs
    _check_index(bool(group), len(specs), index)
    return _Place(group, index, specs if index == ANY else [specs[index]], captures)


def _warn_of_old_options(options: TaskOptions | ActorOptions) -> None:
    given = {
        "placement_group": options.placement_group != "default",
        "placement_group_bundle_index": options.placement_group_bundle_index != ANY,
        "placement_group_capture_child_tasks": bool(options.placement_group_capture_child_tasks),
    }
    for name in [name for name, is_given in given.items() if is_given]:
        warn_user(
            f"{name} parameter is deprecated. Use scheduling_strategy=PlacementGroupSchedulingStrategy(...) instead",
            DeprecationWarning,
        )


def _check_fits(place: _Place, amounts: Mapping[str, int], name: str, what: str) -> None:
    if any(all(bundle.get(each, 0) * UNITS + 1e-6 >= n for each, n in amounts.items()) for bundle in place.bundles):
        return
    asks = {each: amount / UNITS for each, amount in amounts.items()}
    of = "any bundles" if place.bundle == ANY else f"bundle {place.bundle}"
    raise ValueError(
        f"Cannot schedule {name} with the placement group because {what} {asks} cannot fit into {of} for the placement "
        f"group, {list(place.bundles)}: ask for less, or create a group with larger bundles."
    )


def check_placement_group_index(placement_group: Handle, bundle_index: int) -> None:
    """Checks that a group has a bundle with this number, or that it is -1.

    Raises:
        ValueError: it has not.
    """
    assert placement_group is not None, "check_placement_group_index() needs a placement group"
    given = not placement_group.is_empty
    _check_index(given, len(placement_group.bundle_specs) if given else 0, bundle_index)


def _check_index(given: bool, count: int, index: int) -> None:
    if not given and index != ANY:
        raise ValueError("If placement group is not set, the value of bundle index must be -1.")
    if given and not ANY <= index < count:
        raise ValueError(
            f"placement group bundle index {index} is invalid. Valid placement group indexes: 0-{count - 1}, or -1 for "
            f"any bundle"
        )


def bundle_specs_of(session: Session, group_id: bytes) -> list[dict[str, float]]:
    """The resources of each bundle of a group. Raises ValueError if the cluster does not know the group."""
    rows = rows_of(session, group_id)
    if not rows:
        raise ValueError(f"Placement group {group_id.hex()} does not exist")
    return rows[0].bundles


def rows_of(session: Session, group: bytes = b"", name: str = "") -> list[GroupRow]:
    """Asks the broker for one group, by identifier or name, or for all."""
    return session.query(lambda request: GroupsQuery(request, group, name, session.namespace), GroupList).groups
