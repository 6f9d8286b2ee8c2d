"""What a worker does for the program when it ends in order: hooks, ``atexit``, finalizers, running calls."""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import time
from typing import Any

import pytest

from .helpers import eventually, raises_within, run_driver


@pytest.fixture
def record(tmp_path):
    """Records events from any process, with a file for each event."""

    class Record:
        def __call__(self, what):
            with (tmp_path / what).open("a") as file:
                file.write("x")

        def all_of(self, *names):
            files = [tmp_path / name for name in names]
            eventually(lambda: all(file.exists() and file.read_text() for file in files))
            assert all(file.read_text() == "x" for file in files)  # once each

        def has(self, what):
            return (tmp_path / what).exists()

    return Record()


def plain_class(ray) -> Any:
    class Plain:
        def __init__(self, record):
            self.record = record
            atexit.register(record, "atexit")

        def __del__(self):
            if hasattr(self, "record"):  # Ray also calls it on its own decorated class
                self.record("del")

        def __ray_shutdown__(self):
            self.record("shutdown")

        def pid(self):
            return os.getpid()

        def wait(self, record, until):
            record("waits")
            while not record.has(until):
                time.sleep(0.01)
            return "waited"

        def end(self, how):
            exec(how, {"ray": ray, "sys": sys})

    return Plain


def async_class(ray):
    class Async(plain_class(ray)):  # type: ignore[misc]
        async def wait(self, record, until):
            record("waits")
            while not record.has(until):
                await asyncio.sleep(0.01)
            return "waited"

    return Async


def make(ray, kind, record, **options):
    if kind == "threaded":
        options["max_concurrency"] = 4
    made = async_class(ray) if kind == "async" else plain_class(ray)
    return ray.remote(num_cpus=0, **options)(made).remote(record)


KINDS = ("plain", "threaded", "async")
ENDS = {
    "exit_actor": "ray.actor.exit_actor()",
    "swallowed": "try:\n    ray.actor.exit_actor()\nexcept BaseException:\n    pass",
    "sys.exit": "sys.exit(0)",
    "with a code": "sys.exit(3)",
}
HOOKS = ("shutdown", "atexit", "del")


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_run_when_the_last_handle_goes(ray, record, kind):
    actor = make(ray, kind, record)
    pid = ray.get(actor.pid.remote())
    del actor
    record.all_of(*HOOKS)
    eventually(lambda: gone(pid))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ENDS)
def test_hooks_run_when_a_method_ends_the_actor(ray, impl, record, kind, how):
    if impl == "ray" and kind == "async" and "sys" in ENDS[how]:
        pytest.skip("which never answers a call that says so (2.60)")
    actor = make(ray, kind, record)
    pid = ray.get(actor.pid.remote())
    assert isinstance(raises_within(ray, actor.end.remote(ENDS[how])), ray.exceptions.ActorDiedError)
    record.all_of(*HOOKS)
    eventually(lambda: gone(pid))
    assert isinstance(raises_within(ray, actor.pid.remote()), ray.exceptions.ActorDiedError)


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_run_when_the_actor_is_asked_to_terminate(ray, record, kind):
    actor = make(ray, kind, record)
    pid = ray.get(actor.pid.remote())
    actor.__ray_terminate__.remote()
    record.all_of(*HOOKS)
    eventually(lambda: gone(pid))


def test_no_hook_runs_when_the_actor_is_killed(ray, record):
    actor = make(ray, "plain", record)
    pid = ray.get(actor.pid.remote())
    ray.kill(actor)
    eventually(lambda: gone(pid))
    assert not any(map(record.has, HOOKS))


@pytest.mark.parametrize("kind", ["threaded", "async"])
@pytest.mark.parametrize("how", ENDS)
def test_calls_that_run_are_finished(ray, impl, record, kind, how):
    if impl == "ray" and kind == "async" and "sys" in ENDS[how]:
        pytest.skip("which never answers a call that says so (2.60)")
    actor = make(ray, kind, record)
    waiting = actor.wait.remote(record, until="go")
    eventually(lambda: record.has("waits"))
    ending = actor.end.remote(ENDS[how])
    record("go")
    assert ray.get(waiting, timeout=20) == "waited"
    assert isinstance(raises_within(ray, ending), ray.exceptions.ActorDiedError)
    record.all_of(*HOOKS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["exit_actor", "sys.exit", "with a code"])
