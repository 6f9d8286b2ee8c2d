"""The lock of a session: what proves that it lives, and what keeps cleaners of temporary files away from it.

The process that a session hangs on holds BSD locks (``flock``) on the session's directory and on the file ``lock`` in
it.  A lock is the kernel's and ends with the last process that holds it, however that dies.  A session is dead only if
both locks can be taken: a file that a cleaner has removed proves nothing.  Where the file is gone, no process may carry
the session's marker either, since some file systems (NFS) have no locks for directories.  What another machine has made
on a shared file system is never called dead, since its locks may be unknown here.

The same locks keep systemd-tmpfiles away, which skips directories that somebody has locked (tmpfiles.d(5), "Age").  The
sticky bit does so in XDG_RUNTIME_DIR, as the XDG Base Directory Specification says, and fresh times do for the others.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator

from zray.system import processes

LOCK_NAME = "lock"
UNLOCKED_GRACE_S = 60.0
"""A session without a lock's file that is younger than this, in seconds, may still be in the making."""

_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What ``flock`` says where a file system cannot lock a directory."""


@contextlib.contextmanager
def locked_root(root: str) -> Iterator[None]:
    """Between making a session and locking it there is a gap; no sweep may look into it.

    Unlocks explicitly: a child that another thread forks meanwhile has the same descriptor.
    """
    fd = _locked_file(f"{root}/{LOCK_NAME}")
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _locked_file(path: str) -> int:
    """A descriptor with the lock of the file that has this name now: it may be removed while this process waits."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


# ---- of a living session


class SessionLock:
    """Held until closed by every process that has it.

    Forked children inherit it, so a child that is not to keep the session alive closes ``filenos()``.  Programs that
    are exec'd get it only if they are handed the descriptors, from which they make a SessionLock of their own.
    """

    def __init__(self, directory: str, fds: Iterable[int]) -> None:
        """Use ``take``, or pass the ``filenos()`` of another process's lock. ``directory``: the session's."""
        self._directory = directory
        self._fds = list(fds)

    @classmethod
    def take(cls, directory: str, patient: bool = True) -> SessionLock | None:
        """Locks a session's directory; None if another process has. To be called within ``locked_root``.

        ``patient``: waits for a cleaner that looks at the directory just now.  Raises OSError when the file system has
        no locks.
        """
        lock = cls(directory, [-1] * len(_places(directory)))
        taken = False
        try:
            taken = lock.renew(patient)
        finally:
            if not taken:
                lock.close()
        return lock if taken else None

    def renew(self, patient: bool = True) -> bool:
        """Locks what is at the session's place by now, as far as it is not what was locked before.

        For a living session whose files a cleaner has removed.  False, and OSError, as ``take``.
        """
        for index, (path, flags, kind) in enumerate(_places(self._directory)):
            if self._fds[index] >= 0 and _is_at(self._fds[index], path):
                continue
            fd = processes.past_standard(os.open(path, flags | os.O_CLOEXEC, 0o600))
            is_file = os.path.basename(path) == LOCK_NAME
            if not _try_lock(fd, kind | (0 if patient and not is_file else fcntl.LOCK_NB)):
                os.close(fd)
                return False
            if self._fds[index] >= 0:
                os.close(self._fds[index])
            self._fds[index] = fd
            if is_file:
                os.pwrite(fd, json.dumps(_here()).encode(), 0)
        return True

    def is_whole(self) -> bool:
        """Whether what has been locked is still what is at the session's place."""
        return all(_is_at(fd, path) for fd, (path, *_) in zip(self._fds, _places(self._directory), strict=True))

    def filenos(self) -> list[int]:
        """Its descriptors."""
        return list(self._fds)

    def close(self) -> None:
        """Lets go. May be called twice."""
        fds, self._fds = self._fds, []
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def _places(directory: str) -> list[tuple[str, int, int]]:
    """What is locked, in this order: path, how it is opened, how it is locked. The root is shared by its sessions."""
    return [
        (f"{directory}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX),
        (directory, os.O_RDONLY | os.O_DIRECTORY, fcntl.LOCK_EX),
        (os.path.dirname(directory), os.O_RDONLY | os.O_DIRECTORY, fcntl.LOCK_SH),
    ]


def _try_lock(fd: int, kind: int) -> bool:
    """False if another process has locked it. A directory that cannot be locked at all passes for locked."""
    try:
        fcntl.flock(fd, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS or not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise
    return True


# ---- of a session that may be dead


def claim_if_dead(directory: str) -> SessionLock | None:
    """The lock of a session that is proven to be dead; None if that cannot be said. Call within ``locked_root``."""
    file = f"{directory}/{LOCK_NAME}"
    try:
        if not _is_there(file) and not _is_deserted(directory):
            return None
        if _is_there(file) and not _is_of_here(file):
            return None
        return SessionLock.take(directory, patient=False)
    except OSError:  # removed by somebody just now, or the file system does not tell: nothing is proven
        return None


def _is_there(file: str) -> bool:
    """Whether there is such a file; raises OSError if that cannot be said, where ``os.path.exists`` denies it."""
    try:
        os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_deserted(directory: str) -> bool:
    """Whether a session without a lock's file is old, and has no processes."""
    age_s = time.time() - os.stat(directory).st_mtime
    if -UNLOCKED_GRACE_S < age_s < UNLOCKED_GRACE_S:
        return False
    return not processes.processes_of_session(os.path.basename(directory))


def _here() -> dict[str, str]:
    """This machine, and since when it runs."""
    return dict(zip(("machine", "boot"), _machine(), strict=True))


@functools.cache
def _machine() -> tuple[str, str]:
    words = [socket.gethostname()]
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        try:
            with open(path) as file:
                words.append(file.read().strip())
        except OSError:
            words.append("")
    return "/".join(words[:2]), words[2]


def _is_of_here(path: str) -> bool:
    """Whether a lock is this kernel's, or is left from before this machine was started: then it says what it says."""
    try:
        with open(path) as file:
            maker = json.load(file)
        machine, boot = str(maker["machine"]), str(maker["boot"])
    except (OSError, ValueError, KeyError, TypeError):  # of a version that did not write it, or still empty
        return True
    here = _here()
    return (boot != "" and boot == here["boot"]) or machine == here["machine"]


# ---- against cleaners


def protect(path: str) -> None:
    """Makes a file, socket or directory look used just now, and sets its sticky bit. Passes over what is not there."""
    try:
        status = os.lstat(path)
        if not status.st_mode & stat.S_ISVTX:
            os.chmod(path, stat.S_IMODE(status.st_mode) | stat.S_ISVTX)
        os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))  # the other time may have a meaning
    except OSError:  # gone by now, or of a file system that has no such bit: the other means remain
        return
