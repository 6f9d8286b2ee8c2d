"""The journal of a broker: an SQLite file with the records that outlive it (``zray.broker.journal_records``).

The broker writes the changes of each turn in one transaction, before anything of that turn leaves. So a change that was
acknowledged is in the file. What that means depends on ``journal_sync``:

* ``normal``: it is with the kernel. It survives the death of the broker, by any signal, but perhaps not a crash of the
  machine. After such a crash the file has a clean prefix of the changes.
* ``full``: it is on the disk, too. Each turn with a change waits for the disk. If a change cannot be written, the
  broker ends, since it may acknowledge nothing.

With ``normal``, changes that cannot be written (a full disk) are kept in memory and tried again each second, and the
log says so. The file is locked while a broker uses it.

SQLite itself drops a torn end. Each record has a checksum, and the file has the number of records and the sum of their
checksums. So a file that was damaged elsewhere is refused, and never half used.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from zlib import crc32

from zray.broker.effects import Journaled
from zray.broker.journal_records import Kept, decode
from zray.exceptions import ConfigError, SystemFailure
from zray.logs.line import ERROR, INFO, LogLine
from zray.protocol.messages import ProtocolError

FORMAT = 1
"""Raised when the records change, so that no broker reads what it does not understand."""
APPLICATION_ID = 0x7A726179
"""Marks an SQLite file as one of zray."""
RETRY_S = 1.0
SHORTEST_BYTES = 512
"""The size of the smallest SQLite file."""
REMEDY = "Move it away, to begin without what it has kept"
ROOT = 0
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
LOCK_WAIT_S = 2.0
"""How long to wait for an earlier broker to leave the file, in seconds."""
_TABLES = """
CREATE TABLE IF NOT EXISTS records (
    key BLOB PRIMARY KEY, checksum INTEGER NOT NULL, record BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total (one INTEGER PRIMARY KEY CHECK (one = 1), records INTEGER, checksums INTEGER);
INSERT OR IGNORE INTO total VALUES (1, 0, 0);
"""


class Journal:
    """The journal in the file ``path``, which is made if it is missing. ``log(line)`` writes the broker's log.

    Raises ConfigError if the file cannot be used: it is damaged, another broker's, or others may write to it.
    """

    def __init__(self, path: str, sync: str, log: Callable[[LogLine], None]) -> None:
        self.path = os.path.realpath(path)  # SQLite puts its other file beside the target of a link
        self._is_strict = sync == "full"
        self._log = log
        self._pending: dict[bytes, bytes | None] = {}
        self.fault = ""
        """Why it cannot be written; empty if it can."""
        self._retry_at = 0.0
        self.idle_s = _look_at(self.path)
        """How long no broker has used it, in seconds."""
        try:
            self._database = sqlite3.connect(self.path, timeout=LOCK_WAIT_S, isolation_level=None)
            try:
                self._prepare(sync)
            except BaseException:
                self._database.close()
                raise
        except sqlite3.Error as error:
            raise ConfigError(self._unusable(error)) from None

    def _prepare(self, sync: str) -> None:
        """Locks the file, and makes its tables if it is new. Writes nothing to another program's file."""
        execute = self._database.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        (application,), (version,) = execute("PRAGMA application_id"), execute("PRAGMA user_version")
        is_new = not any(execute("SELECT 1 FROM sqlite_master LIMIT 1"))
        if not is_new and (application, version) != ((APPLICATION_ID,), (FORMAT,)):
            what = f"of format {version[0]}" if application == (APPLICATION_ID,) else "another program's file"
            raise ConfigError(f"journal: {self.path} is {what}, and this version reads format {FORMAT}: name another")
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {sync.upper()}")
        execute("BEGIN EXCLUSIVE")
        if is_new:  # else nothing is written, so that a broker can start although the disk is full
            for statement in filter(str.strip, _TABLES.split(";")):
                execute(statement)
            execute(f"PRAGMA application_id = {APPLICATION_ID}")
            execute(f"PRAGMA user_version = {FORMAT}")
        execute("COMMIT")

    def _unusable(self, error: Exception) -> str:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return f"journal: {self.path} is in use by another broker: end that one, or name another file"
        return f"journal: {self.path} cannot be used: {error}. Name another file, or move this one away"

    def records(self) -> list[Kept]:
        """Returns all records. Raises ConfigError if the file is damaged."""
        try:
            rows = self._database.execute("SELECT key, checksum, record FROM records").fetchall()
            totals = self._database.execute("SELECT records, checksums FROM total").fetchall()
            if totals != [(len(rows), sum(checksum for _, checksum, _ in rows))]:
                raise ProtocolError("records are missing, or there are too many")
            for key, checksum, record in rows:
                if _checksum(key, record) != checksum:
                    raise ProtocolError("a record is not what was written")
            return [decode(record) for _, _, record in rows]
        except (sqlite3.Error, ProtocolError, TypeError) as error:  # TypeError: a column has another type
            raise ConfigError(f"journal: {self.path} is damaged ({error}). {REMEDY}") from None

    # ------------------------------------------------------------------ writing

    def write(self, changes: list[Journaled]) -> None:
        """Writes changes. Raises SystemFailure if they cannot be written, and that must not be."""
        for change in changes:
            self._pending[change.key] = change.record
        if not self.fault:
            self._try()

    def tick(self, now: float) -> None:
        """Marks the file as in use, and tries again what could not be written. Called once a second."""
        with contextlib.suppress(OSError):  # the next broker then takes it for older than it is
            os.utime(self.path)
        if self.fault and now >= self._retry_at:
            self._retry_at = now + RETRY_S
            self._try()

    def _try(self) -> None:
        try:
            self._commit()
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):  # there is no transaction if its beginning has failed
                self._database.execute("ROLLBACK")
            if self._is_strict:
                raise SystemFailure(f"the journal {self.path} cannot be written: {error}") from None
            if not self.fault:
                self._report(ERROR, f"the journal {self.path} cannot be written: {error}. Changes are kept in memory")
            self.fault = str(error)
        else:
            if self.fault:
                self.fault = ""
                self._report(INFO, f"the journal {self.path} can be written again, and has all changes")
            self._pending.clear()

    def _commit(self) -> None:
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        more, difference = 0, 0
        for key, record in self._pending.items():
            before = execute("SELECT checksum FROM records WHERE key = ?", (key,)).fetchone()
            if before is not None:
                more -= 1
                difference -= before[0]
            if record is None:
                execute("DELETE FROM records WHERE key = ?", (key,))
            else:
                checksum = _checksum(key, record)
                more += 1
                difference += checksum
                execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (key, checksum, record))
        ((count, total),) = execute("SELECT records, checksums FROM total")
        execute("UPDATE total SET records = ?, checksums = ?", (count + more, total + difference))
        execute("COMMIT")

    def _report(self, level: int, text: str) -> None:
        self._log(LogLine(level, "broker", text))

    def close(self) -> None:
        """Writes what is left, and closes the file. Raises SystemFailure if changes are lost."""
        try:
            if self.fault:
                self._try()
            if self._pending:
                raise SystemFailure(
                    f"{len(self._pending)} changes are lost: the journal cannot be written: {self.fault}"
                )
        finally:
            self._database.close()


