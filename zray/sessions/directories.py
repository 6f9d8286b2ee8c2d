"""Sessions on disk: where they live, how the dead ones are told from the living, and what is left of them.

A session is what one start of a local cluster or host makes.  Below the root, a directory that is its user's alone::

    <root>/<session>/          sockets, spilled objects, and the files
        lock                   locked, as the directory is, by the session's guardian for its life: see session_lock
        store                  directories elsewhere that go with the session, one a line (its object store)
        broker                 of a broker that was started by hand: its address
    <root>/logs/<session>/     logs; these outlive their session, the last ten times
    <root>/current             the address of the broker that was started by hand, for ``address="auto"``
    <root>/lock                held while locks of sessions are made or tried

Sweeping is safe to do twice at once: who sweeps a session holds its lock meanwhile, and to the other one it looks
alive.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import socket
import stat
from collections.abc import Mapping
from typing import Any

from zray.exceptions import ConfigError, SystemFailure
from zray.sessions.lock import LOCK_NAME, SessionLock, claim_if_dead, locked_root, protect
from zray.system import processes

MAX_SOCKET_PATH_BYTES = 107
MAX_SOCKET_NAME_BYTES = 36
"""Longest name of a socket within a session's directory."""
KEPT_LOGS = 10

_NAME_BYTES = 8
_MAX_ROOT_BYTES = MAX_SOCKET_PATH_BYTES - MAX_SOCKET_NAME_BYTES - _NAME_BYTES - 2
_SESSION_NAME = re.compile(r"[0-9a-f]{8}")


@dataclasses.dataclass(frozen=True)
class SessionPaths:
    """The places of one session."""

    name: str
    """Eight hexadecimal digits, never used again; also the session's marker in the environment of its processes."""
    root: str

    @property
    def directory(self) -> str:
        return f"{self.root}/{self.name}"

    @property
    def broker_socket(self) -> str:
        return f"{self.directory}/broker.sock"

    @property
    def relay_socket(self) -> str:
        return f"{self.directory}/relay.sock"

    @property
    def fetch_socket(self) -> str:
        return f"{self.directory}/fetch.sock"

    @property
    def logs(self) -> str:
        return f"{self.root}/logs/{self.name}"

    @property
    def spill(self) -> str:
        return f"{self.directory}/spill"

    @property
    def lock(self) -> str:
        return f"{self.directory}/{LOCK_NAME}"

    @property
    def broker(self) -> str:
        """The file that tells where a broker that was started by hand listens."""
        return f"{self.directory}/broker"

    @property
    def store(self) -> str:
        """The file that names directories elsewhere; see ``add_store``."""
        return f"{self.directory}/store"


# ---- the root


def runtime_root(tmpdir: str = "", environ: Mapping[str, str] | None = None) -> str:
    """The user's own directory (0700), made if need be.

    ``<tmpdir>/zray-<uid>`` if ``tmpdir`` is given, else the first that is usable and not too long for the path of a
    socket: ``$XDG_RUNTIME_DIR/zray``, ``$TMPDIR/zray-<uid>`` (both are often inherited from a login or a batch system's
    submit host, where they exist), ``/tmp/zray-<uid>``. In a directory for all, somebody else may have taken that name:
    then a warning says so, and it is ``/var/tmp/zray-<uid>``, or else a directory of this machine's in the user's home,
    where nobody else can.
    Raises ConfigError if the directory cannot be made, is not the user's, or lets others in.
    """
    environ = os.environ if environ is None else environ
    name = f"zray-{os.geteuid()}"
    if tmpdir:
        root = os.path.join(absolute(tmpdir), name)
        if not _short_enough(root):
            raise ConfigError(
                f"{root} is too long to hold sockets, whose paths are limited to {MAX_SOCKET_PATH_BYTES} bytes: "
                f"set ZRAY_TMPDIR to a directory of at most {_MAX_ROOT_BYTES - len(name) - 1} bytes"
            )
        return private_directory(root)
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    of_login = os.path.join(runtime, "zray")
    if os.path.isabs(runtime) and _short_enough(of_login):
        with contextlib.suppress(ConfigError):  # left over from another user after su, or read-only: not usable
            return private_directory(of_login)
    root = f"/tmp/{name}"
    inherited = os.path.join(absolute(environ.get("TMPDIR") or "/tmp"), name)
    if _short_enough(inherited):
        if _other_owner(inherited) is not None:
            root = inherited
        else:
            with contextlib.suppress(ConfigError):
                return private_directory(inherited)
    owner = _other_owner(root)
    if owner is None:
        return private_directory(root)
    for other in (f"/var/tmp/{name}", _home_root(environ)):
        if other is not None and _short_enough(other) and _other_owner(other) is None:
            _warn_once(f"{root} belongs to user {owner}, who has taken your place there: {other} is used instead")
            return private_directory(other)
    return private_directory(root)


