"""What a client core asks its shell to do besides sending messages."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class FreeSegment(NamedTuple):
    """A stored object can no longer be reached."""

    host: bytes
    object_id: bytes


class Interrupt(NamedTuple):
    """Stop the running task, if it still runs."""

    task_id: bytes


class ShowLogs(NamedTuple):
    """Lines that workers printed: [name, pid, stream, [lines]]; ``left_out``: how many are missing."""

    entries: list[Any]
    left_out: int


class Unhandled(NamedTuple):
    """A task has failed, and nobody has heard of its error, nor can any more."""

    text: str


class Warn(NamedTuple):
    """A warning for the user."""

    text: str


class Callback(Protocol):
    """Run code of the user's, such as the callbacks of a future."""

    def complete(self) -> None:
        """Runs it."""


ClientEffect = Callback | FreeSegment | Interrupt | ShowLogs | Unhandled | Warn
