"""Spilling: moves objects that no process uses to disk to make room, the least recently used first.

One process of the machine spills at a time, since the disk is the bottleneck; the processes that wait can use the room
that it made. The lock for that is the file ``spilling``. Its time of modification is the *pulse*: it changes as long as
the spilling makes progress, so a waiting process can tell a slow disk from a process that has stopped.

A copy is made under another name while the object stays readable. It gets its final name only when it is complete and
still needed. Readers map it on disk; it does not come back into memory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from zray.exceptions import OutOfDiskError
from zray.store.ledger import TRAILER_BYTES
from zray.system.processes import describe_error

_CHUNK_BYTES = 32 * 1024 * 1024


class Turn:
    """The right to spill, held by this process."""

    def __init__(self, lock_fd: int, spill_directory: str) -> None:
        self._lock_fd = lock_fd
        self._copy = f"{spill_directory}/spilling"

    def copy(self, source_fd: int, segment_bytes: int, object_bytes: int) -> None:
        """Copies a segment to disk; the space between object and trailer becomes a hole.

        Raises OutOfDiskError, with nothing left on disk.
        """
        try:
            fd = os.open(self._copy, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failure(object_bytes, error) from error
        try:
            os.ftruncate(fd, segment_bytes)
            if object_bytes:
                os.posix_fallocate(fd, 0, object_bytes)
            self._copy_range(source_fd, fd, 0, object_bytes)
            self._copy_range(source_fd, fd, segment_bytes - TRAILER_BYTES, TRAILER_BYTES)
        except OSError as error:
            self.discard()
            raise self._failure(object_bytes, error) from error
        finally:
            os.close(fd)

    def _failure(self, object_bytes: int, error: OSError) -> OutOfDiskError:
        where = os.path.dirname(self._copy)
        return OutOfDiskError(
            f"the object store is full, and an object of {object_bytes:,} bytes cannot be spilled to {where}: "
            f"{describe_error(error)}"
        )

    def _copy_range(self, source_fd: int, target_fd: int, start: int, size: int) -> None:
        end = start + size
        os.lseek(target_fd, start, os.SEEK_SET)
        while start < end:
            sent = os.sendfile(target_fd, source_fd, start, min(_CHUNK_BYTES, end - start))
            if not sent:
                raise OSError(errno.EIO, "a segment ended early while it was spilled")
            start += sent
            os.utime(self._lock_fd)

    def commit(self, path: str) -> None:
        """Gives the copy its final name."""
        os.rename(self._copy, path)

    def discard(self) -> None:
        """Removes the copy, or a partial copy of a process that died while spilling."""
        with contextlib.suppress(OSError):  # an unusable directory is reported where it is written to
            os.unlink(self._copy)


@contextlib.contextmanager
def turn_to_spill(directory: str, spill_directory: str) -> Iterator[Turn | None]:
    """Yields the right to spill, or None while another process, or another thread of this one, has it."""
    fd = os.open(f"{directory}/spilling", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            try:
                yield Turn(fd, spill_directory)
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough when a child was forked meanwhile
    finally:
        os.close(fd)


def pulse(directory: str) -> int:
    """Returns a number that changes as long as a process spills and makes progress."""
    try:
        return os.stat(f"{directory}/spilling").st_mtime_ns
    except FileNotFoundError:
        return 0
