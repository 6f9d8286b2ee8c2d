"""Sessions on disk: where they are, how dead ones are told from living ones, and what stays of them.

One start of a local cluster, broker or host makes a session. Below the root, a directory of its user only::

    <root>/<session>/          sockets, spilled objects, and the files
        environments/          what a host has installed for runtime environments
        lock                   locked by the session's guardian, like the directory, as long as it runs: see lock.py
        store                  directories elsewhere that belong to the session, one a line (its object store)
        broker                 of a broker that was started by hand: its address
    <root>/logs/<session>/     logs; these outlive their session, the last ten times
    <root>/current             the address of the broker that was started by hand, for ``address="auto"``
    <root>/lock                held while locks of sessions are made or tried

Two processes may sweep at once: a process that sweeps a session holds its lock meanwhile, so the session looks alive to
the other one.
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
"""The longest name of a socket within a session's directory."""
KEPT_LOGS = 10

_NAME_BYTES = 8
MAX_ROOT_BYTES = MAX_SOCKET_PATH_BYTES - MAX_SOCKET_NAME_BYTES - _NAME_BYTES - 2
"""The longest path of a root, so that there is room for sockets in it."""
_SESSION_NAME = re.compile(r"[0-9a-f]{8}")
_REMOVED = ".removed"
"""What the name of a session's directory ends with while it is removed."""


@dataclasses.dataclass(frozen=True)
class SessionPaths:
    """The paths of one session."""

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
    def environments(self) -> str:
        """The directory for what runtime environments need on the host."""
        return f"{self.directory}/environments"

    @property
    def lock(self) -> str:
        return f"{self.directory}/{LOCK_NAME}"

    @property
    def broker(self) -> str:
        """The file with the address of a broker that was started by hand."""
        return f"{self.directory}/broker"

    @property
    def store(self) -> str:
        """The file that names directories elsewhere; see ``add_store``."""
        return f"{self.directory}/store"


# ---- the root


