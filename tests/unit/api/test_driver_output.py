"""The thread that shows workers' output: nothing that a stream does affects other code."""

from __future__ import annotations

import _thread
import io
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from zray.api import driver_output
from zray.api.driver_output import DriverOutput
from zray.client.core.effects import ShowLogs, Warn
from zray.logs import display as log_display
from zray.protocol.records import PrintedLines


class Stream(io.StringIO):
    """A stream object of the user, which reports when it has been written to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        count = super().write(text)
        self.written.set()
        return count


@pytest.fixture(autouse=True)
def streams(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The values of ``sys.stdout`` and ``sys.stderr``, by name. The real ones belong to pytest."""
    present: dict[str, Any] = {"stdout": Stream(), "stderr": Stream()}
    monkeypatch.setattr(driver_output, "current_stream", present.get)
    return present


@pytest.fixture
def out(streams: dict[str, Any]) -> Stream:
    return streams["stdout"]


@pytest.fixture
def err(streams: dict[str, Any]) -> Stream:
    return streams["stderr"]


@pytest.fixture
def output() -> Iterator[DriverOutput]:
    made = DriverOutput(True, lambda size_bytes: None)
    yield made
    made.close()


@pytest.fixture
def full_pipe(streams: dict[str, Any]) -> Iterator[int]:
    """``sys.stdout`` is a pipe that is full; yields the end to read from."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with open(writer, "w") as stream:
        streams["stdout"] = stream
        yield reader
        os.close(reader)


def lines(*texts: str, stream: str = "stdout", pid: int = 1, left_out: int = 0) -> ShowLogs:
    return ShowLogs([PrintedLines("f", pid, stream, list(texts))], left_out)


def ends(output: DriverOutput) -> bool:
    """Whether the thread of ``output`` has ended."""
    return output._ended.acquire(timeout=5.0)


def test_no_thread_before_there_is_something_to_show(output: DriverOutput, out: Stream) -> None:
    assert output._wake_fd < 0
    output.close()
    assert output._wake_fd < 0 and not out.getvalue()


def test_no_thread_where_lines_are_not_wanted(out: Stream) -> None:
    output = DriverOutput(False, lambda size_bytes: None)
    output.show(lines("hello"))
    assert output._wake_fd < 0
    output.close()
    assert not out.getvalue()


def test_lines_in_their_order_and_the_last_ones_at_the_end(output: DriverOutput, out: Stream, err: Stream) -> None:
    for number in range(500):
        output.show(lines(f"number {number}"))
    output.show(lines("oh no", stream="stderr"))
    output.close()
    assert out.getvalue() == "".join(f"(f pid=1) number {number}\n" for number in range(500))
    assert err.getvalue() == "(f pid=1) oh no\n"


def test_nothing_after_the_end(output: DriverOutput, out: Stream) -> None:
    output.close()
    output.show(lines("late"))
    output.warn(Warn("late"))
    assert output._wake_fd < 0 and not out.getvalue()


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_a_stream_that_raises_loses_one_line_only(
    output: DriverOutput, streams: dict[str, Any], caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    class Touchy(Stream):
        def write(self, text: str) -> int:
            if "bad" in text:
                raise error("no")
            return super().write(text)

    stream = Touchy()
    streams["stdout"] = stream
    output.show(lines("one", "bad", "two", "bad", "three"))
    output.close()
    assert stream.getvalue() == "(f pid=1) one\n(f pid=1) two\n(f pid=1) three\n"
    assert caplog.text.count("sys.stdout raised") == 1  # reported once


def test_streams_that_are_closed_or_none(output: DriverOutput, streams: dict[str, Any], err: Stream) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None, object()):
        streams["stdout"] = stream
        err.written.clear()
        output.show(lines("to nobody"))
        output.show(lines("to somebody", stream="stderr"))
        assert err.written.wait(5.0)


def test_an_encoding_that_lacks_characters(output: DriverOutput, streams: dict[str, Any]) -> None:
    raw = io.BytesIO()
    streams["stdout"] = io.TextIOWrapper(raw, encoding="ascii")
    output.show(lines("one", "caf\xe9 \u4e2d", "three"))
    output.close()
    assert raw.getvalue() == b"(f pid=1) one\n(f pid=1) caf\\xe9 \\u4e2d\n(f pid=1) three\n"


def test_a_pipe_that_is_not_read_stops_neither_the_other_stream_nor_the_end(
    output: DriverOutput, full_pipe: int, err: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_output, "STUCK_S", 0.05)
    output.show(lines("stuck"))
    output.show(lines("goes on", stream="stderr"))
    assert err.written.wait(5.0)
    output.close()
    assert output._abandoned


def test_a_pipe_that_is_read_again(output: DriverOutput, full_pipe: int) -> None:
    output.show(lines("y" * 20_000))
    data = b""
    while b"y\n" not in data:
        data += os.read(full_pipe, 65536)
    assert data.count(b"y") == 20_000


def test_lines_without_room_are_counted_and_reported_once(
    output: DriverOutput, full_pipe: int, err: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_display, "BACKLOG_CHARACTERS", 10_000)
    monkeypatch.setattr(driver_output, "STUCK_S", 0.05)
    output.show(lines(*["z" * 1000] * 50, left_out=5))
    assert err.written.wait(5.0)
    output.close()
    assert sum("are not shown" in line for line in err.getvalue().splitlines()) == 1
    assert "[zray: 46 lines" in err.getvalue()


def test_taken_lines_are_reported_even_if_none_can_be_written(full_pipe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_output, "STUCK_S", 0.05)
    said = threading.Event()
    output = DriverOutput(True, lambda size_bytes: said.set())
    for _ in range(50):
        output.show(lines(*["z" * 60_000]))
    assert said.wait(5.0)
    output.close()


def test_a_reader_that_is_gone(output: DriverOutput, streams: dict[str, Any], err: Stream) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        streams["stdout"] = stream
        output.show(lines("to nobody"))
        output.show(lines("to somebody", stream="stderr"))
        assert err.written.wait(5.0)


def test_repetitions_are_shown_when_their_time_is_over(output: DriverOutput, out: Stream) -> None:
    output._lines = log_display.LogDeduplicator(window_s=0.05)
    for pid in range(4):
        output.show(lines("the same", pid=pid))
    deadline = time.monotonic() + 5.0
    while "repeated 3x" not in out.getvalue():
        assert out.written.wait(deadline - time.monotonic())
        out.written.clear()


def test_warnings_are_logged(output: DriverOutput, caplog: pytest.LogCaptureFixture) -> None:
    output.warn(Warn("careful"))
    output.close()
    assert [record.getMessage() for record in caplog.records] == ["careful"]


def test_a_handler_that_raises(output: DriverOutput, out: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    class Touchy(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise KeyboardInterrupt

    handler = Touchy()
    driver_output.logger.addHandler(handler)
    try:
        output.warn(Warn("careful"))
        output.show(lines("hello"))
        output.close()
    finally:
        driver_output.logger.removeHandler(handler)
    assert out.getvalue() == "(f pid=1) hello\n"


def test_a_stream_that_shuts_down(output: DriverOutput, streams: dict[str, Any]) -> None:
    class Final(Stream):
        def write(self, text: str) -> int:
            output.close()
            return super().write(text)

    stream = Final()
    streams["stdout"] = stream
    output.show(lines("the end"))
    assert stream.written.wait(5.0)
    assert ends(output)
    output._ended.release()


def test_where_no_thread_can_be_started_lines_come_at_the_end(
    output: DriverOutput, out: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    output.show(lines("hello"))
    output.close()
    assert out.getvalue() == "(f pid=1) hello\n"


def test_children_forked_while_it_writes_can_print(output: DriverOutput, streams: dict[str, Any]) -> None:
    reader, writer = os.pipe()
    with open(writer, "w") as stream, open(reader):
        streams["stdout"] = stream
        drain = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 65536), b"")], daemon=True)
        drain.start()
        for _ in range(20):
            output.show(lines(*["some text"] * 200))
            pid = os.fork()
            if not pid:
                stream.write("from the child\n")
                stream.flush()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        output.close()
        stream.close()
        drain.join(5.0)


def test_a_signal_handler_may_show_lines_in_the_middle_of_the_same(output: DriverOutput, out: Stream) -> None:
    handled = 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        output.show(lines(f"handler {handled}"))

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        number = 0
        while handled < 20:
            output.show(lines(f"number {number}"))
            number += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    output.close()
    assert out.getvalue().count("number") == number and out.getvalue().count("handler") == handled
