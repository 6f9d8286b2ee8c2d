"""The journal's file: what it holds after each change, after a crash at any point, and when it is damaged."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from zray.broker.effects import Journaled
from zray.broker.journal import Journal
from zray.broker.journal_records import Kept, KeptValue, encode, key_of
from zray.exceptions import ConfigError, SystemFailure
from zray.logs.line import LogLine


def put(key: bytes, value: bytes) -> Journaled:
    return Journaled(key_of(KeptValue, b"", key), encode(KeptValue(b"", key, value)))


def delete(key: bytes) -> Journaled:
    return Journaled(key_of(KeptValue, b"", key), None)


def contents(records: list[Kept]) -> dict[bytes, bytes]:
    values = [record for record in records if isinstance(record, KeptValue)]
    assert len(values) == len(records)
    return {value.key: value.value for value in values}


class Log(list[str]):
    def __call__(self, line: LogLine) -> None:
        self.append(line.text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def opened(path: Path, sync: str = "normal", log: Log | None = None) -> Journal:
    return Journal(str(path), sync, log if log is not None else Log())


def read(path: Path) -> dict[bytes, bytes]:
    journal = opened(path)
    try:
        return contents(journal.records())
    finally:
        journal.close()


@pytest.mark.parametrize("sync", ["normal", "full"])
def test_changes_are_there_for_the_next_one(path: Path, sync: str) -> None:
    journal = opened(path, sync)
    assert journal.records() == []
    journal.write([put(b"a", b"1"), put(b"b", b"2"), put(b"a", b"3")])
    journal.write([delete(b"b"), put(b"c", b"4"), delete(b"d")])
    assert contents(journal.records()) == {b"a": b"3", b"c": b"4"}
    journal.close()
    assert read(path) == {b"a": b"3", b"c": b"4"}
    assert path.stat().st_mode & 0o777 == 0o600


def image(path: Path, to: Path) -> Path:
    """Copies what is in the files now: what a broker that is killed at this moment leaves."""
    to.mkdir()
    for part in path.parent.glob(path.name + "*"):
        if part.is_file():
            shutil.copy(part, to / part.name)
    return to / path.name


def test_a_broker_that_is_killed_after_any_change_loses_none(path: Path, tmp_path: Path) -> None:
    journal = opened(path)
    now: dict[bytes, bytes] = {}
    chance = random.Random(1)
    for step in range(60):
        key = bytes([chance.randrange(8)])
        if chance.random() < 0.3:
            journal.write([delete(key)])
            now.pop(key, None)
        else:
            value = bytes([step]) * chance.choice([1, 100, 20_000])
            journal.write([put(key, value)])
            now[key] = value
        assert read(image(path, tmp_path / f"image{step}")) == now
    journal.close()


WRITER = """
import sys
from tests.unit.broker.test_journal import opened, put
from pathlib import Path
journal = opened(Path(sys.argv[1]), sys.argv[2])
number = 0
while True:
    number += 1
    journal.write([put(number.to_bytes(4, "big"), b"x" * 500), put(b"last", number.to_bytes(4, "big"))])
    print(number, flush=True)  # acknowledged
