"""Upkeep of a session's files by its guardian: refreshes their times, and makes missing ones again.

Cleaners of temporary files remove what looks unused: after six hours in XDG_RUNTIME_DIR, after some days in /tmp.
``zray.sessions.lock`` describes what keeps them away. This module is for cleaners that respect neither lock nor sticky
bit, and for people who remove files. Sockets are bound again by the processes that listen at them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from zray.exceptions import ConfigError
from zray.sessions.directories import (
    Current,
    SessionPaths,
    add_store,
    current_session,
    make_directories,
    private_directory,
    session_files,
    write_broker,
    write_current,
)
from zray.sessions.lock import SessionLock, locked_root, protect

REFRESH_S = 3600.0
"""A sixth of the time for which files in XDG_RUNTIME_DIR may be left alone."""


def _warn(text: str) -> None:
    print(f"zray: {text}", file=sys.stderr, flush=True)


class SessionUpkeep:
    """The upkeep of one session. Call ``check`` about once a second; that costs a handful of system calls."""

    def __init__(self, paths: SessionPaths, lock: SessionLock, warn: Callable[[str], None] = _warn) -> None:
        self._paths = paths
        self._lock = lock
        self._current: Current | None = None
        self._is_current = True  # no other broker has been started since
        self._warn = warn
        self._stores: list[str] = []
        self._refresh_at = 0.0
        self._failed = False

    def add_store(self, directory: str) -> None:
        """Records a directory elsewhere that belongs to the session; call it before making the directory."""
        self._stores.append(directory)
        add_store(self._paths, directory)

    def show(self, current: Current) -> None:
        """Makes a broker that was started by hand the one that ``address="auto"`` finds."""
        self._current = current
        write_current(self._paths.root, current)
        write_broker(self._paths, current)

    def check(self, now: float) -> None:
        """Makes missing files again, and refreshes the times of all files once an hour. Never raises OSError."""
        paths = self._paths
        try:
            whole = self._lock.is_whole() and (os.path.exists(paths.store) or not self._stores)
            if not whole or not os.path.exists(paths.logs) or not os.path.exists(paths.spill):
                self._make_again()
                self._refresh_at = 0.0
            if now >= self._refresh_at:
                self._refresh_at = now + REFRESH_S
                self._refresh()
            if self._current is not None and not os.path.exists(paths.broker):
                write_broker(paths, self._current)
            if self._is_current and self._current is not None:
                self._keep_current(self._current)
            self._failed = False
        except (OSError, ConfigError) as error:
            if not self._failed:
                self._failed = True
                self._warn(
                    f"files of the session in {paths.directory} were removed by another program, and cannot be made "
                    f"again ({error}): running work goes on, but no new workers can start"
                )

    def _make_again(self) -> None:
        paths = self._paths
        private_directory(paths.root)
        with locked_root(paths.root):
            make_directories(paths)
            if not self._lock.renew():
                raise ConfigError(f"{paths.directory} is held by another process")
        if not os.path.exists(paths.store):
            for directory in self._stores:
                add_store(paths, directory)
        self._warn(f"files of the session in {paths.directory} were removed by another program, and are made again")

    def _refresh(self) -> None:
        root = self._paths.root
        for path in (root, *(f"{root}/{name}" for name in os.listdir(root)), *session_files(self._paths)):
            protect(path)
        for directory in (self._paths.spill, *self._stores):
            protect(directory)
            for parent, _, names in os.walk(directory):
                for name in names:
                    protect(os.path.join(parent, name))

    def _keep_current(self, current: Current) -> None:
        session = current_session(self._paths.root)
        if session is None:
            write_current(self._paths.root, current)
        elif session != current.session:
            self._is_current = False  # another broker has been started since, and is found instead
