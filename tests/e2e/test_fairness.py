"""A program beside a long queue, and other kinds of work in the same program: each has its turn.

The queue would take longer than the test may: work that is served at all is served beside the queue.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from .helpers import driver

SECOND = """
ray.init(sys.argv[1])
@ray.remote
def small(number):
    return number
@ray.remote
class Counter:
    def add(self):
        return 1
assert [ray.get(small.remote(number)) for number in range(30)] == list(range(30))
assert ray.get([small.remote(number) for number in range(200)]) == list(range(200))
counter = Counter.remote()
assert ray.get(counter.add.remote()) == 1
print("served")
ray.shutdown()
"""


@pytest.fixture(params=[(0.001, 60_000), (0.2, 1_500)], ids=["short tasks", "long tasks"])
def queue(ray: ModuleType, request: pytest.FixtureRequest) -> list[Any]:
    """Returns references of tasks that keep both CPUs busy for longer than a test takes."""
    seconds, count = request.param

    @ray.remote
    def work(seconds: float) -> None:
        import time

        time.sleep(seconds)

    ray.get([work.remote(seconds) for _ in range(4)])
    return [work.remote(seconds) for _ in range(count)]


def queued(ray: ModuleType, queue: list[Any]) -> bool:
    """Whether most of the queue still waits."""
    return len(ray.wait(queue, num_returns=len(queue), timeout=0)[0]) < len(queue) / 2


def test_a_second_driver_is_served(ray, queue) -> None:
    with driver(SECOND, arguments=[ray.get_runtime_context().gcs_address]) as second:
        assert "served" in second.succeed(60.0)
    assert queued(ray, queue)


def test_other_shapes_of_the_same_driver_are_served(ray, queue) -> None:
    """A task of a part of a CPU, of all CPUs at once, of a shape of its own; an actor."""

    @ray.remote
    class Counter:
        def add(self) -> int:
            return 1

    @ray.remote
    def small(number: int) -> int:
        return number

    counter = Counter.remote()
    shapes: list[dict[str, float]] = [
        {"num_cpus": 0.5},
        {"num_cpus": 2},
        {"num_cpus": 1, "memory": 2**20},
        {"num_cpus": 1.5},
    ]
    refs = [small.options(**shape).remote(number) for number, shape in enumerate(shapes)]
    assert ray.get([counter.add.remote(), *refs], timeout=60.0) == [1, 0, 1, 2, 3]
    assert queued(ray, queue)
