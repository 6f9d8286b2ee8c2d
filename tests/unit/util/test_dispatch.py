"""Which job goes to which process: the decisions of a group, without processes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zray.util.process_group.dispatch import (
    FIRST_DEPTH,
    LEAST_DEPTH,
    MAX_DEPTH,
    PATIENCE_S,
    Dispatcher,
    Recall,
    Send,
    Start,
    Stop,
)


def sends(actions: list[Any] | None) -> list[tuple[int, Any]]:
    return [(action.process, action.job) for action in actions or [] if isinstance(action, Send)]


def kinds(actions: list[Any] | None) -> list[str]:
    return [type(action).__name__ for action in actions or []]


def test_processes_start_when_jobs_need_them():
    group: Dispatcher[str] = Dispatcher(2)
    assert group.submit("a", 0) == [Start(0), Send(0, "a")]
    assert group.submit("b", 0) == [Start(1), Send(1, "b")]
    assert group.submit("c", 0) == [Send(0, "c")]


def test_an_idle_process_gets_the_job_before_another_is_started():
    group: Dispatcher[str] = Dispatcher(2)
    group.submit("a", 0)
    group.ended(0, "a", 0)
    assert group.submit("b", 0) == [Send(0, "b")]


def test_jobs_are_spread_evenly():
    group: Dispatcher[int] = Dispatcher(4)
    group.start_all()
    for job in range(4 * FIRST_DEPTH):
        group.submit(job, 0)
    assert [len(process.sent) for process in group._processes.values()] == [FIRST_DEPTH] * 4
    assert group.submit(99, 0) == []  # all are full


def test_short_jobs_deepen_and_long_ones_flatten():
    group: Dispatcher[int] = Dispatcher(1)
    for job in range(1000):
        group.submit(job, 0)
    process = group._processes[0]
    for job in range(10):
        group.ended(0, job, job * 0.0001)
    assert process.depth == MAX_DEPTH
    group.ended(0, 10, 5.0)
    assert process.depth == LEAST_DEPTH


def test_only_short_jobs_are_sent_ahead_if_asked_for():
    group: Dispatcher[int] = Dispatcher(1, ahead=False)
    assert sends(group.submit(0, 0)) == [(0, 0)]
    assert group.submit(1, 0) == group.submit(2, 0) == []
    assert sends(group.ended(0, 0, 0.001)) == [(0, 1), (0, 2)]
    group.ended(0, 1, 9.0)
    assert group._processes[0].depth == 1


def test_a_job_that_waits_behind_another_is_recalled_for_an_idle_process():
    group: Dispatcher[str] = Dispatcher(2)
    for job in ("long", "short", "behind"):
        group.submit(job, 0)
    assert group.next_check_s(0) is None  # no process is idle
    group.ended(1, "short", 0.01)
    assert group.next_check_s(0.01) == pytest.approx(PATIENCE_S - 0.01)
    assert group.recall(0.02) == []
    assert group.recall(PATIENCE_S) == [Recall(0, "behind")]
    assert group.recall(1.0) == []  # once
    assert group.recalled(0, "behind", 1.0) == [Send(1, "behind")]
    group.check()


def test_a_recall_that_comes_too_late_changes_nothing():
    group: Dispatcher[str] = Dispatcher(2)
    for job in ("long", "short", "behind"):
        group.submit(job, 0)
    group.ended(1, "short", 0)
    group.recall(1.0)
    assert group.ended(0, "long", 1.0) == []
    assert group.ended(0, "behind", 1.0) == []
    assert group.recalled(0, "behind", 1.0) == []
    assert group.pending() == 0


def test_a_process_is_replaced_after_its_quota():
    group: Dispatcher[int] = Dispatcher(2, quota=1)
    group.start_all()
    assert sends(group.submit(0, 0) + group.submit(1, 0)) == [(0, 0), (1, 1)]
    assert group.submit(2, 0) == []
    assert group.ended(0, 0, 0) == [Stop(0), Start(2), Send(2, 2)]
    assert group.ended(1, 1, 0) == [Stop(1)]
    assert group.submit(3, 0) == [Start(3), Send(3, 3)]


def test_a_recalled_job_does_not_count_for_the_quota():
    group: Dispatcher[int] = Dispatcher(2, quota=2)
    for job in range(4):
        group.submit(job, 0)
    group.ended(1, 1, 0)
    group.ended(1, 3, 0)
    assert group._processes.keys() == {0}
    assert group.recall(1.0) == [Recall(0, 2)]
    assert kinds(group.recalled(0, 2, 1.0)) == ["Start", "Send"]
    assert group._processes[0].left == 1


def test_a_closed_group_ends_with_its_last_job():
    group: Dispatcher[str] = Dispatcher(2)
    group.start_all()
    group.submit("a", 0)
    assert group.close() == []
    assert not group.is_over()
    assert group.ended(0, "a", 0) == [Stop(0), Stop(1)]
    assert group.is_over()


def test_a_job_of_forgotten_processes_ends_no_second_time():
    group: Dispatcher[str] = Dispatcher(1)
    for job in map(str, range(FIRST_DEPTH + 1)):
        group.submit(job, 0)
    assert group.drain() == [str(FIRST_DEPTH)]
    assert group.forget_processes() == [str(job) for job in range(FIRST_DEPTH)]
    assert group.ended(0, "0", 0) is None
    assert group.pending() == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.none() | st.integers(1, 3), st.lists(st.integers(0, 9), max_size=80))
def test_each_job_runs_once_whatever_happens_when(size: int, quota: int | None, steps: list[int]):
    group: Dispatcher[object] = Dispatcher(size, quota)
    under_way: list[tuple[int, object]] = []
    recalls: list[tuple[int, object]] = []
    ended: list[object] = []
    alive: set[int] = set()
    now, submitted = 0.0, 0

    def perform(actions: list[Any] | None) -> None:
        for action in actions or []:
            if isinstance(action, Start):
                alive.add(action.process)
            elif isinstance(action, Stop):
                assert not [job for process, job in under_way if process == action.process]
                alive.remove(action.process)
            elif isinstance(action, Send):
                assert action.process in alive
                under_way.append((action.process, action.job))
            else:
                recalls.append((action.process, action.job))
        group.check()

    def end(process: int, job: object) -> None:
        under_way.remove((process, job))
        ended.append(job)
        perform(group.ended(process, job, now))

    for step in steps:
        now += 0.03
        if step < 4:
            submitted += 1
            perform(group.submit(object(), now))
        elif step < 7 and under_way:
            end(*under_way[step % len(under_way)])
        elif step < 9:
            perform(group.recall(now))
        elif recalls:
            recall = recalls.pop()
            if recall in under_way:
                under_way.remove(recall)
                perform(group.recalled(*recall, now))
    perform(group.close())
    while under_way:
        end(*under_way[0])
    assert len(set(ended)) == len(ended) == submitted
    assert group.is_over()
    assert not alive
