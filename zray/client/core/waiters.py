"""What waits for one object: a list while there are few, and a dictionary when there are many.

Nearly all objects have one waiter, and a list is small. But 20,000 tasks may wait for one object and be cancelled one
by one, and to remove one from a list takes a search.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Protocol, TypeAlias

FEW = 16
"""The number of waiters up to which they are in a list."""


class Waiting(Protocol):
    """Something that waits for objects."""

    def ready(self, object_id: bytes) -> None:
        """Reports that the object has a value or an error now."""


Waiters: TypeAlias = "list[Waiting] | Counter[Waiting]"
"""One may be in it several times: a task with the same object as two arguments."""


def with_waiter(waiters: Waiters | None, waiter: Waiting) -> Waiters:
    """Returns ``waiters`` with one more. May change ``waiters``."""
    if waiters is None:
        return [waiter]
    if isinstance(waiters, Counter):
        waiters[waiter] += 1
        return waiters
    waiters.append(waiter)
    return waiters if len(waiters) <= FEW else Counter(waiters)


def remove_waiter(waiters: Waiters, waiter: Waiting) -> None:
    """Removes ``waiter`` once, if it is there."""
    if isinstance(waiters, Counter):
        if waiters[waiter] > 1:
            waiters[waiter] -= 1
        else:
            del waiters[waiter]  # a Counter accepts that for what it does not have
    elif waiter in waiters:
        waiters.remove(waiter)


def all_waiters(waiters: Waiters) -> Iterable[Waiting]:
    """Returns the waiters; each as often as it was added."""
    if isinstance(waiters, Counter):
        return itertools.chain.from_iterable(itertools.repeat(waiter, n) for waiter, n in waiters.items())
    return waiters
