"""Each death of a worker is reported with its cause, and affects no other work."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time

import pytest

from .helpers import alive, driver, error_of, eventually


def segfault():
    print("about to jump", file=sys.stderr)
    ctypes.string_at(0)


def exit_at_once():
    print("exiting at once", file=sys.stderr)
    sys.stderr.flush()
    os._exit(3)


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def abort():
    os.abort()


def system_exit():
    sys.exit(5)


DEATHS = [
    (segfault, "SIGSEGV", "about to jump"),
    (exit_at_once, "exit code 3", "exiting at once"),
    (kill_itself, "SIGKILL", ""),
    (abort, "SIGABRT", ""),
    (system_exit, "exit code 5", ""),
]


@pytest.mark.parametrize("die, how, last_line", DEATHS, ids=[die.__name__ for die, _, _ in DEATHS])
def test_a_task_that_kills_its_worker(ray, die, how, last_line):
    error = error_of(ray, ray.remote(max_retries=0)(die).remote())
    assert type(error) is ray.exceptions.WorkerCrashedError
    text = str(error)
    assert how in text and last_line in text
    assert "MiB" in text and socket.gethostname() in text and "pid" in text
    assert ray.get(ray.remote(lambda: 1).remote()) == 1


@pytest.mark.parametrize("die, how, last_line", DEATHS, ids=[die.__name__ for die, _, _ in DEATHS])
def test_an_actor_method_that_kills_its_worker(ray, die, how, last_line):
    if die is system_exit:  # which ends only the call, or the actor, but never silently
        how = ""

    @ray.remote
    class Fragile:
        def die(self):
            die()

        def live(self):
            return os.getpid()

    actor = Fragile.remote()
    pid = ray.get(actor.live.remote())
    dying, later = actor.die.remote(), actor.live.remote()
    error = error_of(ray, dying)
    if die is system_exit:
        assert isinstance(error, ray.exceptions.RayError)
        return
    assert isinstance(error, ray.exceptions.ActorDiedError)
    assert how in str(error) and last_line in str(error)
    assert isinstance(error_of(ray, later), ray.exceptions.ActorDiedError)
    eventually(lambda: not alive(pid))


def test_the_message_counts_the_attempts(ray, sandbox):
    path = sandbox.directory / "attempts"

    @ray.remote(max_retries=2)
    def die_each_time():
        with path.open("a") as file:
            file.write("x")
        os._exit(3)

    error = error_of(ray, die_each_time.remote())
    assert isinstance(error, ray.exceptions.WorkerCrashedError)
    assert path.read_text() == "xxx"
    assert "attempt" in str(error) or "3 times" in str(error)


def test_a_task_survives_the_death_of_its_worker(ray, sandbox):
    path = sandbox.directory / "first"

    @ray.remote
    def die_once():
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        return "second"

    assert ray.get(die_once.remote(), timeout=8) == "second"


def test_a_worker_killed_from_outside(ray):
    @ray.remote(max_retries=0)
    def wait_for_death(box):
        ray.get(box.put.remote(os.getpid()))
        time.sleep(1000)

    @ray.remote(num_cpus=0)
    class Box:
        value = 0

        def put(self, value):
            self.value = value

        def get(self):
            return self.value

    box = Box.remote()
    ref = wait_for_death.remote(box)
    pid = eventually(lambda: ray.get(box.get.remote()))
    os.kill(pid, signal.SIGKILL)
    error = error_of(ray, ref)
    assert isinstance(error, ray.exceptions.WorkerCrashedError)
    assert "SIGKILL" in str(error) and str(pid) in str(error)


@pytest.mark.parametrize("die", [segfault, exit_at_once, kill_itself, system_exit], ids=lambda die: die.__name__)
def test_a_task_that_kills_its_worker_affects_no_other_task(ray, die):
    short = ray.remote(max_retries=0)(lambda number: number)
    poison = ray.remote(max_retries=0)(die)
    assert ray.get([short.remote(n) for n in range(50)]) == list(range(50))  # so that they are known to be short
    refs, poisoned = [], []
    for number in range(200):
        refs.append(short.remote(number))
        if number in (20, 60, 61, 150):
            poisoned.append(poison.remote())
    assert ray.get(refs, timeout=9) == list(range(200))
    assert all(isinstance(error_of(ray, ref), ray.exceptions.WorkerCrashedError) for ref in poisoned)


def test_a_call_that_kills_its_worker_affects_no_other_call_of_the_function(ray):
    """All calls are of one function and shape, so they may be queued at one worker, and none may be retried."""

    @ray.remote(max_retries=0)
    def sometimes(number):
        if number % 50 == 25:
            os._exit(3)
        return number

    refs = [sometimes.remote(number) for number in range(200)]
    for number, ref in enumerate(refs):
        if number % 50 == 25:
            assert isinstance(error_of(ray, ref), ray.exceptions.WorkerCrashedError)
        else:
            assert ray.get(ref, timeout=8) == number


def test_memory_hog_is_named(ray):
    @ray.remote(max_retries=0)
    def hog():
        data = bytearray(200 << 20)
        data[::4096] = b"x" * len(data[::4096])
        os.kill(os.getpid(), signal.SIGKILL)

    text = str(error_of(ray, hog.remote()))
    used = int(next(word for word, unit in zip(text.split(), text.split()[1:], strict=False) if unit == "MiB"))
    assert 200 <= used < 1000


def test_long_stderr_is_cut(ray):
    @ray.remote(max_retries=0)
    def talk():
        for number in range(100_000):
            print("line", number, file=sys.stderr)
        os._exit(1)

    text = str(error_of(ray, talk.remote()))
    assert "line 99999" in text and "line 5000\n" not in text and len(text) < 100_000


def test_owner_dies_while_a_borrower_waits_and_another_holds(ray):
    @ray.remote(num_cpus=0)
    class Owner:
        def make(self):
            return [ray.put(b"held"), ray.put(b"x" * 1_000_000), ray.remote(time.sleep).remote(1000)]

        def pid(self):
            return os.getpid()

    owner = Owner.remote()
    pid = ray.get(owner.pid.remote())
    small, large, pending = ray.get(owner.make.remote())
    value = ray.get(large)

    @ray.remote(num_cpus=0, max_retries=0)
    def wait(refs):
        try:
            ray.get(refs[0])
        except ray.exceptions.OwnerDiedError:
            return "OwnerDiedError"
        return "nothing"

    waiting = wait.remote([pending])
    os.kill(pid, signal.SIGKILL)
    assert isinstance(error_of(ray, pending), ray.exceptions.OwnerDiedError)
    assert ray.get(waiting, timeout=8) == "OwnerDiedError"
    assert value == b"x" * 1_000_000
    del small


def test_owner_dies_while_its_return_is_under_way(ray):
    """The task's result holds a reference whose owner is gone: an error at its ``get``, and no hang."""

    @ray.remote(max_retries=0)
    def make():
        return ray.put(b"x" * 1_000_000), os.getpid()

    inner, pid = ray.get(make.remote())
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    assert isinstance(error_of(ray, inner), ray.exceptions.OwnerDiedError)


