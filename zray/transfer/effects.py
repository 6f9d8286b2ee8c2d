"""What the core of transfers has its shell do: the effects, in the order in which the shell performs them."""

from __future__ import annotations

from typing import Any

from zray.named_tuples import NamedTuple
from zray.protocol.messages import Pull


class Origin(NamedTuple):
    """The process that a request came from. ``channel``: by which it came; b"" through the broker."""

    process_id: bytes
    channel: bytes


class Ask(NamedTuple):
    """Send a request to a source by the channel to it."""

    source: bytes
    request: Pull


class Dial(NamedTuple):
    """Try to make a channel; then ``channel_up`` or ``channel_down``."""

    peer: bytes


class Serve(NamedTuple):
    """Answer a request from ``room``, which holds the wanted chunk, or from the store if ``room`` is None."""

    origin: Origin
    request: Pull
    room: memoryview | None


class Refuse(NamedTuple):
    """Refuse a request that came by a channel."""

    channel: bytes
    pull: int
    reason: str


class Reserve(NamedTuple):
    """Make room; then ``reserved`` or ``failed``."""

    number: int
    size: int


class Seal(NamedTuple):
    """Publish a complete object; then ``sealed`` or ``failed``."""

    number: int
    object_id: bytes


class GiveUp(NamedTuple):
    """Release the room of a pull, if there is any yet."""

    number: int


class Finished(NamedTuple):
    """Tell a reader that the object is here, or why not. ``kind``: the name of an exception, "" for success."""

    reader: Any
    kind: str
    message: str


Effect = Ask | Dial | Serve | Refuse | Reserve | Seal | GiveUp | Finished
