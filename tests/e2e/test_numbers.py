"""Large numbers: arguments, returns, references, levels, actors, bytes in a closure."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import Any

import numpy
import pytest

from zray.client.core.tasks import MAX_ENDED
from zray.object_ref import ObjectRef

PER_REFERENCE = 3
"""The number of objects that the collector tracks for a held reference: the ObjectRef, the weak reference to it, its
entry."""


def test_a_hundred_levels_of_tasks_on_one_cpu(sandbox):
    import zray

    @zray.remote
    def level(below):
        return 1 + (zray.get(level.remote(below - 1)) if below else 0)

    with zray.init(num_cpus=1):
        assert zray.get(level.remote(99), timeout=40) == 100


def test_ten_thousand_arguments(ray):
    total = ray.remote(lambda *values: sum(values))
    refs = [ray.put(n) for n in range(5000)]
    assert ray.get(total.remote(*refs, *range(5000)), timeout=20) == 2 * sum(range(5000))


def test_three_thousand_returns(ray):
    refs = ray.remote(lambda: range(3000)).options(num_returns=3000).remote()
    assert ray.get(refs, timeout=20) == list(range(3000))


def test_a_hundred_megabytes_of_small_arguments(ray):
    length = ray.remote(lambda data: len(data))
    refs = [length.remote(bytes(50_000)) for _ in range(2000)]
    assert ray.get(refs, timeout=40) == [50_000] * 2000


def test_dropping_very_many_references_blocks_no_process(ray):
    refs = [ray.put(n) for n in range(300_000)]
    started = time.monotonic()
    del refs
    let_go_s = time.monotonic() - started
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=10) == 1
    assert let_go_s < 3 and time.monotonic() - started < 6


def _tracked_per_reference(make: Callable[[int], list[ObjectRef]]) -> float:
    """The number of objects that the collector tracks for each of a thousand references."""
    gc.collect()  # it also stops tracking tuples of numbers and bytes
    before = len(gc.get_objects())
    refs = make(1000)
    gc.collect()
    return (len(gc.get_objects()) - before) / len(refs)


def test_the_collector_looks_at_few_objects_for_a_held_reference_to_a_put_value(ray):
    ray.get(ray.put(0))
    assert _tracked_per_reference(lambda n: [ray.put(i) for i in range(n)]) < PER_REFERENCE + 0.5


def test_the_collector_looks_at_few_objects_for_a_held_reference_to_a_result(ray):
    nothing = ray.remote(lambda: None)

    def run(n: int) -> list[ObjectRef]:
        refs = [nothing.remote() for _ in range(n)]
        ray.get(refs, timeout=20)
        return refs

    run(MAX_ENDED + 1)  # from now on, the records of ended tasks do not grow
    assert _tracked_per_reference(run) < PER_REFERENCE + 0.5


def test_borrowing_and_dropping_many_references(ray):
    @ray.remote(num_cpus=0)
    class Keeper:
        def keep(self, refs):
            self.refs = refs
            return len(refs)

        def let_go(self):
            del self.refs
            return "gone"

    keeper = Keeper.remote()
    refs = [ray.put(n) for n in range(20_000)]
    assert ray.get(keeper.keep.remote(refs), timeout=20) == 20_000
    del refs
    assert ray.get(keeper.let_go.remote(), timeout=10) == "gone"
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=10) == 1


def test_two_hundred_actors_at_once(ray):
    @ray.remote(num_cpus=0)
    class Actor:
        def pid(self):
            return os.getpid()

    actors = [Actor.remote() for _ in range(200)]
    assert len(set(ray.get([actor.pid.remote() for actor in actors], timeout=60))) == 200


def test_a_function_with_a_large_closure_works_and_warns(ray):
    array: Any = numpy.ones(120 << 20, dtype="uint8")
    total = ray.remote(lambda: int(array.sum()))
    with pytest.warns(UserWarning, match=r"MiB|bytes"):
        ref = total.remote()
    assert ray.get(ref, timeout=30) == ray.get(total.remote(), timeout=30) == 120 << 20
