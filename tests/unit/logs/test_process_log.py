"""The files and stderr to which brokers and hosts write their logs."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from zray.logs import files, process_log
from zray.logs.line import DEBUG, ERROR, INFO, WARNING, LogLine

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (\w+) ([\w.]+): (.*)")


@pytest.fixture(autouse=True)
def log() -> Iterator[logging.Logger]:
    """The logger of this process, restored afterwards."""
    logger = logging.getLogger("zray")
    before = logger.level, logger.propagate, logger.handlers[:]
    level = process_log._least
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # the disk is full
            handler.close()
    logger.level, logger.propagate, logger.handlers[:] = before
    process_log._least, process_log._unopened = level, None
    logger.setLevel(before[0])


def test_lines_have_a_time_a_level_and_a_component(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "host.log"
    process_log.start_log("INFO", str(path))
    assert not path.exists()  # its first line opens it
    process_log.write(LogLine(DEBUG, "host", "too little"))
    assert not path.exists()
    process_log.write(LogLine(INFO, "host", "a worker"))
    process_log.write(LogLine(ERROR, "broker.membership", "refused"))
    found = [match.groups() for match in map(LINE.fullmatch, path.read_text().splitlines()) if match]
    assert found == [("INFO", "zray.host", "a worker"), ("ERROR", "zray.broker.membership", "refused")]
    assert path.stat().st_mode & 0o777 == 0o600
    assert capfd.readouterr() == ("", "")


def test_a_process_without_descriptors_writes_to_stderr_until_it_has_some(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "host.log"
    process_log.start_log("INFO", str(path))

    def none_left(path: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as exhausted:
        exhausted.setattr(files, "RotatedFile", none_left)
        process_log.write(LogLine(INFO, "host", "a worker\nhas died"))
    assert capfd.readouterr().err == "zray: a worker\n    has died\n" and not path.exists()
    process_log.write(LogLine(INFO, "host", "another"))
    assert path.read_text().endswith("INFO zray.host: another\n") and path.read_text().count("\n") == 1


def test_to_stderr_as_well_and_loggers_of_modules_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    process_log.start_log("WARNING", str(tmp_path / "log"), to_stderr=True)
    logging.getLogger("zray.transport.somewhere").warning("refused %s", "127.0.0.1")
    logging.getLogger("zray.transport.somewhere").info("nothing")
    out, err = capfd.readouterr()
    assert not out and err.endswith("WARNING zray.transport.somewhere: refused 127.0.0.1\n") and err.count("\n") == 1
    assert (tmp_path / "log").read_text() == err


def test_what_others_have_named_cannot_forge_a_line(tmp_path: Path) -> None:
    process_log.start_log("INFO", str(tmp_path / "log"))
    process_log.write(LogLine(INFO, "broker", "actor A\n2026-01-01 00:00:00.000 INFO zray.broker: all is well\x1b[2J"))
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first.endswith("actor A") and second.startswith("    2026") and "\x1b" not in second


def test_a_file_is_rotated_and_two_older_ones_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 200)
    process_log.start_log("INFO", str(tmp_path / "log"))
    for number in range(20):
        process_log.write(LogLine(INFO, "host", f"line {number}"))
    found = sorted(tmp_path.iterdir())
    assert [file.name for file in found] == ["log", "log.1", "log.2"]
    assert all(file.stat().st_size <= 200 and file.stat().st_mode & 0o777 == 0o600 for file in found)
    assert "line 19" in found[0].read_text()


def test_a_file_that_cannot_be_opened_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    process_log.start_log("INFO", str(tmp_path / "no directory" / "log"))
    process_log.write(LogLine(WARNING, "host", "one"))
    process_log.write(LogLine(WARNING, "host", "two"))
    assert (
        capfd.readouterr().err
        == f"zray: the log {tmp_path}/no directory/log cannot be opened: No such file or directory\n"
    )


def test_a_file_that_cannot_be_written_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    process_log.start_log("INFO", str(tmp_path / "log"))
    for _ in range(3):
        process_log.write(LogLine(WARNING, "host", "one"))
    err = capfd.readouterr().err
    assert err.count("cannot be written") == 1 and "No space left on device" in err