def _look_at(path: str) -> float:
    """Makes the file if it is missing, for this user only. Returns how old its last use is, in seconds.

    Raises ConfigError if another user may write to it.
    """
    try:
        if not os.path.lexists(path):  # else it is not opened here: to close it would end the lock of another Journal
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        found, directory = os.stat(path), os.stat(os.path.dirname(path))
    except OSError as error:
        raise ConfigError(f"journal: {path} cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"journal: {path} cannot be opened: it is not a file")
    # SQLite takes a shorter file for a new one.
    if 0 < found.st_size < SHORTEST_BYTES or (not found.st_size and os.path.exists(f"{path}-wal")):
        raise ConfigError(f"journal: {path} is damaged (cut off). {REMEDY}")
    me = os.geteuid()
    if found.st_uid != me or found.st_mode & OTHERS_WRITE:
        raise ConfigError(
            f"journal: others may write to {path}, and what it has kept is run as you: "
            "make it your own (chown), and take their right to write away (chmod go-w)"
        )
    if directory.st_uid not in (me, ROOT) or directory.st_mode & OTHERS_WRITE:  # they could put SQLite's log there
        raise ConfigError(
            f"journal: others may make files in the directory of {path}, and what it has kept is run as you: "
            "name a file in a directory of your own"
        )
    return max(0.0, time.time() - found.st_mtime)


def _checksum(key: bytes, record: bytes) -> int:
    return crc32(record, crc32(key))
