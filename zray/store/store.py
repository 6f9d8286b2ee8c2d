"""The object store as a process uses it: write, read, free.

Theory. A *write* takes a recycled segment of its size class or makes a new one, fills it through a map that this
process may have kept, and publishes it by a rename. A *read* opens the object's file, pins it, and returns a read-only
buffer on a map of it. The pin ends with the last buffer derived from that one. *Free* recycles the segment unless it is
pinned. Then it is doomed, and the process that releases its last pin recycles it, or the sweep does.

There are two locks, always taken in this order: ``_lock`` between the threads of this process, and the ledger file's
between processes. Neither is held while data are written or pages are made.

A store does not survive ``os.fork``: the child opens its own. Buffers from before the fork stay readable there as long
as the parent keeps them.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterable

from zray.config import GIB
from zray.exceptions import ObjectStoreFullError, SystemFailure, ZrayError
from zray.ids import PROCESS_ID_BYTES
from zray.sessions.directories import absolute
from zray.store.held_pins import HeldPins
from zray.store.ledger import (
    TRAILER_BYTES,
    StoreUsage,
)
from zray.store.ledger_file import LedgerFile
from zray.store.location import proof_of
from zray.store.maps import MapCache, Maps
from zray.store.notices import Notices
from zray.store.pins import Pins
from zray.store.reading import Reader
from zray.store.room import Room
from zray.store.sections import NO_SHIELD, Changing, Locked, Shield
from zray.store.segments import BLANK_TRAILER, Segments, make_directories
from zray.store.spill import turn_to_spill
from zray.store.spilling import Spilling
from zray.store.writing import Writing, check_id
from zray.system.processes import describe_error

KEPT_MAP_BYTES = 4 * GIB
"""The size of the maps that each process keeps to read, and of those to write. They use address space, not memory."""
_FREED_AT_ONCE = 64
"""The most objects freed under one hold of the lock, so that other processes wait only some milliseconds."""


class SegmentMissing(LookupError):
    """The store holds no object of that identifier: it was never written, or has been freed."""


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
        self.notices = Notices(path, spill_dir, capacity_bytes)
        self._pins = Pins(f"{path}/pins")
        kept_bytes = min(KEPT_MAP_BYTES, capacity_bytes)
        self._read_maps = MapCache(kept_bytes)
        self._write_maps = MapCache(kept_bytes)
        self._segments = Segments(path, spill_dir, self._pins, self._write_maps)
        self._ledger_file = LedgerFile(f"{path}/ledger_file", capacity_bytes, self._segments.count)
        self._locked = Locked(path, shield)
        self._maps = Maps(self._locked.ended.append)
        self._changing = Changing(self._locked, self._ledger_file)
        self._held = HeldPins(self._locked, self._ledger_file, self._pins, self._maps, self._segments)
        self._locked.settle = self._held.settle_in_section
        self._reader = Reader(self._pins, self._held, self._maps, self._read_maps, self._segments)
        spilling = Spilling(
            path,
            spill_dir,
            capacity_bytes,
            self._locked,
            self._changing,
            self._pins,
            self._segments,
            self._reader,
            self.notices,
        )
        self._room = Room(
            path,
            spill_dir,
            capacity_bytes,
            wait_s,
            shield,
            self._changing,
            self._segments,
            self._maps,
            self._write_maps,
            self._held,
            spilling,
            self.notices,
        )
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
        room = self._room
        try:
            draft, mapping = room.obtain(size, gradually)
        except OSError as error:
            raise self._explained(error, f"an object of {size:,} bytes cannot be written") from error
        try:
            if mapping.complete:
                mapping.store(draft.size - TRAILER_BYTES, BLANK_TRAILER)
            return Writing(draft, mapping, size, room.make_pages, room.publish, room.give_up)
        except BaseException:
            room.give_up(draft, mapping)
            raise

    def keep(self, object_id: bytes) -> None:
        """Makes a copy the object itself; for its owner, when the original is lost.

        Does nothing if there is no such copy. Raises ValueError if ``object_id`` is malformed.
        """
        check_id(object_id)
        with self._changing as ledger:
            self._segments.keep(ledger, object_id)

    def _explained(self, error: OSError, what: str) -> ZrayError:
        """Returns an error for what kept this process from using the store; it names the limit or the cause."""
        if not self.exists():
            return SystemFailure(f"{what}: the object store {self.path} has been removed by another program")
        kind = ObjectStoreFullError if error.errno == errno.EFBIG else SystemFailure
        return kind(f"{what}: {describe_error(error)}")

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
                view = self._reader.attach(object_id)
            if view is None:  # gone, or being moved: nothing moves while this process holds the lock
                with self._changing:
                    view = self._reader.attach(object_id)
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
        if self._locked.ended:
            self._held.settle_if_idle()

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
                self._held.hold_after_close()
                if not self._pins.in_use:
                    self._pins.close()
            self._held.settle_if_idle()
        finally:
            self._shield.leave_section()

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