def absolute(path: str) -> str:
    """The path from the root on. Not ``os.path.abspath``, which leads elsewhere where ``..`` comes after a link."""
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def _other_owner(path: str) -> int | None:
    """The user to whom a path belongs, if it is another one; a symbolic link counts by itself."""
    try:
        owner = os.lstat(path).st_uid
    except OSError:
        return None
    return owner if owner != os.geteuid() else None


def _home_root(environ: Mapping[str, str]) -> str | None:
    """A place in the user's home, which machines may share: so one for each machine. None without a home."""
    cache = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.join(environ.get("HOME", ""), ".cache")
    return os.path.join(cache, f"zray-{socket.gethostname()}") if os.path.isabs(cache) else None


@functools.cache
def _warn_once(text: str) -> None:
    import logging  # workers, which import this module too, do without

    logging.getLogger("zray").warning(text)


def _short_enough(root: str) -> bool:
    return len(os.fsencode(root)) <= _MAX_ROOT_BYTES


def private_directory(path: str) -> str:
    """Makes a directory that is this user's alone, if need be; raises ConfigError if it cannot be that."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        status = os.lstat(path)  # not through a symbolic link: in /tmp anybody could have laid one
        writable = os.access(path, os.W_OK | os.X_OK)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}; set ZRAY_TMPDIR to another directory") from None
    if not stat.S_ISDIR(status.st_mode):
        fault = "is not a directory"
    elif status.st_uid != os.geteuid():
        fault = f"belongs to user {status.st_uid}, not to you ({os.geteuid()})"
    elif status.st_mode & 0o077:
        fault = f"lets other users in (mode {stat.S_IMODE(status.st_mode):04o}, needed: 0700)"
    elif not writable:
        fault = "is not writable"
    else:
        return path
    raise ConfigError(f"{path} {fault}; mend that, or set ZRAY_TMPDIR to another directory")


def remove_tree(directory: str) -> None:
    """Removes a directory with all that is in it, as far as that can be done."""
    import shutil  # draws in three compressors: half a megabyte that processes which never remove anything do without

    shutil.rmtree(directory, ignore_errors=True)


# ---- the life of a session


def new_name() -> str:
    """A name that no session has."""
    return os.urandom(_NAME_BYTES // 2).hex()


def new_session(root: str, name: str = "") -> tuple[SessionPaths, SessionLock]:
    """Makes the directories of a session (default: of a new name), which lives as long as the lock is held.

    Raises SystemFailure if another process holds a session of that name, ConfigError if the file system has no locks.
    """
    paths = SessionPaths(name or new_name(), root)
    is_new = not os.path.exists(paths.directory)
    try:
        with locked_root(root):
            make_directories(paths)
            lock = SessionLock.take(paths.directory)
    except OSError as error:
        if is_new:
            remove_tree(paths.directory)
        why = processes.describe_error(error)
        raise ConfigError(f"a session cannot be made in {root}: {why}; set ZRAY_TMPDIR to another directory") from None
    if lock is None:
        raise SystemFailure(f"session {paths.name} in {root} is held by another process")
    for path in (root, f"{root}/{LOCK_NAME}", *session_files(paths)):
        protect(path)
    return paths, lock


def make_directories(paths: SessionPaths) -> None:
    """Makes those that are missing; raises OSError."""
    for directory in (paths.directory, paths.spill, paths.logs):
        os.makedirs(directory, mode=0o700, exist_ok=True)


def session_files(paths: SessionPaths) -> list[str]:
    """What a living session has on disk, but for the objects and logs in it."""
    sockets = (paths.broker_socket, paths.relay_socket, paths.fetch_socket)
    return [
        paths.directory,
        paths.lock,
        paths.store,
        paths.broker,
        paths.spill,
        os.path.dirname(paths.logs),
        paths.logs,
        *sockets,
    ]


def session_paths(root: str, name: str) -> SessionPaths:
    """The places of a session that another process has made; raises ConfigError if that is no session's name."""
    if not _SESSION_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not the name of a session")
    return SessionPaths(name, root)


def add_store(paths: SessionPaths, directory: str) -> None:
    """Records a directory elsewhere that is to go with the session; call it before making the directory."""
    with open(paths.store, "a") as file:
        file.write(f"{absolute(directory)}\n")


def session_is_alive(paths: SessionPaths) -> bool:
    """Whether the session's guardian lives (or somebody sweeps up after it at this moment)."""
    with locked_root(paths.root):
        claimed = claim_if_dead(paths.directory)
        if claimed is None:
            return os.path.exists(paths.directory)
        claimed.close()
    return False


def stores_of(paths: SessionPaths) -> list[str]:
    """The directories elsewhere that go with the session: only such as have its name in theirs, whatever the file
    says, since they are removed with all that is in them."""
    try:
        with open(paths.store) as file:
            lines = file.read().splitlines()
    except (OSError, ValueError):
        return []
    return [line for line in lines if paths.name in os.path.basename(line)]


