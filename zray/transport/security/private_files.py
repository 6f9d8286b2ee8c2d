"""Small text files in a directory that is its user's alone: what others could have read or laid there is refused.

Files are opened relative to the directory's descriptor, never through symbolic links, and checked once they are open.
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
    """An open directory, found to be ours alone. ``private_directory`` makes it."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def stems(self, suffix: str) -> list[str]:
        """The names of the files with that suffix, without it."""
        return sorted(entry.removesuffix(suffix) for entry in os.listdir(self._fd) if entry.endswith(suffix))

    def read(self, file: str) -> list[list[str]]:
        """The words of each line that is no comment; raises ConfigError for a file that is missing or not private."""
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
        """Makes or replaces a file, durably and at once. Only within ``private_directory(..., change=True)``."""
        draft = f"{file}.new"  # what a crash left under this name is rubbish: nobody else holds the lock
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
        """Held by one process at a time. A file of its own, since NFS cannot lock directories."""
        fd = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


@contextlib.contextmanager
def private_directory(path: Path, change: bool = False) -> Iterator[PrivateDirectory]:
    """Opens a directory; ``change`` makes it if need be and locks it. Raises ConfigError if it is not private."""
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
        mend = f"chmod 700 {quoted}, if it is for keys alone," if kind == stat.S_IFDIR else f"chmod 600 {quoted}"
        raise ConfigError(
            f"other users can get at {path} (mode {mode:04o}): {mend} "
            "and if they may have read keys there, replace those with `zray keys rotate`"
        )
