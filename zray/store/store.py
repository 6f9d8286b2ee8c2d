"""The object store as a process uses it: write, read, free.

Theory. A *write* takes a recycled segment of its size class or makes a new one, fills it through a map that this
process may have kept, and publishes it by a rename. A *read* opens the object's file, pins it, and returns a read-only
buffer on a map of it. The pin ends with the last buffer derived from that one. *Free* recycles the segment unless it is
pinned. Then it is doomed, and the process that releases its last pin recycles it, or the sweep does.

There are two locks, always taken in this order: ``_lock`` between the threads of this process, and the ledger file's
between processes. Neither is held while data are written or pages are made. A buffer can be collected at any point of
any thread, also while these locks are held. So the end of a pin is only noted, in C, and the next call of any method
processes it. A ``__del__`` would act sooner. But an exception of a signal handler could interrupt it before its first
line: the pin would stay for ever, and the exception would be lost.

A store does not survive ``os.fork``: the child opens its own. Buffers from before the fork stay readable there as long
as the parent keeps them.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from zray.config import GIB, MIB
from zray.exceptions import ObjectStoreFullError, OutOfDiskError, SystemFailure, ZrayError
from zray.ids import PROCESS_ID_BYTES
from zray.sessions.directories import absolute
from zray.store.ledger import (
    TRAILER_BYTES,
    Candidate,
    EvictionQueue,
    Ledger,
    Place,
    StoreUsage,
    Victims,
    choose,
    segment_bytes,
)
from zray.store.ledger_file import LedgerFile
from zray.store.location import proof_of
from zray.store.maps import HeldMap, MapCache, Mapping, Maps, copy_of
from zray.store.notices import Notices
from zray.store.pins import Pins
from zray.store.sections import NO_SHIELD, Changing, Locked, Shield
from zray.store.segments import BLANK_TRAILER, Draft, Segments, make_directories, size_in_trailer
from zray.store.spill import Turn, pulse, turn_to_spill
from zray.store.writing import LAST_PAUSE_S, Patience, Writing, check_id
from zray.system.processes import describe_error

KEPT_MAP_BYTES = 4 * GIB
"""The size of the maps that each process keeps to read, and of those to write. They use address space, not memory."""
SPILLED_AT_ONCE_BYTES = 32 * MIB
"""A writer that needs less room spills this much, or a sixteenth of the capacity if that is less."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_FREED_AT_ONCE = 64
"""The most objects freed under one hold of the lock, so that other processes wait only some milliseconds."""


class SegmentMissing(LookupError):
    """The store holds no object of that identifier: it was never written, or has been freed."""


class _HeldPin(weakref.ref[Any]):
    """A weak reference to a buffer that knows what to unpin when the buffer is gone."""

    __slots__ = ("inode",)
    inode: int


