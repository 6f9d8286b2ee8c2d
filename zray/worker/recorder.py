"""The flight recorder: a page that a worker writes and its host keeps, to be read when the worker has died.

It tells what a process can no longer tell: which task it had begun last, and which return values it had stored. A value
that is in the store while its answer was lost with the worker would stay there for as long as its owner lives.

Layout: slots of 28 bytes. The first begins with the task; the others have object identifiers, the last stored ones
in turns. Empty slots are zeros.
"""

from __future__ import annotations

import itertools
from typing import Any

from zray.ids import OBJECT_ID_BYTES, TASK_ID_BYTES, return_id, task_of

RECORDER_BYTES = 4096
MOST_VALUES = 10_000
"""Of one call: what lies on the page is only as good as the process that died."""
_SLOTS = RECORDER_BYTES // OBJECT_ID_BYTES


class Recorder:
    """The worker's end. ``page``: ``RECORDER_BYTES``, shared with the host. May be used by any thread."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self._slots = itertools.cycle(range(1, _SLOTS))

    def begins(self, task_id: bytes) -> None:
        """A task is about to run."""
        self._page[0:TASK_ID_BYTES] = task_id

    def stores(self, object_id: bytes) -> None:
        """A return value is about to be stored."""
        start = next(self._slots) * OBJECT_ID_BYTES
        self._page[start : start + OBJECT_ID_BYTES] = object_id


def begun(page: bytes) -> bytes:
    """The task that was begun last; empty if there was none."""
    task_id = page[:TASK_ID_BYTES]
    return task_id if any(task_id) else b""


def stored(page: bytes) -> list[bytes]:
    """Return values that may be in the store: those of the tasks that are recorded, from the first to the last one.

    Values of a call are stored in order, so the last that is recorded tells of those before it.
    """
    last: dict[bytes, int] = {}
    for start in range(OBJECT_ID_BYTES, _SLOTS * OBJECT_ID_BYTES, OBJECT_ID_BYTES):
        object_id = page[start : start + OBJECT_ID_BYTES]
        if any(object_id):
            task_id, index = task_of(object_id), int.from_bytes(object_id[TASK_ID_BYTES:], "big")
            last[task_id] = max(index, last.get(task_id, 0))
    return [
        return_id(task_id, index)
        for task_id, n_values in last.items()
        for index in range(1, min(n_values, MOST_VALUES) + 1)
    ]
