"""Segment files and their directory. Publishing and recycling are renames within it.

::

    <store>/live/<object id>              an object
            copies/<object id>            a copy of an object that another host keeps
            free/<file size>/<inode>      pages for the next object of that size class, which a writer claims and fills
                                          in place
            doomed/<inode>                a freed object that readers still use
            writing/<any>                 a new segment, claimed by the process that makes and fills it
            pins/                         lock files of ``zray.store.pins``
            ledger_file                   the shared ledger
            spilling                      locked by the one process that spills; touched while it makes progress
            store.json                    what ``Store.open`` has to know
    <spill>/<object id>                   an object on disk, in the same format
            spilling                      an unfinished copy of an object
            writing-<any>                 an object that a process writes to disk, which holds a lock on it

A file consists of the object's bytes from its first byte on (so they are page-aligned when mapped), unused space, and a
trailer in its last 64 bytes: magic, size and identifier of the object. A writer wipes the trailer before it touches
anything else, and writes it when the content is complete. So a process that has pinned a file and then finds the wanted
identifier in its trailer has the complete object. It keeps the object wherever the file is moved meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
import struct
from collections.abc import Callable, Container, Iterator

from zray.ids import OBJECT_ID_BYTES, PROCESS_ID_BYTES
from zray.named_tuples import NamedTuple
from zray.store.ledger import TRAILER_BYTES, Candidate, Ledger, Place
from zray.store.pins import Pins

BLANK_TRAILER = bytes(TRAILER_BYTES)
_TRAILER = struct.Struct("<8sQ28s20x")
_NAME = re.compile(f"[0-9a-f]{{{2 * OBJECT_ID_BYTES}}}")
_SEGMENT = re.compile(rf"{_NAME.pattern}|\d+|new-[0-9a-f]{{16}}")
"""The names that a store gives: of objects, free and doomed segments and their sizes, new segments."""
_MAGIC = b"zraysegm"
_MAX_SEEN = 64
"""How many free segments are looked at to find one that this process has kept a map of."""
_MAX_MISSES = 2
"""How many remembered segments may be gone before the directory is read again."""


def trailer_for(object_id: bytes, size: int) -> bytes:
    """Returns the trailer of a complete object."""
    return _TRAILER.pack(_MAGIC, size, object_id)


def size_in_trailer(trailer: bytes, object_id: bytes) -> int | None:
    """Returns the size of the object ``object_id`` if the trailer belongs to it, else None."""
    if len(trailer) != TRAILER_BYTES:
        return None
    magic, size, found = _TRAILER.unpack(trailer)
    return size if magic == _MAGIC and found == object_id else None


def make_directories(directory: str) -> None:
    """Makes the directories of the places within a store's own directory."""
    for name in ("live", "copies", "free", "doomed", "writing", "pins"):
        os.mkdir(f"{directory}/{name}", 0o700)


class Draft(NamedTuple):
    """A segment that is being written.

    ``place``: FREE if it is used again, with its pages; WRITING if it is new in memory, SPILLED if it is new on disk.
    ``lock_fd``: for a segment on disk, a descriptor with its lock, which shows that its writer lives.
    """

    path: str
    inode: int
    size: int
    place: Place
    lock_fd: int = -1

    @property
    def fresh(self) -> bool:
        """Whether its pages do not exist yet."""
        return self.place is not Place.FREE

    @property
    def on_disk(self) -> bool:
        """Whether it is in the spill directory. Until it is published, neither the store nor the ledger counts it."""
        return self.place is Place.SPILLED