class Unloadable:
    """Its unpickling kills the process."""

    def __reduce__(self):
        return os._exit, (4,)


def test_argument_whose_unpickling_kills_the_worker(ray):
    error = error_of(ray, ray.remote(max_retries=0)(lambda value: value).remote(Unloadable()))
    assert isinstance(error, ray.exceptions.WorkerCrashedError) and "exit code 4" in str(error)


def test_a_worker_that_stops_answering_is_not_declared_dead(ray):
    """A loop in C that holds the GIL for two seconds: that worker does nothing, and the others go on."""

    @ray.remote(max_retries=0)
    def hold_the_gil():
        ctypes.PyDLL(None).usleep(ctypes.c_uint(2_000_000))
        return "done"

    @ray.remote(max_retries=0)
    def quick(number):
        return number

    stuck = hold_the_gil.remote()
    assert ray.get([quick.remote(n) for n in range(100)], timeout=8) == list(range(100))
    assert ray.wait([stuck], timeout=0) == ([], [stuck])
    assert ray.get(stuck, timeout=8) == "done"


def write_where_it_may_not(array):
    ctypes.memset(array.ctypes.data, 1, 8)


class Writer:
    def write(self, array):
        write_where_it_may_not(array)


@pytest.mark.parametrize("where", ["task", "actor", "threaded actor"])
def test_native_code_that_writes_to_a_value(ray, where):
    """The error says where, and what to do."""
    numpy = pytest.importorskip("numpy")
    ref = ray.put(numpy.zeros(1 << 20))
    if where == "task":
        error = error_of(ray, ray.remote(max_retries=0)(write_where_it_may_not).remote(ref))
    else:
        writer = ray.remote(max_concurrency=1 if where == "actor" else 2)(Writer).remote()
        error = error_of(ray, writer.write.remote(ref))
    text = str(error)
    assert "SIGSEGV" in text and "Fatal Python error" in text
    line = write_where_it_may_not.__code__.co_firstlineno + 1
    assert f'test_worker_deaths.py", line {line} in write_where_it_may_not' in text
    assert "array.copy()" in text
    assert f"{os.sep}zray{os.sep}worker" not in text


def test_a_driver_that_writes_to_a_value_says_where():
    source = """
    import ctypes, numpy
    ray.init(num_cpus=1)
    array = ray.get(ray.put(numpy.zeros(1 << 20)))
    def spoil():
        ctypes.memset(array.ctypes.data, 1, 8)
    spoil()
    """
    with driver(source) as process:
        assert process.wait() == -signal.SIGSEGV
        eventually(lambda: "in spoil" in process.err)


def test_a_drivers_own_settings_for_fatal_errors_stay():
    source = """
    import faulthandler, tempfile
    own = tempfile.TemporaryFile()
    faulthandler.enable(own)
    ray.init(num_cpus=1)
    ray.shutdown()
    try:
        os.kill(os.getpid(), 11)
    finally:
        print("not reached")
    """
    with driver(source) as process:
        assert process.wait() == -signal.SIGSEGV
        assert "Fatal" not in process.err


@pytest.mark.parametrize("write", ["frame.loc[2, 'x'] = 9.0", "frame['x'].to_numpy().sort()", "array[0] = 1"])
def test_a_driver_that_writes_to_a_read_only_value_is_told_what_to_do(write):
    pytest.importorskip("pandas")
    source = f"""
    import numpy, pandas
    ray.init(num_cpus=1)
    frame, array = ray.get(ray.put((pandas.DataFrame({{"x": numpy.arange(9.0)}}), numpy.arange(9))))
    {write}
    """
    with driver(source) as process:
        assert process.wait() == 1
        eventually(lambda: process.err.count("hint: values from zray.get() are read-only") == 1)
