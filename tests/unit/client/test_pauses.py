"""Tasks that were stopped for lack of memory, or kill their workers again and again, are tried again after a pause."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.client.wiring import Process, Wire, kind_of_failure
from zray.client.core import records
from zray.client.core.states import ERROR, WAITING
from zray.client.explain import explain
from zray.ids import task_of
from zray.protocol import messages as m
from zray.protocol.contract import BROKER


@pytest.fixture
def process() -> Process:
    return Wire("driver", "worker").everybody[0]


class Clock:
    """Stops attempts of one task, and lets time pass."""

    def __init__(self, process: Process, result: bytes) -> None:
        self.process = process
        self.task_id = task_of(result)
        self.now = 0.0

    def stop(self, attempt: int, *, culprit: bool = False) -> None:
        message = m.Failed(self.task_id, attempt, "OutOfMemoryError", "memory was short", culprit)
        self.process.core.receive(BROKER, message, self.now)
        self.process.flush()
        self.process.core.check()

    def after(self, seconds: float) -> list[int]:
        """The attempts that are sent until then."""
        self.now += seconds
        self.process.core.tick(self.now)
        self.process.flush()
        sent: list[Any] = list(self.process.up)
        self.process.up.clear()
        return [message.attempt for message in sent if isinstance(message, m.Submit)]


def begin(process: Process, retries: int = 3) -> tuple[bytes, Clock]:
    result = process.submit(process.wire.everybody[1], retries=retries)
    process.flush()
    process.up.clear()
    return result, Clock(process, result)


def test_each_pause_is_twice_as_long(process):
    _, clock = begin(process)
    for attempt, pause_s in enumerate([1, 2, 4, 8, 16, 32, 60, 60]):
        clock.stop(attempt)
        assert clock.after(pause_s - 0.1) == []
        assert clock.after(0.2) == [attempt + 1]


def test_a_pause_is_told(process):
    _, clock = begin(process)
    clock.stop(0)
    (told,) = [effect.text for effect in process.take_effects() if hasattr(effect, "text")]
    assert "is tried again in 1 s, as memory was short" in told


def test_a_pause_is_no_wait_for_arguments(process):
    """The rows of other processes say so, and ``GetTimeoutError``."""
    result, clock = begin(process)
    clock.stop(0)
    rows = records.attempts_of(process.core.tasks, {}, clock.task_id)
    assert [row.state for row in rows] == ["FAILED", "PENDING_NODE_ASSIGNMENT"]

    shell = SimpleNamespace(lock=contextlib.nullcontext())
    alone: Any = SimpleNamespace(core=process.core, shell=shell, ask=lambda send, timeout_s: None)
    assert "was stopped because memory was short, and is tried again after a pause" in explain(alone, [result])


def test_a_culprit_pays_with_its_retries(process):
    result, clock = begin(process, retries=1)
    clock.stop(0, culprit=True)
    assert clock.after(1) == [1]
    clock.stop(1, culprit=True)
    assert kind_of_failure(process.entry(result).data) == "OutOfMemoryError"
    assert not process.core.tasks.pauses


def test_a_task_without_retries_fails_at_once(process):
    result, clock = begin(process, retries=0)
    clock.stop(0)
    assert process.entry(result).status == ERROR


def test_a_limit_of_stops(process):
    process.core.tasks.pauses.retries = 2
    result, clock = begin(process)
    for attempt in range(2):
        clock.stop(attempt)
        clock.after(5)
    assert process.entry(result).status != ERROR
    clock.stop(2)
    assert kind_of_failure(process.entry(result).data) == "OutOfMemoryError"


def test_a_cancelled_task_pauses_no_more(process):
    result, clock = begin(process)
    clock.stop(0)
    assert process.core.tasks.tasks[clock.task_id].state is WAITING
    process.core.tasks.cancel(clock.task_id, 0)
    assert kind_of_failure(process.entry(result).data) == "TaskCancelledError"
    assert clock.after(100) == []


def test_a_process_with_a_pause_is_not_at_rest(process):
    _, clock = begin(process)
    clock.stop(0)
    assert not process.core.is_at_rest
    clock.after(1)


def test_the_end_of_the_cluster_ends_pauses(process):
    result, clock = begin(process)
    clock.stop(0)
    process.core.lose_cluster("gone", 0.0)
    assert process.entry(result).status == ERROR
    assert clock.after(100) == []


# ------------------------------------------------------------------ tasks that kill their workers


def die(clock: Clock, attempt: int, *, culprit: bool = True) -> None:
    message = m.Failed(clock.task_id, attempt, "WorkerCrashedError", f"SIGSEGV {attempt % 2}", culprit)
    clock.process.core.receive(BROKER, message, clock.now)
    clock.process.flush()
    clock.process.core.check()


def test_the_first_deaths_cost_no_time_and_the_next_ones_more_and_more(process):
    _, clock = begin(process, retries=-1)
    for attempt in range(3):
        die(clock, attempt)
        assert clock.after(0) == [attempt + 1]
    for attempt, pause_s in enumerate([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30], start=3):
        die(clock, attempt)
        assert clock.after(pause_s - 0.01) == []
        assert clock.after(0.02) == [attempt + 1]


def test_a_long_life_ends_the_row(process):
    _, clock = begin(process, retries=-1)
    for attempt in range(5):
        die(clock, attempt)
        clock.after(1)
    clock.after(10)
    die(clock, 5)
    assert clock.after(0) == [6]


def test_in_the_end_it_fails_with_the_history(process):
    result, clock = begin(process, retries=-1)
    for attempt in range(20):
        assert process.entry(result).status != ERROR
        die(clock, attempt)
        while process.core.tasks.tasks.get(clock.task_id, None) and not clock.after(0.05):
            if attempt < 3:
                break  # it is tried again at once
    text = process.entry(result).data.decode(errors="replace")
    assert kind_of_failure(process.entry(result).data) == "WorkerCrashedError"
    assert "It died 20 times in a row, each time within 10 s" in text
    assert "10 x SIGSEGV 0" in text and "10 x SIGSEGV 1" in text
    assert not process.core.tasks.pauses


def test_those_that_only_waited_behind_it_do_not_pause(process):
    _, clock = begin(process, retries=-1)
    for attempt in range(10):
        die(clock, attempt, culprit=False)
        assert clock.after(0) == [attempt + 1]


def test_the_pause_is_told_and_explained(process):
    result, clock = begin(process, retries=-1)
    told: list[str] = []
    process.core.tasks.on_retry = lambda name, notice: told.append(notice)
    for attempt in range(4):
        die(clock, attempt)
    assert told[0] == "attempt 1 of `a task` died and is tried again: SIGSEGV 0"
    assert told[3] == "attempt 4 of `a task` died and is tried again in 0.1 s: SIGSEGV 1"
    shell = SimpleNamespace(lock=contextlib.nullcontext())
    alone: Any = SimpleNamespace(core=process.core, shell=shell, ask=lambda send, timeout_s: None)
    assert "has killed its worker 4 times in a row, and is tried again after a pause" in explain(alone, [result])


def test_a_cancelled_one_pauses_no_more(process):
    result, clock = begin(process, retries=-1)
    for attempt in range(5):
        die(clock, attempt)
        clock.after(1 if attempt < 4 else 0)
    process.core.tasks.cancel(clock.task_id, 0)
    assert kind_of_failure(process.entry(result).data) == "TaskCancelledError"
    assert clock.after(100) == []
