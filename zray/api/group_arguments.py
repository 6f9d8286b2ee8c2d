"""The arguments of ``placement_group``: checks them, and makes the description that the broker gets.

The rules, and the beginnings of the messages, are Ray's.
"""

from __future__ import annotations

from typing import Any

from zray.accelerators import fault_of, fault_of_amount
from zray.bundles import BUNDLE
from zray.exceptions import SystemFailure
from zray.ids import PROCESS_ID_BYTES
from zray.options.amounts import MAX_AMOUNT, UNITS
from zray.protocol.records import GroupSpec, Selector
from zray.scheduling.constraint import NODE_ID_LABEL
from zray.scheduling.labels import read_selector
from zray.user_warnings import warn_user

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
EXAMPLE = '[{"CPU": 1.0}, {"GPU": 1.0}]'
ACCELERATOR_LABEL = "ray.io/accelerator-type"
OF_GPU_DOMAINS = ("GB200", "GB300")
"""Accelerators whose hosts form domains: if one bundle asks for such a one, all bundles must."""


class ReservedName(SystemFailure, ValueError):
    """The caller's fault: a bundle names a resource by which the cluster counts the work in a bundle."""


def validate_placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: dict[str, str] | None = None,
) -> None:
    """Checks the arguments of ``placement_group``, without creating a group.

    Raises:
        ValueError: one of them has a wrong value.
    """
    read_group(bundles, strategy, lifetime, _soft_target_node_id, bundle_label_selector, topology_strategy)


def read_group(
    bundles: Any, strategy: Any, lifetime: Any, soft_target: Any, selectors: Any, topology_strategy: Any
) -> GroupSpec:
    """Returns the description of a group, without its name. Raises ValueError for a wrong value."""
    strategy, topology = _strategies(strategy, topology_strategy)
    target = _soft_target(soft_target, strategy) if soft_target else b""
    amounts = _amounts(bundles)
    conditions = _selectors(selectors, len(amounts))
    return GroupSpec("", "", strategy, amounts, _is_detached(lifetime), target, conditions, topology)


def _amounts(bundles: Any) -> list[dict[str, int]]:
    """Returns the amounts of each bundle in ten-thousandths."""
    if not isinstance(bundles, list):
        raise ValueError(f"Placement group bundles must be a list, got {type(bundles)}.")
    if not bundles:
        raise ValueError(f"Bundles must be a non-empty list of resource dictionaries, for example {EXAMPLE}: got none.")
    for bundle in bundles:
        if not isinstance(bundle, dict) or not all(
            isinstance(name, str) and isinstance(amount, (int, float)) for name, amount in bundle.items()
        ):
            raise ValueError(
                f"Bundles must be a non-empty list of resource dictionaries, for example {EXAMPLE}: got {bundle!r}."
            )
        if "object_store_memory" in bundle:
            warn_user(
                "object_store_memory in bundles is deprecated: it reserves no memory of the object store",
                DeprecationWarning,
            )
        if BUNDLE in bundle:
            raise ReservedName(
                f"{BUNDLE} is a system reserved resource, which is not allowed to be used in placement group"
            )
    amounts = [_amounts_of(bundle) for bundle in bundles]
    if not all(amounts):
        raise ValueError(f"Bundles cannot be an empty dictionary or resources with only 0 values. Bundles: {bundles}")
    return amounts


def _amounts_of(bundle: dict[str, float]) -> dict[str, int]:
    for name, amount in bundle.items():
        if not 0 <= amount <= MAX_AMOUNT:
            raise ValueError(f"Bundles need amounts from 0 to {MAX_AMOUNT:,}: got {name}={amount!r} in {bundle!r}")
        if fault := fault_of_amount(name, amount):
            raise ValueError(f"{fault}: got {amount!r} in {bundle!r}")
    if fault := fault_of(name for name, amount in bundle.items() if amount):
        raise ValueError(f"{fault}: got {bundle!r}")
    units = {name: int(amount * UNITS + 1e-6) for name, amount in bundle.items()}
    return {name: amount for name, amount in units.items() if amount}


