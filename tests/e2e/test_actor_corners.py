"""Actors whose class is broken, whose handles go at an odd moment, or whose methods do not fit their kind."""

from __future__ import annotations

import os
import time

import pytest

from .helpers import current_session, driver, error_of, eventually


class Gone:
    """A class member that no process can load."""

    def __reduce__(self):
        return _cannot_be_loaded, ()


def _cannot_be_loaded():
    raise RuntimeError("cannot be loaded")


def test_a_class_whose_unpickling_fails_on_the_worker(ray):
    class Broken:
        member = Gone()

        def method(self):
            return 1

    error = error_of(ray, ray.remote(Broken).remote().method.remote())
    assert isinstance(error, ray.exceptions.RayActorError) and "cannot be loaded" in str(error)
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=8) == 1


def test_the_last_handle_goes_while_the_actor_waits_for_its_place(ray, sandbox):
    made = sandbox.directory / "made"
    gate = sandbox.directory / "gate"

    @ray.remote(num_cpus=2)
    def hold():
        while not gate.exists():
            time.sleep(0.01)

    @ray.remote(num_cpus=1)
    class Late:
        def __init__(self):
            made.touch()

        def value(self):
            return 42

    holding = hold.remote()
    unwanted = Late.remote()
    wanted = Late.remote().value.remote()  # its handle is gone, its result is not
    del unwanted
    gate.touch()
    assert ray.get(wanted, timeout=10) == 42
    ray.get(holding)
    eventually(lambda: ray.available_resources().get("CPU") == 2)
    assert made.exists()


def test_the_last_handle_goes_while_the_actor_restarts(ray, sandbox):
    lives = sandbox.directory / "lives"

    @ray.remote(num_cpus=1, max_restarts=-1)
    class Mortal:
        def __init__(self):
            with lives.open("a") as file:
                file.write(f"{os.getpid()}\n")
                file.flush()
            time.sleep(0.3)  # in the second incarnation the handle goes during this sleep

        def die(self):
            os._exit(1)

    actor = Mortal.remote()
    ref = actor.die.remote()
    eventually(lambda: lives.exists() and len(lives.read_text().split()) == 2)
    del actor
    assert isinstance(error_of(ray, ref), ray.exceptions.RayActorError)
    del ref
    eventually(lambda: ray.available_resources().get("CPU") == 2)
    eventually(lambda: not sandbox.processes("zray::Mortal"))
    assert len(lives.read_text().split()) == 2


def test_plain_methods_of_an_async_actor_run_on_its_loop(ray):
    @ray.remote
    class Mixed:
        async def wait(self):
            import asyncio

            self.event = asyncio.Event()
            await self.event.wait()
            return "woken"

        def wake(self):
            import asyncio

            asyncio.get_running_loop()
            self.event.set()
            return "done"

    mixed = Mixed.remote()
    waiting = mixed.wait.remote()
    assert ray.get(mixed.wake.remote(), timeout=8) == "done"
    assert ray.get(waiting, timeout=8) == "woken"


def test_a_method_that_blocks_the_loop_is_warned_of_once():
    source = """
    ray.init(num_cpus=1)
    @ray.remote
    class Blocking:
        async def block(self, seconds):
            time.sleep(seconds)
            return "over"
    actor = Blocking.remote()
    print(ray.get([actor.block.remote(2.5), actor.block.remote(1.5)], timeout=15))
    ray.shutdown()
    """
    with driver(source) as process:
        assert process.succeed() == "['over', 'over']"
        assert process.err.count("blocked its event loop") == 1


@pytest.mark.parametrize("how", ["task", "actor"])
def test_exceptions_whose_representation_never_ends(ray, how):
    class Endless:
        def __repr__(self):
            return repr(self)

    class Odd(Exception):
        pass

    def fail():
        raise Odd(Endless())

    class Actor:
        def fail(self):
            fail()

    ref = ray.remote(fail).remote() if how == "task" else ray.remote(Actor).remote().fail.remote()
    error = error_of(ray, ref)
    assert isinstance(error, ray.exceptions.RayTaskError) and "fail" in str(error)
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=8) == 1


