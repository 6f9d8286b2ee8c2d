"""The worker's side of streams: how many items of a generator have been sent, and how many more may be.

See ``zray.client.core.streams`` for the rules. The shell runs the generator. Before each step it looks whether there is
room, and waits if there is none.
"""

from __future__ import annotations

from typing import Protocol

from zray.client.core.payloads import Return

FULL_BYTES = 64 << 10
"""Gathered items of this many bytes are sent, although more may follow at once."""


class Listener(Protocol):
    """What waits for room."""

    def wake(self) -> None:
        """Ends the wait. Called under the shell's lock."""


class Producer:
    """A generator that runs. ``skip``: the number of items that the owner has from an earlier attempt. ``sent``: the
    position of the next item. ``gathered``: the last items before it, which leave with the next output. ``limit``: the
    number of items that may be sent in all. ``backpressure``: how far the limit is above the number of items that were
    taken; 0: the limit does not depend on these."""

    __slots__ = ("_gathered_bytes", "backpressure", "gathered", "limit", "listener", "sent", "skip")

    def __init__(self, skip: int, limit: int, backpressure: int) -> None:
        self.skip = skip
        self.sent = skip
        self.gathered: list[Return] = []
        self._gathered_bytes = 0
        self.limit = limit
        self.backpressure = backpressure
        self.listener: Listener | None = None

    def gather(self, items: list[Return]) -> None:
        """Adds items that are to be sent soon."""
        self.sent += len(items)
        self.gathered += items
        for item in items:
            self._gathered_bytes += len(item.data)

    def take_gathered(self) -> list[Return]:
        """Takes the items that are to be sent now."""
        items, self.gathered = self.gathered, []
        self._gathered_bytes = 0
        return items

    @property
    def is_full(self) -> bool:
        """Whether no more items should be gathered."""
        return self._gathered_bytes >= FULL_BYTES

    @property
    def has_room(self) -> bool:
        """Whether another item may be sent."""
        return self.sent < self.limit

    @property
    def untaken(self) -> int:
        """The number of items that were sent and not taken, as far as is known here. Only with back-pressure."""
        return max(0, self.sent - (self.limit - self.backpressure))
