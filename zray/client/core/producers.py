"""The worker's side of streams: how many items of a generator have been sent, and how many more may be.

See ``zray.client.core.streams`` for the rules. The shell runs the generator. Before each step it looks whether there is
room, and waits if there is none.
"""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """What waits for room."""

    def wake(self) -> None:
        """Ends the wait. Called under the shell's lock."""


class Producer:
    """A generator that runs. ``skip``: the number of items that the owner has from an earlier attempt. ``sent``: the
    position of the next item to send. ``limit``: the number of items that may be sent in all. ``backpressure``: how far
    the limit is above the number of items that were taken; 0: the limit does not depend on these."""

    __slots__ = ("backpressure", "limit", "listener", "sent", "skip")

    def __init__(self, skip: int, limit: int, backpressure: int) -> None:
        self.skip = skip
        self.sent = skip
        self.limit = limit
        self.backpressure = backpressure
        self.listener: Listener | None = None

    @property
    def has_room(self) -> bool:
        """Whether another item may be sent."""
        return self.sent < self.limit

    @property
    def untaken(self) -> int:
        """The number of items that were sent and not taken, as far as is known here. Only with back-pressure."""
        return max(0, self.sent - (self.limit - self.backpressure))
