"""The pins that the buffers of this process hold, until each buffer, and everything made from it, is gone.

A buffer can be collected at any point of any thread, also while the store's locks are held. So the end of a pin is only
noted, in C, and the next call of any method processes it. A ``__del__`` would act sooner. But an exception of a signal
handler could interrupt it before its first line: the pin would stay for ever, and the exception would be lost.
"""

from __future__ import annotations

import collections
import weakref
from collections.abc import Callable
from typing import Any

from zray.store.ledger import Place
from zray.store.ledger_file import LedgerFile
from zray.store.maps import HeldMap, Maps
from zray.store.pins import Pins
from zray.store.sections import Locked
from zray.store.segments import Segments


class _HeldPin(weakref.ref[Any]):
    """A weak reference to a buffer that knows what to unpin when the buffer is gone."""

    __slots__ = ("inode",)
    inode: int


class HeldPins:
    """The held pins of one process on the segments of one store. ``locked.ended``: those that are over."""

    def __init__(self, locked: Locked, ledger_file: LedgerFile, pins: Pins, maps: Maps, segments: Segments) -> None:
        self._locked = locked
        self._ledger_file = ledger_file
        self._pins = pins
        self._maps = maps
        self._segments = segments
        self._ended: collections.deque[_HeldPin | HeldMap] = locked.ended  # see Maps
        self._held: dict[int, _HeldPin] = {}  # by id(): they hash and compare like their referents

    def hold(self, buffer: Any, inode: int, ended: Callable[[Any], None] | None = None) -> None:
        """Has one pin of a segment released when a buffer, and everything made from it, is gone."""
        held = _HeldPin(buffer, ended or self._ended.append)
        held.inode = inode
        self._held[id(held)] = held

    def inodes(self) -> set[int]:
        """The inodes of the segments that this process uses."""
        return {held.inode for held in self._held.values()}

    def settle_if_idle(self, quietly: bool = False) -> None:
        """Releases pins and maps whose buffers are gone, unless the lock is held: then its holder does it on release.

        ``quietly``: in a finalizer, where an exception of a signal handler would be lost.
        """
        self._locked.shield.enter_section()
        try:
            self.settle_in_section()
        finally:
            self._locked.shield.leave_section(quietly)

    def settle_in_section(self) -> None:
        """Like ``settle_if_idle``. The user's code is kept out of this thread."""
        while self._ended and self._locked.lock.acquire(blocking=False):
            try:
                maps = self._settle()
            finally:
                self._locked.lock.release()
            for held in maps:
                self._maps.unmap(held)

    def _settle(self) -> list[HeldMap]:
        """Releases ended pins. Returns the maps to unmap, which may take a while, without the lock."""
        doomed: list[int] = []
        maps: list[HeldMap] = []
        while self._ended:
            held = self._ended.popleft()
            if isinstance(held, HeldMap):
                maps.append(held)
                continue
            del self._held[id(held)]
            if self._pins.unpin(held.inode) and not self._locked.unusable and self._ledger_file.peek(Place.DOOMED):
                doomed.append(held.inode)
        doomed = [inode for inode in doomed if self._segments.is_doomed(inode)]
        if doomed:
            self._recycle_if_idle(doomed)
        if self._locked.unusable and not self._pins.in_use:
            self._pins.close()
        return maps

    def _recycle_if_idle(self, doomed: list[int]) -> None:
        """Recycles segments, unless another process holds the lock: then the sweep does it."""
        ledger = self._ledger_file.open_if_idle()
        if ledger is None:
            return
        complete = False
        try:
            for inode in doomed:
                self._segments.recycle_doomed(ledger, inode)
            complete = True
        finally:
            self._ledger_file.shut(complete)

    def hold_after_close(self) -> None:
        """Has the pins of values that are still alive released when these are gone: no later call would do it.

        Under the lock.
        """
        for held in list(self._held.values()):
            if (buffer := held()) is not None:
                del self._held[id(held)]
                self.hold(buffer, held.inode, self._ended_late)
                del buffer

    def _ended_late(self, held: _HeldPin) -> None:
        """A value is gone that was read before the store was closed."""
        self._ended.append(held)
        self.settle_if_idle(quietly=True)
