"""What a host sends of its store to other machines: pieces, each when it is asked for (``client/core/pulls.py``).

Objects that are being sent stay mapped, and so pinned, between two pieces; not longer than a moment after the last.
"""

from __future__ import annotations

from collections import OrderedDict

from zray.protocol.messages import Chunk, Pull, PullFailed
from zray.store import SegmentMissing, Store

MAX_OPEN = 16
MAX_CHUNK_BYTES = 1 << 20


class Outgoing:
    """Answers requests for pieces of objects in ``store``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: OrderedDict[bytes, memoryview] = OrderedDict()
        self._used: set[bytes] = set()

    def chunk(self, request: Pull) -> Chunk | PullFailed:
        """The piece that was asked for, or why it cannot be had."""
        try:
            view = self._view(request.object_id)
        except (SegmentMissing, OSError) as error:
            return PullFailed(request.pull, f"its host cannot read it: {error}")
        end = request.offset + min(request.length, MAX_CHUNK_BYTES)
        return Chunk(request.pull, request.offset, len(view), bytes(view[request.offset : end]))

    def _view(self, object_id: bytes) -> memoryview:
        self._used.add(object_id)
        view = self._open.get(object_id)
        if view is None:
            view = self._open[object_id] = self._store.read(object_id)
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(object_id)
        return view

    def rest(self) -> None:
        """Called now and then: lets go of what was not asked for since the last time."""
        for object_id in self._open.keys() - self._used:
            del self._open[object_id]
        self._used.clear()
