"""``inspect_serializability``: prints which part of a value keeps it from being serialized.

Functions are searched through the variables that they use, everything else through its attributes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from zray.exceptions import SerializationError
from zray.serialization import serialize

_WIDTH = 80


class FailureTuple:
    """A value that cannot be serialized. ``path``: the names that lead to it; ``parent``: the value that refers to it,
    or None."""

    def __init__(self, obj: Any, path: tuple[str, ...], parent: Any) -> None:
        self.obj = obj
        self.path = path
        self.parent = parent

    @property
    def name(self) -> str:
        """The last name of ``path``; "unknown" if it has none."""
        return self.path[-1] if self.path else "unknown"

    def __repr__(self) -> str:
        return f"FailTuple({self.name} [path={' -> '.join(self.path)}, obj={self.obj!r}, parent={self.parent!r}])"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Tells whether a value can be serialized, and prints how it looked for the part that cannot.

    Args:
        base_obj: the value, for instance a function or class that ``zray.remote`` would send.
        name: what to call it in the output.
        depth: how many steps to go into the value.
        print_file: where to print; default: stdout.

    Returns:
        Whether it can be serialized, and the parts found that cannot.
    """
    search = _Search(print_file if print_file is not None else sys.stdout)
    title = f"Checking serializability of {base_obj!r}"
    line = "=" * min(len(title), _WIDTH)
    search.say(f"{line}\n{title}\n{line}")
    if search.is_serializable(base_obj):
        return True, set()
    search.look_into(base_obj, (name,) if name is not None else (), None, depth)
    found = "\n".join(f"    {each!r}" for each in search.failures)
    search.say(
        f"{line}\nCannot be serialized:\n{found}\n"
        f"There may be other parts like that. Make them inside the function or class that uses them, or leave them out "
        f"of its state.\n{line}"
    )
    return False, search.failures


class _Search:
    def __init__(self, file: TextIO) -> None:
        self.failures: set[FailureTuple] = set()
        self._file = file
        self._level = 0

    def say(self, text: str) -> None:
        indent = "    " * self._level
        print("\n".join(indent + line for line in text.splitlines()), file=self._file)

    def is_serializable(self, value: Any) -> bool:
        try:
            serialize(value)
        except SerializationError as error:
            cause = error.__cause__ if error.__cause__ is not None else error
            self.say(f"!!! FAIL: {type(cause).__name__}: {cause}")
            return False
        return True

    def look_into(self, value: Any, path: tuple[str, ...], parent: Any, depth: int) -> None:
        """Adds the innermost part of ``value`` that fails. ``value`` itself is known to fail."""
        if depth > 0:
            for name, member in _members(value):
                self._level += 1
                try:
                    self.say(f"Serializing {name!r}: {member!r:.200}")
                    if not self.is_serializable(member):
                        self.look_into(member, (*path, name), value, depth - 1)
                        return
                finally:
                    self._level -= 1
            self.say("No part of it fails alone.")
        self.failures.add(FailureTuple(value, path, parent))


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """The variables of a function; the functions and then the other attributes of everything else."""
    if inspect.isfunction(value):
        used = inspect.getclosurevars(value)
        yield from used.globals.items()
        yield from used.nonlocals.items()
        return
    members = inspect.getmembers(value)
    yield from (item for item in members if inspect.isfunction(item[1]))
    for name, member in members:
        special = name.startswith("__") and name.endswith("__")
        if not special and not inspect.isbuiltin(member) and not inspect.isfunction(member):
            yield name, member