def test_an_idle_worker_that_owns_an_object_is_not_ended(sandbox, monkeypatch):
    import zray

    monkeypatch.setenv("ZRAY_IDLE_TIMEOUT_S", "0.5")

    @zray.remote(num_cpus=0)
    def own(others):
        while len(list(sandbox.directory.glob("at-work-*"))) < others:  # so that each has a worker of its own
            (sandbox.directory / f"at-work-{os.getpid()}").touch()
            time.sleep(0.01)
        return os.getpid(), zray.put(bytes(10)), zray.put(bytes(500_000))

    @zray.remote(num_cpus=0)
    def idle(others):
        while len(list(sandbox.directory.glob("at-work-*"))) < others:
            (sandbox.directory / f"at-work-{os.getpid()}").touch()
            time.sleep(0.01)
        return os.getpid()

    with zray.init(num_cpus=1):
        owning = own.remote(5)
        others = set(zray.get([idle.remote(5) for _ in range(4)], timeout=15))
        pid, small, large = zray.get(owning)
        eventually(lambda: len(others & set(sandbox.processes())) <= 1, timeout_s=15)
        assert pid in sandbox.processes()
        assert len(zray.get(small, timeout=5)) == 10 and len(zray.get(large, timeout=5)) == 500_000
        del small, large
        eventually(lambda: len({pid, *others} & set(sandbox.processes())) <= 1, timeout_s=15)


def test_the_creation_of_a_named_actor_asks_nothing_else(ray, monkeypatch):

    asked = []
    monkeypatch.setattr(current_session().core, "query", lambda question, *_: asked.append(question))

    class Counter:
        def increment(self):
            return 1

    counter = ray.remote(Counter).options(name="counter").remote()
    assert ray.get(counter.increment.remote(), timeout=8) == 1
    with pytest.raises(ValueError, match="is already taken"):
        ray.remote(Counter).options(name="counter").remote()
    same = ray.remote(Counter).options(name="counter", get_if_exists=True).remote()
    assert ray.get(same.increment.remote(), timeout=8) == 1
    assert asked == []


def test_calls_that_wait_beside_exit_actor_have_some_time_left():
    source = """
    import asyncio
    ray.init(num_cpus=1)

    @ray.remote
    class A:
        async def wait(self):
            await asyncio.Event().wait()

        async def leave(self):
            ray.actor.exit_actor()

    actor = A.remote()
    refs = [actor.wait.remote(), actor.leave.remote()]
    for ref in reversed(refs):
        try:
            ray.get(ref, timeout=15)
        except ray.exceptions.ActorDiedError as error:
            print(error)
    """
    with driver(source, environ={"ZRAY_EXIT_TIMEOUT_S": "0.3"}) as process:
        ended = process.succeed().splitlines()
    first, second, *facts = ended
    assert (first, second) == ("exit_actor() was called", "attempt 1 of 1 of `A.wait`: exit_actor() was called")
    assert facts[0] == "\tclass_name: A"


@pytest.mark.parametrize("what", ["hook", "thread", "atexit"])
def test_an_end_that_takes_too_long_is_cut_off(sandbox, what):
    source = f"""
    import atexit, threading
    ray.init(num_cpus=1)

    def hang():
        threading.Event().wait()

    @ray.remote
    class A:
        def __init__(self):
            if {what!r} == "thread":
                threading.Thread(target=hang).start()
            if {what!r} == "atexit":
                atexit.register(hang)

        def __ray_shutdown__(self):
            if {what!r} == "hook":
                hang()

        def pid(self):
            return os.getpid()

    actor = A.remote()
    print("pid", ray.get(actor.pid.remote()))
    del actor
    sys.stdin.readline()
    """
    with driver(source, environ={"ZRAY_EXIT_TIMEOUT_S": "0.3"}) as process:
        pid = int(process.expect("pid").split()[1])
        eventually(lambda: pid not in sandbox.processes())
        process.say("over\n")
        process.succeed()
        assert "in hang" in process.err
