"""The operations that the programs of a simulated cluster yield.

User code is a generator that yields operations, and calls the methods of its ``SimProcess`` in between.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from typing import Any

from zray.named_tuples import NamedTuple

Program = Generator[Any, Any, Any]


class Sleep(NamedTuple):
    """Computes for ``seconds``."""

    seconds: float


class Ask(NamedTuple):
    """Asks the broker: ``send(on_answer)`` makes the request. The generator gets the answer, or None."""

    send: Callable[[Callable[[Any], None]], None]


class Emit(NamedTuple):
    """Yields an item of a stream, with these references inside. The program goes on when there is room for another."""

    refs: list[bytes]


class Until(NamedTuple):
    """Waits until an object is ready, whatever its value is."""

    object_id: bytes


class Get(NamedTuple):
    """Waits for objects. The generator gets the list of their values (lists of references), None for an error."""

    object_ids: list[bytes]


def is_over(program: Program) -> bool:
    """Whether a program has ended, or was interrupted."""
    return inspect.getgeneratorstate(program) == inspect.GEN_CLOSED
