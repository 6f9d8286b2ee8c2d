"""Segment files and the directory that they are in. Publication and recycling are renames within it.

::

    <store>/live/<object id>              an object
            copies/<object id>            the copy of one that another machine keeps
            free/<file size>/<inode>      pages for the next object of that size class, which a writer claims and fills
                                          where they lie
            doomed/<inode>                a freed object that readers still use
            writing/<any>                 a new segment, claimed by who makes and fills it
            pins/                         lock files of ``zray.store.pins``
            ledger_file                         the shared ledger
            spilling                      locked by the one process that spills; touched as it gets on
            store.json                    what ``Store.open`` has to know
    <spill>/<object id>                   an object on disk, in the same format
            spilling                      a copy in the making
            writing-<any>                 an object that its writer writes to disk; he has it locked

A file is the object's bytes from its first byte on (so they are page-aligned when mapped), unused space, and a trailer
in its last 64 bytes: magic, size and identifier of the object. The trailer is wiped before a writer touches anything
and written when the content is complete. So who has pinned a file and then finds his identifier in its trailer has the
complete object, and keeps it, wherever the file has been moved meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import itertools
import os
import re
import struct
from collections.abc import Callable, Container, Iterator

from zray.ids import OBJECT_ID_BYTES, PROCESS_ID_BYTES
from zray.store.ledger import TRAILER_BYTES, Candidate, Ledger, Place
from zray.store.pins import Pins

BLANK_TRAILER = bytes(TRAILER_BYTES)
_TRAILER = struct.Struct("<8sQ28s20x")
_NAME = re.compile(f"[0-9a-f]{{{2 * OBJECT_ID_BYTES}}}")
_SEGMENT = re.compile(rf"{_NAME.pattern}|\d+|new-[0-9a-f]{{16}}")
"""What a store gives names to: objects, free and doomed segments and their sizes, new segments."""
_MAGIC = b"zraysegm"
_GLANCE = 64
"""How many free segments are looked at for one whose map this process has kept."""


def trailer_for(object_id: bytes, size: int) -> bytes:
    """The trailer of a complete object."""
    return _TRAILER.pack(_MAGIC, size, object_id)


def size_in_trailer(trailer: bytes, object_id: bytes) -> int | None:
    """Size of the object ``object_id``, if it is what the trailer belongs to."""
    if len(trailer) != TRAILER_BYTES:
        return None
    magic, size, found = _TRAILER.unpack(trailer)
    return size if magic == _MAGIC and found == object_id else None


def make_directories(directory: str) -> None:
    """Makes the places within a store's own directory."""
    for name in ("live", "copies", "free", "doomed", "writing", "pins"):
        os.mkdir(f"{directory}/{name}", 0o700)


@dataclasses.dataclass(frozen=True)
class Draft:
    """A segment that is being written.

    ``place``: FREE if it is used again, with its pages; WRITING if it is new in memory, SPILLED if it is new on disk.
    ``lock_fd``: of one on disk, a descriptor with its lock, which says that its writer lives.
    """

    path: str
    inode: int
    size: int
    place: Place
    lock_fd: int = -1

    @property
    def fresh(self) -> bool:
        """Whether its pages are not there yet."""
        return self.place is not Place.FREE

    @property
    def on_disk(self) -> bool:
        """Whether it is in the spill directory: no segment of the store's, and in no book before it is published."""
        return self.place is Place.SPILLED


