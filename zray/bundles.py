"""The names of a bundle's resources.

A bundle that is reserved for a placement group becomes resources of its host, under names of the group. With a group
``G`` (its identifier in hexadecimal), a bundle 0 of one CPU adds::

    CPU_group_0_G: 1    CPU_group_G: 1    bundle_group_0_G: 1000    bundle_group_G: 1000

Work in the group asks for these in place of ``CPU``: always for the names without a number, and for those with a number
too if it must run in that bundle. It also asks for a little of ``bundle``, so that work without resources runs in the
group. So a scheduler needs no rule for groups. The names are Ray's. Pure; amounts are in ten-thousandths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

GROUP_ID_BYTES = 18
MARK = "_group_"
BUNDLE = "bundle"
BUNDLE_HAS = 1000 * 10_000
"""How much of ``bundle`` a bundle has."""
WORK_TAKES = 10
"""How much of ``bundle`` a task or actor takes."""
ANY = -1
"""The index of a bundle, for work that may run in any of them."""
_PREFIX = BUNDLE + MARK
_GROUP_NAME_CHARS = len(_PREFIX) + 2 * GROUP_ID_BYTES


def names_of(resource: str, group: str, index: int) -> list[str]:
    """The names of a resource in bundle ``index`` of ``group`` (in hexadecimal)."""
    whole = f"{resource}{MARK}{group}"
    return [whole] if index == ANY else [whole, f"{resource}{MARK}{index}_{group}"]


def asked(amounts: Mapping[str, int], group: str, index: int) -> dict[str, int]:
    """What work asks for in a group, in place of ``amounts``."""
    return _named({**amounts, BUNDLE: WORK_TAKES}, group, index)


def added(amounts: Mapping[str, int], group: str, index: int) -> dict[str, int]:
    """What a reserved bundle of these amounts adds to its host."""
    return _named({**amounts, BUNDLE: BUNDLE_HAS}, group, index)


def _named(amounts: Mapping[str, int], group: str, index: int) -> dict[str, int]:
    return {name: amount for resource, amount in amounts.items() for name in names_of(resource, group, index)}


def group_of(names: Iterable[str]) -> str:
    """The group, in hexadecimal, in which work runs that asks for resources of these names; empty if it is in none."""
    for name in names:
        if len(name) == _GROUP_NAME_CHARS and name.startswith(_PREFIX):
            return name[len(_PREFIX) :]
    return ""


def plain(amounts: Mapping[str, int]) -> dict[str, int]:
    """Undoes ``asked``: amounts under the names that users give. Other amounts stay as they are."""
    group = group_of(amounts)
    if not group:
        return dict(amounts)
    end = MARK + group
    found = {name.removesuffix(end): amount for name, amount in amounts.items() if name.endswith(end)}
    del found[BUNDLE]
    return found