def test_only_an_exit_with_a_code_is_a_reason_to_restart(ray, impl, record, kind, how):
    if impl == "ray" and kind == "async" and "sys" in ENDS[how]:
        pytest.skip("which never answers a call that says so (2.60)")
    actor = make(ray, kind, record, max_restarts=1)
    pid = ray.get(actor.pid.remote())
    assert isinstance(raises_within(ray, actor.end.remote(ENDS[how])), ray.exceptions.RayActorError)
    if how == "with a code":
        assert eventually(lambda: survivor(ray, actor)) != pid
    else:
        assert isinstance(raises_within(ray, actor.pid.remote()), ray.exceptions.ActorDiedError)


def survivor(ray, actor):
    try:
        return ray.get(actor.pid.remote(), timeout=20)
    except ray.exceptions.ActorUnavailableError:
        return None


def test_the_hook_may_call_others(ray, gate):
    @ray.remote(num_cpus=0)
    class Speaks:
        def __init__(self, gate):
            self.gate = gate

        def __ray_shutdown__(self):
            ray.get(self.gate.arrive.remote())

        def ready(self):
            return True

    actor = Speaks.remote(gate)
    assert ray.get(actor.ready.remote())
    del actor
    eventually(lambda: ray.get(gate.arrived.remote()) == 1)


def test_a_hook_that_raises_does_not_keep_others_from_running(ray, record):
    @ray.remote(num_cpus=0)
    class Raises:
        def __init__(self, record):
            atexit.register(record, "atexit")

        def __ray_shutdown__(self):
            raise ValueError("no")

        def ready(self):
            return True

    actor = Raises.remote(record)
    assert ray.get(actor.ready.remote())
    del actor
    record.all_of("atexit")


def test_hooks_of_a_task_run_when_its_worker_leaves(ray, record):
    @ray.remote(max_calls=1)
    def register(record):
        atexit.register(record, "atexit")

        def outlive_the_main_thread():
            threading.main_thread().join(0.1)
            record("thread")

        threading.Thread(target=outlive_the_main_thread).start()

    ray.get(register.remote(record))
    record.all_of("atexit", "thread")


@pytest.mark.parametrize("code", [0, 3])
def test_hooks_of_a_task_run_when_it_exits(ray, record, code):
    @ray.remote(max_retries=0)
    def leave(record):
        atexit.register(record, "atexit")
        sys.exit(code)

    assert isinstance(raises_within(ray, leave.remote(record)), ray.exceptions.WorkerCrashedError)
    record.all_of("atexit")


def test_pools_of_threads_are_finished(ray, record):
    @ray.remote(num_cpus=0)
    class Pooled:
        def __init__(self):
            from concurrent.futures import ThreadPoolExecutor

            self.pool = ThreadPoolExecutor(1)

        def begin(self, record):
            for number in range(5):
                self.pool.submit(record, f"job-{number}")
            ray.actor.exit_actor()

    raises_within(ray, Pooled.remote().begin.remote(record))
    record.all_of(*(f"job-{number}" for number in range(5)))


@pytest.mark.parametrize("kind", KINDS)
def test_exit_actor_in_a_thread_of_the_actors(ray, record, kind):
    def begin(actor):
        thread = threading.Thread(target=ray.actor.exit_actor)
        thread.start()
        thread.join()
        return "answered"

    actor = make(ray, kind, record)
    assert ray.get(actor.__ray_call__.remote(begin), timeout=20) == "answered"
    record.all_of(*HOOKS)
    assert isinstance(raises_within(ray, actor.pid.remote()), ray.exceptions.ActorDiedError)


