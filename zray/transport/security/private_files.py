"""Small text files in a directory that only its user can access. Files that others could read or write are refused.

Files are opened relative to the directory's descriptor, never through symbolic links, and are checked after opening.
They are replaced by rename, so readers need no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from zray.exceptions import ConfigError


class PrivateDirectory:
    """An open directory that only this user can access. ``private_directory`` makes it."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def stems(self, suffix: str) -> list[str]:
        """The names of the files with a suffix, without the suffix."""
        return sorted(entry.removesuffix(suffix) for entry in os.listdir(self._fd) if entry.endswith(suffix))

    def read(self, file: str) -> list[list[str]]:
        """Returns the words of each line that is not a comment.

        Raises ConfigError if the file is missing or not private.
        """
        path = self.path / file
        try:
            fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        try:
            _check_private(fd, path, stat.S_IFREG)
            with open(fd, "rb", closefd=False) as stream:
                text = stream.read().decode("ascii", "replace")
        finally:
            os.close(fd)
        return [words for line in text.splitlines() if (words := line.split()) and words[0] != "#"]

    def write(self, file: str, lines: Sequence[str]) -> None:
        """Makes or replaces a file, durably and atomically. Only within ``private_directory(..., change=True)``."""
        draft = f"{file}.new"  # a file of this name is left over from a crash: no other process holds the lock
        self.remove(draft)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        with open(fd, "w") as stream:
            stream.write("\n".join(lines) + "\n")
            stream.flush()
            os.fsync(fd)
        os.rename(draft, file, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)

    def remove(self, file: str) -> None:
        """Removes a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file, dir_fd=self._fd)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the lock, which one process has at a time. It is a file, since NFS cannot lock directories."""
        fd = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


@contextlib.contextmanager
def private_directory(path: Path, change: bool = False) -> Iterator[PrivateDirectory]:
    """Opens a directory. ``change``: makes it if necessary, and locks it. Raises ConfigError if it is not private."""
    fd = -1
    try:
        if change:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        _check_private(fd, path, stat.S_IFDIR)
        directory = PrivateDirectory(path, fd)
        with directory.lock() if change else contextlib.nullcontext():
            yield directory
    except OSError as error:
        where = f" ({error.filename})" if error.filename not in (None, str(path)) else ""
        raise ConfigError(f"the directory {path} cannot be used: {error.strerror}{where}") from None
    finally:
        if fd >= 0:
            os.close(fd)


def _check_private(fd: int, path: Path, kind: int) -> None:
    status = os.fstat(fd)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_IFMT(status.st_mode) != kind:
        raise ConfigError(f"{path} is not a {'directory' if kind == stat.S_IFDIR else 'regular file'}")
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to user {status.st_uid}, not to you ({os.geteuid()})")
    if mode & 0o077:
        quoted = shlex.quote(str(path))
        mend = f"`chmod 700 {quoted}`, if it is for keys alone" if kind == stat.S_IFDIR else f"`chmod 600 {quoted}`"
        raise ConfigError(
            f"other users can access {path} (mode {mode:04o}): run {mend}. "
            "If they may have read keys there, replace those with `zray keys rotate`"
        )
