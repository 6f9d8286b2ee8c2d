"""Workflows on disk.

A storage directory has a database (SQLite, synchronized with the disk at each commit), a directory of lock files, and a
directory of large contents for each workflow. The database is in WAL mode, which takes one synchronization for a
transaction, except on a file system that several machines share, where that mode does not work.

- A *content* is a graph, or the value of a step. A small one is in the database. A large one is a file, which is
  written, synchronized and renamed, and its directory synchronized, before the database names it.
- A step is finished as soon as the transaction with its content is committed. ``Storage.keep`` returns after that.
- A checksum covers the content, its workflow, its step and its kind. So what is damaged is never taken for a value.

A crash can leave files that the database does not name. ``sweep`` removes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import xxhash

from zray.exceptions import SystemFailure
from zray.named_tuples import NamedTuple
from zray.object_ref import ObjectRef
from zray.serialization import Serialized, deserialize, serialize
from zray.workflow.exceptions import WorkflowDamagedError, WorkflowNotFoundError, WorkflowStorageError
from zray.workflow.lock import WorkflowLock, holder, is_locked

FORMAT = 1
INLINE_BYTES = 64 * 1024
"""The size up to which a content is in the database."""
BUSY_TIMEOUT_S = 30.0
"""For how long a transaction waits for those of other processes."""
SHARED_FILE_SYSTEMS = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs", "lustre",
        "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs",
    }
)  # fmt: skip
_ESCAPED = re.compile(r"\\([0-7]{3})")
ROOT = ""
"""Stands for a step in the content that is the graph of the workflow."""
VALUE, GRAPH = "value", "graph"
RUNNING, SUCCESSFUL, FAILED, CANCELED = "RUNNING", "SUCCESSFUL", "FAILED", "CANCELED"
"""Stored statuses. A RUNNING workflow whose lock nobody holds is RESUMABLE."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS workflows (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, python TEXT NOT NULL, metadata TEXT NOT NULL,
    started REAL NOT NULL, ended REAL, error BLOB
);
CREATE TABLE IF NOT EXISTS contents (
    workflow TEXT NOT NULL, step TEXT NOT NULL, kind TEXT NOT NULL, checksum BLOB NOT NULL, size INTEGER NOT NULL,
    started REAL NOT NULL, ended REAL NOT NULL, metadata TEXT NOT NULL, body BLOB,
    PRIMARY KEY (workflow, step)
);
"""  # the body is last: the other columns are read without it


class Record(NamedTuple):
    """A workflow. ``python``: the version that has stored it. ``started``, ``ended``: seconds since the epoch."""

    workflow_id: str
    status: str
    python: str
    metadata: str
    started: float
    ended: float | None
    error: bytes | None


class Content(NamedTuple):
    """A content that is ready to be kept. ``body``: None if it is a file. Times are seconds since the epoch."""

    step: str
    kind: str
    checksum: bytes
    size: int
    started: float
    ended: float
    metadata: str
    body: bytes | None


class Kept(NamedTuple):
    """What the database says of a content."""

    step: str
    kind: str
    size: int
    started: float
    ended: float
    metadata: str


class Storage:
    """The workflows in a directory, which is made if it is missing. Use it as a context manager.

    Raises (as all methods do) WorkflowStorageError if the directory or the database cannot be used,
    WorkflowDamagedError if the database is damaged.
    """

    def __init__(self, directory: str) -> None:
        self.directory = os.path.realpath(directory)  # a lock is known in its process by its path
        self._path = os.path.join(self.directory, "workflows.db")
        self._mutex = threading.RLock()  # run_async uses the connection in another thread
        with self._guarded():
            for name in ("", "locks", "contents"):
                os.makedirs(os.path.join(self.directory, name), mode=0o700, exist_ok=True)
            _make_private(self._path)
            self._db = sqlite3.connect(
                self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                with _alone(os.path.join(self.directory, "opening.lock")):
                    self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA synchronous = EXTRA")  # as FULL; without WAL the directory is synchronized, too
        (found,) = self._db.execute("PRAGMA user_version").fetchall()[0]
        if is_shared(self.directory, _mounts()):
            self._db.execute("PRAGMA journal_mode = DELETE")
        elif not found:
            self._db.execute("PRAGMA journal_mode = WAL")
        if found == FORMAT:
            return
        if found:
            raise WorkflowStorageError(f"{self._path} has format {found}, and this version of zray knows {FORMAT}")
        with self._transaction():
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")
        for directory in (self.directory, os.path.dirname(self.directory)):
            _synchronize(directory)

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database. May be called twice."""
        with self._mutex:
            self._db.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turns the errors of the disk and of the database into those of this package."""
        with self._mutex:
            try:
                yield
            except sqlite3.Error as error:
                damaged = "malformed" in str(error) or "not a database" in str(error)
                kind = WorkflowDamagedError if damaged else WorkflowStorageError
                raise kind(f"{self._path}: {error}") from error
            except WorkflowStorageError:
                raise
            except OSError as error:
                raise WorkflowStorageError(f"{self.directory}: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # ------------------------------------------------------------------ locks

    def lock(self, workflow_id: str) -> WorkflowLock | None:
        """Locks a workflow for this process; None if it is locked already."""
        with self._guarded():
            return WorkflowLock.take(self._lock_path(workflow_id))

    def is_locked(self, workflow_id: str) -> bool:
        """Whether a process runs the workflow."""
        with self._guarded():
            return is_locked(self._lock_path(workflow_id))

    def holder(self, workflow_id: str) -> str:
        """Describes the process that runs the workflow, for people."""
        return holder(self._lock_path(workflow_id))

    def _lock_path(self, workflow_id: str) -> str:
        return os.path.join(self.directory, "locks", _file_name(workflow_id))

    # ------------------------------------------------------------------ workflows

    def create(self, workflow_id: str, python: str, metadata: str, graph: Content) -> None:
        """Stores a new workflow, with its graph. Raises WorkflowStorageError if there is one with this name."""
        with self._guarded(), self._transaction():
            self._db.execute(
                "INSERT INTO workflows VALUES (?, ?, ?, ?, ?, NULL, NULL)",
                (workflow_id, RUNNING, python, metadata, time.time()),
            )
            self._insert(workflow_id, graph)

    def find(self, workflow_id: str) -> Record | None:
        """Returns the workflow, or None."""
        with self._guarded():
            row = self._db.execute("SELECT * FROM workflows WHERE id = ?", (workflow_id,)).fetchone()
        return None if row is None else Record(*row)

    def get(self, workflow_id: str) -> Record:
        """Returns the workflow. Raises WorkflowNotFoundError."""
        found = self.find(workflow_id)
        if found is None:
            raise WorkflowNotFoundError(workflow_id, f"is not in {self.directory}")
        return found

    def records(self) -> list[Record]:
        """Returns all workflows, in the order in which they were started."""
        with self._guarded():
            return [Record(*row) for row in self._db.execute("SELECT * FROM workflows ORDER BY started, id")]

    def change(self, workflow_id: str, status: str, expected: Iterable[str], error: bytes | None = None) -> bool:
        """Sets the status of a workflow, if it has one of the ``expected`` ones. Returns whether it had."""
        statuses = list(expected)
        marks = ", ".join("?" * len(statuses))
        ended = None if status == RUNNING else time.time()
        with self._guarded(), self._transaction():
            done = self._db.execute(
                f"UPDATE workflows SET status = ?, ended = ?, error = ? WHERE id = ? AND status IN ({marks})",
                (status, ended, error, workflow_id, *statuses),
            )
            return done.rowcount == 1

    def delete(self, workflow_id: str) -> None:
        """Removes a workflow and its contents. The caller has its lock."""
        with self._guarded():
            with self._transaction():
                self._db.execute("DELETE FROM workflows WHERE id = ?", (workflow_id,))
                self._db.execute("DELETE FROM contents WHERE workflow = ?", (workflow_id,))
            shutil.rmtree(self._files(workflow_id), ignore_errors=True)  # what stays is swept by the next of this name

    # ------------------------------------------------------------------ contents

    def pack(
        self,
        workflow_id: str,
        step: str,
        kind: str,
        value: Any,
        started: float = 0.0,
        ended: float = 0.0,
        metadata: str = "{}",
    ) -> Content:
        """Serializes a value; writes it to a file if it is large.

        Raises SerializationError if it cannot be pickled, TypeError if there are references in it.
        """
        made = serialize(value, "the graph" if kind == GRAPH else f"the value of step {step!r}")
        if made.refs:
            raise TypeError(
                f"the value of step {step!r} has references in it, and what they refer to is not stored: return the "
                "values, zray.get(references), or zray.workflow.continuation(...)"
            )
        summed = _sum_of(workflow_id, step, kind)
        for piece in made.pieces():
            summed.update(piece)
        checksum = summed.digest()
        body = made.to_bytes() if made.total_bytes <= INLINE_BYTES else None
        if body is None:
            with self._guarded():
                self._write(workflow_id, checksum, made)
        return Content(step, kind, checksum, made.total_bytes, started, ended, metadata, body)

    def keep(self, workflow_id: str, contents: Iterable[Content]) -> None:
        """Stores contents in one transaction. When this returns, they are on disk."""
        with self._guarded(), self._transaction():
            for content in contents:
                self._insert(workflow_id, content)

    def kept(self, workflow_id: str) -> list[Kept]:
        """Returns what is stored of a workflow, in the order in which it was stored, without the values."""
        columns = "step, kind, size, started, ended, metadata"
        with self._guarded():
            rows = self._db.execute(f"SELECT {columns} FROM contents WHERE workflow = ? ORDER BY rowid", (workflow_id,))
            return [Kept(*row) for row in rows]

    def is_whole(self, workflow_id: str, step: str, kind: str = VALUE) -> bool:
        """Whether a content can be read, and is what was written."""
        try:
            self._read(workflow_id, step, kind)
        except WorkflowDamagedError:
            return False
        return True

    def load(self, workflow_id: str, step: str, kind: str = VALUE) -> Any:
        """Returns the value of a step, or a graph.

        Raises WorkflowDamagedError if it is not what was written, WorkflowNotFoundError if there is none, and what
        unpickling raises.
        """
        return deserialize(self._read(workflow_id, step, kind), _refuse_ref)

    def sweep(self, workflow_id: str) -> None:
        """Removes the files that the database does not name. The caller has the workflow's lock."""
        with self._guarded():
            rows = self._db.execute(
                "SELECT checksum FROM contents WHERE workflow = ? AND body IS NULL", (workflow_id,)
            ).fetchall()
            named = {checksum.hex() for (checksum,) in rows if isinstance(checksum, bytes)}
            directory = self._files(workflow_id)
            if os.path.isdir(directory):
                for name in os.listdir(directory):
                    if name not in named:
                        os.unlink(os.path.join(directory, name))

    def _insert(self, workflow_id: str, content: Content) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (workflow_id, *content),
        )

    def _read(self, workflow_id: str, step: str, kind: str) -> bytes:
        with self._guarded():
            row = self._db.execute(
                "SELECT checksum, size, body FROM contents WHERE workflow = ? AND step = ? AND kind = ?",
                (workflow_id, step, kind),
            ).fetchone()
        if row is None:
            raise WorkflowNotFoundError(workflow_id, f"has no finished step {step!r}")
        checksum, size, body = row
        if body is None and isinstance(checksum, bytes):
            body = self._read_file(workflow_id, checksum)
        summed = _sum_of(workflow_id, step, kind)
        if isinstance(body, bytes):
            summed.update(body)
        if not isinstance(body, bytes) or len(body) != size or summed.digest() != checksum:
            what = "its graph" if step == ROOT else f"the {kind} of step {step!r}"
            raise WorkflowDamagedError(f"workflow {workflow_id!r} in {self.directory}: {what} is damaged or missing")
        return body

    def _read_file(self, workflow_id: str, checksum: bytes) -> bytes | None:
        """Returns a content; None if there is no file. Other errors say nothing of the content, and are raised."""
        with self._guarded():
            try:
                with open(os.path.join(self._files(workflow_id), checksum.hex()), "rb") as file:
                    return file.read()
            except FileNotFoundError:
                return None

    def _write(self, workflow_id: str, checksum: bytes, made: Serialized) -> None:
        directory = self._files(workflow_id)
        if not os.path.isdir(directory):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _synchronize(os.path.dirname(directory))
        path = os.path.join(directory, checksum.hex())
        temporary = f"{path}.new"
        try:
            with open(temporary, "wb") as file:
                for piece in made.pieces():
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the error that led here says more
                os.unlink(temporary)
            raise
        _synchronize(directory)

    def _files(self, workflow_id: str) -> str:
        return os.path.join(self.directory, "contents", _file_name(workflow_id))


