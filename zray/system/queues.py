"""Taking from a ``queue.SimpleQueue`` with a time limit."""

from __future__ import annotations

import queue
from typing import TypeVar

T = TypeVar("T")


def take(items: queue.SimpleQueue[T], timeout_s: float | None) -> T:
    """Takes the next item; waits up to ``timeout_s`` seconds (None: without limit). Raises ``queue.Empty`` after that.

    ``SimpleQueue.get`` of CPython 3.10 may wait for ever instead: if its time is over between its first look and the
    wait, it passes a negative time to the lock, which means no limit (seen with 3.10.13, and not with 3.11.7). A look
    without a wait before it leaves the lock as the wait expects it.
    """
    if timeout_s is None:
        return items.get()
    try:
        return items.get_nowait()
    except queue.Empty:
        if timeout_s <= 0:
            raise
    return items.get(timeout=timeout_s)
