"""Calls of actors by a socket of their own, without the broker: their order, what breaks, and what is left."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from zray.client.core.lanes import LANE_AFTER

from .helpers import Sandbox, alive, break_lanes, current_session, driver, error_of, eventually, stopped


def make_recorder(ray: ModuleType, **options: Any) -> Any:
    @ray.remote(num_cpus=0)
    class Recorder:
        def __init__(self):
            self.seen = []

        def add(self, number):
            self.seen.append(number)
            return number

        def all(self):
            return self.seen

        def pid(self):
            return os.getpid()

        def wait_for(self, path):
            while not os.path.exists(path):
                time.sleep(0.001)
            return "done"

        def descriptors(self):
            return len(os.listdir("/proc/self/fd"))

    return Recorder.options(**options).remote() if options else Recorder.remote()


def has_lanes() -> bool:
    """Whether a lane of this process is open."""
    session = current_session()
    with session.shell.lock:
        return any(view.lane is not None for view in session.core.actors.views.values())


def open_lane(ray: ModuleType, actor: Any) -> None:
    """Calls an actor until there is a lane."""
    before = has_lanes()
    assert not before
    for _ in range(LANE_AFTER):
        ray.get(actor.pid.remote(), timeout=10)
    eventually(has_lanes)


def listening(sandbox: Sandbox) -> list[Path]:
    return [path for path in sandbox.sockets() if path.name.startswith("lane-")]


def test_calls_do_without_the_broker(ray: ModuleType, sandbox: Sandbox) -> None:
    actor = make_recorder(ray)
    open_lane(ray, actor)
    with stopped(sandbox.one("zray: broker")):
        assert ray.get([actor.add.remote(number) for number in range(100)], timeout=5) == list(range(100))
        assert ray.get(actor.all.remote(), timeout=5) == list(range(100))


def test_order_holds_while_a_lane_is_opened(ray: ModuleType) -> None:
    actor = make_recorder(ray)
    refs = []
    for number in range(3000):
        refs.append(actor.add.remote(number))
        if number % 100 == 0:
            ray.get(refs[-1], timeout=10)
    assert ray.get(refs, timeout=20) == list(range(3000))
    assert ray.get(actor.all.remote(), timeout=10) == list(range(3000))
    assert has_lanes()


def test_a_broken_lane_loses_and_doubles_nothing(ray: ModuleType, tmp_path: Path) -> None:
    actor = make_recorder(ray)
    open_lane(ray, actor)
    held = actor.wait_for.remote(str(tmp_path / "go"))
    refs = [actor.add.remote(number) for number in range(500)]
    break_lanes()
    refs += [actor.add.remote(number) for number in range(500, 600)]
    (tmp_path / "go").touch()
    assert ray.get(held, timeout=10) == "done"
    assert ray.get(refs, timeout=10) == list(range(600))
    assert ray.get(actor.all.remote(), timeout=10) == list(range(600))


@pytest.mark.parametrize("retries", [0, -1])
def test_a_worker_that_is_killed(ray: ModuleType, tmp_path: Path, retries: int) -> None:
    actor = make_recorder(ray, max_restarts=-1, max_task_retries=retries)
    open_lane(ray, actor)
    pid = ray.get(actor.pid.remote())
    answered = [actor.add.remote(number) for number in range(10)]
    assert ray.get(answered, timeout=10) == list(range(10))
    held = actor.wait_for.remote(str(tmp_path / "go"))
    behind = [actor.add.remote(number) for number in range(10)]
    os.kill(pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    if retries:
        assert ray.get([held, *behind], timeout=20) == ["done", *range(10)]
        assert ray.get(actor.all.remote(), timeout=10) == list(range(10))
    else:
        assert isinstance(error_of(ray, held), ray.exceptions.ActorUnavailableError)
        assert all(isinstance(error_of(ray, ref), ray.exceptions.ActorUnavailableError) for ref in behind)
        assert ray.get(actor.all.remote(), timeout=10) == []
    assert ray.get(answered) == list(range(10))
    eventually(lambda: ray.get(actor.pid.remote()) != pid and has_lanes())


def test_answers_before_a_death_count(ray: ModuleType) -> None:
    """The last answers are in the lane when the broker reports the death."""

    @ray.remote(num_cpus=0)
    class Short:
        def pid(self):
            return os.getpid()

        def call(self, number):
            return number

        def leave(self):
            ray.actor.exit_actor()

    for _ in range(5):
        actor = Short.remote()
        open_lane(ray, actor)
        refs = [actor.call.remote(number) for number in range(1000)]
        last = actor.leave.remote()
        assert ray.get(refs, timeout=10) == list(range(1000))
        assert isinstance(error_of(ray, last), ray.exceptions.ActorDiedError)
        assert isinstance(error_of(ray, actor.call.remote(1)), ray.exceptions.ActorDiedError)
        eventually(lambda: not has_lanes())


def test_references_travel_by_a_lane(ray: ModuleType) -> None:
    @ray.remote(num_cpus=0)
    class Keeper:
        def keep(self, refs):
            self.refs = refs
            return refs

        def make(self, size):
            return [ray.put(bytes(size))]

        def top(self, value, scale=1):
            return len(value) * scale

        def pid(self):
            return os.getpid()

    actor = Keeper.remote()
    open_lane(ray, actor)
    for size in (10, 500_000):
        mine = ray.put(bytes(size))
        assert ray.get(actor.top.remote(mine, scale=2), timeout=10) == 2 * size
        (back,) = ray.get(actor.keep.remote([mine]), timeout=10)
        assert back == mine
        del mine, back
        (kept,) = ray.get(actor.keep.remote([]), timeout=10) or [None]
        assert kept is None
        (theirs,) = ray.get(actor.make.remote(size), timeout=10)
        assert len(ray.get(theirs, timeout=10)) == size
        del theirs
    owned = current_session().core.references
    eventually(lambda: ray.get(actor.pid.remote()) and len(owned.entries) <= 4)


@pytest.mark.parametrize("kind", ["async", "threads", "groups"])
def test_actors_that_run_several_calls(ray: ModuleType, kind: str) -> None:
    class Async:
        async def call(self, number):
            await asyncio.sleep(0.001)
            return number

        async def hang(self):
            await asyncio.sleep(1000)

        async def pid(self):
            return os.getpid()

    class Threads:
        def call(self, number):
            time.sleep(0.001)
            return number

        def pid(self):
            return os.getpid()

    if kind == "async":
        actor = ray.remote(num_cpus=0)(Async).remote()
    elif kind == "threads":
        actor = ray.remote(num_cpus=0, max_concurrency=5)(Threads).remote()
    else:
        actor = ray.remote(num_cpus=0, concurrency_groups={"io": 3})(Threads).remote()
    open_lane(ray, actor)
    assert ray.get([actor.call.remote(number) for number in range(300)], timeout=20) == list(range(300))
    if kind == "async":
        hangs = actor.hang.remote()
        ray.get(actor.call.remote(1), timeout=10)
        ray.cancel(hangs)
        assert isinstance(error_of(ray, hangs), ray.exceptions.TaskCancelledError)
    if kind == "groups":
        group = actor.call.options(concurrency_group="io")
        assert ray.get([group.remote(number) for number in range(50)], timeout=20) == list(range(50))


def test_a_stream_from_an_actor_with_a_lane(ray: ModuleType) -> None:
    @ray.remote(num_cpus=0)
    class Source:
        def items(self, number):
            yield from range(number)

        def pid(self):
            return os.getpid()

    actor = Source.remote()
    open_lane(ray, actor)
    for number in (0, 1, 500):
        stream = actor.items.options(num_returns="streaming").remote(number)
        assert [ray.get(item, timeout=10) for item in stream] == list(range(number))


def test_actors_call_each_other_by_lanes(ray: ModuleType) -> None:
    @ray.remote(num_cpus=0)
    class Caller:
        def __init__(self, other):
            self.other = other

        def many(self, number):
            return [ray.get(self.other.add.remote(each)) for each in range(number)]

        def has_lane(self):
            return has_lanes()

    recorder = make_recorder(ray)
    callers = [Caller.remote(recorder) for _ in range(3)]
    assert ray.get([caller.many.remote(100) for caller in callers], timeout=20) == [list(range(100))] * 3
    eventually(lambda: all(ray.get([caller.has_lane.remote() for caller in callers])))
    assert len(ray.get(recorder.all.remote())) == 300


def test_calls_from_many_threads(ray: ModuleType) -> None:
    actor = make_recorder(ray)
    results: dict[int, list[int]] = {}

    def work(first: int) -> None:
        results[first] = [ray.get(actor.add.remote(first + number), timeout=20) for number in range(200)]

    threads = [threading.Thread(target=work, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {first: list(range(first, first + 200)) for first in (0, 1000, 2000, 3000)}
    assert len(ray.get(actor.all.remote(), timeout=10)) == 800


def test_what_the_broker_was_told_before_is_known(ray: ModuleType) -> None:
    """A call by a lane does not overtake what its caller has told the broker."""

    @ray.remote(num_cpus=0)
    class User:
        def named(self):
            return ray.get(make_recorder(ray, name="the name").pid.remote(), timeout=10)

        def in_group(self, group):
            strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group)
            return ray.get(ray.remote(os.getpid).options(num_cpus=0, scheduling_strategy=strategy).remote(), timeout=10)

        def pid(self):
            return os.getpid()

    actor = User.remote()
    open_lane(ray, actor)
    for _ in range(20):
        holder = make_recorder(ray, name="the name")
        ray.get(holder.pid.remote(), timeout=10)
        ray.kill(holder)
        ray.get(actor.named.remote(), timeout=10)
        group = ray.util.placement_group([{"CPU": 0.01}])
        ray.get(actor.in_group.remote(group), timeout=10)
        ray.util.remove_placement_group(group)


def test_an_actor_without_handles_ends_behind_its_calls(ray: ModuleType) -> None:
    actor = make_recorder(ray, name="weakly held")
    by_name = ray.get_actor("weakly held")
    open_lane(ray, by_name)
    pid = ray.get(by_name.pid.remote())
    refs = [by_name.add.remote(number) for number in range(200)]
    del actor
    assert ray.get(refs, timeout=10) == list(range(200))
    eventually(lambda: not alive(pid))


def test_nothing_is_left_of_a_lane(ray: ModuleType, sandbox: Sandbox) -> None:
    observer = make_recorder(ray)
    open_lane(ray, observer)

    def descriptors() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), ray.get(observer.descriptors.remote(), timeout=10)

    before = descriptors()
    actors = [make_recorder(ray) for _ in range(5)]
    for actor in actors:
        ray.get([actor.add.remote(number) for number in range(LANE_AFTER)], timeout=10)
    views = current_session().core.actors.views
    eventually(lambda: sum(view.lane is not None for view in views.values()) == 6)
    assert not listening(sandbox)
    assert len(os.listdir("/proc/self/fd")) == before[0] + 5
    pids = ray.get([actor.pid.remote() for actor in actors])
    ray.kill(actors.pop())
    os.kill(pids[0], signal.SIGKILL)
    del actor, actors
    eventually(lambda: not any(alive(pid) for pid in pids))
    eventually(lambda: descriptors() == before)


def test_a_worker_killed_while_it_listens_leaves_no_socket(ray: ModuleType, sandbox: Sandbox) -> None:
    actor = make_recorder(ray)
    pid = ray.get(actor.pid.remote())
    current_session().handlers.pop(type_of_dial())  # this caller gets an offer and does not take it
    for _ in range(LANE_AFTER):
        ray.get(actor.add.remote(1), timeout=10)
    eventually(lambda: listening(sandbox))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not listening(sandbox))


def type_of_dial() -> Any:
    from zray.client.core.effects import DialLane

    return DialLane


def test_a_forked_child_of_an_actor_does_not_disturb(ray: ModuleType) -> None:
    @ray.remote(num_cpus=0)
    class Forks:
        def fork(self):
            child = os.fork()
            if child == 0:
                time.sleep(0.2)
                os._exit(0)
            return child

        def wait(self, child):
            return os.waitpid(child, 0)[0]

        def pid(self):
            return os.getpid()

    actor = Forks.remote()
    open_lane(ray, actor)
    child = ray.get(actor.fork.remote(), timeout=10)
    assert len(ray.get([actor.pid.remote() for _ in range(100)], timeout=10)) == 100
    assert ray.get(actor.wait.remote(child), timeout=10) == child
    pid = ray.get(actor.pid.remote())
    left = ray.get(actor.fork.remote(), timeout=10)
    os.kill(pid, signal.SIGKILL)
    assert isinstance(error_of(ray, actor.pid.remote()), ray.exceptions.ActorDiedError)
    eventually(lambda: not alive(left))


def test_a_caller_that_dies(ray: ModuleType, sandbox: Sandbox) -> None:
    recorder = make_recorder(ray)

    @ray.remote(num_cpus=0)
    class Caller:
        def call(self, other):
            for number in range(50):
                ray.get(other.add.remote(number))
            return os.getpid(), has_lanes()

    before = ray.get(recorder.descriptors.remote())
    caller = Caller.remote()
    pid, has_lane = ray.get(caller.call.remote(recorder), timeout=10)
    assert has_lane
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    mine = 1 if has_lanes() else 0
    eventually(lambda: ray.get(recorder.descriptors.remote(), timeout=10) <= before + mine + 2)
    assert ray.get(recorder.all.remote(), timeout=10) == list(range(50))


def test_lanes_can_be_switched_off(sandbox: Sandbox) -> None:
    source = """
        ray.init(num_cpus=1)

        @ray.remote(num_cpus=0)
        class A:
            def call(self, x):
                return x

        a = A.remote()
        print([ray.get(a.call.remote(x)) for x in range(40)] == list(range(40)))
        from zray.client import session
        print("lanes:", session.current().core.lanes.is_used)
    """
    with driver(source, environ={"ZRAY_LANES": "false"}) as process:
        process.expect("True")
        process.expect("lanes: False")
        process.wait()