def _sum_of(workflow_id: str, step: str, kind: str) -> Any:
    """Returns a checksum to which the name of a content was added."""
    return xxhash.xxh3_128(json.dumps([workflow_id, step, kind]).encode())


def _file_name(workflow_id: str) -> str:
    return xxhash.xxh3_128(workflow_id.encode()).hexdigest()


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Lets one process, and one of its threads, at a time in: SQLite does not wait for others when it changes to WAL.

    Unlocks explicitly: a child that another thread forks meanwhile has the same descriptor.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def is_shared(directory: str, mounts: str) -> bool:
    """Whether a directory is on a file system that other machines may use at the same time.

    ``mounts``: the content of ``/proc/self/mounts``.
    """
    kind, longest = "", -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[1])
        if len(place) >= longest and f"{directory}/".startswith(f"{place.rstrip('/')}/"):  # the last one covers others
            kind, longest = fields[2], len(place)
    return kind in SHARED_FILE_SYSTEMS


def _mounts() -> str:
    try:
        with open("/proc/self/mounts", errors="replace") as file:
            return file.read()
    except OSError:  # not Linux, or no /proc: nothing is known
        return ""


def _make_private(path: str) -> None:
    """Makes an empty file that only its owner can read, if there is none with this name.

    SQLite's locks are POSIX's: they end when the process closes any descriptor of the file. So the file is closed
    before it has its name.
    """
    if os.path.exists(path):
        return
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    os.close(fd)
    try:
        with contextlib.suppress(FileExistsError):  # another process has made it meanwhile
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


def _synchronize(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refuse_ref(object_id: bytes) -> ObjectRef:
    raise SystemFailure("a stored value has a reference in it, and what it refers to was not stored")
