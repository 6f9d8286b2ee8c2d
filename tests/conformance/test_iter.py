"""``ray.util.iter``: iterators whose items are made by actors."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(scope="module")
def it(ray):
    return importlib.import_module(f"{ray.__name__}.util.iter")


def test_the_order_of_gathered_items(it):
    assert list(it.from_items([1, 2, 3, 4, 5]).gather_sync()) == [1, 2, 3, 4, 5]
    assert list(it.from_range(5).gather_sync()) == [0, 2, 1, 3, 4]
    assert list(it.from_iterators([range(2), lambda: iter("ab")]).gather_sync()) == [0, "a", 1, "b"]
    assert sorted(it.from_range(9, 3).gather_async()) == list(range(9))
    assert sorted(it.from_range(9, 3).gather_async(batch_ms=1, num_async=2)) == list(range(9))
    assert list(it.from_iterators([[1, 2, 3], [4]]).batch_across_shards()) == [[1, 4], [2], [3]]


def test_names(it):
    assert repr(it.from_items([1, 2])) == "ParallelIterator[from_items[int, 2, shards=2]]"
    chained = it.from_range(4).for_each(abs).filter(bool).batch(2).flatten()
    assert str(chained) == "ParallelIterator[from_range[4, shards=2].for_each().filter().batch(2).flatten()]"
    assert repr(it.from_iterators([[1]], repeat=True)) == "ParallelIterator[from_iterators[shards=1, repeat=True]]"
    gathered = it.from_range(2).gather_sync()
    assert repr(gathered) == "LocalIterator[ParallelIterator[from_range[2, shards=2]].gather_sync()]"
    assert repr(it.from_range(2).get_shard(1)) == "LocalIterator[from_range[2, shards=2].shard[1]]"


def test_stages_run_in_the_actors(it):
    assert list(it.from_range(4).for_each(lambda x: x * 2).filter(lambda x: x > 0).gather_sync()) == [2, 4, 6]
    assert list(it.from_range(5, 1).batch(2).gather_sync()) == [[0, 1], [2, 3], [4]]
    assert list(it.from_items([[1, 2], [3]], 1).flatten().gather_sync()) == [1, 2, 3]
    assert list(it.from_range(2, 1).combine(lambda x: [x, x]).gather_sync()) == [0, 0, 1, 1]
    assert list(it.from_range(4, 1).transform(lambda s: (x + 1 for x in s)).gather_sync()) == [1, 2, 3, 4]
    assert sorted(it.from_range(6, 1).local_shuffle(3, seed=1).gather_sync()) == list(range(6))
    in_tasks = it.from_range(4, 1).for_each(lambda x: -x, max_concurrency=2, resources={"num_cpus": 0})
    assert sorted(in_tasks.gather_sync()) == [-3, -2, -1, 0]


def test_stages_run_where_it_is_read(it):
    local = it.from_range(6, 1).gather_sync()
    assert list(local.for_each(str).filter(lambda x: x != "2").batch(2).flatten()) == ["0", "1", "3", "4", "5"]
    assert it.from_range(6, 1).gather_sync().combine(lambda x: [x] * 2).take(3) == [0, 0, 1]
    assert sorted(it.from_range(6, 1).gather_sync().shuffle(2, seed=3)) == list(range(6))
    assert it.from_range(4, 2).take(2) == [0, 2]


def test_a_repeated_iterator_has_no_end(it):
    assert it.from_items([1, 2], 1, repeat=True).take(5) == [1, 2, 1, 2, 1]


def test_own_actors(ray, it):
    @ray.remote(num_cpus=0)
    class Worker(it.ParallelIteratorWorker):  # type: ignore[name-defined]
        def __init__(self, items):
            super().__init__(items, False)

    iterator = it.from_actors([Worker.remote([1, 2]), Worker.remote([3, 4])])
    assert list(iterator.gather_sync()) == [1, 3, 2, 4]
    pairs = list(it.from_actors([Worker.remote([1])]).gather_async().zip_with_source_actor())
    assert [item for _, item in pairs] == [1] and hasattr(pairs[0][0], "par_iter_next")


def test_shards(ray, it):
    iterator = it.from_iterators([[0, 1], [2], [3, 4]])

    @ray.remote(num_cpus=0)
    def read(shard):
        return list(shard)

    assert iterator.num_shards() == 3
    assert ray.get([read.remote(shard) for shard in iterator.shards()]) == [[0, 1], [2], [3, 4]]
    assert list(iterator.select_shards([0, 2]).gather_sync()) == [0, 3, 1, 4]
    with pytest.raises(ValueError):
        iterator.get_shard(3)
    with pytest.raises(ValueError):
        iterator.select_shards([])


def test_repartition(it):
    parts = it.from_range(8, 2).repartition(3)
    assert parts.num_shards() == 3
    assert [sorted(shard) for shard in parts.shards()] == [[0, 3, 4, 7], [1, 5], [2, 6]]


def test_unions(it):
    letters, numbers = it.from_items(["a", "b"], 1), it.from_range(2, 1)
    assert list(letters.union(numbers).gather_sync()) == ["a", 0, "b", 1]
    one, two = it.from_items([1, 2, 3], 1).gather_sync(), it.from_items([7, 8], 1).gather_sync()
    assert list(one.union(two, deterministic=True)) == [1, 7, 2, 8, 3]
    one, two = it.from_items([1, 2, 3, 4], 1).gather_sync(), it.from_items([7, 8], 1).gather_sync()
    assert list(one.union(two, round_robin_weights=[2, 1])) == [1, 2, 7, 3, 4, 8]
    one, two = it.from_items([1, 2], 1).gather_async(), it.from_items([3], 1).gather_async()
    assert sorted(one.union(two)) == [1, 2, 3]
    with pytest.raises(ValueError):
        one.union([1])
    with pytest.raises(TypeError):
        letters.union([1])


def test_duplicates_are_read_together(it):
    one, two = it.from_range(3, 1).gather_sync().duplicate(2)
    assert list(one.for_each(lambda x: -x).union(two, deterministic=True)) == [0, 0, -1, 1, -2, 2]


def test_metrics_are_shared(it):
    def count(x):
        metrics = it.LocalIterator.get_metrics()
        metrics.counters["sum"] += x
        return metrics.counters["sum"]

    one = it.from_items([1, 2, 3], 1).gather_sync().for_each(count)
    two = it.from_items([10, 20], 1).gather_sync().for_each(count)
    assert list(one.union(two, deterministic=True)) == [1, 11, 13, 33, 36]
    with pytest.raises(ValueError):
        it.from_range(1, 1).gather_async(num_async=0)


def test_an_error_of_a_function_is_raised_where_it_is_read(it):
    with pytest.raises(ZeroDivisionError):
        it.from_range(2, 1).for_each(lambda x: 1 // x).take(1)
    with pytest.raises(TypeError, match="gather_sync"):
        iter(it.from_range(2))
