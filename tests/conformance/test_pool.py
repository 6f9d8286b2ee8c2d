"""``util.multiprocessing.Pool``: the standard pool's methods, on actors."""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import multiprocessing
import os
import threading

import pytest

from .helpers import eventually, make_counter


@pytest.fixture(scope="module")
def module(ray):
    return importlib.import_module(f"{ray.__name__}.util.multiprocessing")


@pytest.fixture(scope="module")
def shared(module):
    """A pool for tests that leave it as it was."""
    pool = module.Pool(2)
    yield pool
    pool.terminate()
    pool.join()


@pytest.fixture
def pool(module):
    """A pool for one test, which may end it."""
    pool = module.Pool(2)
    yield pool
    pool.terminate()
    pool.join()


def square(x):
    return x * x


def fail_at(bad, x):
    if x in bad:
        raise KeyError(x)
    return x


def pid(_=None):
    return os.getpid()


def wait_at(ray, gate, value):
    ray.get(gate.wait.remote())
    return value


def test_names(module):
    assert module.TimeoutError is multiprocessing.TimeoutError
    assert set(module.__all__) == {"Pool", "TimeoutError", "JoinableQueue"}
    assert {"AsyncResult", "IMapIterator", "OrderedIMapIterator", "UnorderedIMapIterator"} <= set(
        dir(importlib.import_module(f"{module.__name__}.pool"))
    )


# ---------------------------------------------------------------- calls