def remove_session(paths: SessionPaths) -> None:
    """Removes what the session has on disk, save its logs; what cannot be removed is left to the next sweep."""
    clear_current(paths.root, paths.name)
    for directory in stores_of(paths):
        remove_tree(directory)
    remove_tree(paths.directory)
    _prune_logs(paths.root)


def sweep_dead_sessions(root: str) -> list[str]:
    """Kills what is left of dead sessions and removes their directories; returns their names.

    May run at any time and in several processes at once.
    """
    with locked_root(root):
        claimed = {paths: lock for paths in _sessions(root) if (lock := claim_if_dead(paths.directory)) is not None}
    for paths, lock in claimed.items():
        try:
            processes.kill_session(paths.name)
            remove_session(paths)
        finally:
            lock.close()
    return [paths.name for paths in claimed]


def _sessions(root: str) -> list[SessionPaths]:
    with os.scandir(root) as entries:
        return [
            SessionPaths(entry.name, root)
            for entry in entries
            if _SESSION_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]


def _prune_logs(root: str) -> None:
    """Keeps the logs of the sessions that live and of the ``KEPT_LOGS`` that ended last."""
    with contextlib.suppress(OSError):  # another process prunes at the same time
        names = os.listdir(f"{root}/logs")
        ended = [f"{root}/logs/{name}" for name in names if not os.path.exists(f"{root}/{name}")]
        ended.sort(key=os.path.getmtime, reverse=True)
        for directory in ended[KEPT_LOGS:]:
            remove_tree(directory)


# ---- the broker that was started by hand


@dataclasses.dataclass(frozen=True)
class Current:
    """What ``address="auto"`` finds."""

    address: str
    session: str
    pid: int


def write_current(root: str, current: Current) -> None:
    """Makes a broker the one that ``address="auto"`` finds; the last to call this wins."""
    _write_record(f"{root}/current", current)


def write_broker(paths: SessionPaths, current: Current) -> None:
    """Notes in a broker's own session where it listens: several may run, and one is ``current``."""
    _write_record(paths.broker, current)


def _write_record(path: str, current: Current) -> None:
    record = {**dataclasses.asdict(current), "start_time": processes.process_start_time(current.pid)}
    draft = f"{path}.{os.urandom(4).hex()}"
    with open(draft, "w") as file:
        file.write(json.dumps(record))
    protect(draft)
    os.replace(draft, path)


def brokers(root: str, local: bool = False) -> list[Current]:
    """The brokers of this user that were started by hand and live, the last one last. ``local``: ahead of them, those
    of clusters that ``zray.init()`` has started, whose PIDs are not known (0)."""
    by_hand: list[tuple[int, Current]] = []
    of_programs = []
    for paths in sorted(_sessions(root), key=lambda paths: paths.name):
        record = _record(paths.broker)
        if (found := _living(record)) is not None:
            by_hand.append((record["start_time"], found))
        elif local and os.path.exists(paths.broker_socket) and session_is_alive(paths):
            of_programs.append(Current(f"ipc://{paths.broker_socket}", paths.name, 0))
    by_hand.sort(key=lambda row: row[0])
    return [*of_programs, *(current for _, current in by_hand)]


def choose_broker(root: str) -> tuple[Current | None, str]:
    """The broker that ``address="auto"`` means, and if there are several what is to be said of that."""
    current = read_current(root)
    others = [each.address for each in brokers(root) if current is not None and each.session != current.session]
    if current is None or not others:
        return current, ""
    return current, (
        f"{len(others) + 1} brokers of yours run on this machine: this goes to the one that was started last, at "
        f"{current.address}. Give the address to choose; the others are at {', '.join(others)}"
    )


def read_current(root: str) -> Current | None:
    """The broker that was started by hand; None if there is none, or it is dead."""
    return _living(_current_record(root))


def _living(record: dict[str, Any]) -> Current | None:
    try:
        current = Current(str(record["address"]), str(record["session"]), int(record["pid"]))
        started = record["start_time"]
    except (KeyError, TypeError, ValueError):
        return None
    # The PID may have been given to another process since: it is the same one only if it started at the same time.
    alive = started is not None and processes.process_start_time(current.pid) == started
    return current if alive else None


def current_session(root: str) -> str | None:
    """The session of the broker that was started by hand, alive or not; None if there is no record."""
    session = _current_record(root).get("session")
    return session if isinstance(session, str) else None


def clear_current(root: str, session: str) -> None:
    """Removes the record if it is that session's."""
    if _current_record(root).get("session") == session:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{root}/current")


def _current_record(root: str) -> dict[str, Any]:
    return _record(f"{root}/current")


def _record(path: str) -> dict[str, Any]:
    try:
        with open(path) as file:
            record = json.load(file)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
