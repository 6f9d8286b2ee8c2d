"""The flight recorder: what the host of a dead worker reads from its page."""

from __future__ import annotations

import os

from zray.ids import make_task_id, return_id
from zray.worker.recorder import MOST_VALUES, RECORDER_BYTES, Recorder, begun, stored


def task(number: int) -> bytes:
    return make_task_id(b"o" * 16, number)


def test_an_empty_page():
    assert (begun(bytes(RECORDER_BYTES)), stored(bytes(RECORDER_BYTES))) == (b"", [])


def test_the_last_task_and_all_values_of_calls_up_to_the_last_one():
    page = bytearray(RECORDER_BYTES)
    recorder = Recorder(page)
    recorder.begins(task(1))
    recorder.begins(task(2))
    recorder.stores(return_id(task(2), 1))
    recorder.stores(return_id(task(2), 3))
    recorder.stores(return_id(task(1), 1))
    assert begun(bytes(page)) == task(2)
    expected = {return_id(task(2), index) for index in (1, 2, 3)} | {return_id(task(1), 1)}
    assert set(stored(bytes(page))) == expected and len(stored(bytes(page))) == 4


def test_the_last_are_kept_of_many():
    page = bytearray(RECORDER_BYTES)
    recorder = Recorder(page)
    recorder.begins(task(7))
    for number in range(1, 1_001):
        recorder.stores(return_id(task(number), 1))
    kept = stored(bytes(page))
    assert begun(bytes(page)) == task(7)
    assert len(kept) > 100 and set(kept) == {return_id(task(number), 1) for number in range(1_001 - len(kept), 1_001)}


def test_nonsense_on_the_page_is_bounded():
    for page in (os.urandom(RECORDER_BYTES), b"\xff" * RECORDER_BYTES):
        assert len(stored(page)) <= MOST_VALUES * RECORDER_BYTES // 28
