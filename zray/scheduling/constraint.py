"""Which hosts may take a task or actor, and which of them come first. Pure, and the same for clients and the broker.

A constraint is a list of choices. A choice is a set of hosts: those that have certain labels, or one host. Earlier
choices are preferred. A constraint travels as a part of the shape (``zray.protocol.codec.shape_key``), because work
with another constraint waits in another line. Work that may run anywhere has no constraint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zray.named_tuples import NamedTuple

NODE_ID_LABEL = "ray.io/node-id"
"""The label that every host has: its identifier, in hexadecimal digits."""
IN, NOT_IN, EXISTS, DOES_NOT_EXIST = OPERATORS = range(4)
"""The operators of a term."""

_SIGNS = {IN: "in", NOT_IN: "not in", EXISTS: "exists", DOES_NOT_EXIST: "does not exist"}


class Term(NamedTuple):
    """A condition on one label of a host. ``values``: for ``IN`` and ``NOT_IN``.

    A host without the label fulfils ``NOT_IN`` and ``DOES_NOT_EXIST``.
    """

    key: str
    operator: int
    values: list[str]

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether a host with these labels fulfils the condition."""
        if self.operator in (EXISTS, DOES_NOT_EXIST):
            return (self.key in labels) == (self.operator == EXISTS)
        return (labels.get(self.key) in self.values) == (self.operator == IN)

    def __str__(self) -> str:
        values = f" ({', '.join(self.values)})" if self.values else ""
        return f"{self.key} {_SIGNS[self.operator]}{values}"


class Choice(NamedTuple):
    """The hosts that fulfil all terms. ``node_id``: only this host; empty: any."""

    node_id: bytes
    terms: list[Term]

    def admits(self, node_id: bytes, labels: Mapping[str, str]) -> bool:
        """Whether a host belongs to this choice."""
        return self.node_id in (b"", node_id) and all(term.holds(labels) for term in self.terms)

    def __str__(self) -> str:
        parts = [f"node {self.node_id.hex()}"] if self.node_id else []
        return " and ".join(parts + [str(term) for term in self.terms]) or "any node"


class Constraint(NamedTuple):
    """The hosts that may take the work.

    Usually the work runs on a host of the first choice that has room. If no host of any choice has room, it waits.
    """

    choices: list[Choice]
    """The most preferred one first; never empty."""
    insists: bool
    """A later choice counts only if no host of an earlier choice could take the work even when it is empty."""
    fails: bool
    """The work fails, instead of waiting for hosts to join, if no host of any choice could ever take it."""
    fails_if_full: bool
    """The work fails if no host of any choice has room at once."""

    def __str__(self) -> str:
        return ", or else ".join(str(choice) for choice in self.choices)

    def to_row(self) -> list[Any]:
        """Returns the form on the wire."""
        choices = [[choice.node_id, [list(term) for term in choice.terms]] for choice in self.choices]
        return [choices, self.insists, self.fails, self.fails_if_full]


def constraint_from_row(row: Any) -> Constraint:
    """Reads what ``Constraint.to_row`` made. Raises ValueError if it is malformed."""
    if type(row) is not list or len(row) != 4 or not all(type(flag) is bool for flag in row[1:]):
        raise ValueError("a constraint")
    if type(row[0]) is not list or not row[0]:
        raise ValueError("a constraint without choices")
    return Constraint([_choice(choice) for choice in row[0]], *row[1:])


def _choice(row: Any) -> Choice:
    if type(row) is not list or len(row) != 2 or type(row[0]) is not bytes or type(row[1]) is not list:
        raise ValueError("a choice of hosts")
    return Choice(row[0], [_term(term) for term in row[1]])


def _term(row: Any) -> Term:
    if type(row) is not list or len(row) != 3:
        raise ValueError("a condition on a label")
    key, operator, values = row
    if type(key) is not str or operator not in _SIGNS or type(operator) is not int or type(values) is not list:
        raise ValueError("a condition on a label")
    if not all(type(value) is str for value in values):
        raise ValueError("the values of a condition on a label")
    return Term(key, operator, values)
