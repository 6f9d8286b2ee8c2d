"""The syntax of labels and of label selectors. It is that of Kubernetes, as in Ray.

A key is ``name`` or ``prefix/name``. A name or value has at most 63 letters, digits, ``-``, ``_`` and ``.``, with a
letter or digit at both ends. The value of a selector is ``v``, ``!v``, ``in(a,b)`` or ``!in(a,b)``. A value may be
empty, a name may not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zray.scheduling.constraint import IN, NOT_IN, Term

MAX_NAME_CHARS = 63
MAX_PREFIX_CHARS = 253
_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9])?"
_NAME_PATTERN = re.compile(_NAME)
_SELECTOR_PATTERN = re.compile(rf"(?P<no>!?)(?:(?:in)?\((?P<many>{_NAME}(?:, ?{_NAME})*)\)|(?P<one>{_NAME}))")
_RULE = (
    f"it must have 1 to {MAX_NAME_CHARS} letters, digits, dashes, underscores and dots, with a letter or digit at both "
    f"ends"
)


def check_labels(labels: Any) -> dict[str, str]:
    """Checks the labels of a host. Returns them.

    Raises:
        TypeError: it is not a dictionary of strings.
        ValueError: a key or value does not follow the syntax.
    """
    if not _is_of_strings(labels):
        raise TypeError(f"labels must be a dict of strings, got {labels!r}")
    for key, value in labels.items():
        _check_key(key)
        if value and not _is_name(value):
            raise ValueError(f"Invalid label value {value!r} of {key!r}: {_RULE}, or be empty")
    return dict(labels)


def read_selector(selector: Any) -> list[Term]:
    """Reads a label selector: a condition for each label, by key.

    Raises:
        TypeError: it is not a dictionary of strings.
        ValueError: a key or value does not follow the syntax.
    """
    if not _is_of_strings(selector):
        raise TypeError(f"a label selector must be a dict of strings, got {selector!r}")
    return [_read_term(key, value) for key, value in selector.items()]


def write_selector(terms: Sequence[Term]) -> dict[str, str]:
    """Returns the label selector that ``read_selector`` made these conditions of."""
    return {term.key: _write_term(term) for term in terms}


def _write_term(term: Term) -> str:
    no = "!" if term.operator == NOT_IN else ""
    return f"{no}{term.values[0]}" if len(term.values) == 1 else f"{no}in({','.join(term.values)})"


def _read_term(key: str, value: str) -> Term:
    _check_key(key)
    if not value:
        return Term(key, IN, [""])
    match = _SELECTOR_PATTERN.fullmatch(value)
    values = re.split(", ?", match["many"] or match["one"]) if match is not None else []
    if match is None or not all(len(each) <= MAX_NAME_CHARS for each in values):
        raise ValueError(
            f"Invalid label selector value {value!r} for {key!r}: it must be 'v', '!v', 'in(a,b)' or '!in(a,b)'. Of "
            f"each value in it, {_RULE}"
        )
    return Term(key, NOT_IN if match["no"] else IN, values)


def _is_of_strings(given: Any) -> bool:
    return isinstance(given, Mapping) and all(isinstance(part, str) for item in given.items() for part in item)


def _check_key(key: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > MAX_PREFIX_CHARS or not _NAME_PATTERN.fullmatch(prefix)):
        raise ValueError(
            f"Invalid label key prefix {prefix!r} of {key!r}: it must be a domain name of at most {MAX_PREFIX_CHARS} "
            f"characters"
        )
    if not _is_name(name):
        raise ValueError(f"Invalid label key name {name!r} of {key!r}: {_RULE}")


def _is_name(text: str) -> bool:
    return len(text) <= MAX_NAME_CHARS and _NAME_PATTERN.fullmatch(text) is not None