class Segments:
    """The files of a store.

    Every method that takes a ledger changes the files and the ledger; call it between ``LedgerFile.open`` and ``shut``.
    """

    def __init__(
        self,
        directory: str,
        spill_directory: str,
        pins: Pins,
        mapped: Container[object],
        choose_start: Callable[[int], int] | None = None,
    ) -> None:
        """``mapped``: the inodes that this process has kept a map of, to write through. ``choose_start(n)``: the
        position from which ``n`` free segments are taken; without it, it is random."""
        self.directory = directory
        self.spill_directory = spill_directory
        self._pins = pins
        self._mapped = mapped
        self._choose_start = choose_start or _random_below
        self._seen: dict[int, list[int]] = {}  # by size: inodes of free segments found before, the best last

    def live_path(self, object_id: bytes) -> str:
        """Returns the path of the object while it is in memory."""
        return f"{self.directory}/live/{object_id.hex()}"

    def copy_path(self, object_id: bytes) -> str:
        """Returns the path of a copy of an object that another host keeps."""
        return f"{self.directory}/copies/{object_id.hex()}"

    def spilled_path(self, object_id: bytes) -> str:
        """Returns the path of the object when it has been spilled."""
        return f"{self.spill_directory}/{object_id.hex()}"

    # Writing

    def take_free(self, ledger: Ledger, size: int) -> Draft | None:
        """Returns a recycled segment of ``size`` bytes, claimed; preferably one that this process has a map of.

        It remembers the free segments that it has found, and those that this process has freed: most of them are still
        free the next time. It looks again after some misses, since where some were taken others were, too. Each look
        begins at another segment, so that processes that have seen the same ones do not all want the same one next.
        """
        if ledger.held[Place.FREE] < size:
            return None
        class_directory = f"{self.directory}/free/{size}"
        seen = self._seen.get(size)
        misses = 0
        while seen and misses < _MAX_MISSES:
            if (draft := self._claim_free(class_directory, seen.pop(), size)) is not None:
                return draft
            misses += 1
        found = list(itertools.islice(_inodes_in(class_directory), _MAX_SEEN))
        start = self._choose_start(len(found)) if found else 0
        seen = self._seen[size] = sorted(found[start:] + found[:start], key=self._mapped.__contains__)
        while seen:
            if (draft := self._claim_free(class_directory, seen.pop(), size)) is not None:
                return draft
        return None

    def _claim_free(self, class_directory: str, inode: int, size: int) -> Draft | None:
        path = f"{class_directory}/{inode}"
        if not os.access(path, os.F_OK):  # another process has taken it; asked first, since to claim costs more
            return None
        if not self._pins.claim(inode):  # a writer has it, or a late reader still checks it
            return None
        return Draft(path, inode, size, Place.FREE)

    def create(self, ledger: Ledger, size: int) -> Draft:
        """Returns a new segment, claimed. Its pages are still to be made, which would take too long here."""
        ledger.enter(Place.WRITING, size)
        path = f"{self.directory}/writing/new-{os.urandom(8).hex()}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)  # from now on the file shows what was reserved for it
            inode = os.fstat(fd).st_ino
            if not self._pins.claim(inode):
                raise OSError(errno.EDEADLK, f"the inode of the new segment {path} is locked")
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        return Draft(path, inode, size, Place.WRITING)

    def create_on_disk(self, size: int) -> Draft:
        """Returns a new segment in the spill directory. Its room is still to be taken. Raises OSError."""
        path, fd = self._locked_on_disk()
        try:
            os.ftruncate(fd, size)
            return Draft(path, os.fstat(fd).st_ino, size, Place.SPILLED, fd)
        except BaseException:
            os.unlink(path)
            os.close(fd)
            raise

    def _locked_on_disk(self) -> tuple[str, int]:
        """Returns a new file in the spill directory, and a descriptor of it that holds its lock."""
        while True:
            path = f"{self.spill_directory}/writing-{os.urandom(8).hex()}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return path, fd
            os.close(fd)  # ``reap_writers_to_disk`` was faster, and took it for a dead writer's

    def publish(self, ledger: Ledger, draft: Draft, object_id: bytes, copy: bool) -> None:
        """Makes a written segment readable. It replaces an older object of that identifier, which its readers keep."""
        if draft.on_disk:
            try:
                self.free(ledger, object_id)
                os.rename(draft.path, self.spilled_path(object_id))
                ledger.enter(Place.SPILLED, draft.size)
            finally:
                os.close(draft.lock_fd)
            return
        try:
            # Asked first: nearly always there is none, and an exception would cost as much as all the rest.
            if os.access(self.live_path(object_id), os.F_OK) or ledger.held[Place.COPY] or ledger.held[Place.SPILLED]:
                self.free(ledger, object_id)
            os.utime(draft.path)
            os.rename(draft.path, self.copy_path(object_id) if copy else self.live_path(object_id))
            ledger.move(draft.size, draft.place, Place.COPY if copy else Place.LIVE)
        finally:  # also when interrupted: a segment that stays claimed can be neither read nor swept
            self._pins.unclaim(draft.inode)

    def give_back(self, ledger: Ledger, draft: Draft) -> None:
        """Ends a draft that was not published, and whose pages exist."""
        if draft.fresh:
            self._to_free(ledger, draft.path, draft.inode, draft.size, Place.WRITING)
        self._pins.unclaim(draft.inode)

    def abandon(self, ledger: Ledger, draft: Draft) -> None:
        """Ends a draft with missing pages, or with a buffer on its pages: they are freed with the buffer's map."""
        if draft.on_disk:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft.path)
            os.close(draft.lock_fd)
            return
        os.unlink(draft.path)
        ledger.leave(draft.place, draft.size)
        self._pins.unclaim(draft.inode)

    def move_to_disk(self, ledger: Ledger, object_id: bytes, inode: int, commit: Callable[[str], None]) -> bool:
        """Recycles a segment whose copy on disk ``commit`` puts into place.

        Returns False if the segment is now used or gone.
        """
        path = self.live_path(object_id)
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(path)
            if status.st_ino == inode and not self._pins.is_pinned(inode):
                commit(self.spilled_path(object_id))
                ledger.enter(Place.SPILLED, status.st_size)
                self._to_free(ledger, path, inode, status.st_size, Place.LIVE)
                return True
        return False

    def keep(self, ledger: Ledger, object_id: bytes) -> None:
        """Makes a copy the object itself, since no other host has it. Does nothing if there is no such copy."""
        path = self.copy_path(object_id)
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(path).st_size
            os.rename(path, self.live_path(object_id))
            ledger.move(size, Place.COPY, Place.LIVE)

    # Freeing

    def free(self, ledger: Ledger, object_id: bytes) -> None:
        """Removes an object, in memory and on disk. Does nothing if there is none."""
        self.recycle(ledger, self.live_path(object_id), Place.LIVE)
        if ledger.held[Place.COPY]:
            self.recycle(ledger, self.copy_path(object_id), Place.COPY)
        if ledger.held[Place.SPILLED]:
            path = self.spilled_path(object_id)
            with contextlib.suppress(FileNotFoundError):
                size = os.stat(path).st_size
                os.unlink(path)  # processes that have it mapped keep it
                ledger.leave(Place.SPILLED, size)

    def recycle(self, ledger: Ledger, path: str, place: Place) -> None:
        """Moves a segment that has lost its object to the free ones, or to the doomed ones while it is pinned.

        It does not see a reader that has opened the segment but not pinned it yet. That is safe: the next user of the
        segment needs a claim. The reader's pin prevents the claim, or the claim makes the pin fail.
        """
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return
        if not self._pins.is_pinned(status.st_ino):
            self._to_free(ledger, path, status.st_ino, status.st_size, place)
        elif place in (Place.LIVE, Place.COPY):
            os.rename(path, f"{self.directory}/doomed/{status.st_ino}")
            ledger.move(status.st_size, place, Place.DOOMED)

    def recycle_doomed(self, ledger: Ledger, inode: int) -> None:
        """Recycles a segment if it is doomed and not pinned any more."""
        self.recycle(ledger, f"{self.directory}/doomed/{inode}", Place.DOOMED)

    def is_doomed(self, inode: int) -> bool:
        """Whether a segment is doomed: freed, and still pinned."""
        return os.path.exists(f"{self.directory}/doomed/{inode}")

    def retry_doomed(self, ledger: Ledger) -> None:
        """Recycles every doomed segment that is not pinned any more."""
        for inode in list(_inodes_in(f"{self.directory}/doomed")):
            self.recycle_doomed(ledger, inode)

    def reap_writers(self, ledger: Ledger) -> None:
        """Drops the new segments of writers that have died. They are not recycled: some of the pages may be missing."""
        for entry in _entries(f"{self.directory}/writing"):
            if not self._pins.is_claimed(entry.stat().st_ino):
                self.drop(ledger, entry.path, Place.WRITING)

    def reap_writers_to_disk(self) -> None:
        """Removes the files that dead writers have left in the spill directory."""
        for name in self._spilled_names():
            if not name.startswith("writing-"):
                continue
            with contextlib.suppress(OSError):  # it is published, given up, or locked by a living writer
                fd = os.open(f"{self.spill_directory}/{name}", os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(f"{self.spill_directory}/{name}")
                finally:
                    os.close(fd)

    def in_use(self) -> dict[int, int]:
        """Returns bytes by inode of the segments whose values are in use, freed or not."""
        found: dict[int, int] = {}
        for place in (Place.LIVE, Place.COPY, Place.DOOMED):
            for entry in _entries(f"{self.directory}/{place.directory}"):
                status = entry.stat()
                if self._pins.is_pinned(status.st_ino):
                    found[status.st_ino] = status.st_size
        return found

    def drop(self, ledger: Ledger, path: str, place: Place) -> int:
        """Removes a segment from memory unless it is in use. Returns its bytes, or 0 if it had to stay.

        The file is also emptied: otherwise the maps of it that processes have kept would keep its pages. It is unlinked
        first, so that a death in between cannot leave an empty file where a segment is expected.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not self._pins.claim(status.st_ino):
                return 0
            os.unlink(path)
            os.ftruncate(fd, 0)
            ledger.leave(place, status.st_size)
            self._pins.unclaim(status.st_ino)
            return status.st_size
        finally:
            os.close(fd)

    def empty(self, ledger: Ledger) -> None:
        """Drops every segment that is not in use."""
        for candidate in list(self.free_candidates()):
            self.drop(ledger, candidate.path, Place.FREE)
        for place in (Place.LIVE, Place.COPY, Place.DOOMED):
            for entry in _entries(f"{self.directory}/{place.directory}"):
                self.drop(ledger, entry.path, place)

    def _to_free(self, ledger: Ledger, path: str, inode: int, size: int, place: Place) -> None:
        target = f"{self.directory}/free/{size}/{inode}"
        try:
            os.rename(path, target)
        except FileNotFoundError:  # the first of its class
            os.mkdir(os.path.dirname(target), 0o700)
            os.rename(path, target)
        ledger.move(size, place, Place.FREE)
        if inode in self._mapped:
            seen = self._seen.setdefault(size, [])
            if len(seen) < _MAX_SEEN:
                seen.append(inode)

    # Looking

    def _spilled_names(self) -> list[str]:
        try:
            return os.listdir(self.spill_directory)
        except OSError:  # gone or unreadable, with its objects
            return []

    def ids_with(self, prefix: bytes) -> set[bytes]:
        """Returns the identifiers of the objects, in memory and on disk, that start with ``prefix``."""
        return {bytes.fromhex(name) for name in self._names() if name.startswith(prefix.hex())}

    def owners(self) -> set[bytes]:
        """Returns the owners of the objects here, in memory or on disk."""
        return {bytes.fromhex(owner) for owner in {name[: 2 * PROCESS_ID_BYTES] for name in self._names()}}

    def _names(self) -> list[str]:
        names = [*os.listdir(f"{self.directory}/live"), *os.listdir(f"{self.directory}/copies"), *self._spilled_names()]
        return [name for name in names if _NAME.fullmatch(name)]  # a file system may have files of its own there

    def free_candidates(self) -> Iterator[Candidate]:
        """Yields the recyclable segments, those of the least recently used class first. Looks at each when it is next.

        Do not remove any of them meanwhile.
        """
        for each in sorted(_entries(f"{self.directory}/free"), key=lambda entry: entry.stat().st_mtime_ns):
            for inode in _inodes_in(each.path):
                if (candidate := self.look(f"{each.path}/{inode}")) is not None:
                    yield candidate

    def look(self, path: str) -> Candidate | None:
        """Returns a segment as it is now, or None if it is gone."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        return Candidate(path, status.st_size, status.st_mtime_ns, self._pins.is_pinned(status.st_ino))

    def last_uses(self, place: Place) -> list[tuple[int, str]]:
        """Returns the time of the last use, in nanoseconds, and the path of every segment in a place.

        It needs no lock. What comes or goes meanwhile may be missing.
        """
        found: list[tuple[int, str]] = []
        for entry in _entries(f"{self.directory}/{place.directory}"):
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.stat().st_mtime_ns, entry.path))
        return found

    def count(self) -> list[int]:
        """Returns the bytes in each place, counted from the files."""
        held = [0] * len(Place)
        for place in (Place.WRITING, Place.LIVE, Place.COPY, Place.DOOMED):
            held[place] = _bytes_in(f"{self.directory}/{place.directory}")
        held[Place.FREE] = sum(_bytes_in(directory.path) for directory in _entries(f"{self.directory}/free"))
        with contextlib.suppress(FileNotFoundError):  # gone, with its objects
            held[Place.SPILLED] = _bytes_in(self.spill_directory)
        return held


def _random_below(n: int) -> int:
    """Returns a number below ``n``. The module ``random`` has a state that belongs to the program."""
    return int.from_bytes(os.urandom(4), "little") % n


def _entries(directory: str) -> list[os.DirEntry[str]]:
    """Returns the store's own entries of a directory. Other programs' files are left alone."""
    with os.scandir(directory) as found:
        return [entry for entry in found if _SEGMENT.fullmatch(entry.name)]


def _bytes_in(directory: str) -> int:
    return sum(entry.stat().st_size for entry in _entries(directory))


def _inodes_in(directory: str) -> Iterator[int]:
    try:
        with os.scandir(directory) as found:
            yield from (int(entry.name) for entry in found if entry.name.isdecimal())
    except FileNotFoundError:
        return
