"""Work of many shapes: each shape has a line of its own, and a line that can get nothing costs little.

What a pass does is counted, not timed: the lines that it serves, and the tests of whether something fits a host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.broker.harness import BrokerHarness, shape
from zray.broker.lines import Line
from zray.broker.records import Host
from zray.broker.resources import Pool
from zray.broker.scheduler import Scheduler
from zray.ids import make_task_id


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Line]:
    """The lines that passes have served."""
    lines: list[Line] = []
    serve = Scheduler._serve

    def noted(scheduler: Scheduler, line: Line, changed: dict[bytes, Host]) -> Iterator[None]:
        lines.append(line)
        return serve(scheduler, line, changed)

    monkeypatch.setattr(Scheduler, "_serve", noted)
    return lines


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often it was tested whether something fits a host."""
    count = [0]
    fits = Pool.fits

    def counted(pool: Pool, shape: Any) -> bool:
        count[0] += 1
        return fits(pool, shape)

    monkeypatch.setattr(Pool, "fits", counted)
    return count


def submit_shapes(broker: BrokerHarness, driver: bytes, n: int) -> list[bytes]:
    """Submits tasks of ``n`` shapes."""
    return [broker.submit(driver, shape=shape(CPU=1, slot=1 + number / 10_000))[0] for number in range(n)]


def run_all(broker: BrokerHarness) -> list[bytes]:
    """Runs all tasks, each for 10 ms. Returns them in the order in which they ended."""
    ended = []
    workers = broker.core.workers.workers
    while running := [(task_id, worker_id) for worker_id, each in workers.items() for task_id in each.outstanding]:
        task_id, worker_id = min(running)
        broker.now += 0.01
        broker.done(worker_id, task_id, run_us=10_000)
        ended.append(task_id)
    return ended


@pytest.mark.parametrize("n", [20, 200])
def test_each_task_has_its_turn_and_few_lines_are_served(broker, served, n):
    driver = broker.driver()
    broker.workers(broker.host(CPU=2, slot=10))
    tasks = submit_shapes(broker, driver, n)
    assert len(served) <= 2 * n
    served.clear()
    assert run_all(broker) == tasks
    assert len(served) <= 2 * n


def test_a_pass_without_a_change_serves_no_line(broker, served, fitted):
    driver = broker.driver()
    broker.workers(broker.host(CPU=1, slot=10))
    submit_shapes(broker, driver, 50)
    broker.turn()
    served.clear()
    fitted[0] = 0
    for _ in range(10):
        broker.turn()
    assert (served, fitted) == ([], [0])


def test_a_host_that_has_changed_is_looked_at_once_for_each_line_that_it_has_no_room_for(broker, served, fitted):
    driver = broker.driver()
    host = broker.host(CPU=2, slot=10)
    broker.workers(host)
    first, second = broker.submit(driver, 2, shape=shape(CPU=1))
    waiting = [broker.submit(driver, shape=shape(CPU=2, slot=1 + number / 10_000))[0] for number in range(50)]
    broker.turn()
    served.clear()
    fitted[0] = 0
    worker = broker.tasks[first].worker
    broker.done(worker.worker_id, first)
    assert served == [] and fitted[0] == len(waiting)
    broker.done(broker.tasks[second].worker.worker_id, second)
    assert len(served) == 1 and broker.tasks[waiting[0]].worker is not None


def test_actors_of_many_placements(broker, served):
    driver = broker.driver()
    host = broker.host(CPU=1, slot=10)
    broker.workers(host)
    actors = [make_task_id(driver, number) for number in range(1, 41)]
    for number, actor_id in enumerate(actors):
        placement = shape(CPU=1, slot=1 + number / 10_000)
        broker.create(driver, actor_id, placement=placement, running=placement)
    served.clear()
    for actor_id in actors:
        worker = broker.core.actors.actors[actor_id].worker
        assert worker is not None, "actors are placed in order"
        broker.kill(worker.worker_id)
        broker.workers(host)
    assert len(served) <= 2 * len(actors)


def test_a_new_host_serves_lines_that_no_host_had_room_for(broker):
    driver = broker.driver()
    broker.workers(broker.host(CPU=1))
    tasks = submit_shapes(broker, driver, 10)
    assert all(broker.tasks[task_id].worker is None for task_id in tasks)
    broker.workers(broker.host("other", CPU=4, slot=10))
    assert [broker.tasks[task_id].worker is not None for task_id in tasks] == [True] * 4 + [False] * 6