def test_exit_actor_in_a_background_task(ray, impl):
    @ray.remote(num_cpus=0)
    class A:
        async def begin(self):
            async def leave():
                ray.actor.exit_actor()

            self.task = asyncio.create_task(leave())
            return "begun"

    actor = A.remote()
    ref = actor.begin.remote()
    if impl == "zray":  # on Ray the outcome of the call that has ended may be the actor's death
        assert ray.get(ref, timeout=20) == "begun"
    assert isinstance(raises_within(ray, actor.begin.remote()), ray.exceptions.ActorDiedError)


def test_exit_actor_in_a_thread_of_a_call(ray):
    @ray.remote(num_cpus=0)
    class A:
        async def leave(self):
            await asyncio.to_thread(ray.actor.exit_actor)

    assert isinstance(raises_within(ray, A.remote().leave.remote()), ray.exceptions.ActorDiedError)


def test_exit_actor_of_a_driver(ray):
    with pytest.raises(TypeError):
        ray.actor.exit_actor()


@pytest.mark.parametrize("how", ["ray.actor.exit_actor()", "sys.exit(0)"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_constructor_that_ends_the_actor(ray, impl, how, is_async):
    if impl == "ray" and is_async and "sys" in how:
        pytest.skip("which never answers (2.60)")

    class A:
        def __init__(self):
            exec(how, {"ray": ray, "sys": sys})

        def f(self):
            return 1

    class Async(A):
        async def g(self):
            return 1

    actor = ray.remote(num_cpus=0, max_restarts=-1)(Async if is_async else A).remote()
    assert isinstance(raises_within(ray, actor.f.remote()), ray.exceptions.RayActorError)


def test_sigterm_ends_a_driver_in_order(impl, tmp_path):
    source = f"""
    import atexit, os, signal, threading
    atexit.register(lambda: open({str(tmp_path / "atexit")!r}, "w").close())
    ray.init(**INIT)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(20)
    except SystemExit as end:
        assert end.code == signal.SIGTERM, end.code
    """
    run_driver(impl, source)
    assert (tmp_path / "atexit").exists()


# ------------------------------------------------------------------ texts that programs look for


def mortal(ray) -> Any:
    @ray.remote(num_cpus=0)
    class Mortal:
        def ping(self):
            return "pong"

        def child(self):
            self.kept = mortal(ray).remote()
            ray.get(self.kept.ping.remote())
            return self.kept

        def exit(self, code):
            sys.exit(code)

        def exit_actor(self):
            ray.actor.exit_actor()

    return Mortal


def end_of(ray, ref):
    error = raises_within(ray, ref)
    assert isinstance(error, ray.exceptions.ActorDiedError)
    return str(error)


def test_the_text_after_a_kill(ray):
    actor = mortal(ray).remote()
    ray.get(actor.ping.remote())
    ray.kill(actor)
    text = "The actor is dead because it was killed by `ray.kill`"
    eventually(lambda: text in end_of(ray, actor.ping.remote()))


@pytest.mark.parametrize("code", [0, 3])
def test_the_text_has_the_exit_code(ray, code):
    actor = mortal(ray).remote()
    assert f"exit code {code}" in end_of(ray, actor.exit.remote(code))


def test_the_text_names_exit_actor(ray):
    assert "exit_actor" in end_of(ray, mortal(ray).remote().exit_actor.remote())


def test_the_text_after_the_last_reference(ray):
    actor = mortal(ray).options(name="mortal").remote()
    ray.get(actor.ping.remote())
    weak = ray.get_actor("mortal")
    del actor
    text = "all references to the actor were removed"

    def says_so():
        try:
            ray.get(weak.ping.remote())
        except ray.exceptions.ActorDiedError as error:
            return text in str(error)

    eventually(says_so)


def test_the_text_after_the_death_of_the_owner(ray):
    owner = mortal(ray).remote()
    child = ray.get(owner.child.remote())
    ray.kill(owner)

    def says_so():
        try:
            ray.get(child.ping.remote())
        except ray.exceptions.ActorDiedError as error:
            return "its owner has died" in str(error)

    eventually(says_so)
