"""Room for what is written: a recycled segment, a new one, one in place of what can be dropped or spilled, or disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from zray.exceptions import ObjectStoreFullError, OutOfDiskError
from zray.store.held_pins import HeldPins
from zray.store.ledger import TRAILER_BYTES, Candidate, EvictionQueue, Ledger, Place, choose, segment_bytes
from zray.store.maps import MapCache, Mapping, Maps
from zray.store.notices import Notices
from zray.store.sections import Changing, Shield
from zray.store.segments import BLANK_TRAILER, Draft, Segments
from zray.store.spill import pulse
from zray.store.spilling import Spilling
from zray.store.writing import LAST_PAUSE_S, Patience
from zray.system.processes import describe_error

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Room:
    """Finds the room for what one process writes to one store, and gives back what it does not need.

    A writer that finds the store full and nothing to spill waits for ``wait_s`` seconds.
    """

    def __init__(
        self,
        path: str,
        spill_dir: str,
        capacity_bytes: int,
        wait_s: float,
        shield: Shield,
        changing: Changing,
        segments: Segments,
        maps: Maps,
        write_maps: MapCache,
        held: HeldPins,
        spilling: Spilling,
        notices: Notices,
    ) -> None:
        self._path = path
        self._spill_dir = spill_dir
        self._capacity_bytes = capacity_bytes
        self._wait_s = wait_s
        self._shield = shield
        self._changing = changing
        self._segments = segments
        self._maps = maps
        self._write_maps = write_maps
        self._held = held
        self._spilling = spilling
        self._notices = notices
        self._copies = EvictionQueue(segments.look)  # under the ledger's lock
        self.wrote_to_disk = False  # the last write went to disk after a wait: the next one waits less

    def obtain(self, object_bytes: int, gradually: bool) -> tuple[Draft, Mapping]:
        """Returns a claimed segment and its map, with all its pages unless they may come ``gradually``."""
        size = segment_bytes(object_bytes)
        if size > self._capacity_bytes:
            return self._obtain_on_disk(object_bytes, gradually)
        patience: Patience | None = None
        memory_full = False
        while True:
            draft, mapping = self._allocate(size, memory_full)
            if draft is not None:
                self.wrote_to_disk = False
                if mapping is not None:
                    return draft, mapping
                try:
                    return draft, self._map_draft(draft, gradually)
                except BaseException as error:
                    self.give_up(draft, None)
                    if not isinstance(error, OSError) or error.errno not in _NO_ROOM:
                        raise
                    memory_full = True  # others have taken memory that the capacity counted on
            if patience is None:
                wait_s = min(self._wait_s, LAST_PAUSE_S) if self.wrote_to_disk else self._wait_s
                patience = Patience(wait_s, lambda: pulse(self._path))
            if not self._spilling.spill(size, memory_full):
                if not patience.pause():
                    self.wrote_to_disk = True
                    return self._obtain_on_disk(object_bytes, gradually)
                memory_full = False
            self._shield.open_window()
            self._shield.shut_window()

    def _obtain_on_disk(self, object_bytes: int, gradually: bool) -> tuple[Draft, Mapping]:
        """Returns a segment in the spill directory, for an object without room in memory. Raises OutOfDiskError."""
        size = segment_bytes(object_bytes)
        if size > self._capacity_bytes:
            self._notices.larger(object_bytes)
        else:
            self._notices.full(self._account)
        draft: Draft | None = None
        try:
            draft = self._segments.create_on_disk(size)
            return draft, self._map_draft(draft, gradually)
        except BaseException as error:
            if draft is not None:
                self.give_up(draft, None)
            if isinstance(error, OSError):
                raise self._no_disk(object_bytes, error) from error
            raise

    def publish(self, draft: Draft, mapping: Mapping, object_id: bytes, copy: bool) -> None:
        """Makes a complete segment an object, or the copy of one. Its map is kept for the next write."""
        try:
            with self._changing as ledger:
                self._segments.publish(ledger, draft, object_id, copy)
                if not draft.on_disk:
                    self._write_maps.add(draft.inode, mapping)
        except FileNotFoundError as error:
            if draft.on_disk:  # its directory has been removed meanwhile
                raise self._no_disk(draft.size, error) from error
            raise

    def give_up(self, draft: Draft, mapping: Mapping | None) -> None:
        """Gives a segment back that does not become an object."""
        with self._changing as ledger:
            if draft.on_disk:
                self._segments.abandon(ledger, draft)
                return
            if mapping is None or mapping.lent or (draft.fresh and not mapping.complete):
                self._write_maps.discard(draft.inode)
                self._segments.abandon(ledger, draft)
            else:
                self._segments.give_back(ledger, draft)
                self._write_maps.add(draft.inode, mapping)

    def make_pages(self, draft: Draft, start: int, end: int, needed: Callable[[], bool]) -> None:
        """Makes the pages of a part of a segment. Its room is reserved, but other programs may have taken the memory.

        Stops when they are not ``needed`` any more.
        """
        patience = Patience(self._wait_s, lambda: pulse(self._path))
        fd = os.open(draft.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            while needed():
                try:
                    os.posix_fallocate(fd, start, end - start)
                    return
                except OSError as error:
                    if draft.on_disk:
                        raise self._no_disk(draft.size, error) from error
                    if error.errno not in _NO_ROOM:
                        raise
                if not self._relieve(end - start) and not patience.pause():
                    raise self._full(draft.size)
        finally:
            os.close(fd)

    def _allocate(self, size: int, memory_full: bool) -> tuple[Draft | None, Mapping | None]:
        """Returns a segment, if there is one or room for one, and its map if this process has kept it.

        ``memory_full``: drop as many bytes first.
        """
        with self._changing as ledger:
            draft = self._segments.take_free(ledger, size)
            if draft is None:
                draft = self._make_room(ledger, size, memory_full)
            return draft, self._write_maps.get(draft.inode) if draft is not None else None

    def _make_room(self, ledger: Ledger, size: int, memory_full: bool) -> Draft | None:
        """Returns a segment when no free one of the size was found: a doomed one, or a new one in place of others."""
        shortage = size if memory_full else ledger.shortage(size)
        if shortage:
            self._segments.retry_doomed(ledger)
            draft = self._segments.take_free(ledger, size)
            if draft is not None:
                return draft
            shortage -= self._drop(ledger, shortage)
        return self._segments.create(ledger, size) if shortage <= 0 else None

    def _drop(self, ledger: Ledger, shortage: int) -> int:
        """Drops free segments, then copies, until ``shortage`` bytes of memory are given back. Returns their bytes."""
        victims = choose(shortage, self._segments.free_candidates())
        dropped = sum(self._segments.drop(ledger, victim.path, Place.FREE) for victim in victims)
        if dropped < shortage and ledger.held[Place.COPY]:  # other hosts have these objects too
            victims = self._unneeded_copies(shortage - dropped)
            dropped += sum(self._segments.drop(ledger, victim.path, Place.COPY) for victim in victims)
        return dropped

    def _unneeded_copies(self, shortage: int) -> list[Candidate]:
        victims = self._copies.take(shortage)
        if not victims.cover(shortage):
            self._copies.refill(self._segments.last_uses(Place.COPY))
            victims = self._copies.take(shortage)
        return victims.needed

    def _map_draft(self, draft: Draft, gradually: bool) -> Mapping:
        fd = os.open(draft.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if draft.fresh and not gradually:
                os.posix_fallocate(fd, 0, draft.size)  # missing room is an error here, and a SIGBUS later
            if not draft.fresh:
                os.pwrite(fd, BLANK_TRAILER, draft.size - TRAILER_BYTES)  # before anything else of it changes
            return self._maps.make(fd, draft.size, writable=True, at_once=not gradually)
        finally:
            os.close(fd)

    def _relieve(self, size: int) -> bool:
        """Gives ``size`` bytes of memory back: of free segments, of copies, of objects that are spilled."""
        with self._changing as ledger:
            freed = self._drop(ledger, size)
        return freed >= size or self._spilling.spill(size - freed, memory_full=True)

    def _no_disk(self, object_bytes: int, error: OSError) -> OutOfDiskError:
        return OutOfDiskError(
            f"an object of {object_bytes:,} bytes has no room in the object store, and cannot be written to "
            f"{self._spill_dir}: {describe_error(error)}. {self._account()}"
        )

    def _full(self, object_bytes: int) -> ObjectStoreFullError:
        return ObjectStoreFullError(
            f"no room for an object of {object_bytes:,} bytes after waiting for {self._wait_s:g} s: {self._account()}"
        )

    def _account(self) -> str:
        with self._changing as ledger:
            usage = ledger.usage()
            in_use = self._segments.in_use()
            refilled = sum(candidate.size for candidate in self._segments.free_candidates() if candidate.pinned)
            mine = self._held.inodes()
        return self._notices.account(usage, in_use, refilled, mine)
