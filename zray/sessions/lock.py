"""The lock of a session: it proves that the session is alive, and keeps cleaners of temporary files away from it.

The session's guardian holds BSD locks (``flock``) on the session's directory and on the file ``lock`` in it. A lock
belongs to the kernel and ends with the last process that holds it, however that ends. A session is dead only if both
locks can be taken: a file that a cleaner has removed proves nothing. Where the file is gone, there must also be no
process with the session's marker, since some file systems (NFS) have no locks for directories. A session that another
machine has made on a shared file system is never declared dead, since its locks may be unknown here.

The same locks keep systemd-tmpfiles away, which skips locked directories (tmpfiles.d(5), "Age"). In XDG_RUNTIME_DIR the
sticky bit does so, as the XDG Base Directory Specification says. Fresh times keep other cleaners away.
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
"""The age in seconds below which a session without a lock file may still be in the making."""

_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""The errors of ``flock`` where a file system cannot lock a directory."""


@contextlib.contextmanager
def locked_root(root: str) -> Iterator[None]:
    """Keeps sweeps away between making a session and locking it.

    Unlocks explicitly: a child that another thread forks meanwhile has the same descriptor.
    """
    fd = _locked_file(f"{root}/{LOCK_NAME}")
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _locked_file(path: str) -> int:
    """Returns a descriptor with the lock of the file that has this name now: it may be removed during the wait."""
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


# ---- the lock of a living session


class SessionLock:
    """Held until every process that has it has closed it.

    Forked children inherit it, so a child that must not keep the session alive closes ``filenos()``. Programs that are
    exec'd get it only if they get the descriptors, from which they make a SessionLock of their own.
    """

    def __init__(self, directory: str, fds: Iterable[int]) -> None:
        """Use ``take``, or pass the ``filenos()`` of another process's lock. ``directory``: the session's."""
        self._directory = directory
        self._fds = list(fds)

    @classmethod
    def take(cls, directory: str, patient: bool = True) -> SessionLock | None:
        """Locks a session's directory; returns None if another process has locked it. Call it within ``locked_root``.

        ``patient``: waits for a cleaner that is just looking at the directory. Raises OSError when the file system has
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
        """Locks what is now at the session's place, except what is locked already.

        For a living session after a cleaner has removed its files. Returns False, and raises OSError, like ``take``.
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
        """Whether the locked files are still the ones at the session's place."""
        return all(_is_at(fd, path) for fd, (path, *_) in zip(self._fds, _places(self._directory), strict=True))

    def filenos(self) -> list[int]:
        """Returns its descriptors."""
        return list(self._fds)

    def close(self) -> None:
        """Releases the lock. May be called twice."""
        fds, self._fds = self._fds, []
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def _places(directory: str) -> list[tuple[str, int, int]]:
    """Returns what is locked, in this order: path, how to open it, how to lock it. Sessions share the root."""
    return [
        (f"{directory}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX),
        (directory, os.O_RDONLY | os.O_DIRECTORY, fcntl.LOCK_EX),
        (os.path.dirname(directory), os.O_RDONLY | os.O_DIRECTORY, fcntl.LOCK_SH),
    ]


def _try_lock(fd: int, kind: int) -> bool:
    """Returns False if another process has locked it. A directory that cannot be locked at all counts as locked."""
    try:
        fcntl.flock(fd, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS or not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise
    return True


# ---- the lock of a session that may be dead


def claim_if_dead(directory: str) -> SessionLock | None:
    """Returns the lock of a session that is proven dead; None if that is unknown. Call it within ``locked_root``."""
    file = f"{directory}/{LOCK_NAME}"
    try:
        if not _is_there(file) and not _is_deserted(directory):
            return None
        if _is_there(file) and not _is_of_here(file):
            return None
        return SessionLock.take(directory, patient=False)
    except OSError:  # just removed, or the file system does not tell: nothing is proven
        return None


def _is_there(file: str) -> bool:
    """Whether the file exists. Raises OSError if that is unknown, where ``os.path.exists`` returns False."""
    try:
        os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_deserted(directory: str) -> bool:
    """Whether a session without a lock file is old, and has no processes."""
    age_s = time.time() - os.stat(directory).st_mtime
    if -UNLOCKED_GRACE_S < age_s < UNLOCKED_GRACE_S:
        return False
    return not processes.processes_of_session(os.path.basename(directory))


def _here() -> dict[str, str]:
    """Returns this machine, and the identifier of its boot."""
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
    """Whether a lock is of this kernel, or of this machine before its last boot: then the lock can be trusted."""
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
    """Makes a file, socket or directory look used just now, and sets its sticky bit. Skips missing ones."""
    try:
        status = os.lstat(path)
        if not status.st_mode & stat.S_ISVTX:
            os.chmod(path, stat.S_IMODE(status.st_mode) | stat.S_ISVTX)
        os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))  # the other time may have a meaning
    except OSError:  # gone by now, or the file system has no such bit: the other means remain
        return
