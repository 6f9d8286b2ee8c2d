"""Actors where processes, signals and numbers matter; their semantics are in the conformance scenarios."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import tempfile
import threading
import time

import pytest

from .helpers import alive, driver, error_of, eventually, stopped


def make_counter(ray, **options):
    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.value = 0

        def add(self, by=1):
            self.value += by
            return self.value

        def pid(self):
            return os.getpid()

        def order(self, number):
            self.seen = [*getattr(self, "seen", []), number]
            return self.seen

        def hang(self):
            time.sleep(1000)

    return Counter.options(**options).remote() if options else Counter.remote()


def test_a_hundred_actors_at_once(ray):
    actors = [make_counter(ray) for _ in range(100)]
    pids = ray.get([actor.pid.remote() for actor in actors], timeout=15)
    assert len(set(pids)) == 100
    assert ray.get([actor.add.remote() for actor in actors for _ in range(3)], timeout=10) == [1, 2, 3] * 100
    del actors
    eventually(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize("how", ["raises", "exits", "is killed", "sys.exit"])
def test_a_constructor_that(ray, how):
    @ray.remote(num_cpus=0)
    class Broken:
        def __init__(self):
            if how == "raises":
                raise ValueError("no good")
            if how == "exits":
                os._exit(3)
            if how == "sys.exit":
                raise SystemExit(3)
            os.kill(os.getpid(), signal.SIGKILL)

        def call(self):
            return 1

    broken = Broken.remote()
    for _ in range(2):
        error = error_of(ray, broken.call.remote())
        assert isinstance(error, ray.exceptions.RayActorError), error
        expected = {"raises": "no good", "exits": "exit code 3", "is killed": "SIGKILL", "sys.exit": "3"}[how]
        assert expected in str(error)


def test_a_constructor_that_hangs_is_killed(ray, sandbox):
    path = sandbox.directory / "pid"

    @ray.remote(num_cpus=0)
    class Hanging:
        def __init__(self):
            path.write_text(str(os.getpid()))
            time.sleep(1000)

        def call(self):
            return 1

    hanging = Hanging.remote()
    ref = hanging.call.remote()
    pid = int(eventually(lambda: path.exists() and path.read_text()))
    ray.kill(hanging)
    assert isinstance(error_of(ray, ref), ray.exceptions.RayActorError)
    eventually(lambda: not alive(pid))


def test_a_restart_whose_constructor_fails(ray, sandbox):
    path = sandbox.directory / "once"

    @ray.remote(num_cpus=0, max_restarts=3)
    class Once:
        def __init__(self):
            if path.exists():
                raise RuntimeError("only once")
            path.touch()

        def pid(self):
            return os.getpid()

    once = Once.remote()
    os.kill(ray.get(once.pid.remote()), signal.SIGKILL)

    def outcome():
        error = None
        try:
            ray.get(once.pid.remote(), timeout=8)
        except ray.exceptions.RayError as raised:
            error = raised
        return "only once" in str(error) and isinstance(error, ray.exceptions.ActorDiedError)

    eventually(outcome)


def test_a_thousand_queued_calls_at_the_death_of_their_actor(ray, sandbox):
    """Each has its outcome, and none ran twice."""
    log = sandbox.directory / "log"

    @ray.remote(num_cpus=0, max_restarts=1)
    class Logger:
        def write(self, number):
            with log.open("a") as file:
                file.write(f"{number}\n")
            if number == 300:
                os.kill(os.getpid(), signal.SIGKILL)
            return number

    logger = Logger.remote()
    refs = [logger.write.remote(number) for number in range(1000)]
    outcomes = []
    for number, ref in enumerate(refs):
        try:
            assert ray.get(ref, timeout=9) == number
            outcomes.append("value")
        except ray.exceptions.RayActorError:
            outcomes.append("error")
    ran = [int(line) for line in log.read_text().split()]
    assert len(ran) == len(set(ran)), "a call ran twice"
    # The answers of the last millisecond before its death may be lost: such a call may have run.
    assert outcomes[300] == "error"
    assert outcomes.count("value") < len(ran)
    assert ray.get(logger.write.remote(2000), timeout=9) == 2000


def test_max_task_retries_run_again(ray, sandbox):
    path = sandbox.directory / "died"

    @ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=2)
    class Fragile:
        def call(self, number):
            if number == 50 and not path.exists():
                path.touch()
                os._exit(1)
            return number

    fragile = Fragile.remote()
    assert ray.get([fragile.call.remote(n) for n in range(200)], timeout=9) == list(range(200))


def test_order_while_an_early_call_waits_for_its_argument(ray, sandbox):
    gate = sandbox.directory / "gate"

    @ray.remote
    def when_open():
        while not gate.exists():
            time.sleep(0.01)
        return 0

    counter = make_counter(ray)
    refs = [counter.order.remote(when_open.remote()), *(counter.order.remote(n) for n in range(1, 50))]
    gate.touch()
    assert ray.get(refs[-1], timeout=8) == list(range(50))


def test_order_of_each_thread_and_each_process(ray):
    counter = make_counter(ray)

    @ray.remote(num_cpus=0)
    def call(target, me):
        return [target.order.remote((me, n)) for n in range(50)]

    def thread(me):
        for n in range(50):
            counter.order.remote((me, n))

    threads = [threading.Thread(target=thread, args=(f"thread {n}",)) for n in range(4)]
    inner = [call.remote(counter, f"task {n}") for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for refs in ray.get(inner, timeout=9):
        ray.get(refs[-1], timeout=9)
    seen = ray.get(counter.order.remote(("last", 0)), timeout=9)
    for me in [f"thread {n}" for n in range(4)] + [f"task {n}" for n in range(4)]:
        assert [n for who, n in seen if who == me] == list(range(50))


def test_kill_and_the_name_again(ray):
    pids = []
    for _ in range(10):
        counter = make_counter(ray, name="phoenix")
        pids.append(ray.get(counter.pid.remote(), timeout=8))
        counter.hang.remote()
        ray.kill(counter)
    assert len(set(pids)) == 10
    eventually(lambda: not any(alive(pid) for pid in pids))


def test_the_processes_of_an_actor_die_with_the_session(sandbox):
    source = """
    import subprocess
    ray.init(num_cpus=1)

    @ray.remote(num_cpus=0)
    class Launcher:
        def launch(self):
            self.child = subprocess.Popen(["sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done"])
            return self.child.pid

    launcher = Launcher.remote()
    print("child", ray.get(launcher.launch.remote()))
    sys.stdin.readline()
    """
    with driver(source) as process:
        child = int(process.expect("child").split()[1])
        assert alive(child)
        process.say("\n")
        process.succeed()
        eventually(lambda: not alive(child))


def test_two_drivers_create_the_same_name_together():
    import zray as ray

    from .helpers import by_hand

    with by_hand() as (address, _, _):
        source = f"""
    ray.init({address!r}, namespace="shared")
    @ray.remote(num_cpus=0)
    class One:
        def pid(self):
            return os.getpid()
    sys.stdin.readline()
    one = One.options(name="one", get_if_exists=True, lifetime="detached").remote()
    print("pid", ray.get(one.pid.remote(), timeout=8))
    """
        with driver(source) as first, driver(source) as second:
            for process in (first, second):
                process.say("go\n")
            pids = {process.expect("pid").split()[1] for process in (first, second)}
            assert len(pids) == 1
            first.succeed()
            second.succeed()
        ray.init(address, namespace="shared")
        ray.kill(ray.get_actor("one"))
        ray.shutdown()


def test_the_end_of_a_short_async_call_does_not_wake_the_main_thread(ray):
    """Its worker's main thread would find nothing to do, and contend for the interpreter with the next call."""

    @ray.remote(num_cpus=0)
    class Counting:
        def __init__(self):
            from zray.client.waiter import Waiter

            self.wakes = 0
            wake, loop_thread = Waiter.wake, threading.get_ident()

            def count(waiter):
                self.wakes += threading.get_ident() == loop_thread
                wake(waiter)

            setattr(Waiter, "wake", count)  # noqa: B010

        async def call(self):
            return self.wakes

    actor = Counting.remote()
    for _ in range(200):
        wakes = ray.get(actor.call.remote(), timeout=10)
    assert wakes < 100  # a call that takes long may ask for it


