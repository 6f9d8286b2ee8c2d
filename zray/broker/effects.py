"""The effects of the broker's core: what its shell does besides sending messages."""

from __future__ import annotations

from zray.logs.line import LogLine
from zray.named_tuples import NamedTuple


class Departed(NamedTuple):
    """A process is gone for good: everything that comes in its name is refused from now on."""

    process_id: bytes


BrokerEffect = Departed | LogLine
