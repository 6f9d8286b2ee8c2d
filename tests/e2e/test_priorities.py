"""The option ``priority``: the order in which waiting tasks and actors of a job begin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zray
from tests.conformance.helpers import eventually
from zray.util.state import list_tasks


@pytest.fixture(autouse=True)
def cluster() -> Iterator[None]:
    zray.init(num_cpus=1, resources={"other": 1})
    yield
    zray.shutdown()


@zray.remote(num_cpus=0)
class Record:
    """What has begun, in order."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def add(self, line: Any) -> None:
        self.lines.append(line)

    def all(self) -> list[Any]:
        return self.lines


@zray.remote
def keep_the_cpu(until: Path) -> None:
    until.with_name("here").touch()
    eventually(until.exists)


@zray.remote
def note(record: Any, line: Any) -> None:
    record.add.remote(line)  # sent before the answer, so before the next task begins


def test_tasks_begin_by_priority(tmp_path):
    record = Record.remote()
    blocker = keep_the_cpu.remote(tmp_path / "go")
    eventually((tmp_path / "here").exists)
    refs = [note.options(priority=priority).remote(record, priority) for priority in (0, -3, 7, 0, 1)]
    assert zray.get(record.all.remote()) == []  # the tasks have reached the broker before this
    rows = [row for row in list_tasks(detail=True) if row.name == "note"]
    assert [row.required_resources for row in rows] == [{"CPU": 1.0}] * 5
    (tmp_path / "go").touch()
    zray.get([blocker, *refs])
    assert zray.get(record.all.remote()) == [7, 1, 0, 0, -3]


def test_actors_are_placed_by_priority():
    @zray.remote(resources={"other": 1}, num_cpus=0)
    class Actor:
        def pid(self) -> int:
            return 1

    first = Actor.remote()
    zray.get(first.pid.remote())
    low, high = Actor.remote(), Actor.options(priority=1).remote()
    eventually(lambda: zray.explain(high).state == "PENDING_CREATION")
    zray.kill(first)
    assert zray.get(high.pid.remote(), timeout=60) == 1
    assert zray.explain(low).state == "PENDING_CREATION"
    zray.kill(high)
    assert zray.get(low.pid.remote(), timeout=60) == 1


@pytest.mark.parametrize("value", [1001, -1001])
def test_values_that_are_not_allowed(value: int):
    with pytest.raises(ValueError, match="it must be an integer from -1000 to 1000"):
        note.options(priority=value)


@pytest.mark.parametrize("value", [1.5, True, "1"])
def test_types_that_are_not_allowed(value: Any):
    with pytest.raises(TypeError, match="'priority' must be an integer from -1000 to 1000, but received type"):
        note.options(priority=value)


def test_a_method_has_no_priority():
    with pytest.raises(ValueError, match="an actor runs the calls of a caller in their order"):
        zray.method(priority=1)
