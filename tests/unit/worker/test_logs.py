from __future__ import annotations

import itertools
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zray
from zray.protocol import log_window
from zray.worker.host import logs
from zray.worker.host.logs import (
    CUT_MARK,
    MAX_LINE_BYTES,
    LineSplitter,
    NamedLines,
    Outlet,
    RotatingFile,
    Tail,
    WorkerLog,
)
from zray.worker.log_marker import SECRET_FROM, marker


def split(*chunks: bytes) -> list[str]:
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines + splitter.finish()


class TestLineSplitter:
    @pytest.mark.parametrize(
        ("chunks", "lines"),
        [
            ([b"a\nb\n"], ["a", "b"]),
            ([b"a", b"b\nc", b"\n"], ["ab", "c"]),
            ([b"no end"], ["no end"]),
            ([b"\n\n"], ["", ""]),
            ([b"", b""], []),
            ([b"dos\r\n", b"split\r", b"\nend"], ["dos", "split", "end"]),
            ([b"\r 10%\r 20%\r 30%\n"], [" 30%"]),
            ([b"10%\r", b"20%\r", b"done\n"], ["done"]),
            ([b"10%\r20%\r"], ["20%"]),
            ([b"\xff\xfe\n"], ["\\xff\\xfe"]),
            ([b"\xc3", b"\xa9\n"], ["\xe9"]),
            ([b"nul \0\n"], ["nul \0"]),
        ],
    )
    def test_lines(self, chunks: list[bytes], lines: list[str]) -> None:
        assert split(*chunks) == lines

    @pytest.mark.parametrize(
        ("before", "shown", "after", "lines"),
        [
            (b"working...", ["working..."], b"done\n", ["done"]),
            (b"working...", ["working..."], b"\nnext\n", ["next"]),
            (b"\r 10%", [" 10%"], b"\r 20%\r 30%\n", [" 30%"]),
            (b"10%\r", ["10%"], b"20%\r", ["20%"]),
            (b"10%\r", ["10%"], b"\n\n", [""]),
            (b"snow\xe2\x98", ["snow"], b"\x83man\n", ["\N{SNOWMAN}man"]),
            (b"\xff\xfe", ["\\xff\\xfe"], b"", []),
            (b"", [], b"\n", [""]),
            (b"\r", [], b"\n", [""]),
            (b"line\n", [], b"", []),
        ],
    )
    def test_the_beginning_of_a_line(self, before: bytes, shown: list[str], after: bytes, lines: list[str]) -> None:
        splitter = LineSplitter()
        splitter.feed(before)
        assert splitter.show() == shown
        assert splitter.show() == []
        assert splitter.feed(after) + splitter.finish() == lines

    def test_long_line_comes_in_marked_pieces(self) -> None:
        lines = split(b"x" * (3 * MAX_LINE_BYTES + 5), b"\n")
        assert lines == ["x" * MAX_LINE_BYTES + CUT_MARK] * 3 + ["x" * 5]

    def test_cut_keeps_characters_whole(self) -> None:
        text = "a" + "\N{SNOWMAN}" * MAX_LINE_BYTES
        lines = split(text.encode())
        assert "".join(line.removesuffix(CUT_MARK) for line in lines) == text

    def test_endless_progress_takes_no_memory(self) -> None:
        splitter = LineSplitter()
        for percent in range(10_000):
            assert splitter.feed(b"\r%d%%" % percent) == []
        assert splitter.finish() == ["9999%"]

    @given(st.text(alphabet="ab\n\N{SNOWMAN}"), st.lists(st.integers(0, 50)))
    def test_any_split_into_chunks_gives_the_same_lines(self, text: str, cuts: list[int]) -> None:
        data = text.encode()
        edges = [0, *sorted(cuts), len(data)]
        chunks = [data[start:end] for start, end in itertools.pairwise(edges)]
        assert split(*chunks) == split(data) == text.removesuffix("\n").split("\n") * bool(text)