class Segments:
    """The files of a store. Every method that takes a ledger changes both, between ``LedgerFile.open`` and ``shut``."""

    def __init__(self, directory: str, spill_directory: str, pins: Pins, mapped: Container[object]) -> None:
        """``mapped``: the inodes of which this process has kept a map to write through."""
        self.directory = directory
        self.spill_directory = spill_directory
        self._pins = pins
        self._mapped = mapped
        self._seen: dict[int, list[int]] = {}  # by size: inodes that were on the shelf of free segments, the best last

    def live_path(self, object_id: bytes) -> str:
        """Where the object is while it is in memory."""
        return f"{self.directory}/live/{object_id.hex()}"

    def copy_path(self, object_id: bytes) -> str:
        """Where the copy of an object is that another machine keeps."""
        return f"{self.directory}/copies/{object_id.hex()}"

    def spilled_path(self, object_id: bytes) -> str:
        """Where the object is when it has been spilled."""
        return f"{self.spill_directory}/{object_id.hex()}"

    # Writing

    def take_free(self, ledger: Ledger, size: int) -> Draft | None:
        """A recycled segment of ``size`` bytes, claimed; preferably one of which this process has a map.

        What a look at the shelf has found, and what this process has put there, is remembered: most of it is still
        there the next time.
        """
        if ledger.held[Place.FREE] < size:
            return None
        shelf = f"{self.directory}/free/{size}"
        seen = self._seen.get(size)
        while seen:
            if (draft := self._claim_free(shelf, seen.pop(), size)) is not None:
                return draft
        found = list(itertools.islice(_inodes_in(shelf), _GLANCE))
        seen = self._seen[size] = sorted(found, key=self._mapped.__contains__)  # taken from the end
        while seen:
            if (draft := self._claim_free(shelf, seen.pop(), size)) is not None:
                return draft
        return None

    def _claim_free(self, shelf: str, inode: int, size: int) -> Draft | None:
        if not self._pins.claim(inode):  # a writer has it, or a reader that came late is still at it
            return None
        path = f"{shelf}/{inode}"
        if not os.access(path, os.F_OK):  # somebody else has taken it since it was seen
            self._pins.unclaim(inode)
            return None
        return Draft(path, inode, size, Place.FREE)

    def create(self, ledger: Ledger, size: int) -> Draft:
        """A new segment, claimed. Its pages are still to be made; that takes too long to do here."""
        ledger.enter(Place.WRITING, size)
        path = f"{self.directory}/writing/new-{os.urandom(8).hex()}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)  # from now on the file says what was reserved for it
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
        """A new segment in the spill directory. Its room is still to be taken. Raises OSError."""
        path, fd = self._locked_on_disk()
        try:
            os.ftruncate(fd, size)
            return Draft(path, os.fstat(fd).st_ino, size, Place.SPILLED, fd)
        except BaseException:
            os.unlink(path)
            os.close(fd)
            raise

    def _locked_on_disk(self) -> tuple[str, int]:
        """A new file in the spill directory, and a descriptor of it that holds its lock."""
        while True:
            path = f"{self.spill_directory}/writing-{os.urandom(8).hex()}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return path, fd
            os.close(fd)  # ``reap_writers_to_disk`` was faster, and took it for a dead writer's

    def publish(self, ledger: Ledger, draft: Draft, object_id: bytes, copy: bool) -> None:
        """Makes a written segment readable. A former object of that identifier is replaced; its readers keep it."""
        if draft.on_disk:
            try:
                self.free(ledger, object_id)
                os.rename(draft.path, self.spilled_path(object_id))
                ledger.enter(Place.SPILLED, draft.size)
            finally:
                os.close(draft.lock_fd)
            return
        try:
            # Asked first: nearly always there is none, and an exception for that would cost as much as all the rest.
            if os.access(self.live_path(object_id), os.F_OK) or ledger.held[Place.COPY] or ledger.held[Place.SPILLED]:
                self.free(ledger, object_id)
            os.utime(draft.path)
            os.rename(draft.path, self.copy_path(object_id) if copy else self.live_path(object_id))
            ledger.move(draft.size, draft.place, Place.COPY if copy else Place.LIVE)
        finally:  # also when interrupted: what is claimed for ever can be neither read nor swept
            self._pins.unclaim(draft.inode)

    def give_back(self, ledger: Ledger, draft: Draft) -> None:
        """Ends a draft that nothing came of; its pages are there."""
        if draft.fresh:
            self._to_free(ledger, draft.path, draft.inode, draft.size, Place.WRITING)
        self._pins.unclaim(draft.inode)

    def abandon(self, ledger: Ledger, draft: Draft) -> None:
        """Ends a draft whose pages are not all there, or are still in somebody's hands: they go with his map."""
        if draft.on_disk:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft.path)
            os.close(draft.lock_fd)
            return
        os.unlink(draft.path)
        ledger.leave(draft.place, draft.size)
        self._pins.unclaim(draft.inode)

    def move_to_disk(self, ledger: Ledger, object_id: bytes, inode: int, commit: Callable[[str], None]) -> bool:
        """Recycles a segment whose copy ``commit`` puts into its place on disk; False if it is used or gone by now."""
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
        """A copy has become the object: nobody else has it any more. Nothing happens if there is no such copy."""
        path = self.copy_path(object_id)
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(path).st_size
            os.rename(path, self.live_path(object_id))
            ledger.move(size, Place.COPY, Place.LIVE)

    # Freeing

    def free(self, ledger: Ledger, object_id: bytes) -> None:
        """Removes an object, in memory and on disk; nothing happens when there is none."""
        self.recycle(ledger, self.live_path(object_id), Place.LIVE)
        if ledger.held[Place.COPY]:
            self.recycle(ledger, self.copy_path(object_id), Place.COPY)
        if ledger.held[Place.SPILLED]:
            path = self.spilled_path(object_id)
            with contextlib.suppress(FileNotFoundError):
                size = os.stat(path).st_size
                os.unlink(path)  # who has it mapped keeps it
                ledger.leave(Place.SPILLED, size)

    def recycle(self, ledger: Ledger, path: str, place: Place) -> None:
        """Moves a segment that has lost its object to the free ones, or to the doomed ones while it is pinned.

        A reader that has opened but not yet pinned it goes unnoticed. That is safe: what takes it from there needs a
        claim, which such a reader's pin prevents, or which makes that pin fail.
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
        """Recycles one doomed segment, if it is one and nobody pins it any more."""
        self.recycle(ledger, f"{self.directory}/doomed/{inode}", Place.DOOMED)

    def is_doomed(self, inode: int) -> bool:
        """Whether a segment waits for its last reader."""
        return os.path.exists(f"{self.directory}/doomed/{inode}")

    def retry_doomed(self, ledger: Ledger) -> None:
        """Recycles every doomed segment that nobody pins any more."""
        for inode in list(_inodes_in(f"{self.directory}/doomed")):
            self.recycle_doomed(ledger, inode)

    def reap_writers(self, ledger: Ledger) -> None:
        """Drops the new segments of writers that have died. Not recycled: some of the pages may be missing."""
        for entry in _entries(f"{self.directory}/writing"):
            if not self._pins.is_claimed(entry.stat().st_ino):
                self.drop(ledger, entry.path, Place.WRITING)

    def reap_writers_to_disk(self) -> None:
        """Removes what writers that have died have left in the spill directory."""
        for name in self._spilled_names():
            if not name.startswith("writing-"):
                continue
            with contextlib.suppress(OSError):  # it is published, given up, or locked, and so alive
                fd = os.open(f"{self.spill_directory}/{name}", os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(f"{self.spill_directory}/{name}")
                finally:
                    os.close(fd)

    def in_use(self) -> dict[int, int]:
        """Bytes by inode of the segments whose values are in use, freed or not."""
        found: dict[int, int] = {}
        for place in (Place.LIVE, Place.COPY, Place.DOOMED):
            for entry in _entries(f"{self.directory}/{place.directory}"):
                status = entry.stat()
                if self._pins.is_pinned(status.st_ino):
                    found[status.st_ino] = status.st_size
        return found

    def drop(self, ledger: Ledger, path: str, place: Place) -> int:
        """Removes a segment from memory unless somebody uses it; returns its bytes, 0 if it had to stay.

        It is emptied as well: the maps of it that processes have kept would else keep its pages. Only once it has no
        name any more, so that no death in between leaves an empty file where a segment is expected.
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
        """Drops every segment that nobody uses."""
        for candidate in self.free_candidates():
            self.drop(ledger, candidate.path, Place.FREE)
        for place in (Place.LIVE, Place.COPY, Place.DOOMED):
            for candidate in self._candidates(f"{self.directory}/{place.directory}"):
                self.drop(ledger, candidate.path, place)

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
            if len(seen) < _GLANCE:
                seen.append(inode)

    # Looking

    def _spilled_names(self) -> list[str]:
        try:
            return os.listdir(self.spill_directory)
        except OSError:  # gone or unreadable, and with it what was in there
            return []

    def ids_with(self, prefix: bytes) -> set[bytes]:
        """The identifiers of the objects, in memory and on disk, that start with ``prefix``."""
        return {bytes.fromhex(name) for name in self._names() if name.startswith(prefix.hex())}

    def owners(self) -> set[bytes]:
        """The processes whose objects are here, in memory or on disk."""
        return {bytes.fromhex(owner) for owner in {name[: 2 * PROCESS_ID_BYTES] for name in self._names()}}

    def _names(self) -> list[str]:
        names = [*os.listdir(f"{self.directory}/live"), *os.listdir(f"{self.directory}/copies"), *self._spilled_names()]
        return [name for name in names if _NAME.fullmatch(name)]  # a file system may have files of its own there

    def free_candidates(self) -> list[Candidate]:
        """The recyclable segments of every class."""
        return [c for shelf in _entries(f"{self.directory}/free") for c in self._candidates(shelf.path)]

    def live_candidates(self) -> list[Candidate]:
        """The objects in memory that are no copies."""
        return self._candidates(f"{self.directory}/live")

    def copy_candidates(self) -> list[Candidate]:
        """The copies of objects that other machines keep."""
        return self._candidates(f"{self.directory}/copies")

    def _candidates(self, directory: str) -> list[Candidate]:
        found = ((entry.path, entry.stat()) for entry in _entries(directory))
        return [Candidate(path, s.st_size, s.st_mtime_ns, self._pins.is_pinned(s.st_ino)) for path, s in found]

    def count(self) -> list[int]:
        """The bytes in each place, as the files say."""
        held = [0] * len(Place)
        for place in (Place.WRITING, Place.LIVE, Place.COPY, Place.DOOMED):
            held[place] = _bytes_in(f"{self.directory}/{place.directory}")
        held[Place.FREE] = sum(_bytes_in(shelf.path) for shelf in _entries(f"{self.directory}/free"))
        with contextlib.suppress(FileNotFoundError):  # gone, and with it what was in there
            held[Place.SPILLED] = _bytes_in(self.spill_directory)
        return held


def _entries(directory: str) -> list[os.DirEntry[str]]:
    """What the store has put there. Whatever else is there, somebody else has, and it is left alone."""
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