def _strategies(strategy: Any, topology_strategy: Any) -> tuple[str, str]:
    """Returns the strategy for hosts, and the label that all hosts of the group must share; empty for none."""
    if topology_strategy is None:
        if strategy is not None and strategy not in STRATEGIES:
            raise ValueError(f"Invalid placement group strategy {strategy}. Supported strategies are: {STRATEGIES}.")
        return strategy or "PACK", ""
    if strategy is not None:
        raise ValueError(
            "`strategy` and `topology_strategy` cannot both be specified: give the strategy for hosts as "
            f"topology_strategy={{{NODE_ID_LABEL!r}: ...}}"
        )
    if not isinstance(topology_strategy, dict):
        raise ValueError(f"`topology_strategy` must be a dict, got {type(topology_strategy).__name__}.")
    if len(topology_strategy) > 2:
        raise ValueError(
            f"`topology_strategy` must contain 0, 1, or 2 entries: {NODE_ID_LABEL!r} and one other label. Got "
            f"{len(topology_strategy)} entries."
        )
    for label, value in topology_strategy.items():
        if not isinstance(label, str) or not label:
            raise ValueError(f"`topology_strategy` keys must be non-empty strings, got {label!r}.")
        if value not in STRATEGIES:
            raise ValueError(
                f"Invalid topology strategy {value!r} for label {label!r}. Supported strategies are: {STRATEGIES}."
            )
        if label != NODE_ID_LABEL and value != "STRICT_PACK":
            raise ValueError(
                f"Topology strategy {value!r} for label {label!r} is not supported yet; only 'STRICT_PACK' is "
                f"supported for topology labels other than {NODE_ID_LABEL!r}."
            )
    labels = [label for label in topology_strategy if label != NODE_ID_LABEL]
    if len(labels) > 1:
        raise ValueError(
            f"`topology_strategy` supports at most one topology label other than {NODE_ID_LABEL!r}. Got {labels}."
        )
    return topology_strategy.get(NODE_ID_LABEL, "PACK"), labels[0] if labels else ""


def _is_detached(lifetime: Any) -> bool:
    if lifetime not in (None, "detached"):
        raise ValueError(f"Placement group `lifetime` argument must be either `None` or 'detached'. Got {lifetime}.")
    return bool(lifetime)


def _soft_target(node_id: Any, strategy: str) -> bytes:
    if strategy != "STRICT_PACK":
        raise ValueError(f"_soft_target_node_id currently only works with STRICT_PACK but got {strategy}")
    try:
        host_id = bytes.fromhex(node_id)
    except ValueError:
        host_id = b""
    if len(host_id) != PROCESS_ID_BYTES:
        raise ValueError(f"Invalid hex ID of _soft_target_node_id, got {node_id}")
    return host_id


def _selectors(selectors: Any, count: int) -> list[Selector]:
    """Returns the conditions of each bundle; an empty list if no bundle has any."""
    if selectors is None:
        return []
    if not isinstance(selectors, list):
        raise ValueError(f"Placement group bundle_label_selector must be a list, got {type(selectors)}.")
    if len(selectors) != count:
        raise ValueError(
            f"Invalid bundle label selector {selectors}. The length of `bundle_label_selector` should equal the length "
            f"of `bundles`."
        )
    try:
        read = [Selector(read_selector(selector)) for selector in selectors]
    except TypeError as error:
        raise ValueError(
            f"Bundle label selector must be a list of string dictionary label selectors: {error}"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"Invalid label selector provided in bundle_label_selector list. Detailed error: {error}"
        ) from None
    asked = {selector.get(ACCELERATOR_LABEL) for selector in selectors}
    if len(asked) > 1 and not asked.isdisjoint(OF_GPU_DOMAINS):
        raise ValueError(
            f"Invalid bundle label selector {selectors}. GPU-domain scheduling requires all bundles to have the same "
            f"{ACCELERATOR_LABEL!r} in their label selector."
        )
    return read if any(selector.terms for selector in read) else []
