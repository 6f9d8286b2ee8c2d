from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zray.logs import display as log_display
from zray.logs.display import Backlog, LogDeduplicator, MissingLines, ShownLine, escape_controls


def texts(shown: list[ShownLine]) -> list[str]:
    return [line.text for line in shown]


@pytest.fixture
def dedup() -> LogDeduplicator:
    return LogDeduplicator(window_s=5.0)


def test_first_is_shown_at_once_and_others_once_at_the_end(dedup: LogDeduplicator) -> None:
    assert dedup.feed(0.0, "f", 1, "stdout", ["loading"]) == [ShownLine("stdout", "(f pid=1) loading")]
    assert dedup.next_deadline() is None
    for pid in range(2, 9):
        assert dedup.feed(1.0, "f", pid, "stdout", ["loading"]) == []
    assert dedup.next_deadline() == 5.0
    assert dedup.flush(4.9) == []
    assert texts(dedup.flush(5.0)) == ["(f pid=8) loading [repeated 7x across cluster]"]


def test_goes_on_in_a_new_window_while_it_repeats(dedup: LogDeduplicator) -> None:
    for pid in (1, 2, 3):
        dedup.feed(0.0, "f", pid, "stdout", ["x"])
    dedup.flush(5.0)
    assert dedup.next_deadline() is None
    assert dedup.feed(6.0, "f", 1, "stdout", ["x", "x"]) == []  # several processes are known to print it
    assert dedup.next_deadline() == 10.0
    assert texts(dedup.flush(10.0)) == ["(f pid=1) x [repeated 2x across cluster]"]
    assert dedup.flush(15.0) == []
    assert texts(dedup.feed(16.0, "f", 1, "stdout", ["x"])) == ["(f pid=1) x"]  # an idle window has ended it


def test_one_process_is_not_held_back(dedup: LogDeduplicator) -> None:
    assert len(dedup.feed(0.0, "f", 1, "stdout", ["x"] * 5)) == 5
    assert len(dedup.feed(1.0, "f", 1, "stdout", ["x"] * 5)) == 5
    assert dedup.flush(math.inf) == []


def test_a_single_line_held_back_is_shown_as_it_is(dedup: LogDeduplicator) -> None:
    dedup.feed(0.0, "f", 1, "stdout", ["x"])
    dedup.feed(0.0, "f", 2, "stdout", ["x"])
    assert texts(dedup.flush(5.0)) == ["(f pid=2) x"]
    assert dedup.next_deadline() is None


def test_only_equal_lines_are_one(dedup: LogDeduplicator) -> None:
    for pid in (1, 2, 3):
        assert len(dedup.feed(0.0, "f", pid, "stdout", [f"epoch {pid} at 0x{pid}f: loss=0.{pid}", f"{pid}"])) == 2
    assert dedup.flush(math.inf) == []


def test_numbers_are_deduplicated_and_empty_lines_are_not(dedup: LogDeduplicator) -> None:
    assert len(dedup.feed(0.0, "f", 1, "stdout", ["42", "", " "])) == 3
    assert len(dedup.feed(0.0, "f", 2, "stdout", ["42", "", " "])) == 2
    assert texts(dedup.flush(5.0)) == ["(f pid=2) 42"]


def test_streams_and_hosts_are_apart(dedup: LogDeduplicator) -> None:
    dedup.feed(0.0, "f", 1, "stdout", ["x"])
    assert dedup.feed(0.0, "f", 2, "stderr", ["x"]) == [ShownLine("stderr", "(f pid=2) x")]
    assert dedup.feed(0.0, "f", 1, "stdout", ["x"], ip="10.0.0.2") == []  # the same PID on another host
    assert texts(dedup.flush(math.inf)) == ["(f pid=1, ip=10.0.0.2) x"]


def test_feeding_ends_windows_that_are_over(dedup: LogDeduplicator) -> None:
    for pid in (1, 2, 3):
        dedup.feed(0.0, "f", pid, "stdout", ["x"])
    assert texts(dedup.feed(7.0, "g", 9, "stdout", ["y"])) == [
        "(f pid=3) x [repeated 2x across cluster]",
        "(g pid=9) y",
    ]


def test_no_window_shows_everything() -> None:
    dedup = LogDeduplicator(window_s=0.0)
    for pid in (1, 2, 3):
        assert len(dedup.feed(0.0, "f", pid, "stdout", ["x"])) == 1
    assert dedup.next_deadline() is None


def test_name_may_be_unknown(dedup: LogDeduplicator) -> None:
    assert texts(dedup.feed(0.0, "", 7, "stdout", ["x"])) == ["(pid=7) x"]


