"""Ctrl-C at the driver, and ``cancel`` in all the states of a task."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import pytest

from .helpers import alive, driver, error_of, eventually

CTRL_C = """
    ray.init(num_cpus=2)
    f = ray.remote(lambda n: n)

    @ray.remote
    class Keeper:
        value = 0
        def add(self):
            self.value += 1
            return self.value

    keeper = Keeper.options(num_cpus=0).remote()
    assert ray.get(keeper.add.remote()) == 1

    @ray.remote(max_retries=0)
    def long_one(path):
        open(path + ".started", "w").close()
        while not os.path.exists(path):
            time.sleep(0.02)
        return "long one is done"

    ref = long_one.remote(os.environ["GATE"])
    while not os.path.exists(os.environ["GATE"] + ".started"):
        time.sleep(0.01)
    for attempt in range(int(os.environ["TIMES"])):
        try:
            print("waiting", attempt)
            {wait}
        except KeyboardInterrupt:
            print("interrupted", attempt)
    assert ray.get(f.remote(5)) == 5
    assert ray.get(keeper.add.remote()) == 2
    open(os.environ["GATE"], "w").close()
    print(ray.get(ref, timeout=10))
"""


@pytest.mark.parametrize("wait", ["ray.get(ref)", "ray.wait([ref])", "ray.get([ref, f.remote(1)], timeout=60)"])
@pytest.mark.parametrize("times", [1, 2, 5])
def test_ctrl_c_once_and_again(sandbox, wait, times):
    gate = sandbox.directory / "gate"
    environ = {"GATE": str(gate), "TIMES": str(times)}
    with driver(CTRL_C.format(wait=wait), environ=environ) as process:
        for attempt in range(times):
            process.expect(f"waiting {attempt}")
            process.signal(signal.SIGINT)
            process.expect(f"interrupted {attempt}", 5)
        assert "long one is done" in process.succeed()


def test_ctrl_c_of_a_terminal_reaches_no_worker(sandbox):
    """A terminal sends SIGINT to the whole process group of the driver."""
    gate = sandbox.directory / "gate"
    environ = {"GATE": str(gate), "TIMES": "1"}
    with driver(CTRL_C.format(wait="ray.get(ref)"), environ=environ) as process:
        process.expect("waiting 0")
        os.killpg(process.pid, signal.SIGINT)
        process.expect("interrupted 0", 5)
        output = process.succeed()
        assert "long one is done" in output and "KeyboardInterrupt" not in process.err


def test_ctrl_c_while_submitting_as_fast_as_possible(sandbox):
    source = """
    ray.init(num_cpus=2)
    f = ray.remote(lambda n: n)
    refs = []
    ray.get(f.remote(0))
    try:
        print("going")
        while True:
            refs.append(f.remote(len(refs)))
            if len(refs) % 50 == 0:
                ray.wait(refs[-50:], num_returns=1)
                ray.put(b"x" * 200_000)
    except KeyboardInterrupt:
        pass
    values = ray.get(refs, timeout=15)
    assert values == list(range(len(values))), values[:20]
    assert ray.get(f.remote(1)) == 1
    print("fine")
    """
    with driver(source) as process:
        process.expect("going")
        process.signal(signal.SIGINT)
        process.expect("fine", 20)
        process.succeed()


def test_uncaught_ctrl_c_ends_the_driver_and_everything(sandbox):
    source = "ray.init(num_cpus=1); ref = ray.remote(time.sleep).remote(1000); print('up'); ray.get(ref)"
    with driver(source) as process:
        process.expect("up")
        process.signal(signal.SIGINT)
        assert process.wait(8) in (-signal.SIGINT, 130, 1)
        assert "KeyboardInterrupt" in process.err
        sandbox.assert_clean()


# ------------------------------------------------------------------------------------------------ cancel


def cancelled(ray, ref) -> bool:
    return isinstance(error_of(ray, ref), ray.exceptions.TaskCancelledError)


def started_file(sandbox):
    path = sandbox.directory / "started"

    def pids() -> list[int]:
        return [int(word) for word in path.read_text().split()] if path.exists() else []

    return path, pids


def test_cancel_of_a_queued_task(ray, sandbox):
    path, pids = started_file(sandbox)

    @ray.remote(num_cpus=2)
    def block():
        path.write_text(f"{os.getpid()} ")
        time.sleep(1000)

    blocking = block.remote()
    eventually(pids)
    queued = [block.remote() for _ in range(3)]
    for ref in queued:
        ray.cancel(ref)
    assert all(cancelled(ray, ref) for ref in queued)
    ray.cancel(blocking)
    assert cancelled(ray, blocking)
    assert ray.get(ray.remote(num_cpus=2)(lambda: 1).remote(), timeout=5) == 1


@pytest.mark.parametrize("what", ["python", "sleep", "get"])
def test_cancel_of_a_running_task(ray, sandbox, what):
    path, pids = started_file(sandbox)
    never = ray.remote(num_cpus=0)(time.sleep).remote(1000)

    @ray.remote
    def run(refs):
        path.write_text(f"{os.getpid()} ")
        if what == "sleep":
            time.sleep(1000)
        if what == "get":
            ray.get(refs[0])
        while True:
            sum(range(100))

    ref = run.remote([never])
    pid = eventually(pids)[0]
    ray.cancel(ref)
    assert cancelled(ray, ref)
    assert alive(pid)  # without force the worker is kept
    ray.cancel(never, force=True)


def test_cancel_with_force_of_code_that_ignores_signals(ray, sandbox):
    path, pids = started_file(sandbox)

    @ray.remote
    def deaf():
        path.write_text(f"{os.getpid()} ")
        ctypes.PyDLL(None).usleep(ctypes.c_uint(2**31))

    ref = deaf.remote()
    pid = eventually(pids)[0]
    ray.cancel(ref)
    assert ray.wait([ref], timeout=0.3) == ([], [ref])
    ray.cancel(ref, force=True)
    assert isinstance(error_of(ray, ref), (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError))
    eventually(lambda: not alive(pid))


def test_forced_cancel_affects_no_other_task(ray, sandbox):
    path, pids = started_file(sandbox)
    quick = ray.remote(max_retries=0)(lambda n: n)
    assert ray.get([quick.remote(n) for n in range(50)]) == list(range(50))

    @ray.remote(max_retries=0)
    def long_one():
        with path.open("a") as file:
            file.write(f"{os.getpid()} ")
        time.sleep(1000)

    ref = long_one.remote()
    refs = [quick.remote(n) for n in range(100)]
    eventually(pids)
    refs += [quick.remote(n) for n in range(100, 200)]
    ray.cancel(ref, force=True)
    assert ray.get(refs, timeout=8) == list(range(200))
    assert isinstance(error_of(ray, ref), (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError))
    assert len(pids()) == 1  # it was not tried again


def test_cancel_of_what_has_ended_does_nothing(ray):
    ref = ray.remote(lambda: 42).remote()
    assert ray.get(ref) == 42
    ray.cancel(ref)
    ray.cancel(ref, force=True)
    assert ray.get(ref) == 42


def test_cancel_with_children(ray, sandbox):
    path, pids = started_file(sandbox)

    @ray.remote(num_cpus=0, max_retries=0)
    def child():
        with path.open("a") as file:
            file.write(f"{os.getpid()} ")
        time.sleep(1000)

    @ray.remote(num_cpus=0, max_retries=0)
    def parent():
        ray.get([child.remote() for _ in range(3)])

    ref = parent.remote()
    eventually(lambda: len(pids()) == 3)
    ray.cancel(ref, recursive=True)
    assert cancelled(ray, ref)

    def children_idle() -> bool:
        titles = [open(f"/proc/{pid}/cmdline").read() for pid in pids() if alive(pid)]  # noqa: SIM115
        return not any("child" in title for title in titles)

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        eventually(children_idle)


def test_cancel_at_every_moment(ray):
    """Races: each outcome is the value or the cancellation, none is lost, and no CPU stays busy."""
    f = ray.remote(lambda n: n)
    ray.get(f.remote(0))
    for number in range(300):
        ref = f.remote(number)
        if number % 3:
            ray.wait([ref], timeout=0.0005 * (number % 4))
        ray.cancel(ref, force=number % 10 == 0)
        try:
            assert ray.get(ref, timeout=8) == number
        except (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError):
            continue
    eventually(lambda: ray.available_resources().get("CPU") == 2)
    assert ray.get([f.remote(n) for n in range(50)], timeout=8) == list(range(50))


# ------------------------------------------------------------------------------------------------ waits


def test_timeout_is_kept(ray):
    never = ray.remote(time.sleep).remote(1000)
    started = time.monotonic()
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(never, timeout=0.5)
    assert 0.4 < time.monotonic() - started < 2


def test_infeasible_requests_warn_and_wait():
    source = """
    ray.init(num_cpus=1)
    f = ray.remote(lambda: 1)
    ref = f.options(num_cpus=64, resources={"unobtainium": 3}).remote()
    ready, waiting = ray.wait([ref], timeout=6)
    print("still waiting", len(waiting))
    assert ray.get(f.remote()) == 1
    """
    with driver(source) as process:
        line = process.expect("cannot be scheduled", 6, stream="err")
        assert "64" in line and "unobtainium" in line and "CPU: 1" in line.replace("1.0", "1")
        assert "still waiting 1" in process.succeed()


def test_infeasible_actor_warns():
    source = """
    ray.init(num_cpus=1)
    @ray.remote(num_gpus=4)
    class Greedy:
        pass
    greedy = Greedy.remote()
    sys.stdin.readline()
    """
    with driver(source) as process:
        line = process.expect("Greedy", 6, stream="err")
        assert "GPU" in line and "4" in line
        process.say("\n")
        process.succeed()


def test_max_calls(ray):
    pid_of = ray.remote(max_calls=1)(os.getpid)
    pids = ray.get([pid_of.remote() for _ in range(6)], timeout=9)
    assert len(set(pids)) == 6
    eventually(lambda: not any(alive(pid) for pid in pids))


def test_max_calls_keeps_a_worker_whose_objects_are_needed(ray):
    @ray.remote(max_calls=1)
    def make():
        return [ray.put(b"x" * 1_000_000), ray.put(7)], os.getpid()

    (large, small), pid = ray.get(make.remote())
    assert ray.get(ray.remote(max_calls=1)(lambda: 1).remote(), timeout=8) == 1
    assert len(ray.get(large, timeout=8)) == 1_000_000 and ray.get(small, timeout=8) == 7
    del large, small
    eventually(lambda: not alive(pid))
