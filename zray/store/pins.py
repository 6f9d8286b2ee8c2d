"""Locks on segments that end with the process that holds them.

A segment is known by its inode number, and that number is the offset of a byte in a lock file. Readers hold a shared
lock on the byte (a *pin*), a writer an exclusive one (a *claim*). These are open file description locks (Linux 3.15):
the kernel drops them when a process ends, however it ends. ``flock`` on the segments would do the same, but would need
an open descriptor for each object in use. With the usual limit of 1,024, reading a list of that many arrays would fail.

The kernel keeps the locks of a file, those of all processes, in a list, and searches it from its beginning for each
lock and each query. So the locks are spread over many files. Runs of 256 inodes stay in one file: neighbouring segments
need one descriptor, and the kernel merges neighbouring locks of one process into a single range.

A process opens a lock file when it needs it. Each file with a lock of this process stays open, and so do some of the
others. A process has one description of each file. Locks of one description do not exclude each other, so this
process's own pins and claims are looked up in its tables. Not thread-safe.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

_FILES = 128
_RUN_BITS = 8
_MAX_IDLE = 16
"""The most lock files that are kept open without a lock of this process."""
_FLOCK = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid, as on 64-bit Linux
_BUSY = (errno.EAGAIN, errno.EACCES)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_OFFSET_MASK = (1 << 62) - 1  # offsets are signed in the kernel, inode numbers are not


class _LockFile:
    """An open lock file. ``locks``: how many segments this process pins or claims in it."""

    __slots__ = ("fd", "locks")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.locks = 0


class Pins:
    """The pins and claims of this process on the segments of one store."""

    def __init__(self, directory: str) -> None:
        """``directory`` holds the lock files. They are made and opened when they are needed."""
        self._directory = directory
        self._files: dict[int, _LockFile] = {}  # by number
        self._idle: dict[int, None] = {}  # the numbers of those without locks, the one unused for longest first
        self._opening = ""  # the path of the lock file that is being opened
        self._counts: dict[int, int] = {}
        self._claimed: set[int] = set()

    def pin(self, inode: int) -> bool:
        """Pins a segment, once more if it is pinned already. Returns False if a writer has claimed it.

        Raises OSError if the lock file cannot be opened, or the kernel has no room for the lock.
        """
        count = self._counts.get(inode, 0)
        if not count and (inode in self._claimed or not self._lock(inode, fcntl.F_RDLCK)):
            return False
        self._counts[inode] = count + 1
        return True

    def unpin(self, inode: int) -> bool:
        """Takes back one ``pin``. Returns True if it was this process's last one on the segment.

        False after ``close``.
        """
        count = self._counts.get(inode, 0)
        if count != 1:
            if count:
                self._counts[inode] = count - 1
            return False
        del self._counts[inode]
        self._unlock(inode)
        return True

    def claim(self, inode: int) -> bool:
        """Takes a segment for writing. Returns False if any process pins or claims it. Raises OSError as ``pin``."""
        if inode in self._claimed or inode in self._counts or not self._lock(inode, fcntl.F_WRLCK):
            return False
        self._claimed.add(inode)
        return True

    def unclaim(self, inode: int) -> None:
        """Takes back a ``claim``. Does nothing after ``close``."""
        if inode in self._claimed:
            self._claimed.discard(inode)
            self._unlock(inode)

    def is_pinned(self, inode: int) -> bool:
        """Whether any process, this one included, pins or claims the segment.

        True also if this process has no descriptor left to find out: then the segment is kept.
        """
        return inode in self._counts or inode in self._claimed or self._conflicts(inode, fcntl.F_WRLCK)

    def is_claimed(self, inode: int) -> bool:
        """Whether any process, this one included, is writing the segment.

        True also if this process has no descriptor left to find out.
        """
        return inode in self._claimed or self._conflicts(inode, fcntl.F_RDLCK)

    @property
    def in_use(self) -> bool:
        """Whether this process pins or claims anything."""
        return bool(self._counts or self._claimed)

    def close(self) -> None:
        """Releases every pin and claim of this process. In a forked child, the parent keeps them."""
        self._counts.clear()
        self._claimed.clear()
        self._idle.clear()
        while self._files:
            os.close(self._files.popitem()[1].fd)
        if self._opening:  # in a forked child: another thread of the parent was at it
            _close_all(self._opening)
            self._opening = ""

    def _lock(self, inode: int, kind: int) -> bool:
        number = _number(inode)
        file = self._files.get(number) or self._open(number)
        try:
            fcntl.fcntl(file.fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, inode & _OFFSET_MASK, 1, 0))
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        if not file.locks:
            del self._idle[number]
        file.locks += 1
        return True

    def _unlock(self, inode: int) -> None:
        number = _number(inode)
        file = self._files[number]
        fcntl.fcntl(file.fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, inode & _OFFSET_MASK, 1, 0))
        file.locks -= 1
        if not file.locks:
            self._keep_idle(number)

    def _conflicts(self, inode: int, kind: int) -> bool:
        number = _number(inode)
        try:
            file = self._files.get(number) or self._open(number)
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                return True
            raise
        query = _FLOCK.pack(kind, os.SEEK_SET, inode & _OFFSET_MASK, 1, 0)
        return bool(_FLOCK.unpack(fcntl.fcntl(file.fd, fcntl.F_OFD_GETLK, query))[0] != fcntl.F_UNLCK)

    def _open(self, number: int) -> _LockFile:
        self._opening = f"{self._directory}/{number}"
        try:
            fd = os.open(self._opening, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            file = self._files[number] = _LockFile(fd)
        finally:
            self._opening = ""
        self._keep_idle(number)
        return file

    def _keep_idle(self, number: int) -> None:
        """Keeps a file open that has no locks, and closes the one that was kept for longest beyond ``_MAX_IDLE``."""
        self._idle[number] = None
        if len(self._idle) > _MAX_IDLE:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            os.close(self._files.pop(oldest).fd)  # not before: a child forked in between would close it twice


def _number(inode: int) -> int:
    """Returns the number of the lock file of a segment."""
    return (inode >> _RUN_BITS) % _FILES


def _close_all(path: str) -> None:
    """Closes every descriptor of this process on the file ``path``."""
    with contextlib.suppress(FileNotFoundError):  # not made yet: there is none
        wanted = os.stat(path)
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                if os.path.samestat(os.fstat(int(name)), wanted):
                    os.close(int(name))