def test_apply(shared):
    assert shared.apply(divmod, (17, 5)) == (3, 2)
    assert shared.apply(dict, (), {"a": 1}) == {"a": 1}
    assert shared.apply(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        shared.apply(divmod, (1, 0))
    with pytest.raises(TypeError):
        shared.apply(square, (1, 2))


def test_async_result(ray, shared, module, gate):
    result = shared.apply_async(functools.partial(wait_at, ray), (gate, 5))
    result.wait(timeout=0.01)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(module.TimeoutError):
        result.get(timeout=0.01)
    ray.get(gate.open.remote())
    result.wait(timeout=30)
    assert result.ready()
    assert result.successful()
    assert result.get() == result.get(timeout=0) == 5


def test_async_result_of_an_error(shared):
    result = shared.apply_async(fail_at, ((1,), 1))
    result.wait(timeout=30)
    assert result.ready()
    assert not result.successful()
    for _ in range(2):
        with pytest.raises(KeyError, match="1"):
            result.get()


class Odd(Exception):
    def __init__(self, code, *, text):
        super().__init__(code, text)
        self.code = code


def raise_unpicklable():
    raise ValueError(threading.Lock())


def raise_odd():
    raise Odd(3, text="odd")


@pytest.mark.parametrize("function", [raise_odd, raise_unpicklable])
def test_an_exception_that_cannot_travel_is_an_error_all_the_same(shared, function):
    with pytest.raises(Exception, match=r"Odd|lock"):
        shared.apply(function)
    assert shared.apply(square, (2,)) == 4


def test_map(shared):
    assert shared.map(square, range(100)) == [x * x for x in range(100)]
    assert shared.map(square, [3], chunksize=10) == [9]
    assert shared.map(square, (x for x in range(7)), chunksize=2) == [0, 1, 4, 9, 16, 25, 36]
    assert shared.map(square, []) == []
    assert sorted(shared.map(square, {1, 2})) == [1, 4]
    assert shared.map_async(square, range(5)).get() == [0, 1, 4, 9, 16]


def test_map_spreads_its_items(shared):
    pids = shared.map(pid, range(1000))
    assert len(set(pids)) == 2
    assert all(pids.count(each) > 100 for each in set(pids))


def test_the_default_size_of_chunks(shared):
    """The number of items, divided by four times the number of processes, rounded up."""
    seen = shared.map(lambda x: x, range(17))
    assert seen == list(range(17))
    pids = shared.map(pid, range(17), chunksize=17)
    assert len(set(pids)) == 1


def test_map_raises_what_an_item_raised(shared):
    with pytest.raises(KeyError, match="50"):
        shared.map(functools.partial(fail_at, (50,)), range(100))
    result = shared.map_async(functools.partial(fail_at, (50,)), range(100))
    result.wait(30)
    assert result.ready()
    assert not result.successful()


def test_starmap(shared):
    assert shared.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
    assert shared.starmap(pow, zip(range(4), [2] * 4, strict=True), chunksize=3) == [0, 1, 4, 9]
    assert shared.starmap_async(pow, [(2, 3)]).get() == [8]
    assert shared.starmap(pid, [(), ()]) != []


def test_imap(shared, module):
    results = shared.imap(square, range(10), chunksize=3)
    assert results.next() == 0
    assert next(results) == 1
    assert list(results) == [x * x for x in range(2, 10)]
    with pytest.raises(StopIteration):
        results.next()
    assert sorted(shared.imap_unordered(square, range(10), chunksize=3)) == [x * x for x in range(10)]
    assert list(shared.imap(square, [])) == []


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_each_item_of_an_iterator_fails_by_itself(shared, name):
    results = getattr(shared, name)(functools.partial(fail_at, (2, 50, 98)), range(100), chunksize=11)
    values = [results.next() for _ in range(100)]
    errors = [value for value in values if isinstance(value, Exception)]
    assert [type(error).__name__ for error in errors] == ["PoolTaskError"] * 3
    assert {type(error.underlying) for error in errors} == {KeyError}
    assert sorted(set(values) - set(errors)) == sorted(set(range(100)) - {2, 50, 98})
    with pytest.raises(StopIteration):
        results.next()


def test_an_iterator_waits_for_a_limited_time(ray, shared, module, gate):
    def wait_at_three(x):
        return wait_at(ray, gate, x) if x == 3 else x

    results = shared.imap(wait_at_three, range(6))
    assert [results.next() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(module.TimeoutError):
        results.next(timeout=0.05)
    ray.get(gate.open.remote())
    assert list(results) == [3, 4, 5]


def test_an_iterable_without_end(shared):
    results = shared.imap(square, itertools.count(), chunksize=2)
    assert [next(results) for _ in range(200)] == [x * x for x in range(200)]


def test_objects_and_actors_in_items(ray, shared):
    counter = make_counter(ray)
    refs = [ray.put(x) for x in range(4)]
    assert shared.map(lambda ref: ray.get(ref[0]), [[ref] for ref in refs]) == [0, 1, 2, 3]
    shared.map(lambda _: ray.get(counter.increment.remote()), range(6))
    assert ray.get(counter.read.remote()) == 6


@pytest.mark.parametrize("chunksize", [0, -1])
def test_chunks_have_at_least_one_item(shared, chunksize):
    with pytest.raises((ValueError, AssertionError)):
        shared.map(square, [1, 2], chunksize=chunksize)


def test_bad_functions_and_items(shared):
    with pytest.raises(TypeError):
        shared.map(5, [1])
    with pytest.raises(TypeError):
        shared.map(square, 5)
    with pytest.raises(TypeError):
        shared.map(square, [threading.Lock()])
    assert shared.map(square, [2]) == [4]


def test_a_job_that_waits_for_one_behind_it(ray, shared, gate):
    """Jobs that are queued behind a long one go to a process that is idle."""

    def turn(x):
        if x == 0:
            return wait_at(ray, gate, x)
        if x == 5:
            ray.get(gate.open.remote())
        return x

    if ray.__name__ == "ray":
        pytest.skip("Ray gives each process its jobs beforehand, and never ends")
    assert shared.map(turn, range(8), chunksize=1) == list(range(8))


# ---------------------------------------------------------------- callbacks


def test_callbacks(shared):
    called: list = []
    assert shared.apply_async(square, (3,), callback=called.append).get() == 9
    assert called == [9]
    shared.map_async(square, range(4), callback=called.append).wait()
    assert [called[0], sorted(called[1])] == [9, [0, 1, 4, 9]]  # Ray gives them in the order of their arrival
    shared.starmap_async(pow, [(2, 2)], callback=called.append).wait()
    assert called[-1] == [4]


def test_error_callbacks(shared):
    called: list = []
    wrong: list = []
    shared.apply_async(fail_at, ((1,), 1), callback=wrong.append, error_callback=called.append).wait()
    shared.map_async(
        functools.partial(fail_at, (3,)), range(9), callback=wrong.append, error_callback=called.append
    ).wait()
    eventually(lambda: len(called) == 2)
    causes = [getattr(error, "underlying", error) for error in called]  # Ray passes PoolTaskErrors
    assert [type(error) for error in causes] == [KeyError, KeyError]
    assert wrong == []


def test_a_callback_may_use_the_pool(shared):
    called: list = []
    shared.apply_async(square, (3,), callback=lambda value: called.append(shared.apply(square, (value,)))).wait()
    assert called == [81]


# ---------------------------------------------------------------- start


@pytest.mark.parametrize("processes", [0, -1, 3])
def test_number_of_processes(module, processes):
    with pytest.raises(ValueError, match=r"[Pp]rocesses"):
        module.Pool(processes)


def test_bad_arguments(module):
    with pytest.raises(TypeError):
        module.Pool(1.5)
    with pytest.raises(ValueError, match="foo"):
        module.Pool(1, ray_remote_args={"foo": 1})


def test_the_default_is_the_cpus_of_the_cluster(module):
    with module.Pool() as pool:
        assert len(set(pool.starmap(pid, [(), ()]))) == 2


def test_initializer(ray, module):
    counter = make_counter(ray)

    def start(amount):
        ray.get(counter.increment.remote(amount))

    with module.Pool(2, initializer=start, initargs=(5,)):
        assert ray.get(counter.read.remote()) == 10


def test_an_initializer_that_raises(ray, module):
    def start():
        raise ValueError("from the initializer")

    with pytest.raises(ray.exceptions.RayActorError, match="from the initializer"):
        module.Pool(1, initializer=start)


def test_a_process_is_replaced_after_some_chunks(module):
    with module.Pool(2, maxtasksperchild=1) as pool:
        assert len(set(pool.map(pid, range(6), chunksize=1))) == 6
    with module.Pool(1, maxtasksperchild=3) as pool:
        pids = [pool.apply(pid) for _ in range(6)]
        assert len(set(pids)) == 2


def test_options_of_the_processes(ray, module):
    with module.Pool(1, ray_remote_args={"resources": {"slot": 1}}) as pool:
        assigned = pool.apply(lambda: ray.get_runtime_context().get_assigned_resources())
        assert assigned["slot"] == 1


def test_a_pool_in_a_pool(module):
    name = module.__name__

    def inner(_):
        with importlib.import_module(name).Pool(1) as pool:
            return pool.map(math.sqrt, [0, 1])

    with module.Pool(1) as pool:
        assert pool.map(inner, range(2)) == [[0.0, 1.0]] * 2


def test_a_pool_in_a_task(ray, module):
    name = module.__name__

    @ray.remote(num_cpus=2)
    def task():
        with importlib.import_module(name).Pool(2) as pool:
            return pool.map(square, range(4))

    assert ray.get(task.remote()) == [0, 1, 4, 9]


# ---------------------------------------------------------------- the end


def test_a_closed_pool_finishes_its_work(ray, pool, gate):
    result = pool.map_async(functools.partial(wait_at, ray, gate), range(6))
    pool.close()
    assert not result.ready()
    for call in (pool.apply, pool.apply_async):
        with pytest.raises(ValueError, match="not running"):
            call(square, (1,))
    for call in (pool.map, pool.map_async, pool.imap, pool.imap_unordered, pool.starmap):
        with pytest.raises(ValueError, match="not running"):
            call(square, [1])
    with pytest.raises(ValueError, match="not running"):
        pool.__enter__()
    ray.get(gate.open.remote())
    pool.join()
    assert result.get(timeout=10) == list(range(6))


def test_terminate_stops_the_work(ray, pool, gate):
    result = pool.map_async(functools.partial(wait_at, ray, gate), range(40), chunksize=1)
    pool.terminate()
    pool.join()
    result.wait(timeout=30)
    assert result.ready()
    assert not result.successful()
    with pytest.raises(ray.exceptions.RayError):
        result.get()


def test_join_needs_an_end(shared):
    with pytest.raises(ValueError, match="running"):
        shared.join()


def test_with_terminates(module):
    with module.Pool(1) as pool:
        assert pool.apply(square, (2,)) == 4
    with pytest.raises(ValueError, match="not running"):
        pool.apply(square, (2,))
    pool.join()


def test_a_process_that_dies(ray, pool):
    with pytest.raises(ray.exceptions.RayActorError):
        pool.apply(os._exit, (1,))


def test_processes_end_with_the_pool(module):
    pool = module.Pool(2)
    pids = set(pool.starmap(pid, [(), ()]))
    pool.close()
    pool.join()
    eventually(lambda: not any(os.path.exists(f"/proc/{each}") for each in pids))


def test_several_threads_use_a_pool(ray, shared, gate):
    """A thread that waits for its own calls does not hold up those of another, for which they may wait."""
    if ray.__name__ == "ray":
        pytest.skip("Ray gives each process its jobs beforehand, and never ends")

    def wait(x):
        return wait_at(ray, gate, x) if x == 0 else x

    seen: list = []
    thread = threading.Thread(target=lambda: seen.extend(shared.map(wait, range(20), chunksize=1)))
    thread.start()
    eventually(lambda: ray.get(gate.arrived.remote()) == 1)
    assert shared.apply(square, (3,)) == 9
    assert shared.map(square, range(20), chunksize=1) == [x * x for x in range(20)]
    ray.get(gate.open.remote())
    thread.join()
    assert seen == list(range(20))
