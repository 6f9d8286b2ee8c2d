"""The effects of the broker's core: what its shell does besides sending messages."""

from __future__ import annotations

from zray.logs.line import LogLine
from zray.named_tuples import NamedTuple


class Departed(NamedTuple):
    """A process is gone for good: everything that comes in its name is refused from now on."""

    process_id: bytes


class Journaled(NamedTuple):
    """A change of what is kept over a restart: a record of ``zray.broker.journal_records``. None: it is gone.

    The shell writes the changes of a turn before anything of that turn leaves.
    """

    key: bytes
    record: bytes | None


BrokerEffect = Departed | Journaled | LogLine
