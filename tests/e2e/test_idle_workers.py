"""What happens to workers that have nothing to do."""

import os
import tempfile
import time
from pathlib import Path

import pytest

import zray

from .helpers import alive, driver, eventually

IDLE_S = 1.0


@pytest.fixture
def ray(sandbox, monkeypatch):
    """A cluster of two CPUs in which a worker counts as idle after a second."""
    monkeypatch.setenv("ZRAY_IDLE_TIMEOUT_S", str(IDLE_S))
    zray.init(num_cpus=2)
    yield zray
    zray.shutdown()


def two_workers(ray):
    """Returns the processes of both, which have worked: each waits until the other has started."""

    @ray.remote
    def meet(place):
        (place / str(os.getpid())).touch()
        while len(list(place.iterdir())) < 2:
            time.sleep(0.01)
        return os.getpid()

    with tempfile.TemporaryDirectory() as place:
        return set(ray.get([meet.remote(Path(place)), meet.remote(Path(place))]))


def gone(pids):
    return eventually(lambda: not any(alive(pid) for pid in pids))


def test_a_fork_that_waits_takes_the_place_of_an_idle_worker(ray, sandbox):
    worked = two_workers(ray)
    gone(worked)
    waiting = eventually(lambda: len(pids := sandbox.processes("zray::IDLE")) == 2 and pids)
    assert not set(waiting) & worked
    assert two_workers(ray) == set(waiting)


def test_one_that_has_loaded_much_stays(ray):
    @ray.remote
    def load():
        import builtins

        builtins.cached = os.urandom(8 << 20)
        time.sleep(0.2)
        return os.getpid()

    @ray.remote
    def is_there():
        import builtins

        return hasattr(builtins, "cached")

    (heavy,) = ray.get([load.remote()])
    light = two_workers(ray) - {heavy}
    gone(light)
    time.sleep(2 * IDLE_S)  # it would have been asked again
    assert alive(heavy)
    assert ray.get(is_there.remote())


def test_used_and_freed_memory_keeps_no_worker(ray):
    @ray.remote
    def use():
        blocks = [bytes(100_000) for _ in range(300)]
        last = bytes(50_000)
        del blocks
        time.sleep(0.2)
        return os.getpid(), len(last)

    gone({ray.get(use.remote())[0]})


def test_one_with_a_thread_of_the_users_stays(ray):
    @ray.remote
    def start_thread():
        import threading

        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        time.sleep(0.2)
        return os.getpid()

    (busy,) = ray.get([start_thread.remote()])
    gone(two_workers(ray) - {busy})
    time.sleep(2 * IDLE_S)
    assert alive(busy)


def test_one_that_owns_what_others_can_reach_stays_until_they_cannot(ray):
    @ray.remote
    def put():
        return [ray.put(list(range(1000)))], os.getpid()

    (inner,), owner = ray.get(put.remote())
    gone(two_workers(ray) - {owner})
    time.sleep(2 * IDLE_S)
    assert ray.get(inner) == list(range(1000))
    assert alive(owner)
    del inner
    gone({owner})


def test_tasks_that_come_while_workers_go_are_all_run(ray):
    """Bursts at all distances from the moment in which workers are asked to end."""

    @ray.remote
    def square(x):
        return x * x

    pids = set()
    for step in range(12):
        pids |= two_workers(ray)
        time.sleep(IDLE_S - 0.3 + step * 0.1)
        assert ray.get([square.remote(x) for x in range(20)], timeout=20) == [x * x for x in range(20)]
    assert len(pids) > 2


def test_actors_are_made_of_those_that_wait(ray):
    gone(two_workers(ray))

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1
            return self.n

    counters = [Counter.remote() for _ in range(6)]
    assert ray.get([counter.add.remote() for counter in counters]) == [1] * 6
    time.sleep(2 * IDLE_S)
    assert ray.get([counter.add.remote() for counter in counters]) == [2] * 6


def test_no_worker_is_ended_if_so_configured(sandbox):
    source = """
    ray.init(num_cpus=1)
    @ray.remote
    def who(): return os.getpid()
    first = ray.get(who.remote())
    time.sleep(8)
    print(first == ray.get(who.remote()))
    """
    with driver(source, environ={"ZRAY_IDLE_TIMEOUT_S": "604800"}) as process:
        assert "True" in process.succeed()
