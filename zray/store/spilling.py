"""Chooses the objects to spill, and spills them. ``zray.store.spill`` has what happens on disk."""

from __future__ import annotations

import contextlib
import os

from zray.config import MIB
from zray.exceptions import OutOfDiskError
from zray.store.ledger import Candidate, EvictionQueue, Place, Victims
from zray.store.notices import Notices
from zray.store.pins import Pins
from zray.store.reading import Reader
from zray.store.sections import Changing, Locked
from zray.store.segments import Segments
from zray.store.spill import Turn, turn_to_spill

SPILLED_AT_ONCE_BYTES = 32 * MIB
"""A writer that needs less room spills this much, or a sixteenth of the capacity if that is less."""


class Spilling:
    """Spills the objects of one store, for one process."""

    def __init__(
        self,
        path: str,
        spill_dir: str,
        capacity_bytes: int,
        locked: Locked,
        changing: Changing,
        pins: Pins,
        segments: Segments,
        reader: Reader,
        notices: Notices,
    ) -> None:
        self._path = path
        self._spill_dir = spill_dir
        self._capacity_bytes = capacity_bytes
        self._locked = locked
        self._changing = changing
        self._pins = pins
        self._segments = segments
        self._reader = reader
        self._notices = notices
        self._to_spill = EvictionQueue(segments.look)  # for who has the turn to spill

    def spill(self, size: int, memory_full: bool) -> bool:
        """Spills objects until ``size`` bytes have room, as far as possible, and some more for the next writers.

        Returns False if that made no room.
        """
        made_room = False
        with turn_to_spill(self._path, self._spill_dir) as turn:
            if turn is None:
                return False
            shortage, victims = self._choose(size, memory_full)
            for victim in victims.needed:
                made_room |= self._spill_one(turn, victim)
            with contextlib.suppress(OutOfDiskError):  # the next writer that needs this room reports it
                for victim in victims.ahead:
                    made_room |= self._spill_one(turn, victim)
        if made_room:
            self._notices.spilling()
        return made_room or not shortage

    def _choose(self, size: int, memory_full: bool) -> tuple[int, Victims]:
        """Returns the bytes that are missing, and the objects to spill."""
        portion = min(SPILLED_AT_ONCE_BYTES, self._capacity_bytes // 16)
        for refill in (False, True):
            if refill:  # which takes long, so without the locks
                self._to_spill.refill(self._segments.last_uses(Place.LIVE))
            with self._changing as ledger:
                shortage = size if memory_full else ledger.shortage(size)
                victims = self._to_spill.take(shortage, portion)
            if victims.cover(shortage):
                break
        return shortage, victims

    def _spill_one(self, turn: Turn, victim: Candidate) -> bool:
        """Copies an object to disk and recycles its segment.

        Returns False if it stays in memory, since it is now read.
        """
        object_id = bytes.fromhex(os.path.basename(victim.path))
        with self._locked:
            opened = self._reader.open_pinned(object_id)
        if opened is None:
            return True
        fd, inode, size, object_bytes = opened
        copied = False
        try:
            turn.copy(fd, size, object_bytes)
            copied = True
        finally:
            os.close(fd)
            with self._changing as ledger:
                self._pins.unpin(inode)
                moved = copied and self._segments.move_to_disk(ledger, object_id, inode, turn.commit)
                if not moved:
                    turn.discard()
                    self._segments.recycle_doomed(ledger, inode)
        return moved or not os.path.exists(self._segments.live_path(object_id))
