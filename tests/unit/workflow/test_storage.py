"""Workflows on disk: what is kept, what is damaged, full disks, and what crashes leave behind."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zray.exceptions import ZrayError
from zray.object_ref import ObjectRef
from zray.workflow.exceptions import WorkflowDamagedError, WorkflowNotFoundError, WorkflowStorageError
from zray.workflow.storage import (
    CANCELED,
    FORMAT,
    GRAPH,
    INLINE_BYTES,
    ROOT,
    RUNNING,
    SUCCESSFUL,
    VALUE,
    Storage,
    is_shared,
)

LARGE = bytes(range(256)) * (INLINE_BYTES // 128)


@pytest.fixture
def storage(tmp_path: Path):
    with Storage(str(tmp_path / "deep" / "storage")) as opened:
        opened.create("w", "3.11.0", '{"owner": "me"}', opened.pack("w", ROOT, GRAPH, ["graph"]))
        yield opened


def keep(storage: Storage, **values) -> None:
    storage.keep("w", [storage.pack("w", step, VALUE, value, 1.0, 2.0) for step, value in values.items()])


def files(storage: Storage) -> list[Path]:
    return sorted(path for path in Path(storage.directory, "contents").rglob("*") if path.is_file())


def test_values_are_there_for_another_process(storage: Storage) -> None:
    keep(storage, small={"a": [1]}, large=LARGE, none=None)
    with Storage(storage.directory) as other:
        assert other.load("w", "small") == {"a": [1]}
        assert other.load("w", "large") == LARGE
        assert other.load("w", "none") is None
        assert other.load("w", ROOT, GRAPH) == ["graph"]
        assert {content.step: content.kind for content in other.kept("w")} == {
            ROOT: GRAPH,
            "small": VALUE,
            "large": VALUE,
            "none": VALUE,
        }
    assert len(files(storage)) == 1


def test_arrays_come_back(storage: Storage) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(100_000).reshape(100, 1000)
    keep(storage, array=array, gaps=array[:, ::2])
    assert (storage.load("w", "array") == array).all()
    assert (storage.load("w", "gaps") == array[:, ::2]).all()


def test_the_contents_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Storage(str(tmp_path / "new" / "storage")) as opened:
            opened.create("w", "3.11.0", "{}", opened.pack("w", ROOT, GRAPH, LARGE))
            lock = opened.lock("w")
            assert lock is not None
            lock.release()
            found = [Path(opened.directory), *Path(opened.directory).rglob("*")]
            assert len(found) >= 6
            open_to_others = [path for path in found if path.stat().st_mode & 0o077 and not path.is_file()]
            assert open_to_others == []
            private = ("workflows.db", "workflows.db-wal", "workflows.db-shm")
            assert [name for name in private if Path(opened.directory, name).stat().st_mode & 0o077] == []
    finally:
        os.umask(before)


def test_a_database_that_another_process_makes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_twice(source: str, target: str) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    with Storage(str(tmp_path)) as opened:
        assert opened.records() == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".new-")] == []


def test_a_large_value_is_on_disk_before_the_database_names_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the calls: the file is synchronized, then renamed, then its directory is synchronized."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(fd: int) -> None:
        calls.append("directory" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    def note_rename(source: str, target: str) -> None:
        calls.append("rename")
        rename(source, target)

    keep(storage, first=LARGE)  # makes the workflow's directory
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    content = storage.pack("w", "large", VALUE, LARGE)
    assert calls == ["file", "rename", "directory"]
    with pytest.raises(WorkflowNotFoundError):
        storage.load("w", "large")
    storage.keep("w", [content])
    assert calls == ["file", "rename", "directory"]


def test_commits_are_synchronized(storage: Storage) -> None:
    assert storage._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert storage._db.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,relatime 0 0
/dev/sdb1 /home/local ext4 rw 0 0
server:/x /mnt/two\\040words nfs rw 0 0
none /over ext4 rw 0 0
server:/y /over lustre rw 0 0
torn
"""


@pytest.mark.parametrize(
    ("directory", "shared"),
    [
        ("/", False),
        ("/var", False),
        ("/home", True),
        ("/home/me/w", True),
        ("/homes", False),
        ("/home/local/w", False),
        ("/mnt/two words/w", True),
        ("/over/w", True),
    ],
)
def test_file_systems_that_machines_share(directory: str, shared: bool) -> None:
    assert is_shared(directory, MOUNTS) is shared
    assert not is_shared(directory, "")


