"""Records of when tasks ran, and the events that are made of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zray.protocol import state_questions as q
from zray.util import timeline as module
from zray.util.timeline import owned_spans, read_spans, to_events
from zray.worker.process import spans as recording
from zray.worker.process.spans import Spans

WORKER = b"w" * 16


class Clock:
    """Microseconds that pass as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_us = 1_000
        monkeypatch.setattr(recording, "now_us", lambda: self.now_us)
        monkeypatch.setattr("zray.worker.process.spans.time.time_ns", lambda: (10**15 + self.now_us) * 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def task(number: int = 1, attempt: int = 0) -> Any:
    return SimpleNamespace(task_id=bytes([number]) * 24, attempt=attempt)


OPTIONS: Any = SimpleNamespace(name="fit")


def test_a_task_is_recorded(tmp_path: Path, clock: Clock) -> None:
    spans = Spans(str(tmp_path), WORKER, 10_000)
    clock.now_us += 500
    spans.ended(task(attempt=2), OPTIONS, "FAILED", started_us=1_000)
    (span,) = read_spans(str(tmp_path))
    assert (span["name"], span["ts"], span["dur"], span["state"]) == ("fit", 10**15 + 1_000, 500, "FAILED")
    assert (span["worker"], span["task"], span["attempt"]) == (WORKER.hex(), "01" * 24, 2)


def test_calls_of_an_event_loop_overlap(tmp_path: Path, clock: Clock) -> None:
    spans = Spans(str(tmp_path), WORKER, 10_000)
    for number in (1, 2):
        clock.now_us += 10
        spans.begin(task(number).task_id)
    for number in (1, 2):
        clock.now_us += 10
        spans.ended(task(number), OPTIONS)
    assert [span["dur"] for span in read_spans(str(tmp_path))] == [20, 20]
    assert [event["tid"] for event in events(tmp_path)] == [f"worker:{WORKER.hex()}", f"worker:{WORKER.hex()} (2)"]


def events(directory: Path) -> list[dict[str, Any]]:
    return to_events(("10.0.0.1", span) for span in read_spans(str(directory)))


def test_files_are_bounded(tmp_path: Path, clock: Clock) -> None:
    spans = Spans(str(tmp_path), WORKER, 1_000)
    for number in range(50):
        spans.ended(task(number), OPTIONS, started_us=1_000)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2_000
    assert max(span["task"] for span in read_spans(str(tmp_path))) == bytes([49]).hex() * 24


def test_a_directory_that_is_gone_stops_no_work(tmp_path: Path, clock: Clock) -> None:
    spans = Spans(str(tmp_path / "gone"), WORKER, 1_000)
    for _ in range(2):
        spans.ended(task(), OPTIONS, started_us=1_000)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path, clock: Clock) -> None:
    Spans(str(tmp_path), WORKER, 10_000).ended(task(), OPTIONS, started_us=1_000)
    with open(next(tmp_path.iterdir()), "a") as file:
        file.write('{"name": "f')
    assert len(read_spans(str(tmp_path))) == 1


def test_only_the_newest_files_are_read(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    Spans(str(tmp_path), WORKER, 10_000).ended(task(), OPTIONS, started_us=1_000)
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    assert read_spans(str(tmp_path)) == []


def row(number: int, began: float, ended: float, actor: bytes = b"", state: str = "FINISHED") -> q.TaskRow:
    error = "TASK_CANCELLED" if state == "CANCELLED" else ""
    state = "FAILED" if error else state
    return q.TaskRow(
        bytes([number]) * 24, 0, "f", "f", state, actor, b"", WORKER, b"", error, "", 0.0, began, ended, b""
    )


def test_tasks_that_were_answered_at_once_ran_one_after_the_other() -> None:
    rows = [row(1, 9.0, 10.0), row(2, 8.5, 10.0), row(3, 9.5, 10.0)]
    spans = [span for _, span in owned_spans(rows, [])]
    assert [(span["ts"], span["dur"]) for span in spans] == [
        (9_000_000, 1_000_000),
        (7_500_000, 1_500_000),
        (7_000_000, 500_000),
    ]
    assert {event["tid"] for event in to_events(("ip", span) for span in spans)} == {f"worker:{WORKER.hex()}"}


def test_calls_of_actors_may_overlap() -> None:
    spans = [span for _, span in owned_spans([row(n, 9.0, 10.0, b"a" * 24) for n in (1, 2)], [])]
    assert [(span["ts"], span["dur"]) for span in spans] == [(9_000_000, 1_000_000)] * 2


def test_what_has_no_times_or_no_worker_is_left_out() -> None:
    rows = [row(1, 1.0, 2.0)._replace(started_s=None), row(2, 1.0, 2.0)._replace(worker=b""), row(3, 1.0, 2.0)]
    assert [span["task"] for _, span in owned_spans(rows, [])] == ["03" * 24]


def test_where_tasks_ran_and_how_they_ended() -> None:
    worker = q.WorkerRecord(WORKER, False, b"", b"h" * 16, "10.0.0.9", 77, b"", False, "", "", 0.0, None)
    found = owned_spans([row(1, 1.0, 2.0, state="CANCELLED"), row(2, 3.0, 4.0, state="FAILED")], [worker])
    assert [(ip, span["state"], span["pid"]) for ip, span in found] == [
        ("10.0.0.9", "FAILED", 77),
        ("10.0.0.9", "CANCELLED", 77),
    ]


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 50), st.integers(0, 20)), max_size=30))
def test_events_of_a_row_do_not_overlap(given_spans):
    found = to_events(
        ("ip", {"name": "f", "ts": ts, "dur": dur, "task": "", "attempt": 0, "state": "FINISHED", "worker": worker,
                "pid": 1})
        for worker, ts, dur in given_spans
    )  # fmt: skip
    assert len(found) == len(given_spans)
    assert [event["ts"] for event in found] == sorted(event["ts"] for event in found)
    last: dict[str, int] = {}
    for event in found:
        assert event["ts"] >= last.get(event["tid"], 0)
        last[event["tid"]] = event["ts"] + event["dur"]
