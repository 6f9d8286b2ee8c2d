"""The effects of a client core: what it asks its shell to do besides sending messages."""

from __future__ import annotations

from typing import Protocol

from zray.named_tuples import NamedTuple
from zray.protocol.records import PrintedLines


class FreeSegment(NamedTuple):
    """Free the segment of a stored object that can no longer be reached."""

    host: bytes
    object_id: bytes


class OfferLane(NamedTuple):
    """Listen for a caller of this process's actor."""

    caller: bytes


class DialLane(NamedTuple):
    """Connect to the worker of an actor, and show the token, which is the lane's name."""

    address: str
    name: bytes


class CloseLane(NamedTuple):
    """Close the socket of a lane, if it has one."""

    name: bytes


class Interrupt(NamedTuple):
    """Stop the running task, if it still runs."""

    task_id: bytes


class ShowLogs(NamedTuple):
    """Show lines that workers printed. ``left_out``: the number of lines that are missing."""

    entries: list[PrintedLines]
    left_out: int


class Unhandled(NamedTuple):
    """Show the error of a failed task that no process has fetched, and that none can fetch any more."""

    text: str


class Warn(NamedTuple):
    """Show a warning to the user."""

    text: str


class Callback(Protocol):
    """Run user code, such as the callbacks of a future."""

    def complete(self) -> None:
        """Runs the code."""


LaneEffect = OfferLane | DialLane | CloseLane
ClientEffect = Callback | FreeSegment | Interrupt | LaneEffect | ShowLogs | Unhandled | Warn
