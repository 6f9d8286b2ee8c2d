"""Makes the constraint of a task or actor from its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from zray.scheduling.constraint import Choice, Constraint
from zray.scheduling.labels import read_selector


class Strategy(Protocol):
    """A value of the option ``scheduling_strategy`` that says which hosts may take the work."""

    def constraint(self) -> Constraint:
        """Returns which hosts may take the work."""


def combine(
    strategy: Strategy | None,
    selector: Mapping[str, str] | None,
    fallbacks: Sequence[Mapping[str, Any]] | None,
) -> Constraint | None:
    """Returns the hosts that may take work with these options; None if all of them may.

    ``fallbacks``: the option ``fallback_strategy``: further choices for hosts that ``selector`` does not admit. A host
    must fulfil the strategy and a selector.
    """
    given = strategy.constraint() if strategy is not None else Constraint([Choice(b"", [])], False, False, False)
    selectors = [read_selector(selector or {})]
    if selectors[0]:  # work without a selector may run anywhere, so it needs no fallbacks
        selectors += [read_selector(fallback["label_selector"] or {}) for fallback in fallbacks or ()]
    choices = [Choice(choice.node_id, choice.terms + terms) for choice in given.choices for terms in selectors]
    if choices == [Choice(b"", [])]:
        return None
    return given._replace(choices=choices)
