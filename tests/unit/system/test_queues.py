"""Taking from a queue with a time limit, which CPython 3.10 does not always keep by itself."""

from __future__ import annotations

import queue
import threading

import pytest

from zray.system.queues import take


def test_the_limit_is_kept_however_short_it_is():
    items: queue.SimpleQueue[int]
    for timeout_s in (0.0, -1.0, 1e-9, 1e-6):
        for _ in range(20_000 if timeout_s <= 0 else 200):
            items = queue.SimpleQueue()
            with pytest.raises(queue.Empty):
                take(items, timeout_s)


@pytest.mark.parametrize("timeout_s", [0.0, 30.0, None])
def test_what_is_there_comes_in_order(timeout_s):
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    for item in range(3):
        items.put(item)
    assert [take(items, timeout_s) for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("timeout_s", [30.0, None])
def test_what_comes_meanwhile_ends_the_wait(timeout_s):
    items: queue.SimpleQueue[str] = queue.SimpleQueue()
    thread = threading.Timer(0.01, items.put, ["it"])
    thread.start()
    assert take(items, timeout_s) == "it"
    thread.join()
