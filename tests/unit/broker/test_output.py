"""The output of workers, on its way through the broker."""

from __future__ import annotations

import pytest

from zray.broker.output import MAX_FLUSHES
from zray.protocol import log_window
from zray.protocol import messages as m
from zray.protocol.questions import FlushOutput, OutputFlushed
from zray.protocol.records import JoinInfo, PrintedLines, WorkerLines

from .harness import BrokerHarness


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


def talking(broker: BrokerHarness, name: str = "driver") -> tuple[bytes, bytes, bytes]:
    """A driver, a host, and the host's worker, which works for the driver."""
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    driver = broker.driver(name)
    broker.submit(driver)
    return driver, host, worker


def entry(worker: bytes, *lines: str, stream: str = "stdout") -> WorkerLines:
    return WorkerLines(worker, "f", 1, stream, list(lines))


def test_lines_go_to_the_driver_of_the_job(broker):
    host = broker.host(CPU=2)
    workers = broker.workers(host)
    one, two = broker.driver("one"), broker.driver("two")
    broker.submit(one)
    broker.submit(two)
    broker.say(host, m.WorkerLogs([entry(worker, "hello") for worker in [*workers, b"x" * 16]], {}))
    for driver in (one, two):
        assert broker.take(driver, m.Logs) == [m.Logs([PrintedLines("f", 1, "stdout", ["hello"])], 0)]


def test_a_host_sends_lines_of_its_own_workers_only(broker):
    driver, _, worker = talking(broker)
    other = broker.host("other", CPU=1)
    broker.say(other, m.WorkerLogs([entry(worker, "forged")], {worker: 3}))
    assert broker.take(driver, m.Logs) == []


def test_a_driver_that_shows_no_lines_gets_none(broker):
    driver = b"quiet".ljust(16, b"\0")
    broker.core.joined(driver, m.DRIVER, JoinInfo(shows_logs=False), broker.now)
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    broker.submit(driver)
    broker.say(host, m.WorkerLogs([entry(worker, "hello")], {worker: 1}))
    assert broker.take(driver, m.Logs) == []


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
def test_malformed_lines_are_refused(broker, entries):
    host = broker.host(CPU=1)
    with pytest.raises(m.ProtocolError):
        broker.say(host, m.WorkerLogs(entries, {}))


@pytest.mark.parametrize("left_out", [{"text": 1}, {b"w" * 16: "1"}, {b"w" * 16: None}])
def test_malformed_counts_are_refused(broker, left_out):
    host = broker.host(CPU=1)
    with pytest.raises(m.ProtocolError):
        broker.say(host, m.WorkerLogs([], left_out))


def test_a_driver_that_takes_nothing_gets_no_more_than_a_window(broker):
    driver, host, worker = talking(broker)
    line = "x" * (1 << 20)
    for _ in range(50):
        broker.say(host, m.WorkerLogs([entry(worker, line)], {}))
    sent = broker.take(driver, m.Logs)
    assert sum(len(logs.entries) for logs in sent) == log_window.WINDOW_BYTES // (len(line) + log_window.LINE_BYTES)
    assert all(logs.left_out == 0 for logs in sent)
    missing = 50 - len(sent)
    broker.say(driver, m.LogsTaken(4 << 20))
    assert broker.take(driver, m.Logs) == [m.Logs([], missing)]  # reported once
    broker.say(host, m.WorkerLogs([entry(worker, line)], {}))
    (after,) = broker.take(driver, m.Logs)
    assert len(after.entries) == 1 and after.left_out == 0


def test_taking_more_than_was_sent_does_not_enlarge_the_window(broker):
    driver, host, worker = talking(broker)
    broker.say(host, m.WorkerLogs([entry(worker, "a line")], {}))
    broker.say(driver, m.LogsTaken(2**60))
    broker.take(driver)
    line = "x" * (1 << 20)
    for _ in range(50):
        broker.say(host, m.WorkerLogs([entry(worker, line)], {}))
    assert len(broker.take(driver, m.Logs)) <= 16


