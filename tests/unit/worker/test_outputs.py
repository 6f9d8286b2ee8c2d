"""``Outputs``: pipes that are not looked at for a moment, so that a printing worker costs no turn for each line."""

from __future__ import annotations

import os
import select
import tempfile
from collections.abc import Iterator

import pytest

from zray.worker.host.logs import READ_BYTES, WorkerLog
from zray.worker.host.outputs import MUCH_BYTES, PAUSE_S, Outputs

WORKER = b"w" * 16


class Host:
    """A host's poll and outputs, with a clock of its own, and the writing ends of one worker's pipes."""

    def __init__(self, directory: str) -> None:
        self.now = 100.0
        self.poll = select.poll()
        self.outputs = Outputs(self.poll, lambda: self.now)
        out_read, self.out = os.pipe()
        err_read, self.err = os.pipe()
        self.log = WorkerLog(out_read, err_read, directory, 1 << 20, WORKER)
        self.log.pid = 7
        self.outputs.add(self.log)

    def turn(self) -> list[str]:
        """One turn of the host; returns the lines that it would send."""
        for fd, _ in self.poll.poll(0):
            self.outputs.read(fd)
        self.outputs.resume()
        message = self.outputs.to_send()
        return [line for entry in message.entries for line in entry.lines] if message else []

    def end_worker(self) -> None:
        for fd in (self.out, self.err):
            os.close(fd)


@pytest.fixture
def host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory() as directory:
        host = Host(directory)
        yield host
        host.log.close()


def test_the_first_line_comes_at_once_and_those_after_it_together(host: Host) -> None:
    os.write(host.out, b"first\n")
    assert host.turn() == ["first"]
    for number in range(100):
        os.write(host.out, b"%d\n" % number)
        assert host.turn() == []
    assert host.outputs.wait_s(0.25) == pytest.approx(PAUSE_S)
    host.now += PAUSE_S
    assert host.outputs.wait_s(0.25) == 0
    assert host.turn() == []  # ends the pause
    assert host.turn() == [str(number) for number in range(100)]
    host.end_worker()


def test_entries_name_the_process(host: Host) -> None:
    os.write(host.err, b"oh\n")
    for fd, _ in host.poll.poll(0):
        host.outputs.read(fd)
    message = host.outputs.to_send()
    assert message is not None
    assert [tuple(entry) for entry in message.entries] == [(WORKER, "", 7, "stderr", ["oh"])]
    host.end_worker()


def test_both_pipes_of_a_worker_pause(host: Host) -> None:
    os.write(host.out, b"one\n")
    assert host.turn() == ["one"]
    os.write(host.err, b"two\n")
    assert host.turn() == []
    host.now += PAUSE_S
    host.turn()
    assert host.turn() == ["two"]
    host.end_worker()


def test_a_pipe_with_much_in_it_does_not_pause(host: Host) -> None:
    line = b"x" * 63 + b"\n"
    os.write(host.out, line * (MUCH_BYTES // 64))
    assert len(host.turn()) == MUCH_BYTES // 64
    os.write(host.out, line)
    assert len(host.turn()) == 1
    assert MUCH_BYTES < READ_BYTES
    host.end_worker()


def test_nobody_waits_for_pauses_if_there_are_none(host: Host) -> None:
    assert host.outputs.wait_s(0.25) == 0.25
    host.end_worker()


def test_the_end_of_a_worker_is_seen_within_a_pause(host: Host) -> None:
    os.write(host.out, b"one\n")
    assert host.turn() == ["one"]
    os.write(host.out, b"last")
    host.end_worker()
    assert [line for _ in range(3) for line in host.turn()] == ["last"]
    assert host.log.filenos() == [] and host.poll.poll(0) == []
    assert host.outputs.wait_s(0.25) == 0.25


def test_everything_is_read_within_a_pause_if_asked(host: Host) -> None:
    os.write(host.out, b"one\n")
    assert host.turn() == ["one"]
    os.write(host.out, b"two\nunfinished")
    host.outputs.read_everything()
    assert host.turn() == ["two", "unfinished"]
    host.end_worker()


def test_pauses_end_one_by_one(host: Host) -> None:
    with tempfile.TemporaryDirectory() as directory:
        out_read, out = os.pipe()
        err_read, err = os.pipe()
        other = WorkerLog(out_read, err_read, directory, 1 << 20, b"v" * 16)
        host.outputs.add(other)
        os.write(host.out, b"a\n")
        host.turn()
        host.now += 0.6 * PAUSE_S
        os.write(out, b"b\n")
        assert host.turn() == ["b"]
        os.write(host.out, b"c\n")
        os.write(out, b"d\n")
        host.now += 0.6 * PAUSE_S
        host.turn()
        assert host.turn() == ["c"]
        host.now += 0.6 * PAUSE_S
        host.turn()
        assert host.turn() == ["d"]
        os.close(out)
        os.close(err)
        host.end_worker()
        host.turn()
        host.turn()
        other.close()
