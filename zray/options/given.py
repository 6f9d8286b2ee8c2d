"""An option as it was given, the errors about it, and checks for integers, texts and flags.

An error names the place where the option was given, the option, its value, and what is allowed.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any, NoReturn

MAX_COUNT = 2**31 - 1
"""The largest count of retries, restarts and the like; -1 stands for no limit."""
MAX_TEXT_CHARS = 16_384
"""The longest name. Names are limited because many messages carry them."""
UNLIMITED = ", where -1 represents infinity"


@dataclasses.dataclass(frozen=True)
class Given:
    """An option as given. Its methods raise the errors about it."""

    what: str
    name: str
    value: Any
    resource: str = ""
    """The resource whose amount it is, if it is one of several in an option."""

    def wrong_type(self, allowed: str) -> NoReturn:
        kind = type(self.value)
        raise TypeError(
            f"{self.what}: {self.name}={self.value!r} has type {kind.__name__}. "
            f"The type of keyword {self.name!r} must be {allowed}, but received type {kind}"
        )

    def wrong_value(self, allowed: str) -> NoReturn:
        raise ValueError(f"{self.what}: {self.name}={self.value!r} is not allowed: {allowed}")

    def no_transports(self) -> NoReturn:
        raise NotImplementedError(
            f"{self.what}: {self.name}={self.value!r} is not supported: zray has no transports of tensors, which pass "
            f"through the object store. Leave the option out"
        )


Check = Callable[[Given], Any]


def count_from(least: int, meaning: str = "", most: int = MAX_COUNT) -> Check:
    """Returns a check for an integer from ``least`` to ``most``. Its errors contain the sentences of Ray's."""
    allowed = f"an integer >= {least}{meaning}"
    accepted = {-1: "None, 0, -1 or a positive integer", 0: "None, 0 or a positive integer"}.get(least)

    def check(given: Given) -> int:
        if isinstance(given.value, bool) or not isinstance(given.value, numbers.Integral):
            given.wrong_type(allowed)
        value = int(given.value)
        if value > most:
            given.wrong_value(f"it must be at most {most}")
        if value >= least:
            return value
        only = f"The keyword {given.name!r} only accepts {accepted}{meaning}" if accepted else f"it must be {allowed}"
        given.wrong_value(only)

    return check


def check_text(value: Any, what: str, name: str) -> str:
    """Checks that ``value``, the argument ``name`` of ``what``, is a non-empty string that can be sent.

    Returns it. Raises the errors of an option otherwise.
    """
    return read_text(Given(what, name, value))


def read_text(given: Given) -> str:
    if not isinstance(given.value, str):
        given.wrong_type("a string")
    return sendable(given.value, given) or given.wrong_value("it cannot be empty")


def sendable(text: str, given: Given) -> str:
    """Checks that ``text`` can be sent to other processes, shown and looked up there; returns it."""
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(
            f"{given.what}: {given.name} has {len(text):,} characters; at most {MAX_TEXT_CHARS:,} are allowed"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        given.wrong_value(f"it has no UTF-8 form, because of the character at position {error.start}")
    return text


def read_flag(given: Given) -> bool:
    return given.value if isinstance(given.value, bool) else given.wrong_type("True or False")
