from __future__ import annotations

import math

import pytest

from zray.util import log_display
from zray.util.log_display import LogDeduplicator, ShownLine


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
    assert dedup.feed(6.0, "f", 1, "stdout", ["x", "x"]) == []  # known from several processes by now
    assert dedup.next_deadline() == 10.0
    assert texts(dedup.flush(10.0)) == ["(f pid=1) x [repeated 2x across cluster]"]
    assert dedup.flush(15.0) == []
    assert texts(dedup.feed(16.0, "f", 1, "stdout", ["x"])) == ["(f pid=1) x"]  # an idle window ended it


def test_one_process_is_not_held_back(dedup: LogDeduplicator) -> None:
    assert len(dedup.feed(0.0, "f", 1, "stdout", ["x"] * 5)) == 5
    assert len(dedup.feed(1.0, "f", 1, "stdout", ["x"] * 5)) == 5
    assert dedup.flush(math.inf) == []


def test_a_single_line_held_back_is_shown_as_it_is(dedup: LogDeduplicator) -> None:
    dedup.feed(0.0, "f", 1, "stdout", ["x"])
    dedup.feed(0.0, "f", 2, "stdout", ["x"])
    assert texts(dedup.flush(5.0)) == ["(f pid=2) x"]
    assert dedup.next_deadline() is None


def test_numbers_do_not_count(dedup: LogDeduplicator) -> None:
    dedup.feed(0.0, "f", 1, "stdout", ["step 1 at 0xff: loss=0.5"])
    dedup.feed(0.0, "f", 2, "stdout", ["step 2 at 0xee: loss=0.25"])
    assert dedup.feed(0.0, "f", 3, "stdout", ["step 3 at 0xab: loss=0.1"]) == []
    assert texts(dedup.flush(math.inf)) == ["(f pid=3) step 3 at 0xab: loss=0.1 [repeated 2x across cluster]"]


def test_lines_of_nothing_but_numbers_are_all_shown(dedup: LogDeduplicator) -> None:
    for pid in (1, 2, 3):
        assert len(dedup.feed(0.0, "f", pid, "stdout", ["42", ""])) == 2


def test_streams_and_hosts_are_apart(dedup: LogDeduplicator) -> None:
    dedup.feed(0.0, "f", 1, "stdout", ["x"])
    assert dedup.feed(0.0, "f", 2, "stderr", ["x"]) == [ShownLine("stderr", "(f pid=2) x")]
    assert dedup.feed(0.0, "f", 1, "stdout", ["x"], ip="10.0.0.2") == []  # the same PID on another host is another
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