def test_a_driver_that_takes_nothing_does_not_affect_another(broker):
    _, host, worker = talking(broker)
    second_host = broker.host("second", CPU=1)
    (second_worker,) = broker.workers(second_host)
    second = broker.driver("second driver")
    broker.submit(second)
    line = "x" * (1 << 20)
    for _ in range(20):
        broker.say(host, m.WorkerLogs([entry(worker, line)], {}))
    broker.say(second_host, m.WorkerLogs([entry(second_worker, "hello")], {}))
    assert broker.take(second, m.Logs) == [m.Logs([PrintedLines("f", 1, "stdout", ["hello"])], 0)]


def test_lines_that_a_host_left_out_are_reported_to_the_driver(broker):
    driver, host, worker = talking(broker)
    broker.say(host, m.WorkerLogs([], {worker: 7}))
    assert broker.take(driver, m.Logs) == [m.Logs([], 7)]


def test_the_broker_reports_to_a_host_what_it_has_taken(broker):
    _, host, worker = talking(broker)
    line = "x" * (1 << 20)
    told = 0
    for _ in range(8):
        broker.say(host, m.WorkerLogs([entry(worker, line)], {}))
        told += sum(taken.size_bytes for taken in broker.take(host, m.LogsTaken))
    assert told >= 6 * (len(line) + log_window.LINE_BYTES)


def test_records_of_gone_processes_are_removed(broker):
    driver, host, worker = talking(broker)
    broker.say(host, m.WorkerLogs([entry(worker, "hello")], {}))
    broker.lose(driver)
    broker.lose(host)
    assert not broker.core.output._readers and not broker.core.output._intakes


# ------------------------------------------------------------------ the flush of all logs


def flush(broker: BrokerHarness, driver: bytes) -> None:
    broker.take(driver)
    broker.say(driver, FlushOutput(5))


def test_logs_are_flushed_when_all_hosts_have_answered(broker):
    driver = broker.driver()
    hosts = [broker.host(name) for name in ("one", "two")]
    flush(broker, driver)
    requests = [broker.take(host, m.FlushLogs)[0].request for host in hosts]
    broker.say(hosts[0], m.LogsFlushed(requests[0]), m.LogsFlushed(77))
    assert broker.take(driver, OutputFlushed) == []
    broker.say(hosts[1], m.LogsFlushed(requests[1]))
    assert broker.take(driver, OutputFlushed) == [OutputFlushed(5)]


def test_a_flush_does_not_wait_for_a_dead_host(broker):
    driver, host = broker.driver(), broker.host()
    flush(broker, driver)
    broker.lose(host)
    assert broker.take(driver, OutputFlushed) == [OutputFlushed(5)]


def test_without_hosts_there_is_nothing_to_flush(broker):
    driver = broker.driver()
    flush(broker, driver)
    assert broker.take(driver, OutputFlushed) == [OutputFlushed(5)]


def test_the_open_flushes_of_a_process_are_limited(broker):
    driver, other, host = broker.driver("one"), broker.driver("two"), broker.host()
    for _ in range(MAX_FLUSHES):
        flush(broker, driver)
    with pytest.raises(m.ProtocolError, match="under way"):
        flush(broker, driver)
    flush(broker, other)
    for request in broker.take(host, m.FlushLogs):
        broker.say(host, m.LogsFlushed(request.request))
    assert len(broker.take(driver, OutputFlushed)) == MAX_FLUSHES and len(broker.take(other, OutputFlushed)) == 1
    flush(broker, driver)


def test_a_process_that_asked_for_a_flush_dies(broker):
    driver, host = broker.driver(), broker.host()
    flush(broker, driver)
    broker.lose(driver)
    (request,) = broker.take(host, m.FlushLogs)
    broker.say(host, m.LogsFlushed(request.request))
    assert broker.take(driver, OutputFlushed) == []
