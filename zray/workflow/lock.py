"""The lock of a workflow: one process at a time runs it.

It is a POSIX record lock, which belongs to the process: the kernel releases it when the process ends, however it ends,
and forked children do not inherit it. Such a lock is also released when the process closes any other descriptor of the
file, and does not keep apart the threads of a process. So a table has the locks of this process, and a file that is in
the table is not opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import threading
import time

_FLOCK = struct.Struct("@hhqqi4x")
"""``struct flock`` of Linux: type, whence, start, length, pid."""
_mutex = threading.Lock()
_held: dict[tuple[int, str], WorkflowLock] = {}
"""The locks of a process, by its pid and the path: a forked child has a copy of the table, and none of the locks."""


class WorkflowLock:
    """A lock that this process holds. Made by ``take``."""

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._owner = os.getpid()

    @classmethod
    def take(cls, path: str) -> WorkflowLock | None:
        """Locks the file ``path``, which is made if it is missing. Returns None if it is locked already.

        Raises OSError if the file cannot be opened, or the file system has no locks.
        """
        with _mutex:
            if (os.getpid(), path) in _held:
                return None
            while True:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    current = _is_at(fd, path)  # else its holder has removed it meanwhile
                except (BlockingIOError, PermissionError):  # POSIX allows both errors for a locked file
                    os.close(fd)
                    return None
                except BaseException:
                    os.close(fd)
                    raise
                if current:
                    break
                os.close(fd)
            try:
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps(_identity()).encode(), 0)
            except BaseException:
                os.close(fd)
                raise
            lock = _held[os.getpid(), path] = cls(path, fd)
            return lock

    def release(self, remove: bool = False) -> None:
        """Releases the lock. May be called twice. ``remove``: removes the file, too."""
        with _mutex:
            fd, self._fd = self._fd, -1
            if fd < 0:
                return
            if self._owner == os.getpid():
                del _held[self._owner, self._path]
                if remove:
                    os.unlink(self._path)
            os.close(fd)


def is_locked(path: str) -> bool:
    """Whether a process, this one or another, holds the lock. Takes no lock. Raises OSError."""
    with _mutex:
        if (os.getpid(), path) in _held:
            return True
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            return bool(_FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)
        finally:
            os.close(fd)


def holder(path: str) -> str:
    """Describes the process that has taken the lock last, for people."""
    with _mutex:
        if (os.getpid(), path) in _held:
            return "this process"
        try:
            with open(path) as file:
                found = json.load(file)
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["since"]))
            return f"process {found['pid']} ({found['program']}) on {found['host']}, since {since}"
        except (OSError, ValueError, KeyError, TypeError):  # just taken, or just removed
            return "another process"


def _identity() -> dict[str, object]:
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    return {"pid": os.getpid(), "host": socket.gethostname(), "program": program or "python", "since": time.time()}


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
