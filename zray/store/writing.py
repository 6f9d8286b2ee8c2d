"""A segment that is being filled with an object, and the pauses of a writer that waits for room."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from zray.ids import OBJECT_ID_BYTES
from zray.store.ledger import TRAILER_BYTES
from zray.store.maps import Mapping
from zray.store.segments import BLANK_TRAILER, Draft, trailer_for

FIRST_PAUSE_S = 0.005
LAST_PAUSE_S = 0.1


class Writing:
    """A segment that is being filled. Ends with the first call of ``publish`` or ``give_up``.

    ``view``: where the object's bytes go; page-aligned, with arbitrary content at first. Keep no buffer on it.
    """

    def __init__(
        self,
        draft: Draft,
        mapping: Mapping,
        size: int,
        make_pages: Callable[[Draft, int, int, Callable[[], bool]], None],
        publish: Callable[[Draft, Mapping, bytes, bool], None],
        give_up: Callable[[Draft, Mapping], None],
    ) -> None:
        """Takes the functions for the segment; ``make_pages(draft, start, end, needed)`` may wait for room."""
        self._make_pages = make_pages
        self._publish = publish
        self._give_up = give_up
        self._draft = draft
        self._mapping = mapping
        self._over = False
        self._unneeded = False
        self._lock = threading.Lock()  # between the thread that makes pages and the one that ends it
        self.size = size
        self.view = mapping.buffer(size)

    def publish(self, object_id: bytes, copy: bool = False) -> None:
        """Makes the object readable. ``copy``: another host keeps the object, so this one may be dropped for room.

        Raises BufferError, with nothing written, if a buffer made from the view is still alive, or if pages are
        missing. Raises ValueError if ``object_id`` is malformed.
        """
        with self._lock:
            if self._over:
                raise BufferError("a segment that was published or given up cannot be published")
            self._over = True
            try:
                self._release()
                check_id(object_id)
                if self._mapping.lent:
                    raise BufferError("the function that filled the object kept a buffer, and could change it later")
                if not self._mapping.complete:
                    raise BufferError("some pages of the object have not been made")
                self._mapping.store(self._draft.size - TRAILER_BYTES, trailer_for(object_id, self.size))
            except BaseException:
                self._give_up(self._draft, self._mapping)
                raise
            self._publish(self._draft, self._mapping, object_id, copy)

    def give_up(self) -> None:
        """Ends an unpublished segment. Never waits: if a thread is making pages, that thread releases the segment."""
        self._unneeded = True
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._release()
            self._give_up(self._draft, self._mapping)

    @property
    def prepared(self) -> int:
        """The number of its bytes that can be written to; all of them only when the whole segment has pages."""
        return self.size if self._mapping.complete else min(self._mapping.populated, self.size - 1)

    def prepare(self, n_bytes: int) -> bool:
        """Makes the pages of the next ``n_bytes``. Returns False when the segment has ended, or all pages exist.

        Another thread than the one that ends the segment may call it. Raises as ``Store.write`` does; the caller then
        gives up.
        """
        try:
            with self._lock:
                return self._prepare(n_bytes)
        finally:
            if self._unneeded:  # another thread gave it up meanwhile, without waiting
                self.give_up()

    def _is_needed(self) -> bool:
        return not self._unneeded

    def _prepare(self, n_bytes: int) -> bool:
        mapping, draft = self._mapping, self._draft
        if self._over or not self._is_needed() or mapping.complete:
            return False
        end = min(mapping.populated + n_bytes, draft.size)
        if draft.fresh:
            self._make_pages(draft, mapping.populated, end, self._is_needed)
        if not self._is_needed():
            return False
        mapping.populate(mapping.populated, end - mapping.populated)
        if end == draft.size:
            mapping.store(draft.size - TRAILER_BYTES, BLANK_TRAILER)
        mapping.populated = end
        return True

    def _release(self) -> None:
        with contextlib.suppress(BufferError):
            self.view.release()


class Patience:
    """Pauses of growing length, until ``wait_s`` seconds have passed without progress of a spill."""

    def __init__(
        self,
        wait_s: float,
        pulse: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._wait_s = wait_s
        self._pulse = pulse
        self._clock = clock
        self._sleep = sleep
        self._last_pulse = pulse()
        self._deadline = clock() + wait_s
        self._pause_s = FIRST_PAUSE_S

    def pause(self) -> bool:
        """Sleeps a while. Returns False at once when the time is over."""
        if self._last_pulse != (now_pulse := self._pulse()):
            self._last_pulse = now_pulse
            self._deadline = self._clock() + self._wait_s
        left_s = self._deadline - self._clock()
        if left_s <= 0:
            return False
        self._sleep(min(self._pause_s, left_s))
        self._pause_s = min(2 * self._pause_s, LAST_PAUSE_S)
        return True


def check_id(object_id: bytes) -> None:
    """Raises ValueError unless it is an identifier of an object."""
    if len(object_id) != OBJECT_ID_BYTES:
        raise ValueError(f"an object's identifier has {OBJECT_ID_BYTES} bytes, got {object_id!r}")