def test_a_shared_file_system_has_no_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = str(tmp_path / "storage")
    with Storage(directory) as opened:
        assert opened._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    monkeypatch.setattr("zray.workflow.storage._mounts", lambda: f"server:/x {tmp_path} nfs4 rw 0 0\n")
    with Storage(directory) as opened, Storage(directory) as other:
        assert opened._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        opened.create("w", "3.11.0", "{}", opened.pack("w", ROOT, GRAPH, ["graph"]))
        keep(opened, small=1, large=LARGE)
        assert other.load("w", "large") == LARGE
    monkeypatch.undo()
    with Storage(directory) as opened:  # another machine may use it now
        assert opened._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert opened.load("w", "small") == 1


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_damaged_file_is_never_a_value(storage: Storage, place: int) -> None:
    keep(storage, large=LARGE)
    (path,) = files(storage)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert not storage.is_whole("w", "large")
    with pytest.raises(WorkflowDamagedError, match="the value of step 'large' is damaged or missing"):
        storage.load("w", "large")


@pytest.mark.parametrize("size", [0, 1, len(LARGE) // 2])
def test_a_torn_file_is_never_a_value(storage: Storage, size: int) -> None:
    keep(storage, large=LARGE)
    os.truncate(files(storage)[0], size)
    with pytest.raises(WorkflowDamagedError):
        storage.load("w", "large")


def test_a_missing_file_is_damage(storage: Storage) -> None:
    keep(storage, large=LARGE)
    files(storage)[0].unlink()
    assert not storage.is_whole("w", "large")


@pytest.mark.parametrize(
    "change",
    ["body = x'80054b062e'", "body = NULL", "checksum = x'00'", "checksum = 'text'", "size = 1", "body = 'text'"],
)
def test_a_damaged_row_is_never_a_value(storage: Storage, change: str) -> None:
    keep(storage, small=5)
    storage._db.execute(f"UPDATE contents SET {change} WHERE step = 'small'")
    with pytest.raises(WorkflowDamagedError):
        storage.load("w", "small")


def test_a_value_is_not_taken_for_that_of_another_step_or_workflow(storage: Storage) -> None:
    keep(storage, small=5)
    storage._db.execute("UPDATE contents SET step = 'other' WHERE step = 'small'")
    assert not storage.is_whole("w", "other")
    storage._db.execute("UPDATE contents SET step = 'small', workflow = 'x' WHERE step = 'other'")
    assert not storage.is_whole("x", "small")
    storage._db.execute(f"UPDATE contents SET kind = '{GRAPH}', workflow = 'w' WHERE step = 'small'")
    assert not storage.is_whole("w", "small", GRAPH)


def test_contents_are_kept_together_or_not_at_all(storage: Storage) -> None:
    contents = [storage.pack("w", step, VALUE, 1) for step in ("a", "b")]
    with pytest.raises(WorkflowStorageError):
        storage.keep("w", [contents[0], contents[1]._replace(checksum=None)])  # type: ignore[arg-type]
    assert [content.step for content in storage.kept("w")] == [ROOT]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_is_an_error_and_leaves_no_file(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    keep(storage, small=5)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(WorkflowStorageError, match="No space left on device"):
            storage.pack("w", "large", VALUE, LARGE)
    assert files(storage) == []
    assert storage.load("w", "small") == 5
    keep(storage, large=LARGE)
    assert storage.load("w", "large") == LARGE


def test_a_full_disk_rolls_the_database_back(storage: Storage) -> None:
    keep(storage, small=5)
    pages = storage._db.execute("PRAGMA page_count").fetchone()[0]
    storage._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(WorkflowStorageError, match="full"):
        keep(storage, a=bytes(30_000), b=bytes(30_000))
    assert {content.step for content in storage.kept("w")} == {ROOT, "small"}
    storage._db.execute("PRAGMA max_page_count = 100000")
    keep(storage, a=1)
    assert storage.load("w", "small") == 5


def test_what_a_crash_left_is_swept(storage: Storage) -> None:
    keep(storage, large=LARGE)
    storage.pack("w", "lost", VALUE, LARGE + b"x")
    Path(files(storage)[0].parent, "torn.new").write_bytes(b"to")
    assert len(files(storage)) == 3
    storage.sweep("w")
    assert len(files(storage)) == 1
    assert storage.load("w", "large") == LARGE
    storage.sweep("unknown")


def test_references_are_refused(storage: Storage) -> None:
    with pytest.raises(TypeError, match=r"the value of step 's' has references in it"):
        storage.pack("w", "s", VALUE, [ObjectRef.from_random()])


def test_what_cannot_be_pickled_is_named(storage: Storage) -> None:
    with pytest.raises(TypeError, match="cannot pickle the value of step 's'"):
        storage.pack("w", "s", VALUE, {"each": iter(x for x in [1])})


def test_statuses_change_only_from_what_is_expected(storage: Storage) -> None:
    assert storage.get("w").status == RUNNING
    assert storage.get("w").ended is None
    assert storage.change("w", CANCELED, (RUNNING,))
    assert not storage.change("w", SUCCESSFUL, (RUNNING,))
    assert storage.get("w").status == CANCELED
    assert storage.get("w").ended is not None
    assert not storage.change("unknown", CANCELED, (RUNNING,))


def test_a_name_is_taken_once(storage: Storage) -> None:
    with pytest.raises(WorkflowStorageError, match="UNIQUE"):
        storage.create("w", "3.11.0", "{}", storage.pack("w", ROOT, GRAPH, []))
    assert storage.load("w", ROOT, GRAPH) == ["graph"]


def test_a_deleted_workflow_leaves_nothing(storage: Storage) -> None:
    keep(storage, large=LARGE, small=1)
    storage.delete("w")
    assert storage.find("w") is None
    assert storage.records() == []
    assert storage.kept("w") == []
    assert list(Path(storage.directory, "contents").iterdir()) == []
    with pytest.raises(WorkflowNotFoundError):
        storage.get("w")


def test_names_may_be_any_text(storage: Storage) -> None:
    for name in ("../../etc", "a/b", "ä \n", "x" * 5000, "'; DROP TABLE workflows"):
        storage.create(name, "3.11.0", "{}", storage.pack(name, ROOT, GRAPH, LARGE))
        assert storage.load(name, ROOT, GRAPH) == LARGE
        lock = storage.lock(name)
        assert lock is not None
        lock.release()
    assert len(storage.records()) == 6


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "workflows.db").write_bytes(b"no database" * 1000)
    with pytest.raises(WorkflowDamagedError, match="not a database"):
        Storage(str(tmp_path))


def test_a_damaged_database_is_an_error(storage: Storage) -> None:
    for number in range(50):
        keep(storage, **{f"s{number}": bytes(10_000)})
    storage.close()
    path = Path(storage.directory, "workflows.db")
    data = bytearray(path.read_bytes())
    for page in range(1, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    with pytest.raises(WorkflowDamagedError), Storage(storage.directory) as opened:
        opened.kept("w")


def test_the_format_of_a_later_version_is_an_error(storage: Storage) -> None:
    storage._db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    with pytest.raises(WorkflowStorageError, match=f"has format {FORMAT + 1}"):
        Storage(storage.directory)


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkflowStorageError, match="Not a directory"):
        Storage(str(tmp_path / "file" / "storage"))


MAKES = """
import sys
from zray.workflow.storage import GRAPH, ROOT, VALUE, Storage
sys.stdin.readline()
name = sys.argv[2]
with Storage(sys.argv[1]) as opened:
    opened.create(name, "3.11.0", "{}", opened.pack(name, ROOT, GRAPH, 1))
    for number in range(3):
        opened.keep(name, [opened.pack(name, str(number), VALUE, number)])
"""


def test_processes_that_make_a_storage_at_once_agree(tmp_path: Path) -> None:
    directory = str(tmp_path / "storage")
    processes = [
        subprocess.Popen([sys.executable, "-c", MAKES, directory, str(number)], stdin=subprocess.PIPE)
        for number in range(6)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait() for process in processes] == [0] * 6
    with Storage(directory) as opened:
        assert {record.workflow_id for record in opened.records()} == set("012345")
        assert all(len(opened.kept(str(number))) == 4 for number in range(6))


def test_a_storage_is_opened_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite does not wait when it changes the mode of a database that another connection reads."""
    prepare = Storage._prepare
    refused = []

    def prepare_and_look(self: Storage) -> None:
        with open(tmp_path / "opening.lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(self)
        prepare(self)

    monkeypatch.setattr(Storage, "_prepare", prepare_and_look)
    for _ in range(2):
        Storage(str(tmp_path)).close()
    assert len(refused) == 2
    with open(tmp_path / "opening.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_closed_storage_says_so(storage: Storage) -> None:
    storage.close()
    storage.close()
    with pytest.raises(WorkflowStorageError, match="closed"):
        storage.find("w")


def test_errors_are_those_of_zray() -> None:
    assert issubclass(WorkflowStorageError, ZrayError)
    assert issubclass(WorkflowStorageError, OSError)
    assert issubclass(WorkflowNotFoundError, ValueError)
