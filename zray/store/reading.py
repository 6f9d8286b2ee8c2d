"""Reading: opens an object's segment, pins it, and maps it. Spilled objects are mapped where they are, on disk."""

from __future__ import annotations

import os

from zray.store.held_pins import HeldPins
from zray.store.ledger import TRAILER_BYTES
from zray.store.maps import MapCache, Maps, copy_of
from zray.store.pins import Pins
from zray.store.segments import Segments, size_in_trailer


class Reader:
    """Reads the objects of one store for one process. All methods: under the lock between threads."""

    def __init__(self, pins: Pins, held: HeldPins, maps: Maps, read_maps: MapCache, segments: Segments) -> None:
        self._pins = pins
        self._held = held
        self._maps = maps
        self._read_maps = read_maps
        self._segments = segments

    def attach(self, object_id: bytes) -> memoryview | None:
        """Returns a view of an object; None if it is gone, or being moved. Raises OSError, SystemFailure."""
        opened = self.open_pinned(object_id)
        if opened is None:
            return self._attach_spilled(object_id)
        fd, inode, size, object_bytes = opened
        held = False
        try:
            os.utime(fd)  # the time of the last use decides what is spilled
            mapping = self._read_maps.get(inode)
            if mapping is None and self._maps.copies(object_bytes):
                return copy_of(fd, object_bytes).toreadonly()
            if mapping is None:
                mapping = self._maps.make(fd, size, writable=False)
                self._read_maps.add(inode, mapping)
            view = mapping.buffer(object_bytes)
            self._held.hold(view.obj, inode)
            held = True
        finally:
            os.close(fd)
            if not held:
                self._pins.unpin(inode)
        return view.toreadonly()

    def open_pinned(self, object_id: bytes) -> tuple[int, int, int, int] | None:
        """Pins an object in memory once more. Returns its descriptor, inode, file size and object size, or None."""
        try:
            fd = os.open(self._segments.live_path(object_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            try:
                fd = os.open(self._segments.copy_path(object_id), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        found = None
        try:
            status = os.fstat(fd)
            if self._pins.pin(status.st_ino):
                # Check after the pin: before it the file may have become another object's, or been emptied.
                trailer = os.pread(fd, TRAILER_BYTES, max(0, status.st_size - TRAILER_BYTES))
                object_bytes = size_in_trailer(trailer, object_id)
                if object_bytes is not None:
                    found = fd, status.st_ino, status.st_size, object_bytes
                else:
                    self._pins.unpin(status.st_ino)
        finally:
            if found is None:
                os.close(fd)
        return found

    def _attach_spilled(self, object_id: bytes) -> memoryview | None:
        """Returns a view of a spilled object, without a pin.

        Files on disk are not overwritten, and an unlinked file stays until it is unmapped.
        """
        try:
            fd = os.open(self._segments.spilled_path(object_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            size = os.fstat(fd).st_size
            object_bytes = size_in_trailer(os.pread(fd, TRAILER_BYTES, size - TRAILER_BYTES), object_id)
            if object_bytes is None:
                return None
            if self._maps.copies(object_bytes):
                return copy_of(fd, object_bytes).toreadonly()
            return self._maps.make(fd, size, writable=False).buffer(object_bytes).toreadonly()
        finally:
            os.close(fd)
