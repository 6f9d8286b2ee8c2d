"""Tasks that go straight to a leased worker: what takes the worker back, what breaks, and what is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import zray
from zray.client.core.leases import LEASE_AFTER

from .helpers import Sandbox, alive, break_lanes, cli, current_session, driver, error_of, eventually, stopped

ENOUGH = LEASE_AFTER + 4
"""Tasks one after the other until there is a lease: a few more while the lane is opened."""


def leases() -> int:
    """How many workers this process has leased."""
    session = current_session()
    with session.shell.lock:
        return len(session.core.leases.by_shape)


def lease(ray: ModuleType, function: Any, *args: Any) -> None:
    """Runs a task again and again until its worker is leased."""

    def once() -> bool:
        ray.get(function.remote(*args), timeout=10)
        return leases() > 0

    eventually(once, pause_s=0.0)


def make_pid(ray: ModuleType, **options: Any) -> Any:
    def pid():
        return os.getpid()

    return ray.remote(**options)(pid) if options else ray.remote(pid)


@pytest.fixture
def pid_task(ray: ModuleType) -> Any:
    task = make_pid(ray, num_cpus=1)
    lease(ray, task)
    return task


def test_tasks_do_without_the_broker(ray: ModuleType, pid_task: Any, sandbox: Sandbox) -> None:
    with stopped(sandbox.one("zray: broker")):
        pids = {ray.get(pid_task.remote(), timeout=5) for _ in range(100)}
    assert len(pids) == 1


def test_a_few_tasks_lease_nothing(ray: ModuleType) -> None:
    task = make_pid(ray)
    for _ in range(LEASE_AFTER):
        ray.get(task.remote(), timeout=10)
    assert leases() == 0


def test_values_errors_and_arguments(ray: ModuleType) -> None:
    @ray.remote
    def double(value):
        if value == 7:
            raise ValueError("seven")
        return value * 2

    large = ray.put(b"x" * 1_000_000)

    @ray.remote
    def size(value):
        return len(value)

    for number in range(60):
        if number == 7:
            assert "seven" in str(error_of(ray, double.remote(number)))
        else:
            assert ray.get(double.remote(number), timeout=10) == 2 * number
        assert ray.get(size.remote(large), timeout=10) == 1_000_000
        assert ray.get(double.remote(ray.put(number + 100)), timeout=10) == 2 * number + 200
    assert ray.get(double.remote(b"y" * 300_000), timeout=10) == b"y" * 600_000
    assert leases() > 0


def test_references_in_arguments_and_values(ray: ModuleType) -> None:
    @ray.remote
    def wrap(refs):
        return [ray.put(ray.get(refs[0]) + 1)]

    ref = ray.put(0)
    for number in range(30):
        (ref,) = ray.get(wrap.remote([ref]), timeout=10)
        assert ray.get(ref, timeout=10) == number + 1


def test_functions_that_nobody_has_run_yet(ray: ModuleType, pid_task: Any) -> None:
    for number in range(30):
        assert ray.get(ray.remote(lambda number=number: number).remote(), timeout=10) == number
        ray.get(pid_task.remote(), timeout=10)


# ------------------------------------------------------------------ who else wants the CPUs


def test_it_is_given_back_after_a_moment(ray: ModuleType, pid_task: Any) -> None:
    eventually(lambda: ray.available_resources().get("CPU") == 2.0)
    assert leases() == 0


def test_work_that_needs_all_cpus_does_not_wait(ray: ModuleType, pid_task: Any) -> None:
    whole = make_pid(ray, num_cpus=2)
    for _ in range(5):
        lease(ray, pid_task)
        assert ray.get(whole.remote(), timeout=5)


def test_an_actor_gets_its_cpus(ray: ModuleType, pid_task: Any) -> None:
    @ray.remote(num_cpus=2)
    class Large:
        def pid(self):
            return os.getpid()

    assert ray.get(Large.remote().pid.remote(), timeout=5)


def test_the_children_of_a_leased_task_get_its_cpu(sandbox: Sandbox) -> None:
    zray.init(num_cpus=1)
    child = make_pid(zray)

    @zray.remote
    def parent():
        return zray.get(child.remote())

    lease(zray, parent)
    for _ in range(10):
        assert zray.get(parent.remote(), timeout=5)


@pytest.mark.parametrize("state", ["it sleeps", "it is stopped"])
def test_an_owner_that_does_nothing_keeps_no_cpu_from_others(sandbox: Sandbox, state: str) -> None:
    zray.init(num_cpus=1)
    address = current_session().address
    other = """
        import os, sys, time
        import zray
        zray.init(sys.argv[1])
        task = zray.remote(os.getpid)
        from zray.client import session
        while not session.current().core.leases.by_shape:
            zray.get(task.remote())
        print("leased", flush=True)
        time.sleep(60)
    """
    with driver(other, arguments=[address]) as process:
        process.expect("leased")
        if state == "it is stopped":
            process.signal(signal.SIGSTOP)
        assert zray.get(make_pid(zray).remote(), timeout=5)
        process.signal(signal.SIGCONT)
        process.stop()


# ------------------------------------------------------------------ deaths and cancels


def test_a_worker_that_dies_in_a_task(ray: ModuleType, tmp_path: Path) -> None:
    @ray.remote
    def die_once(path):
        if path and not os.path.exists(path):
            open(path, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    lease(ray, die_once, "")
    for number in range(5):
        assert alive(ray.get(die_once.remote(str(tmp_path / str(number))), timeout=10))
        lease(ray, die_once, "")


def test_the_error_names_the_task_and_the_cause(ray: ModuleType) -> None:
    @ray.remote(max_retries=1)
    def fragile(dies):
        if dies:
            os.kill(os.getpid(), signal.SIGSEGV)

    lease(ray, fragile, False)
    error = error_of(ray, fragile.remote(True))
    assert isinstance(error, ray.exceptions.WorkerCrashedError)
    assert "attempt 2 of 2 of `fragile`" in str(error) and "SIGSEGV" in str(error)


def test_a_worker_that_dies_between_tasks(ray: ModuleType, pid_task: Any) -> None:
    pid = ray.get(pid_task.remote(), timeout=10)
    os.kill(pid, signal.SIGKILL)
    assert ray.get(pid_task.remote(), timeout=10) != pid


def test_sys_exit_in_a_task(ray: ModuleType) -> None:
    @ray.remote(max_retries=1)
    def leave(really):
        if really:
            os._exit(3)

    lease(ray, leave, False)
    assert "3" in str(error_of(ray, leave.remote(True)))
    assert ray.get(leave.remote(False), timeout=10) is None


@pytest.mark.parametrize("force", [False, True])
def test_cancelling_what_runs(ray: ModuleType, force: bool, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    @ray.remote
    def work(seconds):
        if seconds:
            begun.touch()
        time.sleep(seconds)

    for _ in range(3):
        lease(ray, work, 0)
        ref = work.remote(60)
        eventually(begun.exists)
        begun.unlink()
        ray.cancel(ref, force=force)
        assert isinstance(error_of(ray, ref), ray.exceptions.TaskCancelledError)
        assert ray.get(work.remote(0), timeout=10) is None


def test_a_limit_of_time(ray: ModuleType) -> None:
    @ray.remote(timeout_s=0.3, max_retries=1)
    def work(seconds):
        time.sleep(seconds)

    lease(ray, work, 0)
    assert isinstance(error_of(ray, work.remote(60)), ray.exceptions.TaskTimeoutError)
    assert ray.get(work.remote(0), timeout=10) is None


def test_max_calls_replaces_the_worker(ray: ModuleType) -> None:
    task = make_pid(ray, max_calls=1)
    pids = {ray.get(task.remote(), timeout=10) for _ in range(ENOUGH + 3)}
    assert len(pids) == ENOUGH + 3


def test_a_broken_lane_loses_nothing(ray: ModuleType) -> None:
    @ray.remote
    def same(number):
        return number

    lease(ray, same, 0)
    for number in range(200):
        if number % 50 == 25:
            break_lanes()
        assert ray.get(same.remote(number), timeout=10) == number


@pytest.mark.parametrize("moment", ["between tasks", "in a task"])
def test_an_owner_that_dies(ray: ModuleType, moment: str, tmp_path: Path) -> None:
    inner = tmp_path / "inner"

    @ray.remote(num_cpus=1)
    def work(seconds):
        if seconds:
            inner.write_text(str(os.getpid()))
        time.sleep(seconds)

    @ray.remote(num_cpus=1, max_retries=0)
    def owner():
        for _ in range(ENOUGH + 10):
            zray.get(work.remote(0))
        if moment == "in a task":
            ref = work.remote(60)
            while not (inner.exists() and inner.read_text()):
                time.sleep(0.001)
            assert ref is not None
        os.kill(os.getpid(), signal.SIGKILL)

    assert isinstance(error_of(ray, owner.remote(), 20), ray.exceptions.WorkerCrashedError)
    eventually(lambda: ray.available_resources().get("CPU") == 2.0)
    if moment == "in a task":
        pid = int(inner.read_text())
        eventually(lambda: not alive(pid))


# ------------------------------------------------------------------ threads, and what is told


def test_several_threads_of_one_owner(ray: ModuleType) -> None:
    @ray.remote
    def same(number):
        return number

    failures: list[BaseException] = []

    def loop(start: int) -> None:
        try:
            for number in range(start, start + 100):
                assert ray.get(same.remote(number), timeout=20) == number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=loop, args=(1000 * start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_timeout_says_what_the_task_does(ray: ModuleType) -> None:
    @ray.remote
    def work(seconds):
        time.sleep(seconds)

    lease(ray, work, 0)
    ref = work.remote(60)
    with pytest.raises(ray.exceptions.GetTimeoutError, match=r"`work` runs for .* \(pid"):
        ray.get(ref, timeout=1)
    assert "`work`: RUNNING for" in str(ray.explain(ref))
    assert "work" in cli("main", "status", "--address", current_session().address).stdout
    ray.cancel(ref, force=True)


def test_without_lanes_there_are_no_leases(sandbox: Sandbox) -> None:
    source = f"""
        import os
        import zray
        from zray.client import session
        zray.init(num_cpus=2)
        task = zray.remote(os.getpid)
        for _ in range({ENOUGH}):
            zray.get(task.remote())
        core = session.current().core
        print(len(core.leases.by_shape), len(core.leases.lanes))
    """
    with driver(source, environ={"ZRAY_LANES": "false"}) as process:
        assert process.succeed().split() == ["0", "0"]


def test_nothing_is_left_of_a_driver_with_a_lease(sandbox: Sandbox) -> None:
    source = """
        import os, sys
        import zray
        from zray.client import session
        zray.init(num_cpus=2)
        task = zray.remote(os.getpid)
        while not session.current().core.leases.by_shape:
            zray.get(task.remote())
        print("leased", flush=True)
        if sys.argv[1] == "killed":
            os.kill(os.getpid(), 9)
    """
    for end in ("in order", "killed"):
        with driver(source, arguments=[end]) as process:
            process.expect("leased")
            process.wait()
        sandbox.assert_clean()
