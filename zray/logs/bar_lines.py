"""States of progress bars within the output of workers: a bar of a task is a line of JSON, which the driver draws.

``zray.experimental.tqdm_ray`` writes such lines in workers, and draws the bars of all processes at the driver. The code
that shows workers' output takes the lines out, and hides the bars while it writes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, Protocol

MAGIC = "__ray_tqdm_magic_token__"
"""Ray's mark of such a line, for programs that look for it."""
BEGIN = '{"__magic_token__": "' + MAGIC
_KINDS: dict[str, tuple[type, ...]] = {
    "x": (int, float),
    "desc": (str,),
    "total": (int, float, type(None)),
    "unit": (str,),
    "pid": (int,),
    "ip": (str,),
    "uuid": (str,),
    "closed": (bool,),
}
"""The fields of a state that are used, and their types."""


class Shown(Protocol):
    """The bars that a process draws."""

    def hide_bars(self) -> None:
        """Removes the bars from the terminal, until ``unhide_bars``."""

    def unhide_bars(self) -> None:
        """Draws the bars again."""


shown: Shown | None = None
"""What this process draws; None before its first bar."""


def encode(state: dict[str, Any]) -> str:
    """Returns the line of a state."""
    return json.dumps({"__magic_token__": MAGIC, **state})


def decode(line: str) -> dict[str, Any] | None:
    """Returns the state in a line; None if the line is malformed. Any program may print any line."""
    try:
        state = json.loads(line)
    except ValueError:
        return None
    well_formed = type(state) is dict and all(isinstance(state.get(name), kind) for name, kind in _KINDS.items())
    return state if well_formed else None


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Hides the bars of this process while something else is written."""
    bars = shown
    if bars is None:
        yield
        return
    bars.hide_bars()
    try:
        yield
    finally:
        bars.unhide_bars()
