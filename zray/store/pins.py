"""Locks on segments that end with the process that holds them.

A segment is known by its inode number, and that number is the offset of a byte in a lock file. Readers hold a shared
lock on the byte (a *pin*), a writer an exclusive one (a *claim*). These are open file description locks (Linux 3.15):
the kernel drops them when a process ends, however it ends. ``flock`` on the segments would do the same, but would need
an open descriptor for each object in use. With the usual limit of 1,024, reading a list of that many arrays would fail.

The kernel searches the locks of a file one by one, so they are spread over several files. Runs of 64 inodes stay in one
file: the kernel merges neighbouring locks of one process into a single range.

A process has two descriptions of each file, one for its pins and one for its claims. Locks of one description do not
exclude each other, so a query through the other description sees this process's own locks too. Not thread-safe.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_SHARDS = 8
_RUN_BITS = 6
_FLOCK = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid, as on 64-bit Linux
_BUSY = (errno.EAGAIN, errno.EACCES)


class Pins:
    """The pins and claims of this process on the segments of one store."""

    def __init__(self, directory: str) -> None:
        """Opens the lock files in ``directory``, and makes those that are missing."""
        names = [f"{directory}/{shard}" for shard in range(_SHARDS)]
        self._pin_fds = [os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for name in names]
        self._claim_fds = [os.open(name, os.O_RDWR | os.O_CLOEXEC) for name in names]
        self._counts: dict[int, int] = {}
        self._claimed: set[int] = set()  # locks of one description do not exclude each other

    def pin(self, inode: int) -> bool:
        """Pins a segment, once more if it is pinned already. Returns False if a writer has claimed it."""
        count = self._counts.get(inode, 0)
        if not count and not _try_lock(self._pin_fds, inode, fcntl.F_RDLCK):
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
        _try_lock(self._pin_fds, inode, fcntl.F_UNLCK)
        return True

    def claim(self, inode: int) -> bool:
        """Takes a segment for writing. Returns False if any process pins or claims it."""
        if inode in self._claimed or not _try_lock(self._claim_fds, inode, fcntl.F_WRLCK):
            return False
        self._claimed.add(inode)
        return True

    def unclaim(self, inode: int) -> None:
        """Takes back a ``claim``."""
        self._claimed.discard(inode)
        _try_lock(self._claim_fds, inode, fcntl.F_UNLCK)

    def is_pinned(self, inode: int) -> bool:
        """Whether any process, this one included, pins or claims the segment."""
        return inode in self._claimed or _conflicts(self._claim_fds, inode, fcntl.F_WRLCK)

    def is_claimed(self, inode: int) -> bool:
        """Whether any process, this one included, is writing the segment."""
        return _conflicts(self._pin_fds, inode, fcntl.F_RDLCK)

    @property
    def in_use(self) -> bool:
        """Whether this process pins or claims anything."""
        return bool(self._counts or self._claimed)

    def close(self) -> None:
        """Releases every pin and claim of this process. In a forked child, the parent keeps them."""
        for fd in self._pin_fds + self._claim_fds:
            os.close(fd)
        self._pin_fds, self._claim_fds = [], []
        self._counts.clear()
        self._claimed.clear()


def _byte(inode: int) -> tuple[int, int]:
    """Returns the shard and the offset of a segment's byte. Offsets are signed in the kernel, inode numbers are not."""
    return (inode >> _RUN_BITS) % _SHARDS, inode & ((1 << 62) - 1)


def _try_lock(fds: list[int], inode: int, kind: int) -> bool:
    shard, offset = _byte(inode)
    try:
        fcntl.fcntl(fds[shard], fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0))
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def _conflicts(fds: list[int], inode: int, kind: int) -> bool:
    shard, offset = _byte(inode)
    answer = fcntl.fcntl(fds[shard], fcntl.F_OFD_GETLK, _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