class TestRotatingFile:
    def test_keeps_one_older_generation(self, tmp_path: Path) -> None:
        file = RotatingFile(f"{tmp_path}/log", 10)
        for data in (b"11111111", b"22222222", b"33333333"):
            file.write(data)
        assert (tmp_path / "log").read_bytes() == b"33333333"
        assert (tmp_path / "log.1").read_bytes() == b"22222222"
        assert len(list(tmp_path.iterdir())) == 2
        assert file.lost_bytes == 0

    def test_silence_makes_no_file(self, tmp_path: Path) -> None:
        RotatingFile(f"{tmp_path}/log", 10)
        assert list(tmp_path.iterdir()) == []

    def test_full_disk_is_counted(self) -> None:
        file = RotatingFile("/dev/full", 1 << 30)
        file.write(b"12345")
        assert file.lost_bytes == 5

    def test_directory_that_vanished_is_counted(self, tmp_path: Path) -> None:
        file = RotatingFile(f"{tmp_path}/gone/log", 10)
        file.write(b"12345")
        assert file.lost_bytes == 5
        (tmp_path / "gone").mkdir()
        file.write(b"back")
        assert (tmp_path / "gone" / "log").read_bytes() == b"back"

    def test_nearly_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
        file = RotatingFile(f"{tmp_path}/log", 10)
        file.write(b"12345")
        assert file.lost_bytes == 2


class TestTail:
    def test_last_lines(self) -> None:
        tail = Tail(n_lines=2)
        tail.add(["a", "b", "c"])
        assert tail.text() == "b\nc"

    def test_size_is_bounded(self) -> None:
        tail = Tail(n_lines=3, max_bytes=10)
        tail.add(["x" * 100, "y" * 4, "z" * 4])
        assert tail.text() == "x\nyyyy\nzzzz"[-10:]


class Worker:
    """The writing ends of a worker's pipes, and its log."""

    def __init__(self, directory: Path) -> None:
        out_read, self.out = os.pipe()
        err_read, self.err = os.pipe()
        self.log = WorkerLog(out_read, err_read, str(directory), 1 << 20)

    def end(self) -> None:
        for fd in (self.out, self.err):
            os.close(fd)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path)
    yield worker
    worker.log.close()


class TestWorkerLog:
    def test_both_streams(self, worker: Worker, tmp_path: Path) -> None:
        os.write(worker.out, b"hello\n")
        os.write(worker.err, b"oh\nno\n")
        assert list(worker.log.read()) == [("stdout", "", ["hello"]), ("stderr", "", ["oh", "no"])]
        assert list(worker.log.read()) == []
        assert worker.log.stderr_tail.text() == "oh\nno"
        assert (tmp_path / "worker-.out").read_bytes() == b"hello\n"
        assert (tmp_path / "worker-.err").read_bytes() == b"oh\nno\n"
        worker.end()

    def test_a_line_without_an_end_is_shown_when_it_does_not_go_on(self, worker: Worker, tmp_path: Path) -> None:
        os.write(worker.out, b"working...")
        assert list(worker.log.read()) == []
        assert list(worker.log.tick()) == []
        assert list(worker.log.tick()) == [("stdout", "", ["working..."])]
        assert list(worker.log.tick()) == []
        os.write(worker.out, b"done\n")
        assert list(worker.log.read()) == [("stdout", "", ["done"])]
        assert (tmp_path / "worker-.out").read_bytes() == b"working...done\n"
        worker.end()

    def test_a_progress_bar_is_shown_now_and_then(self, worker: Worker) -> None:
        shown = []
        for percent in range(20):
            os.write(worker.err, b"\r%d%%" % percent)
            assert list(worker.log.read()) == []
            shown += list(worker.log.tick())
        assert shown == [("stderr", "", [f"{percent}%"]) for percent in (3, 7, 11, 15, 19)]
        worker.end()

    def test_what_is_cut_off_goes_on_afterwards(self, worker: Worker) -> None:
        os.write(worker.out, b"working...")
        list(worker.log.read())
        assert list(worker.log.cut()) == [("stdout", "", ["working..."])]
        os.write(worker.out, b"\n")
        assert list(worker.log.read()) == []
        worker.end()

    def test_end_of_the_pipes(self, worker: Worker) -> None:
        os.write(worker.out, b"no newline")
        worker.end()
        assert len(worker.log.filenos()) == 2
        assert list(worker.log.read()) == []
        assert list(worker.log.read()) == [("stdout", "", ["no newline"])]
        assert worker.log.filenos() == []
        assert list(worker.log.drain()) == []

    def test_loud_worker_gets_one_read_a_turn(self, worker: Worker) -> None:
        os.set_blocking(worker.out, False)
        line = b"x" * 1023 + b"\n"
        assert os.write(worker.out, line * 64) == 64 * 1024
        ((_, _, lines),) = worker.log.read()
        assert len(lines) * 1024 <= logs.READ_BYTES
        worker.end()

    def test_drain_shows_what_has_no_end(self, worker: Worker) -> None:
        """Also while a process that the worker left behind holds the pipes open."""
        os.write(worker.err, b"Fatal Python error")
        assert list(worker.log.drain()) == [("stderr", "", ["Fatal Python error"])]
        assert worker.log.stderr_tail.text() == "Fatal Python error"
        os.write(worker.err, b"still here\n")
        assert list(worker.log.read()) == [("stderr", "", ["still here"])]
        worker.end()

    def test_drain_ends_while_a_process_goes_on_printing(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs._Pipe, "read", lambda pipe: b"again\n")
        assert len(list(worker.log.drain())) == 2 * logs.DRAIN_BYTES // logs.READ_BYTES
        worker.end()

    def test_close_twice(self, worker: Worker) -> None:
        worker.log.close()
        worker.log.close()
        worker.end()