"""


@pytest.mark.parametrize("sync", ["normal", "full"])
def test_what_was_acknowledged_survives_sigkill(path: Path, sync: str) -> None:
    command = [sys.executable, "-c", WRITER, str(path), sync]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(200)]
        writer.kill()
        acknowledged = int((lines + writer.stdout.read().splitlines())[-1])
    found = read(path)
    last = int.from_bytes(found.pop(b"last"), "big")
    assert last in (acknowledged, acknowledged + 1)
    assert sorted(found) == [number.to_bytes(4, "big") for number in range(1, last + 1)]


def history(path: Path) -> list[dict[bytes, bytes]]:
    """Writes some changes. Returns the contents after each of them; the file stays as a killed broker leaves it."""
    journal = opened(path)
    states: list[dict[bytes, bytes]] = [{}]
    for number in range(12):
        key, value = bytes([number % 5]), bytes([number]) * (300 * number)
        journal.write([put(key, value)])
        states.append({**states[-1], key: value})
    image(path, path.parent / "crashed")
    journal.close()
    return states


def outcome(path: Path) -> dict[bytes, bytes] | None:
    """What is in a journal; None if it is refused."""
    try:
        return read(path)
    except ConfigError as error:
        assert str(path) in str(error) and "ove" in str(error), "names the file and the remedy"
        return None


def test_a_torn_end_leaves_a_clean_prefix(path: Path, tmp_path: Path) -> None:
    """The end of the log of changes is missing, wherever it was cut."""
    states = history(path)
    crashed = tmp_path / "crashed" / "journal"
    log = crashed.with_name("journal-wal").read_bytes()
    seen = set()
    for number, length in enumerate(range(0, len(log), 977)):
        torn = image(crashed, tmp_path / f"torn{number}")
        torn.with_name("journal-wal").write_bytes(log[:length])
        found = outcome(torn)
        assert found in states
        seen.add(states.index(found or {}))
    assert {0, 11} <= seen or len(seen) > 8


@pytest.mark.parametrize("part", ["journal", "journal-wal"])
def test_a_flipped_bit_is_noticed_or_ends_a_clean_prefix(path: Path, tmp_path: Path, part: str) -> None:
    states = history(path)
    if part == "journal":  # with all changes in the main file, as after an orderly end
        crashed = path
    else:
        crashed = tmp_path / "crashed" / "journal"
    whole = crashed.with_name(part).read_bytes()
    chance = random.Random(7)
    refused = 0
    for number in range(250):
        damaged = image(crashed, tmp_path / f"flipped{number}")
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        damaged.with_name(part).write_bytes(content)
        found = outcome(damaged)
        assert found is None or found in states
        if part == "journal" and found is not None:
            assert found == states[-1], "nothing of the main file may be missing unnoticed"
        refused += found is None
    assert part == "journal-wal" or refused


@pytest.mark.parametrize("length", [1, 100, 4096, 5000])
def test_a_truncated_file_is_refused(path: Path, length: int) -> None:
    history(path)
    content = path.read_bytes()
    path.write_bytes(content[:length])
    assert outcome(path) is None


def test_a_file_that_was_emptied_beside_its_log_is_refused(path: Path, tmp_path: Path) -> None:
    history(path)
    crashed = tmp_path / "crashed" / "journal"
    crashed.write_bytes(b"")
    assert outcome(crashed) is None


def test_an_empty_file_is_a_new_journal(path: Path) -> None:
    path.touch(mode=0o600)
    assert read(path) == {}


def test_another_programs_file_is_refused(path: Path) -> None:
    path.write_bytes(b"notes\n" * 1000)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"journal.*cannot be used.*Name another file"):
        opened(path)
    assert path.read_bytes().startswith(b"notes")
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="another program's file"):
        opened(path)


def test_a_file_of_another_format_is_refused(path: Path) -> None:
    opened(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 77")
    database.close()
    with pytest.raises(ConfigError, match="is of format 77, and this version reads format 1"):
        opened(path)


def test_one_broker_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zray.broker.journal.LOCK_WAIT_S", 0.05)
    first = opened(path)
    with pytest.raises(ConfigError, match="in use by another broker"):
        opened(path)
    first.write([put(b"a", b"1")])
    first.close()
    assert read(path) == {b"a": b"1"}


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_to_is_refused(path: Path, mode: int) -> None:
    path.touch()
    path.chmod(mode)
    with pytest.raises(ConfigError, match=r"others may write to .*chmod go-w"):
        opened(path)


@pytest.mark.parametrize("where", ["no/such/directory/journal", "."])
def test_a_path_that_cannot_be_opened(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        opened(tmp_path / where)


def fill(journal: Journal) -> None:
    """Leaves no room in the file."""
    journal._database.execute("PRAGMA max_page_count = 1")


def make_room(journal: Journal) -> None:
    journal._database.execute("PRAGMA max_page_count = 100000")


def test_changes_that_cannot_be_written_are_tried_again(path: Path) -> None:
    log = Log()
    journal = opened(path, log=log)
    journal.write([put(b"a", b"1")])
    fill(journal)
    journal.write([put(b"b", b"2" * 50_000)])
    journal.write([put(b"c", b"3"), delete(b"a")])
    assert len(log) == 1 and "cannot be written" in log[0] and "full" in log[0]
    journal.tick(10.0)
    assert len(log) == 1, "said once"
    make_room(journal)
    journal.tick(10.1)
    assert len(log) == 1, "not tried again so soon"
    journal.tick(11.0)
    assert "can be written again" in log[1]
    journal.write([put(b"d", b"4")])
    journal.close()
    assert read(path) == {b"b": b"2" * 50_000, b"c": b"3", b"d": b"4"}


def test_a_journal_that_promises_the_disk_raises_instead(path: Path) -> None:
    journal = opened(path, "full")
    journal.write([put(b"a", b"1")])
    fill(journal)
    with pytest.raises(SystemFailure, match="cannot be written"):
        journal.write([put(b"b", b"2" * 50_000)])
    journal.close()
    assert read(path) == {b"a": b"1"}


def test_changes_that_are_still_kept_in_memory_are_written_at_the_end(path: Path) -> None:
    journal = opened(path)
    fill(journal)
    journal.write([put(b"b", b"2" * 50_000)])
    make_room(journal)
    journal.close()
    assert read(path) == {b"b": b"2" * 50_000}


def test_missing_records_are_noticed(path: Path) -> None:
    journal = opened(path)
    journal.write([put(b"a", b"1"), put(b"b", b"2")])
    journal.close()
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM records WHERE key = ?", (key_of(KeptValue, b"", b"a"),))
    database.close()
    assert outcome(path) is None


def test_a_record_that_this_version_cannot_read_is_refused(path: Path) -> None:
    journal = opened(path)
    journal.write([Journaled(b"\x09key", b"\x91\x09")])
    journal.close()
    assert outcome(path) is None
