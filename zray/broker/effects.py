"""What the broker's core asks its shell to do besides sending messages."""

from __future__ import annotations

from typing import NamedTuple


class Departed(NamedTuple):
    """A process is gone for good: whatever comes in its name is refused from now on."""

    process_id: bytes


class LogLine(NamedTuple):
    """Write a line into the log of the cluster's life."""

    text: str


BrokerEffect = Departed | LogLine