SECRET = "5" * 32


class TestNamedLines:
    def test_lines_behind_a_marker_are_of_that_name(self) -> None:
        lines = NamedLines(SECRET)
        said, plain = lines.feed(b"a\n" + marker(SECRET, "f") + b"b\nc\n" + marker(SECRET, "g") + b"d\n")
        assert said == [("", ["a"]), ("f", ["b", "c"]), ("g", ["d"])]
        assert plain == b"a\nb\nc\nd\n"
        assert lines.feed(b"e\n") == ([("g", ["e"])], b"e\n")

    def test_neither_whole_nor_partial_markers_are_shown(self) -> None:
        whole = marker(SECRET, "two")
        for end in range(SECRET_FROM + 1, len(whole)):
            lines = NamedLines(SECRET)
            lines.feed(b"partial" + whole[:end], cut=True)
            assert lines.show() == [("", ["partial"])]
            said, plain = lines.finish()
            assert said == [] and plain == b""
            lines.feed(b"partial" + whole[:end], cut=True)
            assert lines.feed(whole[end:] + b"text\n")[0] == [("", ["partial"]), ("two", ["text"])]

    def test_a_marker_ends_a_line_without_an_end(self) -> None:
        lines = NamedLines(SECRET)
        assert lines.feed(marker(SECRET, "f") + b"one\npart")[0] == [("f", ["one"])]
        assert lines.feed(marker(SECRET, "g") + b"two\n10%\r") == ([("f", ["part"]), ("g", ["two"])], b"\ntwo\n10%\r")
        assert lines.feed(marker(SECRET, "h") + b"three\n")[0] == [("g", ["10%"]), ("h", ["three"])]

    @pytest.mark.parametrize(
        "forged",
        [
            b"\x1ezray-name:other\n",
            b"\x1ezray-name:" + b"0" * 32 + b":other\n",
            b"\x1ezray-name:" + SECRET[:31].encode() + b":other\n",
            b"\n\x1ezray-name::other\n",
        ],
    )
    def test_text_that_looks_like_a_marker_is_text(self, forged: bytes) -> None:
        lines = NamedLines(SECRET)
        said, plain = lines.feed(marker(SECRET, "f") + forged + b"text\n")
        assert {name for name, _ in said} == {"f"} and plain == forged + b"text\n"
        assert [line for _, part in said for line in part if line] == [forged.strip().decode(), "text"]

    @given(st.lists(st.sampled_from(["a", "\n", "\r\n", "\x1e", "\x1ezray-name:", "f", "g"])), st.integers(1, 200))
    def test_any_split_of_the_input_gives_the_same_lines(self, parts: list[str], size: int) -> None:
        data = b"".join(marker(SECRET, part) if part in "fg" else part.encode() for part in parts)
        whole, pieces = NamedLines(SECRET), NamedLines(SECRET)
        expected, plain = whole.feed(data)
        rest, plain_rest = whole.finish()
        got: list[tuple[str, str]] = []
        got_plain = b""
        for start in range(0, len(data), size):
            said, text = pieces.feed(data[start : start + size], cut=True)
            got += [(name, line) for name, lines in said for line in lines]
            got_plain += text
        said, text = pieces.finish()
        got += [(name, line) for name, lines in said for line in lines]
        assert got == [(name, line) for name, lines in expected + rest for line in lines]
        assert got_plain + text == plain + plain_rest

    def test_names_that_would_look_like_something_else(self) -> None:
        lines = NamedLines(SECRET)
        for name, shown in [
            ("two\nlines", "two?lines"),
            ("back\rto", "back?to"),
            ("\x1b[2Jclear", "?[2Jclear"),
            ("other pid=1) hello (f", "other_pid=1) hello (f"),
            ("n" * 1000, "n" * 200),
            ("surrogate \udc80", "surrogate ?"),
            ("\u4e2d" * 1000, "\u4e2d" * 200),
        ]:
            data = marker(SECRET, name)
            assert len(data) < select.PIPE_BUF
            assert lines.feed(data + b"x\n")[0] == [(shown, ["x"])]


