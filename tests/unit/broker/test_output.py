"""What workers print, on its way through the broker."""

from __future__ import annotations

import pytest

from zray.broker.output import MAX_FLUSHES
from zray.protocol import log_window
from zray.protocol import messages as m
from zray.protocol.questions import FlushOutput, OutputFlushed
from zray.protocol.records import JoinInfo, PrintedLines, WorkerLines

from .desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def talking(desk: Desk, name: str = "driver") -> tuple[bytes, bytes, bytes]:
    """A driver, a host, and its worker that works for the driver."""
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    driver = desk.driver(name)
    desk.submit(driver)
    return driver, host, worker


def entry(worker: bytes, *lines: str, stream: str = "stdout") -> WorkerLines:
    return WorkerLines(worker, "f", 1, stream, list(lines))


def test_lines_go_to_the_driver_of_the_job(desk):
    host = desk.host(CPU=2)
    workers = desk.workers(host)
    one, two = desk.driver("one"), desk.driver("two")
    desk.submit(one)
    desk.submit(two)
    desk.say(host, m.WorkerLogs([entry(worker, "hello") for worker in [*workers, b"x" * 16]], {}))
    for driver in (one, two):
        assert desk.take(driver, m.Logs) == [m.Logs([PrintedLines("f", 1, "stdout", ["hello"])], 0)]


def test_a_host_speaks_for_its_own_workers_only(desk):
    driver, _, worker = talking(desk)
    other = desk.host("other", CPU=1)
    desk.say(other, m.WorkerLogs([entry(worker, "forged")], {worker: 3}))
    assert desk.take(driver, m.Logs) == []


def test_a_driver_that_shows_no_lines_is_sent_none(desk):
    driver = b"quiet".ljust(16, b"\0")
    desk.core.joined(driver, m.DRIVER, JoinInfo(shows_logs=False), desk.now)
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    desk.submit(driver)
    desk.say(host, m.WorkerLogs([entry(worker, "hello")], {worker: 1}))
    assert desk.take(driver, m.Logs) == []


@pytest.mark.parametrize(
    "entries",
    [
        [5],
        [[1, 2]],
        [[[], "f", 1, "stdout", []]],
        [["text", "f", 1, "stdout", []]],
        [[b"w" * 16, "f", 1, "stdout", [5]]],
        [[b"w" * 16, "f", 1, "elsewhere", ["line"]]],
        [[b"w" * 16, b"f", 1, "stdout", ["line"]]],
        [[b"w" * 16, "f", "1", "stdout", ["line"]]],
    ],
)
def test_malformed_lines_are_refused(desk, entries):
    host = desk.host(CPU=1)
    with pytest.raises(m.ProtocolError):
        desk.say(host, m.WorkerLogs(entries, {}))


@pytest.mark.parametrize("left_out", [{"text": 1}, {b"w" * 16: "1"}, {b"w" * 16: None}])
def test_malformed_counts_are_refused(desk, left_out):
    host = desk.host(CPU=1)
    with pytest.raises(m.ProtocolError):
        desk.say(host, m.WorkerLogs([], left_out))


def test_a_driver_that_takes_nothing_gets_no_more_than_a_window(desk):
    driver, host, worker = talking(desk)
    line = "x" * (1 << 20)
    for _ in range(50):
        desk.say(host, m.WorkerLogs([entry(worker, line)], {}))
    sent = desk.take(driver, m.Logs)
    assert sum(len(logs.entries) for logs in sent) == log_window.WINDOW_BYTES // (len(line) + log_window.LINE_BYTES)
    assert all(logs.left_out == 0 for logs in sent)
    missing = 50 - len(sent)
    desk.say(driver, m.LogsTaken(4 << 20))
    assert desk.take(driver, m.Logs) == [m.Logs([], missing)]  # told once
    desk.say(host, m.WorkerLogs([entry(worker, line)], {}))
    (after,) = desk.take(driver, m.Logs)
    assert len(after.entries) == 1 and after.left_out == 0


