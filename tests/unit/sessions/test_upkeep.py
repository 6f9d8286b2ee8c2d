"""The upkeep of a living session's files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from zray.sessions import directories as sessions
from zray.sessions.directories import Current, SessionPaths
from zray.sessions.upkeep import REFRESH_S, SessionUpkeep


class Kept:
    """A living session with its upkeep, and the warnings of that."""

    def __init__(self, root: str) -> None:
        self.paths: SessionPaths
        self.paths, self.lock = sessions.new_session(root)
        self.warnings: list[str] = []
        self.upkeep = SessionUpkeep(self.paths, self.lock, self.warnings.append)
        self.store = f"{os.path.dirname(root)}/store-{self.paths.name}"
        self.upkeep.add_store(self.store)
        os.mkdir(self.store)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    root = f"{tmp_path}/root"
    os.mkdir(root, 0o700)
    kept = Kept(root)
    yield kept
    kept.lock.close()


def current_of(kept: Kept) -> Current:
    return Current("ipc://x", kept.paths.name, os.getpid())


@pytest.mark.parametrize("gone", ["lock", "store", "spill", "logs", "directory", "root"])
def test_what_is_removed_is_made_again(kept: Kept, gone: str) -> None:
    kept.upkeep.check(0.0)
    assert kept.warnings == []
    path = Path(getattr(kept.paths, gone))
    path.unlink() if path.is_file() else shutil.rmtree(path)
    kept.upkeep.check(1.0)
    assert path.exists() and kept.lock.is_whole()
    assert sessions.stores_of(kept.paths) == [kept.store]
    assert len(kept.warnings) == 1 and "made again" in kept.warnings[0]
    assert sessions.session_is_alive(kept.paths)
    kept.upkeep.check(2.0)
    assert len(kept.warnings) == 1


def test_a_failure_to_make_files_again_is_reported_once(kept: Kept) -> None:
    root = Path(kept.paths.root)
    kept.upkeep.check(0.0)
    shutil.rmtree(root)
    root.write_text("in the way")
    for now in (1.0, 2.0):
        kept.upkeep.check(now)
    assert len(kept.warnings) == 1 and "no new workers can start" in kept.warnings[0]
    root.unlink()
    kept.upkeep.check(3.0)
    assert "made again" in kept.warnings[1]
    assert kept.lock.is_whole()


def test_everything_is_touched_once_an_hour(kept: Kept) -> None:
    spilled, segment = Path(kept.paths.spill, "object"), Path(kept.store, "segment")
    for file in (spilled, segment):
        file.touch()
    paths = kept.paths
    files = [Path(path) for path in (paths.root, paths.directory, paths.lock, paths.store, kept.store)]
    files += [spilled, segment]

    def make_old() -> None:
        for file in files:
            os.utime(file, (1, 2))

    make_old()
    kept.upkeep.check(10.0)
    assert all(file.stat().st_atime > 1e9 and file.stat().st_mode & 0o1000 for file in files)
    assert segment.stat().st_mtime == 2  # the time of its last use, by which the store chooses what to spill
    make_old()
    kept.upkeep.check(REFRESH_S)
    assert all(file.stat().st_atime < 1e9 for file in files)
    kept.upkeep.check(REFRESH_S + 10.0)
    assert all(file.stat().st_atime > 1e9 for file in files)


class TestCurrent:
    def test_is_written_again(self, kept: Kept) -> None:
        kept.upkeep.show(current_of(kept))
        os.unlink(f"{kept.paths.root}/current")
        kept.upkeep.check(0.0)
        assert sessions.read_current(kept.paths.root) == current_of(kept)

    def test_the_address_is_recorded_even_if_another_broker_is_current(self, kept: Kept) -> None:
        kept.upkeep.show(current_of(kept))
        sessions.write_current(kept.paths.root, Current("ipc://y", "01234567", os.getpid()))
        kept.upkeep.check(0.0)
        os.unlink(kept.paths.broker)
        kept.upkeep.check(1.0)
        assert sessions.brokers(kept.paths.root) == [current_of(kept)]

    def test_is_left_to_the_broker_that_was_started_last(self, kept: Kept) -> None:
        kept.upkeep.show(current_of(kept))
        sessions.write_current(kept.paths.root, Current("ipc://y", "01234567", os.getpid()))
        kept.upkeep.check(0.0)
        os.unlink(f"{kept.paths.root}/current")
        kept.upkeep.check(1.0)
        assert sessions.read_current(kept.paths.root) is None