class TestOutlet:
    def test_lines_leave_in_their_order(self) -> None:
        outlet = Outlet()
        assert outlet.take() is None
        outlet.add(b"one", "f", 1, "stdout", ["a", "b"])
        outlet.add(b"two", "g", 2, "stderr", ["c"])
        assert outlet.take() == ([(b"one", "f", 1, "stdout", ["a", "b"]), (b"two", "g", 2, "stderr", ["c"])], {})
        assert outlet.take() is None

    def test_lines_that_the_broker_does_not_take_are_left_out_and_counted(self) -> None:
        outlet = Outlet()
        size = log_window.size_of(["x" * 60_000])
        sent = 0
        for _ in range(1000):
            outlet.add(b"one", "f", 1, "stdout", ["x" * 60_000])
            if message := outlet.take():
                assert message.left_out == {}
                sent += len(message.entries)
        assert sent == log_window.WINDOW_BYTES // size
        outlet.taken(10 * size)
        assert outlet.take() == ([], {b"one": 1000 - sent})  # told once
        outlet.add(b"one", "f", 1, "stdout", ["again"])
        assert outlet.take() == ([(b"one", "f", 1, "stdout", ["again"])], {})

    def test_the_count_of_a_worker_at_its_end_does_not_wait_for_room(self) -> None:
        outlet = Outlet()
        for _ in range(300):
            outlet.add(b"one", "f", 1, "stdout", ["x" * 60_000])
        outlet.take()
        outlet.add(b"one", "f", 1, "stdout", ["x" * 60_000] * 2)
        assert outlet.take() is None
        message = outlet.take(ending=True)
        assert message is not None and message.left_out[b"one"] > 2

    @pytest.mark.parametrize("line", ["", "x" * 65536])
    def test_no_more_than_a_window_is_held(self, line: str) -> None:
        outlet = Outlet()
        for _ in range(500):
            outlet.add(b"one", "f", 1, "stdout", [line] * 100)
        message = outlet.take()
        assert message is not None
        assert sum(log_window.size_of(entry.lines) for entry in message.entries) <= log_window.WINDOW_BYTES


class TestFatalErrors:
    """The beginning of Python's report of a fatal signal is kept: it has the user's line."""

    FATAL = "Fatal Python error: Segmentation fault"

    def dump(self, frames: list[str], title: str = "Current thread 0x00007f (most recent call first):") -> list[str]:
        return [self.FATAL, "", title, *frames, "", "Extension modules: numpy.core (total: 1)"]

    def frames(self) -> list[str]:
        package = os.path.dirname(zray.__file__)
        return [
            '  File "/lib/deep.py", line 3 in write',
            '  File "/home/me/mine.py", line 7 in task',
            f'  File "{package}/worker/process/worker.py", line 1 in _run',
            f'  File "{package}/worker/process/main.py", line 1 in worker_main',
            '  File "<string>", line 1 in <module>',
        ]

    def test_the_users_frames_are_kept(self) -> None:
        tail = Tail()
        tail.add(["before", *self.dump(self.frames())])
        assert tail.text().splitlines() == [
            "before", self.FATAL, "Current thread 0x00007f (most recent call first):", *self.frames()[:2]
        ]  # fmt: skip

    def test_the_innermost_ones_if_there_are_many(self) -> None:
        tail = Tail(n_lines=5)
        tail.add(["x"] * 9 + self.dump([f'  File "/a.py", line {n} in f' for n in range(90)]))
        assert tail.text().splitlines()[5:] == [
            self.FATAL, "Current thread 0x00007f (most recent call first):",
            *[f'  File "/a.py", line {n} in f' for n in range(3)],
        ]  # fmt: skip

    def test_a_process_that_survives_has_ordinary_last_lines(self) -> None:
        tail = Tail(n_lines=3)
        tail.add([*self.dump(self.frames()), "alive", "and", "well"])
        assert tail.text() == "alive\nand\nwell"

    def test_a_very_long_line(self) -> None:
        tail = Tail(max_bytes=100)
        tail.add(["x" * 500, f"{self.FATAL}{'y' * 500}", '  File "/a.py", line 1 in f'])
        assert len(tail.text()) <= 101