def runtime_root(tmpdir: str = "", environ: Mapping[str, str] | None = None) -> str:
    """Returns the user's own directory (0700); makes it if needed.

    It is ``<tmpdir>/zray-<uid>`` if ``tmpdir`` is given. Otherwise it is the first of these that is usable and short
    enough for the path of a socket: ``$XDG_RUNTIME_DIR/zray``, ``$TMPDIR/zray-<uid>``, ``/tmp/zray-<uid>``. The first
    two are often inherited from a login or a batch system's submit host, where they exist. In a directory for all
    users, another user may have taken that name. Then a warning says so, and it is ``/var/tmp/zray-<uid>``, or else a
    directory for this machine in the user's home, where no other user can take it.

    Raises ConfigError if the directory cannot be made, is not the user's, or is accessible to others.
    """
    environ = os.environ if environ is None else environ
    name = f"zray-{os.geteuid()}"
    if tmpdir:
        root = os.path.join(absolute(tmpdir), name)
        if not _short_enough(root):
            raise ConfigError(
                f"{root} is too long to hold sockets, whose paths are limited to {MAX_SOCKET_PATH_BYTES} bytes: "
                f"set ZRAY_TMPDIR to a directory of at most {MAX_ROOT_BYTES - len(name) - 1} bytes"
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
            _warn_once(f"{root} belongs to user {owner}, so it cannot be used: {other} is used instead")
            return private_directory(other)
    return private_directory(root)


def absolute(path: str) -> str:
    """Returns the absolute path. Unlike ``os.path.abspath``, it is right where ``..`` follows a symbolic link."""
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def _other_owner(path: str) -> int | None:
    """Returns the owner of a path if it is another user, else None. Does not follow a symbolic link."""
    try:
        owner = os.lstat(path).st_uid
    except OSError:
        return None
    return owner if owner != os.geteuid() else None


def _home_root(environ: Mapping[str, str]) -> str | None:
    """Returns a directory in the user's home, one for each machine, as machines may share it. None without a home."""
    cache = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.join(environ.get("HOME", ""), ".cache")
    return os.path.join(cache, f"zray-{socket.gethostname()}") if os.path.isabs(cache) else None


@functools.cache
def _warn_once(text: str) -> None:
    import logging  # workers, which import this module too, do without

    logging.getLogger("zray").warning(text)


def _short_enough(root: str) -> bool:
    return len(os.fsencode(root)) <= MAX_ROOT_BYTES


def private_directory(path: str) -> str:
    """Makes a directory of this user only, if needed. Raises ConfigError if that is impossible."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        status = os.lstat(path)  # not through a symbolic link: in /tmp any user could have made one
        writable = os.access(path, os.W_OK | os.X_OK)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}; set ZRAY_TMPDIR to another directory") from None
    if not stat.S_ISDIR(status.st_mode):
        fault = "is not a directory"
    elif status.st_uid != os.geteuid():
        fault = f"belongs to user {status.st_uid}, not to you ({os.geteuid()})"
    elif status.st_mode & 0o077:
        fault = f"is accessible to other users (mode {stat.S_IMODE(status.st_mode):04o}, needed: 0700)"
    elif not writable:
        fault = "is not writable"
    else:
        return path
    raise ConfigError(f"{path} {fault}; correct that, or set ZRAY_TMPDIR to another directory")


def remove_tree(directory: str) -> None:
    """Removes a directory with all its contents, as far as possible."""
    import shutil  # draws in three compressors: half a megabyte that processes which never remove anything do without

    shutil.rmtree(directory, ignore_errors=True)


# ---- making and removing a session


def new_name() -> str:
    """Returns a name that no session has."""
    return os.urandom(_NAME_BYTES // 2).hex()


def new_session(root: str, name: str = "") -> tuple[SessionPaths, SessionLock]:
    """Makes the directories of a session (default: of a new name). It is alive as long as the lock is held.

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
    """Makes the directories that are missing; raises OSError."""
    for directory in (paths.directory, paths.spill, paths.logs):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # programs look for the logs where Ray has them: in the session
        os.symlink(paths.logs, f"{paths.directory}/logs")


def session_files(paths: SessionPaths) -> list[str]:
    """Returns the files and directories of a living session, except objects and logs."""
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
    """Returns the paths of a session that another process has made; raises ConfigError if the name is malformed."""
    if not _SESSION_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not the name of a session")
    return SessionPaths(name, root)


def add_store(paths: SessionPaths, directory: str) -> None:
    """Records a directory elsewhere that belongs to the session; call it before making the directory."""
    with open(paths.store, "a") as file:
        file.write(f"{absolute(directory)}\n")


def session_is_alive(paths: SessionPaths) -> bool:
    """Whether the session's guardian lives, or a process is sweeping up after it at this moment."""
    with locked_root(paths.root):
        claimed = claim_if_dead(paths.directory)
        if claimed is None:
            return os.path.exists(paths.directory)
        claimed.close()
    return False


def stores_of(paths: SessionPaths) -> list[str]:
    """Returns the directories elsewhere that belong to the session.

    Only those that have its name in theirs, whatever the file says, since they are removed with all their contents.
    """
    try:
        with open(paths.store) as file:
            lines = file.read().splitlines()
    except (OSError, ValueError):
        return []
    return [line for line in lines if paths.name in os.path.basename(line)]


def remove_session(paths: SessionPaths) -> None:
    """Removes the session's files except its logs. What cannot be removed is left to the next sweep.

    The directory gets another name first. The process that removes it may be killed, and without its lock file the rest
    would count as a session that is just being made.
    """
    clear_current(paths.root, paths.name)
    for directory in stores_of(paths):
        remove_tree(directory)
    with contextlib.suppress(OSError):  # it is gone, or its file system does not rename it: then it is removed as it is
        os.rename(paths.directory, paths.directory + _REMOVED)
    remove_tree(paths.directory + _REMOVED)
    remove_tree(paths.directory)
    _prune_logs(paths.root)


def sweep_dead_sessions(root: str) -> list[str]:
    """Kills the processes of dead sessions and removes their directories; returns their names.

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
    for name in os.listdir(root):  # the process that removed them was killed
        if name.endswith(_REMOVED) and _SESSION_NAME.fullmatch(name.removesuffix(_REMOVED)):
            remove_tree(f"{root}/{name}")
    return [paths.name for paths in claimed]


def _sessions(root: str) -> list[SessionPaths]:
    with os.scandir(root) as entries:
        return [
            SessionPaths(entry.name, root)
            for entry in entries
            if _SESSION_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]


def _prune_logs(root: str) -> None:
    """Keeps the logs of living sessions and of the ``KEPT_LOGS`` that ended last."""
    with contextlib.suppress(OSError):  # another process prunes at the same time
        names = os.listdir(f"{root}/logs")
        ended = [f"{root}/logs/{name}" for name in names if not os.path.exists(f"{root}/{name}")]
        ended.sort(key=os.path.getmtime, reverse=True)
        for directory in ended[KEPT_LOGS:]:
            remove_tree(directory)


# ---- the broker that was started by hand


@dataclasses.dataclass(frozen=True)
class Current:
    """The broker that ``address="auto"`` finds."""

    address: str
    session: str
    pid: int


def write_current(root: str, current: Current) -> None:
    """Makes a broker the one that ``address="auto"`` finds; the last call wins."""
    _write_record(f"{root}/current", current)


def write_broker(paths: SessionPaths, current: Current) -> None:
    """Records a broker's address in its own session: several brokers may run, and one is ``current``."""
    _write_record(paths.broker, current)


def _write_record(path: str, current: Current) -> None:
    record = {**dataclasses.asdict(current), "start_time": processes.process_start_time(current.pid)}
    draft = f"{path}.{os.urandom(4).hex()}"
    with open(draft, "w") as file:
        file.write(json.dumps(record))
    protect(draft)
    os.replace(draft, path)


def brokers(root: str, local: bool = False) -> list[Current]:
    """Returns the living brokers of this user that were started by hand, the last started one last.

    ``local``: first those of clusters that ``zray.init()`` has started, with the PID 0, as it is not known; of these,
    too, the last started one last.
    """
    by_hand: list[tuple[int, Current]] = []
    of_programs: list[tuple[int, Current]] = []
    for paths in sorted(_sessions(root), key=lambda paths: paths.name):
        record = _record(paths.broker)
        if (found := _living(record)) is not None:
            by_hand.append((record["start_time"], found))
        elif local and session_is_alive(paths):
            with contextlib.suppress(OSError):  # it does not listen yet, or any more
                made = os.stat(paths.broker_socket).st_mtime_ns
                of_programs.append((made, Current(f"ipc://{paths.broker_socket}", paths.name, 0)))
    return [current for found in (of_programs, by_hand) for _, current in sorted(found, key=lambda row: row[0])]


def choose_broker(root: str) -> tuple[Current | None, str]:
    """Returns the broker that ``address="auto"`` means, and a message if there are several."""
    current = read_current(root)
    others = [each.address for each in brokers(root) if current is not None and each.session != current.session]
    if current is None or not others:
        return current, ""
    return current, (
        f"{len(others) + 1} brokers of yours run on this machine: this goes to the one that was started last, at "
        f"{current.address}. Give the address to choose; the others are at {', '.join(others)}"
    )


def read_current(root: str) -> Current | None:
    """Returns the broker that was started by hand; None if there is none, or it is dead."""
    return _living(_current_record(root))


def _living(record: dict[str, Any]) -> Current | None:
    try:
        current = Current(str(record["address"]), str(record["session"]), int(record["pid"]))
        started = record["start_time"]
    except (KeyError, TypeError, ValueError):
        return None
    # The PID may have been reused since: it is the same process only if it started at the same time.
    alive = started is not None and processes.process_start_time(current.pid) == started
    return current if alive else None


def current_session(root: str) -> str | None:
    """Returns the session of the broker that was started by hand, alive or not; None if there is no record."""
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
