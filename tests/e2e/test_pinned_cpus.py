"""Tasks and actors run on as many CPUs of the machine as their num_cpus."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

import zray

from .helpers import driver

CPUS = os.sched_getaffinity(0)
pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="this process may use only one CPU")


@pytest.fixture
def pinned(sandbox, monkeypatch):
    """A cluster of all CPUs that pins, whatever other clusters of this machine do."""
    monkeypatch.setenv("ZRAY_PIN_CPUS", "on")
    zray.init()
    yield zray
    zray.shutdown()


@zray.remote
def where() -> set[int]:
    return os.sched_getaffinity(0)


def test_tasks_that_run_at_once_have_cpus_of_their_own(pinned, tmp_path):
    @zray.remote
    def run(mine: str, others: list[str]) -> set[int]:
        open(mine, "w").close()
        while not all(map(os.path.exists, others)):
            pass
        return os.sched_getaffinity(0)

    names = [str(tmp_path / name) for name in ("one", "two")]
    one, two = zray.get([run.remote(name, names) for name in names])
    assert len(one) == len(two) == 1
    assert one.isdisjoint(two)


def test_several_cpus_and_none(pinned):
    assert len(zray.get(where.options(num_cpus=2).remote())) == 2
    assert zray.get(where.options(num_cpus=0).remote()) == CPUS
    assert len(zray.get(where.options(num_cpus=0.5).remote())) == 1


def test_threads_and_children_follow(pinned):
    @zray.remote(max_concurrency=1, num_cpus=1)
    class Parent:
        def __init__(self) -> None:
            self.at_start = os.sched_getaffinity(0)
            self._asked, self._told = threading.Event(), threading.Event()
            self._found: set[int] = set()
            threading.Thread(target=self._look, daemon=True).start()

        def _look(self) -> None:
            self._asked.wait()
            self._found = os.sched_getaffinity(0)
            self._told.set()

        def all(self) -> list[set[int]]:
            self._asked.set()
            self._told.wait()
            code = "import os; print(*os.sched_getaffinity(0))"
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            return [self.at_start, os.sched_getaffinity(0), self._found, set(map(int, child.stdout.split()))]

    start, now, thread, child = zray.get(Parent.remote().all.remote())
    assert len(now) == 1
    assert start == now == thread == child


def test_an_actor_without_cpus_is_not_pinned(pinned):
    @zray.remote
    class Actor:
        def __init__(self) -> None:
            self.at_start = os.sched_getaffinity(0)

        def both(self) -> list[set[int]]:
            return [self.at_start, os.sched_getaffinity(0)]

    assert zray.get(Actor.remote().both.remote()) == [CPUS, CPUS]


def test_threads_that_a_task_left_move_with_the_next(pinned):
    @zray.remote
    def leave() -> int:
        thread = threading.Thread(target=threading.Event().wait, daemon=True)
        thread.start()
        os.environ["LEFT"] = str(thread.native_id)
        return os.getpid()

    @zray.remote
    def look() -> tuple[int, set[int]]:
        return os.getpid(), os.sched_getaffinity(int(os.environ.get("LEFT", "0")))

    left_in = zray.get(leave.options(num_cpus=len(CPUS)).remote())
    pid, found = zray.get(look.remote())  # the latest idle worker is used first
    assert pid == left_in
    assert len(found) == 1


def test_the_cpu_of_a_killed_worker_is_used_again(pinned):
    @zray.remote(num_cpus=len(CPUS), max_retries=0)
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(zray.exceptions.WorkerCrashedError):
        zray.get(die.remote())
    assert zray.get(where.options(num_cpus=len(CPUS)).remote()) == CPUS


def test_libraries_that_are_loaded_follow(pinned):
    pytest.importorskip("threadpoolctl")
    pytest.importorskip("numpy")

    @zray.remote
    def threads() -> tuple[int, set[int]]:
        import numpy
        import threadpoolctl

        numpy.ones((8, 8)) @ numpy.ones((8, 8))
        return os.getpid(), {library["num_threads"] for library in threadpoolctl.threadpool_info()}

    first, one = zray.get(threads.remote())
    second, two = zray.get(threads.options(num_cpus=2).remote())
    assert first == second  # the latest idle worker is used first
    assert (one, two) == ({1}, {2})


@pytest.mark.parametrize(
    ("setting", "cpus", "sizes", "warns"),
    [
        ("off", len(CPUS), {len(CPUS)}, False),
        ("auto", len(CPUS) + 1, {len(CPUS)}, False),
        ("on", len(CPUS) + 1, {len(CPUS)}, True),
        ("on", 1, {1}, False),
        ("auto", 1, {len(CPUS)}, False),
    ],
)
def test_which_clusters_pin(sandbox, setting, cpus, sizes, warns):
    source = f"""
        ray.init(num_cpus={cpus})
        print(len(ray.get(ray.remote(lambda: os.sched_getaffinity(0)).remote())))
    """
    with driver(source, environ={"ZRAY_PIN_CPUS": setting}) as process:
        assert {int(process.succeed())} == sizes
        assert ("workers are not pinned" in process.err) is warns