def test_taking_more_than_was_sent_opens_no_larger_window(desk):
    driver, host, worker = talking(desk)
    desk.say(host, m.WorkerLogs([entry(worker, "a line")], {}))
    desk.say(driver, m.LogsTaken(2**60))
    desk.take(driver)
    line = "x" * (1 << 20)
    for _ in range(50):
        desk.say(host, m.WorkerLogs([entry(worker, line)], {}))
    assert len(desk.take(driver, m.Logs)) <= 16


def test_one_driver_that_takes_nothing_does_not_concern_another(desk):
    _, host, worker = talking(desk)
    second_host = desk.host("second", CPU=1)
    (second_worker,) = desk.workers(second_host)
    second = desk.driver("second driver")
    desk.submit(second)
    line = "x" * (1 << 20)
    for _ in range(20):
        desk.say(host, m.WorkerLogs([entry(worker, line)], {}))
    desk.say(second_host, m.WorkerLogs([entry(second_worker, "hello")], {}))
    assert desk.take(second, m.Logs) == [m.Logs([PrintedLines("f", 1, "stdout", ["hello"])], 0)]


def test_what_a_host_has_left_out_is_told_the_driver(desk):
    driver, host, worker = talking(desk)
    desk.say(host, m.WorkerLogs([], {worker: 7}))
    assert desk.take(driver, m.Logs) == [m.Logs([], 7)]


def test_a_host_is_told_what_has_been_taken(desk):
    _, host, worker = talking(desk)
    line = "x" * (1 << 20)
    told = 0
    for _ in range(8):
        desk.say(host, m.WorkerLogs([entry(worker, line)], {}))
        told += sum(taken.size_bytes for taken in desk.take(host, m.LogsTaken))
    assert told >= 6 * (len(line) + log_window.LINE_BYTES)


def test_nothing_is_kept_of_processes_that_are_gone(desk):
    driver, host, worker = talking(desk)
    desk.say(host, m.WorkerLogs([entry(worker, "hello")], {}))
    desk.lose(driver)
    desk.lose(host)
    assert not desk.core.output._readers and not desk.core.output._intakes


# ------------------------------------------------------------------ the flush of all logs


def flush(desk: Desk, driver: bytes) -> None:
    desk.take(driver)
    desk.say(driver, FlushOutput(5))


def test_logs_are_flushed_when_every_host_says_so(desk):
    driver = desk.driver()
    hosts = [desk.host(name) for name in ("one", "two")]
    flush(desk, driver)
    requests = [desk.take(host, m.FlushLogs)[0].request for host in hosts]
    desk.say(hosts[0], m.LogsFlushed(requests[0]), m.LogsFlushed(77))
    assert desk.take(driver, OutputFlushed) == []
    desk.say(hosts[1], m.LogsFlushed(requests[1]))
    assert desk.take(driver, OutputFlushed) == [OutputFlushed(5)]


def test_a_dead_host_flushes_nothing(desk):
    driver, host = desk.driver(), desk.host()
    flush(desk, driver)
    desk.lose(host)
    assert desk.take(driver, OutputFlushed) == [OutputFlushed(5)]


def test_without_hosts_there_is_nothing_to_flush(desk):
    driver = desk.driver()
    flush(desk, driver)
    assert desk.take(driver, OutputFlushed) == [OutputFlushed(5)]


def test_a_process_has_so_many_flushes_at_a_time(desk):
    driver, other, host = desk.driver("one"), desk.driver("two"), desk.host()
    for _ in range(MAX_FLUSHES):
        flush(desk, driver)
    with pytest.raises(m.ProtocolError, match="under way"):
        flush(desk, driver)
    flush(desk, other)
    for request in desk.take(host, m.FlushLogs):
        desk.say(host, m.LogsFlushed(request.request))
    assert len(desk.take(driver, OutputFlushed)) == MAX_FLUSHES and len(desk.take(other, OutputFlushed)) == 1
    flush(desk, driver)


def test_who_asked_for_a_flush_may_die(desk):
    driver, host = desk.driver(), desk.host()
    flush(desk, driver)
    desk.lose(driver)
    (request,) = desk.take(host, m.FlushLogs)
    desk.say(host, m.LogsFlushed(request.request))
    assert desk.take(driver, OutputFlushed) == []