def test_memory_is_bounded_and_nothing_lost(dedup: LogDeduplicator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_display, "MAX_PATTERNS", 3)
    shown = []
    for letter in "abcdef":
        for pid in (1, 2, 3):
            shown += dedup.feed(0.0, "f", pid, "stdout", [letter])
    shown += dedup.flush(math.inf)
    assert sorted(texts(shown)) == sorted(
        text for c in "abcdef" for text in (f"(f pid=1) {c}", f"(f pid=3) {c} [repeated 2x across cluster]")
    )


class TestBacklog:
    def test_whole_lines_up_to_the_limit(self) -> None:
        backlog = Backlog()
        for line in ("a" * 10, "b" * 10, "c" * 10):
            assert backlog.add(line)
        assert backlog.take(25) == "a" * 10 + "\n" + "b" * 10 + "\n"
        assert backlog.take(25) == "c" * 10 + "\n"
        assert not backlog and backlog.take(25) == ""

    @given(st.lists(st.text(alphabet="ab\N{SNOWMAN}", max_size=60)), st.integers(2, 50))
    def test_pieces_are_small_and_nothing_is_lost(self, lines: list[str], max_bytes: int) -> None:
        backlog = Backlog()
        for line in lines:
            backlog.add(line)
        pieces = []
        while backlog:
            pieces.append(backlog.take(max_bytes))
        assert "".join(pieces) == "".join(line + "\n" for line in lines)
        assert all(len(piece.encode()) <= max(4, max_bytes) for piece in pieces)

    def test_one_line_at_a_time_however_long(self) -> None:
        backlog = Backlog()
        backlog.add("x" * 10_000)
        backlog.add("y")
        assert [len(backlog.take(1)), backlog.take(1)] == [10_001, "y\n"]

    def test_it_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_display, "BACKLOG_CHARACTERS", 1000)
        backlog = Backlog()
        assert [backlog.add("x" * 400) for _ in range(4)] == [True, True, False, False]
        backlog.take(401)
        assert backlog.add("x" * 400)
        backlog.clear()
        assert not backlog
        assert backlog.add("x" * 900)


class TestMissingLines:
    def test_told_at_once_and_then_from_time_to_time(self) -> None:
        missing = MissingLines()
        assert missing.notice(0.0) == "" and missing.next_deadline() == math.inf
        missing.add(1234)
        assert "1,234 lines" in missing.notice(100.0)
        missing.add(5)
        missing.add(6)
        assert missing.notice(101.0) == "" and missing.next_deadline() == 100.0 + log_display.NOTICE_S
        assert "11 lines" in missing.notice(100.0 + log_display.NOTICE_S)
        missing.add(7)
        assert "7 lines" in missing.notice(math.inf)


class TestHarmless:
    @pytest.mark.parametrize(
        ("line", "shown"),
        [
            ("plain", "plain"),
            ("tab\tand \u4e2d \U0001f600", "tab\tand \u4e2d \U0001f600"),
            ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
            ("\x1b[1;38:5:12mbold", "\x1b[1;38:5:12mbold\x1b[0m"),  # ends with its line
            ("\x1b[8mhidden\x1b[m", "\x1b[8mhidden\x1b[m"),
            ("up\x1b[A\x1b[2K\x1b[?25l", "up"),
            ("\x1b[>4;2m", ""),  # no color, though it ends like one
            ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            ("\x1b]52;c;AAAA\x1b\\", "\\x1b]52;c;AAAA\\x1b\\"),
            ("\x1b\x1b[A[2J", "\\x1b[2J"),  # removing a sequence does not make a new one
            ("\x9b2J \x85 \x7f \x08\x0b\x0c\r\n", "\\x9b2J \\x85 \\x7f \\x08\\x0b\\x0c\\x0d\\x0a"),
            ("\u202egnp.exe \u2028", "\\u202egnp.exe \\u2028"),
            ("\x1bc reset", "\\x1bc reset"),
            ("unfinished \x1b[3", "unfinished \\x1b[3"),
        ],
    )
    def test_only_colors_do_something(self, line: str, shown: str) -> None:
        assert escape_controls(line) == shown

    @given(st.text(alphabet="\x1b[]m;0A\x9b\x07ab\n\r\x08"))
    def test_nothing_but_colors_is_left(self, line: str) -> None:
        rest = re.sub(r"\x1b\[[0-9;:]*m", "", escape_controls(line))
        assert rest.isprintable()

    @given(st.text(alphabet="\x1b[]m;0A\x9b\x07ab\u4e2d"))
    def test_twice_is_once(self, line: str) -> None:
        assert escape_controls(escape_controls(line)) == escape_controls(line)