def test_an_async_actor_shows_that_it_is_idle_after_a_long_call(ray):
    @ray.remote(num_cpus=0)
    class Slow:
        async def work(self, path):
            while not os.path.exists(path):
                await asyncio.sleep(0.01)

        async def pid(self):
            return os.getpid()

    def title(pid):
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().strip("\0 ")

    actor = Slow.remote()
    pid = ray.get(actor.pid.remote(), timeout=10)
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/go"
        working = actor.work.remote(path)
        eventually(lambda: title(pid) == "zray::Slow.work")
        open(path, "w").close()
        ray.get(working, timeout=10)
    eventually(lambda: title(pid) == "zray::Slow")


@pytest.mark.parametrize("way", ["the broker", "a lane"])
def test_the_last_answers_are_not_overtaken_by_the_news_of_the_process_s_end(ray, sandbox, way, tmp_path):
    @ray.remote(num_cpus=0, max_concurrency=2)
    class Ends:
        def __init__(self):
            atexit.register((tmp_path / "ended").touch)

        def waits(self):
            (tmp_path / "waits").touch()
            while not (tmp_path / "go").exists():
                time.sleep(0.01)
            return "waited"

        def end(self):
            (tmp_path / "ends").touch()
            sys.exit(0)

        def pid(self):
            return os.getpid()

    actor = Ends.remote()
    pid = ray.get([actor.pid.remote() for _ in range(200 if way == "a lane" else 1)])[0]
    waiting = actor.waits.remote()
    eventually((tmp_path / "waits").exists)
    ending = actor.end.remote()
    eventually((tmp_path / "ends").exists)
    broker = sandbox.one("zray: broker")
    with stopped(broker):
        (tmp_path / "go").touch()
        eventually((tmp_path / "ended").exists)
        time.sleep(0.5)  # a process that does not wait for the broker is gone by then
        assert alive(pid)
    assert ray.get(waiting, timeout=20) == "waited"
    assert "sys.exit() was called" in str(error_of(ray, ending, 20))
    eventually(lambda: not alive(pid))
