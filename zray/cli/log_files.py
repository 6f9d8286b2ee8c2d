"""The log files of sessions on this machine: which there are, and what is added to them."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from zray.logs.process_log import BROKER_LOG, HOST_LOG
from zray.sessions.directories import session_is_alive, session_paths
from zray.util.state.logs import start_of_tail

READ_BYTES = 1 << 16
OUT, ERR = "out", "err"
ID_DIGITS = 12
"""How many digits of a worker's identifier are in the names of its files."""
_WORKER = re.compile(r"worker-([0-9a-f]{12})\.(out|err)(\.1)?")


@dataclasses.dataclass(frozen=True)
class Place:
    """The directory of the log files of a session.

    ``host``: the name of its host; ``host_id``: in hexadecimal, empty for a session without a host, or that has ended;
    ``machine``: where it lies if that is another machine, else empty; ``ip``: of the host.
    """

    host: str
    host_id: str
    root: str
    session: str
    machine: str = ""
    ip: str = ""

    @property
    def directory(self) -> str:
        return os.path.join(self.root, "logs", self.session)

    def is_alive(self) -> bool:
        """Whether the session goes on. Only for a session of this machine."""
        return session_is_alive(session_paths(self.root, self.session))


@dataclasses.dataclass(frozen=True)
class LogFile:
    """A log file of this machine. It need not exist: a worker's is made when the worker first prints."""

    place: Place
    name: str

    @property
    def path(self) -> str:
        return os.path.join(self.place.directory, self.name)

    @property
    def worker(self) -> str:
        """The beginning of the identifier of the worker that has printed it; empty for a broker's or host's log."""
        match = _WORKER.fullmatch(self.name)
        return match[1] if match else ""

    @property
    def stream(self) -> str:
        """``out`` or ``err`` of a worker's file; else empty."""
        match = _WORKER.fullmatch(self.name)
        return match[2] if match else ""

    @property
    def kind(self) -> str:
        """What it is, for people."""
        if self.stream:
            return f"worker's {'stdout' if self.stream == OUT else 'stderr'}"
        log = next((log for log in (BROKER_LOG, HOST_LOG) if self.name.startswith(log)), "")
        return f"{log.partition('.')[0]}'s log" if log else "other"


def ended_places(roots: Iterable[str], but: Iterable[str] = ()) -> list[Place]:
    """Returns the places of sessions of this machine whose directories are left, the last written first.

    ``but``: directories that are known otherwise.
    """
    known, found = set(but), []
    for root in roots:
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(f"{root}/logs"):
                place = Place("", "", root, name)
                if place.directory not in known and os.path.isdir(place.directory):
                    found.append(place)
    return sorted(found, key=lambda place: _modified(place.directory), reverse=True)


def files_in(place: Place) -> list[LogFile]:
    """Returns the files of a place, by name; none if there is no such directory."""
    try:
        names = os.listdir(place.directory)
    except FileNotFoundError:
        return []
    return [LogFile(place, name) for name in sorted(names) if os.path.isfile(os.path.join(place.directory, name))]


def chosen(files: Iterable[LogFile], names: Sequence[str], streams: Sequence[str]) -> list[LogFile]:
    """Returns the files that fit one of the names, if any is given, and one of the streams.

    ``names``: of files, patterns such as ``worker-*``, or paths; ``streams``: ``OUT`` or ``ERR`` or both. Logs of
    brokers and hosts have no stream, and fit all.
    """
    return [
        file
        for file in files
        if (not file.stream or file.stream in streams)
        and (not names or any(fnmatch.fnmatch(file.name, name) or file.path == os.path.abspath(name) for name in names))
    ]


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:  # removed meanwhile
        return 0.0


class Follower:
    """Reads whole lines of a log file as it grows; also when it is rotated, or made only later.

    ``tail``: how many of the present lines to begin with; None: all.
    """

    def __init__(self, path: str, tail: int | None = None) -> None:
        self._path = path
        self._partial = b""
        self._fd = _open(path)
        if self._fd is not None and tail is not None:
            os.lseek(self._fd, start_of_tail(path, tail), os.SEEK_SET)

    def read(self) -> Iterator[bytes]:
        """Yields the lines that have been added since, each with its end."""
        yield from self._rest()
        if self._was_rotated():
            yield from self._rest()  # what was written before the rotation
            self._close()
            self._fd = _open(self._path)
            yield from self._rest()

    def finish(self) -> Iterator[bytes]:
        """Yields the last lines, also one without an end, and closes the file."""
        yield from self.read()
        self._close()
        if self._partial:
            yield self._partial + b"\n"
            self._partial = b""

    def _rest(self) -> Iterator[bytes]:
        if self._fd is None:
            self._fd = _open(self._path)
        while self._fd is not None and (block := os.read(self._fd, READ_BYTES)):
            *lines, self._partial = (self._partial + block).split(b"\n")
            for line in lines:
                yield line + b"\n"

    def _was_rotated(self) -> bool:
        if self._fd is None:
            return False
        try:
            present = os.stat(self._path).st_ino
        except FileNotFoundError:  # it has just got its other name, and is not made anew yet
            return False
        return present != os.fstat(self._fd).st_ino

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
