"""The effects of the broker's core: what its shell does besides sending messages."""

from __future__ import annotations

from typing import NamedTuple

from zray.logs.line import LogLine


class Departed(NamedTuple):
    """A process is gone for good: everything that comes in its name is refused from now on."""

    process_id: bytes


BrokerEffect = Departed | LogLine
