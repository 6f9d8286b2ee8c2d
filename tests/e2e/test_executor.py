"""``zray.util.Executor``, on a cluster, beside what ``concurrent.futures`` promises."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import os
import subprocess
import sys
import threading
from concurrent.futures.process import BrokenProcessPool

import pytest

import zray
from tests.conformance.helpers import eventually, make_counter, make_gate
from zray.util import Executor


@pytest.fixture(scope="module", autouse=True)
def cluster():
    zray.init(num_cpus=2, log_to_driver=False)
    yield
    zray.shutdown()


@pytest.fixture
def executor():
    with Executor(2) as executor:
        yield executor


@pytest.fixture
def gate():
    return make_gate(zray)


def square(x):
    return x * x


def fail(x):
    raise KeyError(x)


def wait_at(gate, value=None):
    zray.get(gate.wait.remote())
    return value


def test_submit(executor):
    assert executor.submit(divmod, 17, 5).result() == (3, 2)
    assert executor.submit(dict, a=1).result(timeout=30) == {"a": 1}
    assert executor.submit(lambda: 7).result() == 7
    assert executor.submit(os.getpid).result() != os.getpid()


def test_errors(executor):
    future = executor.submit(fail, 3)
    assert type(future.exception()) is KeyError
    assert "in fail" in str(future.exception().__cause__)
    with pytest.raises(KeyError, match="3"):
        future.result()
    with pytest.raises(TypeError, match="lock"):
        executor.submit(id, threading.Lock()).result()
    with pytest.raises(TypeError):
        executor.submit(threading.Lock).result()
    assert executor.submit(square, 2).result() == 4


def test_many_small_calls(executor):
    futures = [executor.submit(square, x) for x in range(500)]
    assert [future.result() for future in futures] == [x * x for x in range(500)]


def test_states_of_a_future(gate):
    with Executor(1) as executor:
        running, queued, third = (executor.submit(wait_at, gate, n) for n in range(3))
        eventually(running.running)
        assert not running.cancel()
        assert not queued.running()
        assert queued.cancel()
        assert queued.cancelled()
        with pytest.raises(concurrent.futures.TimeoutError):
            running.result(timeout=0.01)
        zray.get(gate.open.remote())
        assert running.result() == 0
        assert running.done()
        assert third.result() == 2


def test_waits_of_concurrent_futures(executor, gate):
    futures = [executor.submit(square, x) for x in range(4)]
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [0, 1, 4, 9]
    slow = executor.submit(wait_at, gate)
    done, pending = concurrent.futures.wait([*futures, slow], return_when=concurrent.futures.FIRST_COMPLETED)
    assert slow in pending
    assert set(futures) == done
    called: list = []
    slow.add_done_callback(called.append)
    zray.get(gate.open.remote())
    slow.result()
    eventually(lambda: called == [slow])


def test_asyncio(executor):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, square, x) for x in range(4)))

    assert asyncio.run(main()) == [0, 1, 4, 9]


# ---------------------------------------------------------------- map


@pytest.mark.parametrize("options", [{}, {"chunksize": 3}, {"buffersize": 2}, {"chunksize": 2, "buffersize": 1}])
def test_map(executor, options):
    assert list(executor.map(pow, range(10), itertools.repeat(2), **options)) == [x * x for x in range(10)]
    assert list(executor.map(square, [], **options)) == []


def test_map_raises_at_the_item(executor):
    results = executor.map(lambda x: 1 // x, [2, 1, 0, 3], chunksize=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_with_a_buffer_takes_items_when_they_are_needed(executor):
    results = executor.map(square, itertools.count(), buffersize=4)
    assert [next(results) for _ in range(20)] == [x * x for x in range(20)]
    results.close()


def test_map_in_time(gate):
    with Executor(1) as executor:
        results = executor.map(functools.partial(wait_at, gate), range(3), timeout=0.05)
        with pytest.raises(concurrent.futures.TimeoutError):
            next(results)
        zray.get(gate.open.remote())


@pytest.mark.parametrize("options", [{"chunksize": 0}, {"buffersize": 0}])
def test_bad_sizes(executor, options):
    with pytest.raises(ValueError, match=r"at least 1"):
        executor.map(square, [1], **options)


# ---------------------------------------------------------------- start


@pytest.mark.parametrize("options", [{"max_workers": 0}, {"max_tasks_per_child": 0}, {"remote_args": {"foo": 1}}])
def test_bad_values(options):
    with pytest.raises(ValueError, match=r"at least 1|foo"):
        Executor(**options)


@pytest.mark.parametrize("options", [{"max_workers": 1.5}, {"initializer": 3}])
def test_bad_types(options):
    with pytest.raises(TypeError):
        Executor(**options)


def test_initializer_and_replacement():
    counter = make_counter(zray)

    def start(amount):
        zray.get(counter.increment.remote(amount))

    with Executor(1, initializer=start, initargs=(5,), max_tasks_per_child=2) as executor:
        assert zray.get(counter.read.remote()) == 0  # processes start when they are needed
        pids = [executor.submit(os.getpid).result() for _ in range(4)]
        assert len(set(pids)) == 2
        assert zray.get(counter.read.remote()) == 10


def test_an_initializer_that_raises():
    executor = Executor(1, initializer=fail, initargs=(1,))
    future = executor.submit(square, 1)
    with pytest.raises(BrokenProcessPool, match="KeyError"):
        future.result()
    eventually(lambda: executor._group.error is not None)
    with pytest.raises(BrokenProcessPool):
        executor.submit(square, 1)
    executor.shutdown()


def test_options_of_the_processes():
    with Executor(1, remote_args={"num_cpus": 1}) as executor:
        context = executor.submit(lambda: zray.get_runtime_context().get_assigned_resources()).result()
        assert context["CPU"] == 1


# ---------------------------------------------------------------- the end


def test_shutdown_waits(gate):
    executor = Executor(1)
    futures = [executor.submit(wait_at, gate, n) for n in range(3)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)
    assert not futures[2].done()
    zray.get(gate.open.remote())
    executor.shutdown()
    assert [future.result(timeout=0) for future in futures] == [0, 1, 2]


def test_shutdown_cancels(gate):
    executor = Executor(1)
    first, *others = (executor.submit(wait_at, gate, n) for n in range(4))
    eventually(first.running)
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in others)
    zray.get(gate.open.remote())
    assert first.result(timeout=30) == 0


def test_a_process_that_dies_breaks_the_executor(gate):
    executor = Executor(2)
    waiting = [executor.submit(wait_at, gate) for _ in range(3)]
    dies = executor.submit(os._exit, 1)
    zray.get(gate.open.remote())
    with pytest.raises(BrokenProcessPool, match="died"):
        dies.result(timeout=30)
    concurrent.futures.wait(waiting)
    with pytest.raises(BrokenProcessPool):
        eventually(lambda: executor.submit(square, 1).exception() is not None)
    executor.shutdown()


def test_processes_end_with_the_executor():
    executor = Executor(2)
    pid = executor.submit(os.getpid).result()
    executor.shutdown()
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    executor = Executor(1)
    pid = executor.submit(os.getpid).result()
    del executor
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_an_executor_in_a_task():
    @zray.remote(num_cpus=2)
    def task():
        with Executor(1) as executor:
            return sum(executor.map(square, range(4)))

    assert zray.get(task.remote()) == 14


def test_a_program_that_ends_waits_for_its_calls(tmp_path):
    source = f"""
import pathlib, time, zray
from zray.util import Executor
zray.init(num_cpus=1, log_to_driver=False)
executor = Executor(1)
def work(name):
    time.sleep(0.2)
    pathlib.Path({str(tmp_path)!r}, name).touch()
for name in "ab":
    executor.submit(work, name)
"""
    subprocess.run([sys.executable, "-c", source], check=True, timeout=60)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_a_cluster_that_is_gone(tmp_path):
    source = """
import zray
from zray.util import Executor
zray.init(num_cpus=1, log_to_driver=False)
executor = Executor(1)
assert executor.submit(abs, -1).result() == 1
zray.shutdown()
zray.init(num_cpus=1, log_to_driver=False)
try:
    executor.submit(abs, -1).result(timeout=20)
except zray.exceptions.ClusterUnavailableError as error:
    print("make a new" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", source], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout == "True\n"
