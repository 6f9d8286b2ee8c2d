"""The flight recorder: a page of memory that a worker writes and that its host reads when the worker has died.

It tells which task the worker had begun last, and which return values it had stored. Such a value may be in the store
while its answer was lost with the worker. Without the recorder it would stay there until its owner ends.

Layout: slots of 28 bytes. The first slot begins with the task. The other slots are a ring of the object identifiers
that were stored last. Empty slots are zeros.
"""

from __future__ import annotations

import itertools
from typing import Any

from zray.ids import OBJECT_ID_BYTES, TASK_ID_BYTES, return_id, task_of

RECORDER_BYTES = 4096
MOST_VALUES = 10_000
"""The most values of one call that ``stored`` returns. A stream may have any number, and a worker that crashed may
have overwritten the page."""
_SLOTS = RECORDER_BYTES // OBJECT_ID_BYTES


class Recorder:
    """The worker's end of the page. Any thread may use it. ``page``: ``RECORDER_BYTES``, shared with the host."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self._slots = itertools.cycle(range(1, _SLOTS))

    def begins(self, task_id: bytes) -> None:
        """Records that a task is about to run."""
        self._page[0:TASK_ID_BYTES] = task_id

    def stores(self, object_id: bytes) -> None:
        """Records that a return value is about to be stored."""
        start = next(self._slots) * OBJECT_ID_BYTES
        self._page[start : start + OBJECT_ID_BYTES] = object_id


def begun(page: bytes) -> bytes:
    """Returns the task that was begun last, or empty bytes if there was none."""
    task_id = page[:TASK_ID_BYTES]
    return task_id if any(task_id) else b""


def stored(page: bytes) -> list[bytes]:
    """Returns the return values that may be in the store.

    They are those of each recorded task up to the last recorded one, and at most the last ``MOST_VALUES`` of them. A
    call stores its values in order, so the last recorded value implies those before it.
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
        for index in range(max(1, n_values - MOST_VALUES + 1), n_values + 1)
    ]
