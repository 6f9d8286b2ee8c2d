"""``NodeLabelSchedulingStrategy``, and the operators of its conditions: run on hosts with certain labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zray.scheduling.constraint import DOES_NOT_EXIST, EXISTS, IN, NOT_IN, Choice, Constraint, Term


class _Operator:
    """A condition on the value of one label."""

    _number: int
    values: list[str]

    def _term(self, key: str) -> Term:
        return Term(key, self._number, getattr(self, "values", []))


class _OfValues(_Operator):
    def __init__(self, *values: str) -> None:
        name = type(self).__name__
        if not values:
            raise ValueError(f'{name} needs at least one value, such as {name}("a", "b")')
        for position, value in enumerate(values):
            if not isinstance(value, str):
                raise ValueError(
                    f"Type of value in position {position} of {name} must be str, but it is {value!r} of type "
                    f"{type(value).__name__}"
                )
        self.values = list(values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class In(_OfValues):
    """The host has the label, with one of these values. Raises ValueError if there is none, or one is no string."""

    _number = IN


class NotIn(_OfValues):
    """The host has none of these values for the label; it may lack the label. Raises the errors of ``In``."""

    _number = NOT_IN


class _WithoutValues(_Operator):
    def __init__(self) -> None:
        """Takes no values."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Exists(_WithoutValues):
    """The host has the label, with any value."""

    _number = EXISTS


class DoesNotExist(_WithoutValues):
    """The host does not have the label."""

    _number = DOES_NOT_EXIST


LabelConditions = Mapping[str, "In | NotIn | Exists | DoesNotExist"]


class NodeLabelSchedulingStrategy:
    """Runs a task or actor on a host with certain labels.

    Args:
        hard: conditions by label, such as ``{"zone": In("a", "b")}``. The host must fulfil all of them. The work waits
            until there is such a host.
        soft: more conditions. A host that fulfils these too comes first, if it has room.

    Raises:
        ValueError: both are empty, or one is not a dictionary of conditions.
    """

    def __init__(self, hard: LabelConditions | None, *, soft: LabelConditions | None = None) -> None:
        self.hard = dict(hard or {}) if _check(hard, "hard") else {}
        self.soft = dict(soft or {}) if _check(soft, "soft") else {}
        if not self.hard and not self.soft:
            raise ValueError("hard and soft of NodeLabelSchedulingStrategy cannot both be empty: give conditions")

    def constraint(self) -> Constraint:
        """Returns which hosts may take the work."""
        hard = [condition._term(key) for key, condition in self.hard.items()]
        soft = [condition._term(key) for key, condition in self.soft.items()]
        choices = [Choice(b"", hard + soft)] + [Choice(b"", hard)] * bool(soft)
        return Constraint(choices, insists=False, fails=False, fails_if_full=False)

    def __repr__(self) -> str:
        return f"NodeLabelSchedulingStrategy({self.hard!r}, soft={self.soft!r})"


def _check(conditions: Any, name: str) -> bool:
    """Whether conditions were given. Raises ValueError if they are malformed."""
    if conditions is None:
        return False
    if not isinstance(conditions, dict):
        raise ValueError(f"The {name} parameter must be a map, such as {{'key': In('value')}}, got {conditions!r}")
    for key, condition in conditions.items():
        if not isinstance(key, str):
            raise ValueError(f"The map key of the {name} parameter must be of type str, got {key!r}")
        if not isinstance(condition, (In, NotIn, Exists, DoesNotExist)):
            raise ValueError(
                f"The map value for key {key} of the {name} parameter must be one of In, NotIn, Exists and "
                f"DoesNotExist, got {condition!r}"
            )
    return True