class Store:
    """One process's access to a machine's object store. Any thread may call any method.

    Every method but ``close`` raises SystemFailure once the store has been closed, and in a forked child.
    """

    def __init__(self, path: str, spill_dir: str, capacity_bytes: int, wait_s: float, shield: Shield) -> None:
        """Use ``Store.create`` or ``Store.open``."""
        self._shield = shield
        self.path = path
        self.spill_dir = spill_dir
        self.capacity_bytes = capacity_bytes
        self._wait_s = wait_s
        self._wrote_to_disk = False  # the last write went to disk after a wait: the next one waits less
        self.notices = Notices(path, spill_dir, capacity_bytes)
        self._pins = Pins(f"{path}/pins")
        kept_bytes = min(KEPT_MAP_BYTES, capacity_bytes)
        self._read_maps = MapCache(kept_bytes)
        self._write_maps = MapCache(kept_bytes)
        self._segments = Segments(path, spill_dir, self._pins, self._write_maps)
        self._to_spill = EvictionQueue(self._segments.look)  # for who has the turn to spill
        self._copies = EvictionQueue(self._segments.look)  # under the ledger's lock
        self._ledger_file = LedgerFile(f"{path}/ledger_file", capacity_bytes, self._segments.count)
        self._locked = Locked(path, shield, self._settle_in_section)
        self._ended: collections.deque[_HeldPin | HeldMap] = self._locked.ended  # see Maps
        self._held_pins: dict[int, _HeldPin] = {}  # by id(): they hash and compare like their referents
        self._maps = Maps(self._ended.append)
        self._changing = Changing(self._locked, self._ledger_file)
        _open_stores.add(self)
        _leave_to_parent_at_fork()

    @classmethod
    def create(cls, path: str, spill_dir: str, capacity_bytes: int, wait_s: float = 2.0, host_id: bytes = b"") -> Store:
        """Makes a store of ``capacity_bytes`` in the new directory ``path``, for this user only, and opens it.

        ``host_id`` is written into the store as its proof (``shares_store``). A writer that finds the store full and
        nothing to spill waits for ``wait_s`` seconds. Raises FileExistsError, and OSError when a directory cannot be
        made.
        """
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
        os.makedirs(spill_dir, mode=0o700, exist_ok=True)
        make_directories(path)
        parameters = {
            "spill_dir": absolute(spill_dir),
            "capacity_bytes": capacity_bytes,
            "wait_s": wait_s,
            **proof_of(host_id, spill_dir),
        }
        with open(f"{path}/store.json.new", "w") as file:
            file.write(json.dumps(parameters))
        os.rename(f"{path}/store.json.new", f"{path}/store.json")
        return cls.open(path)

    @classmethod
    def open(cls, path: str, shield: Shield = NO_SHIELD) -> Store:
        """Opens the store that another process has made at ``path``. Raises OSError when there is none."""
        with open(f"{path}/store.json") as file:
            parameters = json.load(file)
        return cls(path, parameters["spill_dir"], parameters["capacity_bytes"], parameters["wait_s"], shield)

    # Writing

    def write(self, object_id: bytes, size: int, fill: Callable[[memoryview], None]) -> None:
        """Stores an object: ``fill`` gets a writable, page-aligned view of ``size`` bytes with arbitrary content.

        When ``fill`` raises, nothing is stored. It must not keep the view (BufferError). An existing object of that
        identifier (from an earlier attempt of a task) is replaced; its readers keep what they have.

        An object that is larger than the store is written to disk. So is one without room in memory, after other
        objects have been spilled and it has waited. Raises OutOfDiskError, an ObjectStoreFullError, if there is no room
        on disk; SystemFailure if a limit of this process is reached, or the store has been removed.
        """
        check_id(object_id)
        self._shield.shield()
        try:
            writing = self.begin(size)
            try:
                fill(writing.view)
            except BaseException:
                writing.give_up()
                raise
            writing.publish(object_id)
        finally:
            self._shield.unshield()

    def begin(self, size: int, gradually: bool = False) -> Writing:
        """Makes room for an object of ``size`` bytes that comes in pieces. Raises as ``write`` does.

        ``gradually``: the room is reserved, but its pages may not exist yet: ``Writing.prepare`` makes them.
        """
        try:
            draft, mapping = self._obtain(size, gradually)
        except OSError as error:
            raise self._explained(error, f"an object of {size:,} bytes cannot be written") from error
        try:
            if mapping.complete:
                mapping.store(draft.size - TRAILER_BYTES, BLANK_TRAILER)
            return Writing(draft, mapping, size, self._make_pages, self._publish, self._give_up)
        except BaseException:
            self._give_up(draft, mapping)
            raise

    def keep(self, object_id: bytes) -> None:
        """Makes a copy the object itself; for its owner, when the original is lost.

        Does nothing if there is no such copy. Raises ValueError if ``object_id`` is malformed.
        """
        check_id(object_id)
        with self._changing as ledger:
            self._segments.keep(ledger, object_id)

    def _publish(self, draft: Draft, mapping: Mapping, object_id: bytes, copy: bool) -> None:
        try:
            with self._changing as ledger:
                self._segments.publish(ledger, draft, object_id, copy)
                if not draft.on_disk:
                    self._write_maps.add(draft.inode, mapping)
        except FileNotFoundError as error:
            if draft.on_disk:  # its directory has been removed meanwhile
                raise self._no_disk(draft.size, error) from error
            raise

    def _obtain(self, object_bytes: int, gradually: bool) -> tuple[Draft, Mapping]:
        """Returns a claimed segment and its map, with all its pages unless they may come ``gradually``."""
        size = segment_bytes(object_bytes)
        if size > self.capacity_bytes:
            return self._obtain_on_disk(object_bytes, gradually)
        patience: Patience | None = None
        memory_full = False
        while True:
            draft, mapping = self._allocate(size, memory_full)
            if draft is not None:
                self._wrote_to_disk = False
                if mapping is not None:
                    return draft, mapping
                try:
                    return draft, self._map_draft(draft, gradually)
                except BaseException as error:
                    self._give_up(draft, None)
                    if not isinstance(error, OSError) or error.errno not in _NO_ROOM:
                        raise
                    memory_full = True  # others have taken memory that the capacity counted on
            if patience is None:
                wait_s = min(self._wait_s, LAST_PAUSE_S) if self._wrote_to_disk else self._wait_s
                patience = Patience(wait_s, lambda: pulse(self.path))
            if not self._spill(size, memory_full):
                if not patience.pause():
                    self._wrote_to_disk = True
                    return self._obtain_on_disk(object_bytes, gradually)
                memory_full = False
            self._shield.open_window()
            self._shield.shut_window()

    def _obtain_on_disk(self, object_bytes: int, gradually: bool) -> tuple[Draft, Mapping]:
        """Returns a segment in the spill directory, for an object without room in memory. Raises OutOfDiskError."""
        size = segment_bytes(object_bytes)
        if size > self.capacity_bytes:
            self.notices.larger(object_bytes)
        else:
            self.notices.full(self._account)
        draft: Draft | None = None
        try:
            draft = self._segments.create_on_disk(size)
            return draft, self._map_draft(draft, gradually)
        except BaseException as error:
            if draft is not None:
                self._give_up(draft, None)
            if isinstance(error, OSError):
                raise self._no_disk(object_bytes, error) from error
            raise

    def _no_disk(self, object_bytes: int, error: OSError) -> OutOfDiskError:
        return OutOfDiskError(
            f"an object of {object_bytes:,} bytes has no room in the object store, and cannot be written to "
            f"{self.spill_dir}: {describe_error(error)}. {self._account()}"
        )

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

    def _give_up(self, draft: Draft, mapping: Mapping | None) -> None:
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

    def _make_pages(self, draft: Draft, start: int, end: int, needed: Callable[[], bool]) -> None:
        """Makes the pages of a part of a segment. Its room is reserved, but other programs may have taken the memory.

        Stops when they are not ``needed`` any more.
        """
        patience = Patience(self._wait_s, lambda: pulse(self.path))
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

    def _relieve(self, size: int) -> bool:
        """Gives ``size`` bytes of memory back: of free segments, of copies, of objects that are spilled."""
        with self._changing as ledger:
            freed = self._drop(ledger, size)
        return freed >= size or self._spill(size - freed, memory_full=True)

    def _explained(self, error: OSError, what: str) -> ZrayError:
        """Returns an error for what kept this process from using the store; it names the limit or the cause."""
        if not self.exists():
            return SystemFailure(f"{what}: the object store {self.path} has been removed by another program")
        kind = ObjectStoreFullError if error.errno == errno.EFBIG else SystemFailure
        return kind(f"{what}: {describe_error(error)}")

    def _full(self, object_bytes: int) -> ObjectStoreFullError:
        return ObjectStoreFullError(
            f"no room for an object of {object_bytes:,} bytes after waiting for {self._wait_s:g} s: {self._account()}"
        )

    def _account(self) -> str:
        with self._changing as ledger:
            usage = ledger.usage()
            in_use = self._segments.in_use()
            refilled = sum(candidate.size for candidate in self._segments.free_candidates() if candidate.pinned)
            mine = {held.inode for held in self._held_pins.values()}
        return self.notices.account(usage, in_use, refilled, mine)

    # Spilling

    def _spill(self, size: int, memory_full: bool) -> bool:
        """Spills objects until ``size`` bytes have room, as far as possible, and some more for the next writers.

        Returns False if that made no room.
        """
        made_room = False
        with turn_to_spill(self.path, self.spill_dir) as turn:
            if turn is None:
                return False
            shortage, victims = self._choose_to_spill(size, memory_full)
            for victim in victims.needed:
                made_room |= self._spill_one(turn, victim)
            with contextlib.suppress(OutOfDiskError):  # the next writer that needs this room reports it
                for victim in victims.ahead:
                    made_room |= self._spill_one(turn, victim)
        if made_room:
            self.notices.spilling()
        return made_room or not shortage

    def _choose_to_spill(self, size: int, memory_full: bool) -> tuple[int, Victims]:
        """Returns the bytes that are missing, and the objects to spill."""
        portion = min(SPILLED_AT_ONCE_BYTES, self.capacity_bytes // 16)
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
            opened = self._open_pinned(object_id)
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

    # Reading

    def read(self, object_id: bytes) -> memoryview:
        """Returns the object without a copy: a read-only view of exactly its bytes, page-aligned.

        In this process the view keeps its content as long as it, or anything made from it, is alive, even if the object
        is freed. Small objects are copied if this process has very many maps. Raises SegmentMissing, and SystemFailure
        when the process can have no more maps.
        """
        check_id(object_id)
        try:
            with self._locked:
                view = self._attach(object_id)
            if view is None:  # gone, or being moved: nothing moves while this process holds the lock
                with self._changing:
                    view = self._attach(object_id)
        except OSError as error:
            raise self._explained(error, f"object {object_id.hex()} cannot be read") from error
        if view is None:
            raise SegmentMissing(f"object {object_id.hex()} is not in the store {self.path}")
        return view

    def exists(self) -> bool:
        """Whether the store's directory still exists."""
        return os.path.exists(f"{self.path}/store.json")

    def contains(self, object_id: bytes) -> bool:
        """Whether the object is here, in memory or spilled."""
        check_id(object_id)
        segments = self._segments
        paths = (segments.live_path(object_id), segments.copy_path(object_id), segments.spilled_path(object_id))
        return any(map(os.path.exists, paths))

    def _attach(self, object_id: bytes) -> memoryview | None:
        opened = self._open_pinned(object_id)
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
            self._hold(view.obj, inode)
            held = True
        finally:
            os.close(fd)
            if not held:
                self._pins.unpin(inode)
        return view.toreadonly()

    def _hold(self, buffer: Any, inode: int, ended: Callable[[Any], None] | None = None) -> None:
        """Has one pin of a segment released when a buffer, and everything made from it, is gone."""
        held = _HeldPin(buffer, ended or self._ended.append)
        held.inode = inode
        self._held_pins[id(held)] = held

    def _open_pinned(self, object_id: bytes) -> tuple[int, int, int, int] | None:
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

    def is_spilled(self, object_id: bytes) -> bool:
        """Whether the object has been spilled, and is not in memory."""
        return os.path.exists(self._segments.spilled_path(object_id))

    # Freeing

    def free(self, object_ids: Iterable[bytes]) -> None:
        """Removes objects, spilled ones too; for their owner. Skips those that do not exist.

        Raises ValueError, with nothing removed, if an identifier is malformed.
        """
        rest = list(object_ids)
        for object_id in rest:
            check_id(object_id)
        while rest:
            batch, rest = rest[:_FREED_AT_ONCE], rest[_FREED_AT_ONCE:]
            with self._changing as ledger:
                for object_id in batch:
                    self._segments.free(ledger, object_id)

    def free_owned_by(self, owner: bytes) -> None:
        """Removes every object of a process that has died. Raises ValueError if ``owner`` is malformed."""
        if len(owner) != PROCESS_ID_BYTES:
            raise ValueError(f"a process's identifier has {PROCESS_ID_BYTES} bytes, got {owner!r}")
        self.free(self._segments.ids_with(owner))

    def owners(self) -> set[bytes]:
        """Returns the processes that own the objects here."""
        return self._segments.owners()

    def settle(self) -> None:
        """Releases the pins and maps whose buffers are gone. Each call of another method does this too."""
        if self._ended:
            self._settle_if_idle()

    def _settle_if_idle(self, quietly: bool = False) -> None:
        """Like ``settle``, unless the lock is held: then its holder does it on release.

        ``quietly``: in a finalizer, where an exception of a signal handler would be lost.
        """
        self._shield.enter_section()
        try:
            self._settle_in_section()
        finally:
            self._shield.leave_section(quietly)

    def _settle_in_section(self) -> None:
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
            del self._held_pins[id(held)]
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

    # Upkeep

    def sweep(self) -> None:
        """Repairs what dead processes left behind. For the host: about once a second, and when a process has died.

        Recycles freed segments whose last reader has ended, drops what dead writers have left, and corrects the ledger
        if a process died while changing it.
        """
        with self._changing as ledger:
            self._segments.reap_writers(ledger)
            self._segments.retry_doomed(ledger)
        self._segments.reap_writers_to_disk()
        with turn_to_spill(self.path, self.spill_dir) as turn:
            if turn is not None:
                turn.discard()

    def usage(self) -> StoreUsage:
        """Returns how the bytes of the store are used now."""
        with self._changing as ledger:
            return ledger.usage()

    def close(self) -> None:
        """Ends this process's use of the store. Values that are still alive stay readable and pinned."""
        self._shield.enter_section()
        try:
            with self._locked.lock:
                if self._locked.unusable:
                    return
                self._locked.unusable = "is closed"
                self._read_maps.clear()
                self._write_maps.clear()
                self._ledger_file.close()
                for held in list(self._held_pins.values()):
                    if (buffer := held()) is not None:  # no later call would settle it
                        del self._held_pins[id(held)]
                        self._hold(buffer, held.inode, self._ended_late)
                        del buffer
                if not self._pins.in_use:
                    self._pins.close()
            self._settle_if_idle()
        finally:
            self._shield.leave_section()

    def _ended_late(self, held: _HeldPin) -> None:
        """A value is gone that was read before the store was closed."""
        self._ended.append(held)
        self._settle_if_idle(quietly=True)

    def destroy(self) -> None:
        """Closes the store and removes it with everything in it; for the host that made it."""
        with self._changing as ledger:
            self._segments.empty(ledger)
        self.close()
        import shutil  # only here: see zray.sessions.directories.remove_tree

        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(self.spill_dir, ignore_errors=True)

    def _leave_to_parent(self) -> None:
        """Leaves the locks to the parent, in a forked child: it shares them, and must neither hold nor end them."""
        self._locked.lock = threading.Lock()
        if not self._locked.unusable:
            self._locked.unusable = "was opened before a fork: open it again in the child"
            self._ledger_file.close_in_child()
        self._pins.close()


_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


@functools.cache  # registered once, only where there is a store: it costs every worker's fork memory
def _leave_to_parent_at_fork() -> None:
    def leave_all() -> None:
        for store in list(_open_stores):
            store._leave_to_parent()

    os.register_at_fork(after_in_child=leave_all)
