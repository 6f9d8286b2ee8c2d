"""A cluster works without the optimizations that depend on internals of CPython and of the C library."""

from __future__ import annotations

import os
import signal

import pytest

import zray
from zray.config import OPTIMIZATIONS

from .helpers import by_hand, driver, eventually

VARIABLE = "ZRAY_DISABLED_OPTIMIZATIONS"


@pytest.fixture(params=["local cluster", "by hand"])
def ray(request, sandbox, monkeypatch):
    """A cluster of two CPUs without any of the optimizations, in which a worker counts as idle after half a second."""
    monkeypatch.setenv(VARIABLE, "all")
    monkeypatch.setenv("ZRAY_IDLE_TIMEOUT_S", "0.5")
    if request.param == "local cluster":
        zray.init(num_cpus=2)
        yield zray
        zray.shutdown()
        return
    with by_hand(cpus=2) as (address, _, _):
        zray.init(address)
        yield zray
        zray.shutdown()


def test_tasks_actors_objects_and_deaths(ray, sandbox):
    @ray.remote
    def square(x):
        return x * x

    @ray.remote
    def size(value):
        return len(value)

    @ray.remote(max_retries=0)
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    @ray.remote(max_restarts=1, max_task_retries=1)
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1
            return self.n

        def where(self):
            return os.getpid()

    assert ray.get([square.remote(x) for x in range(200)]) == [x * x for x in range(200)]
    assert ray.get(size.remote(ray.put(b"x" * 10_000_000))) == 10_000_000
    with pytest.raises(ray.exceptions.WorkerCrashedError, match="SIGKILL"):
        ray.get(die.remote())
    counter = Counter.remote()
    assert ray.get([counter.add.remote() for _ in range(5)]) == [1, 2, 3, 4, 5]
    os.kill(ray.get(counter.where.remote()), signal.SIGKILL)
    assert ray.get(counter.add.remote()) == 1
    ray.kill(counter)
    # Idle workers end, and spares take their places; the next task wakes one of them.
    eventually(lambda: len(sandbox.processes("zray::IDLE")) == 2)
    assert ray.get(square.remote(3)) == 9


def test_the_switches_reach_host_zygote_and_workers(sandbox):
    """The zygote's heap is frozen, or it is not, and so is a worker's; settings come with a worker's payload."""
    source = """
    ray.init(num_cpus=1)

    @ray.remote
    def look():
        import gc
        from zray.client import session
        return gc.get_freeze_count() > 1000, session.current().config.disabled_optimizations

    print(*ray.get(look.remote()), sep=";")
    """
    for given in ("", "freeze-heap", "warm-up,bare-fork", "all"):
        disabled = [name for name in OPTIMIZATIONS if given == "all" or name in given.split(",")]
        with driver(source, environ={VARIABLE: given}) as process:
            frozen, seen = process.succeed().split(";")
        assert (frozen, seen) == (str("freeze-heap" not in disabled), str(disabled))


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(sandbox):
    with driver("ray.init(num_cpus=1)", environ={VARIABLE: "gc-freeze"}) as process:
        assert process.wait() == 1
        assert (
            "ZRAY_DISABLED_OPTIMIZATIONS='gc-freeze' cannot be used: 'gc-freeze' is not an optimization" in process.err
        )
