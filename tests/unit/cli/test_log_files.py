"""Which log files there are, and how they are followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zray.cli.log_files import ERR, OUT, Follower, LogFile, Place, chosen, ended_places, files_in

NAMES = ["broker.log", "host.log", "host.log.1", "timeline-1.jsonl", "worker-0123456789ab.err",
         "worker-0123456789ab.out", "worker-0123456789ab.out.1"]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Place:
    directory = tmp_path / "logs" / "01234567"
    directory.mkdir(parents=True)
    for name in NAMES:
        (directory / name).write_text(name)
    return Place("a", "", str(tmp_path), "01234567")


def names(files: list[LogFile]) -> list[str]:
    return [file.name for file in files]


def test_what_the_files_are(place: Place) -> None:
    files = files_in(place)
    assert names(files) == NAMES
    assert [file.kind for file in files] == [
        "broker's log", "host's log", "host's log", "other", "worker's stderr", "worker's stdout", "worker's stdout",
    ]  # fmt: skip
    assert {file.worker for file in files} == {"", "0123456789ab"}
    assert files_in(Place("a", "", place.root, "89abcdef")) == []


def test_choosing(place: Place) -> None:
    files = files_in(place)
    assert names(chosen(files, [], [ERR])) == [*NAMES[:4], "worker-0123456789ab.err"]
    assert names(chosen(files, ["worker-*"], [OUT])) == NAMES[5:]
    assert names(chosen(files, ["broker.log", files[1].path], [OUT, ERR])) == ["broker.log", "host.log"]
    assert chosen(files, ["nosuch"], [OUT, ERR]) == []


def test_sessions_that_have_ended(tmp_path: Path) -> None:
    for number, session in enumerate(("00000001", "00000002", "00000003")):
        directory = tmp_path / "logs" / session
        directory.mkdir(parents=True)
        os.utime(directory, (number, number))
    places = ended_places([str(tmp_path), str(tmp_path / "none")], [str(tmp_path / "logs" / "00000002")])
    assert [place.session for place in places] == ["00000003", "00000001"]


def lines(follower: Follower) -> list[bytes]:
    return list(follower.read())


def test_what_is_added(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    follower = Follower(str(path))
    assert lines(follower) == [b"one\n"]
    with path.open("ab") as file:
        file.write(b"o\nthree")
    assert lines(follower) == [b"two\n"]
    assert lines(follower) == []
    assert list(follower.finish()) == [b"three\n"]


@pytest.mark.parametrize(
    ("tail", "seen"), [(0, []), (1, [b"3\n"]), (2, [b"2\n", b"3\n"]), (9, [b"1\n", b"2\n", b"3\n"])]
)
def test_the_last_lines(tmp_path: Path, tail: int, seen: list[bytes]) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"1\n2\n3\n")
    assert list(Follower(str(path), tail).finish()) == seen


def test_a_file_that_is_made_later(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = Follower(str(path), 0)
    assert lines(follower) == []
    path.write_bytes(b"one\n")
    assert lines(follower) == [b"one\n"]


def test_a_file_that_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    follower = Follower(str(path))
    assert lines(follower) == [b"one\n"]
    with path.open("ab") as file:
        file.write(b"two\n")
    path.rename(tmp_path / "log.1")
    assert lines(follower) == [b"two\n"]  # and no new file is there yet
    path.write_bytes(b"three\n")
    assert lines(follower) == [b"three\n"]
    assert list(follower.finish()) == []


def test_lines_longer_than_a_block(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 200_000 + b"\n")
    assert [len(line) for line in Follower(str(path)).finish()] == [200_001]
