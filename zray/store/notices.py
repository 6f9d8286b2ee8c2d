"""Messages to the user when a store is full: each once per store, from the process that finds it out first."""

from __future__ import annotations

import os
from collections.abc import Callable

from zray.store.ledger import StoreUsage
from zray.system.streams import say


class Notices:
    """The notices of one store."""

    def __init__(self, directory: str, spill_directory: str, capacity_bytes: int) -> None:
        self._directory = directory
        self._spill_directory = spill_directory
        self._capacity_bytes = capacity_bytes
        self.tell: Callable[[str], None] = _say
        """Called with each notice."""

    def spilling(self) -> None:
        """Objects have been spilled."""
        self._once(
            "spilling",
            lambda: (
                f"the object store is full (capacity: {self._capacity_bytes:,} bytes; object_store_memory sets it): "
                f"objects that no process uses now are moved to {self._spill_directory}, and read from there. "
                f"This is reported once"
            ),
        )

    def larger(self, object_bytes: int) -> None:
        """An object that is larger than the store is being written."""
        self._once(
            "larger",
            lambda: (
                f"an object of {object_bytes:,} bytes is larger than the object store (capacity: "
                f"{self._capacity_bytes:,} bytes; object_store_memory sets it). It is written to "
                f"{self._spill_directory}, and read from there, which may be slower. This is reported once"
            ),
        )

    def full(self, account: Callable[[], str]) -> None:
        """An object has to be written to disk, since nothing can be spilled."""
        self._once(
            "full",
            lambda: (
                f"the object store is full: {account()}. Objects without room are written to {self._spill_directory}, "
                f"and read from there, which may be slower. This is reported once"
            ),
        )

    def _once(self, what: str, text: Callable[[], str]) -> None:
        try:
            os.close(os.open(f"{self._directory}/told-{what}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError:  # another process has told it; or the store is gone, which the next step finds
            return
        self.tell(text())

    def account(self, usage: StoreUsage, in_use: dict[int, int], refilled_bytes: int, mine: set[int]) -> str:
        """Returns what fills the store, which processes hold it, and what to do about it.

        ``in_use``: bytes by inode of the segments whose values are in use, ``mine`` those that this process uses;
        ``refilled_bytes``: in free segments that are being filled again.
        """
        from zray.store.holders import describe_holders  # which few processes ever need

        text = (
            f"of the object store's capacity of {usage.capacity:,} bytes, {sum(in_use.values()):,} are in "
            f"{len(in_use)} objects whose values are in use ({usage.doomed:,} in freed ones), and "
            f"{usage.writing + refilled_bytes:,} in objects being written. "
        )
        if holders := describe_holders(self._directory, in_use, mine):
            text += f"Values are held by {holders}. "
        return f"{text}Drop values, keep copies instead (array.copy()), or give the store more (object_store_memory)"


def _say(text: str) -> None:
    say(f"zray: {text}")
