"""Concurrency groups of threaded and ``async`` actors, and calls out of order."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import pytest

from .helpers import eventually, raises_within


def make_threaded(ray):
    @ray.remote(num_cpus=0, concurrency_groups={"io": 2, "compute": 1})
    class Threaded:
        def __init__(self):
            self.local = threading.local()

        @ray.method(concurrency_group="io")
        def in_io(self, gate=None):
            return ray.get(gate.wait.remote()) if gate else "io"

        @ray.method(concurrency_group="compute")
        def in_compute(self, gate=None):
            return ray.get(gate.wait.remote()) if gate else "compute"

        def in_none(self, gate=None):
            return ray.get(gate.wait.remote()) if gate else "none"

        @ray.method(concurrency_group="compute")
        def thread_of_compute(self):
            self.local.count = getattr(self.local, "count", 0) + 1
            return threading.get_ident(), self.local.count

        def thread_of_none(self):
            return threading.get_ident()

        @ray.method(concurrency_group="compute")
        def append(self, value):
            self.values = [*getattr(self, "values", []), value]
            return self.values

        @ray.method(concurrency_group="io")
        def exit(self):
            ray.actor.exit_actor()

        @ray.method(concurrency_group="io")
        def die(self):
            os._exit(1)

    return Threaded


def make_async(ray):
    @ray.remote(num_cpus=0, concurrency_groups={"io": 2, "compute": 1})
    class Async:
        def __init__(self):
            self.loop = asyncio.get_event_loop()

        @ray.method(concurrency_group="io")
        async def in_io(self, gate=None):
            return await gate.wait.remote() if gate else "io"

        @ray.method(concurrency_group="compute")
        async def in_compute(self, gate=None):
            return await gate.wait.remote() if gate else "compute"

        async def in_none(self, gate=None):
            return await gate.wait.remote() if gate else "none"

        @ray.method(concurrency_group="io")
        async def thread_of_io(self):
            return threading.get_ident(), asyncio.get_event_loop() is self.loop

        @ray.method(concurrency_group="io")
        def thread_of_io_without_await(self):
            return threading.get_ident()

        @ray.method(concurrency_group="compute")
        async def thread_of_compute(self):
            return threading.get_ident(), asyncio.get_event_loop() is self.loop

        async def thread_of_none(self):
            return threading.get_ident(), asyncio.get_event_loop() is self.loop

        @ray.method(concurrency_group="io")
        async def exit(self):
            ray.actor.exit_actor()

    return Async


@pytest.fixture(params=[make_threaded, make_async], ids=["threaded", "async"])
def kind(ray, request):
    return request.param(ray)


def arrived(ray, gate, count):
    return eventually(lambda: ray.get(gate.arrived.remote()) == count)


# ------------------------------------------------------------------ groups


def test_groups_do_not_wait_for_each_other(ray, kind, gate):
    actor = kind.options(max_concurrency=1).remote()
    blocked = [actor.in_none.remote(gate), actor.in_compute.remote(gate)]
    arrived(ray, gate, 2)
    assert ray.get([actor.in_io.remote() for _ in range(5)], timeout=20) == ["io"] * 5
    ray.get(gate.open.remote())
    assert ray.get(blocked, timeout=20) == ["open"] * 2


def test_a_group_runs_as_many_calls_as_it_may(ray, kind, gate):
    actor = kind.remote()
    blocked = [actor.in_io.remote(gate) for _ in range(3)]
    arrived(ray, gate, 2)
    assert ray.get(actor.in_compute.remote(), timeout=20) == "compute"
    assert ray.get(gate.arrived.remote()) == 2
    ray.get(gate.open.remote())
    assert ray.get(blocked, timeout=20) == ["open"] * 3


def test_many_calls_of_a_blocked_group(ray, kind, gate):
    actor = kind.remote()
    blocked = [actor.in_compute.remote(gate)]
    arrived(ray, gate, 1)
    blocked += [actor.in_compute.remote() for _ in range(5000)]
    assert ray.get(actor.in_io.remote(), timeout=20) == "io"
    ray.get(gate.open.remote())
    assert ray.get(blocked, timeout=60) == ["open", *["compute"] * 5000]


def test_a_group_for_one_call(ray, kind, gate):
    actor = kind.options(max_concurrency=1).remote()
    blocked = actor.in_none.options(concurrency_group="compute").remote(gate)
    arrived(ray, gate, 1)
    assert ray.get(actor.in_none.remote(), timeout=20) == "none"
    behind = actor.in_compute.remote()
    assert ray.get(actor.in_compute.options(concurrency_group="io").remote(), timeout=20) == "compute"
    ray.get(gate.open.remote())
    assert ray.get([blocked, behind], timeout=20) == ["open", "compute"]


def test_max_concurrency_counts_calls_in_no_group(ray, gate):
    actor = make_threaded(ray).options(max_concurrency=3).remote()
    blocked = [actor.in_none.remote(gate) for _ in range(4)]
    arrived(ray, gate, 3)
    assert ray.get(actor.in_compute.remote(), timeout=20) == "compute"
    ray.get(gate.open.remote())
    assert ray.get(blocked, timeout=20) == ["open"] * 4


def test_a_thread_of_a_group_stays(ray):
    actor = make_threaded(ray).remote()
    found = ray.get([actor.thread_of_compute.remote() for _ in range(4)])
    assert len({ident for ident, _ in found}) == 1
    assert sorted(count for _, count in found) == [1, 2, 3, 4]
    (other,) = set(ray.get([actor.thread_of_none.remote() for _ in range(4)]))
    assert other != found[0][0]


def test_calls_of_one_group_run_in_order(ray):
    actor = make_threaded(ray).remote()
    results = ray.get([actor.append.remote(number) for number in range(50)])
    assert results[-1] == list(range(50))


def test_each_group_of_an_async_actor_has_its_own_loop(ray):
    actor = make_async(ray).remote()
    (io, of_io), (compute, of_compute), (none, of_none) = ray.get(
        [actor.thread_of_io.remote(), actor.thread_of_compute.remote(), actor.thread_of_none.remote()]
    )
    assert len({io, compute, none}) == 3
    assert (of_io, of_compute, of_none) == (False, False, True)
    assert ray.get(actor.thread_of_io_without_await.remote()) == io
    assert ray.get(actor.thread_of_io.remote())[0] == io


def test_a_handle_that_travelled(ray, kind):
    @ray.remote(num_cpus=0)
    def call(actor):
        return ray.get([actor.in_io.remote(), actor.in_none.options(concurrency_group="compute").remote()])

    assert ray.get(call.remote(kind.remote())) == ["io", "none"]


def test_by_name(ray, kind):
    actor = kind.options(name="with groups").remote()
    assert ray.get(actor.in_io.remote()) == "io"
    assert ray.get(ray.get_actor("with groups").in_compute.remote()) == "compute"
    ray.kill(actor)


# ------------------------------------------------------------------ ends


def test_the_last_handle_is_dropped(ray, kind, gate):
    actor = kind.remote()
    results = [actor.in_compute.remote(gate), actor.in_compute.remote(), actor.in_io.remote()]
    del actor
    arrived(ray, gate, 1)
    ray.get(gate.open.remote())
    assert ray.get(results, timeout=20) == ["open", "compute", "io"]


def test_an_exit_from_a_group(ray, kind, gate):
    actor = kind.remote()
    running = actor.in_compute.remote(gate)
    arrived(ray, gate, 1)
    queued = actor.in_compute.remote()
    exit_call = actor.exit.remote()
    ray.wait([queued], timeout=1)
    ray.get(gate.open.remote())
    assert isinstance(raises_within(ray, exit_call), ray.exceptions.RayActorError)
    assert isinstance(raises_within(ray, actor.in_io.remote()), ray.exceptions.RayActorError)
    assert ray.wait([running, queued], num_returns=2, timeout=20)[1] == []


def test_a_death_with_calls_in_every_group(ray, gate):
    actor = make_threaded(ray).options(max_restarts=1, max_task_retries=0).remote()
    blocked = [actor.in_compute.remote(gate), actor.in_none.remote(gate)]
    arrived(ray, gate, 2)
    actor.die.remote()
    for ref in blocked:
        assert isinstance(raises_within(ray, ref), ray.exceptions.RayActorError)
    eventually(lambda: _answers(ray, actor))
    assert ray.get([actor.in_compute.remote(), actor.in_io.remote()], timeout=20) == ["compute", "io"]


def _answers(ray, actor):
    try:
        return ray.get(actor.in_none.remote()) == "none"
    except ray.exceptions.RayActorError:
        return False


def test_calls_of_every_group_are_tried_again(ray, tmp_path):
    @ray.remote(num_cpus=0, max_restarts=1, max_task_retries=1, concurrency_groups={"io": 1})
    class Once:
        @ray.method(concurrency_group="io")
        def in_io(self, path):
            return self.once(path)

        def once(self, path):
            if not os.path.exists(path):
                open(path, "w").close()
                os._exit(1)
            return "again"

    actor = Once.remote()
    assert ray.get(actor.in_io.remote(str(tmp_path / "io")), timeout=30) == "again"


def test_cancelling_a_queued_call_of_a_group(ray, impl, gate):
    actor = make_threaded(ray).remote()
    running = actor.in_compute.remote(gate)
    arrived(ray, gate, 1)
    queued = actor.in_compute.remote()
    ray.cancel(queued)
    assert isinstance(raises_within(ray, queued), ray.exceptions.TaskCancelledError)
    ray.get(gate.open.remote())
    assert ray.get(running, timeout=20) == "open"
    if impl == "zray":  # in Ray, calls after a cancelled one may end with ActorUnavailableError after 30 s
        assert ray.get(actor.in_compute.remote(), timeout=20) == "compute"


def test_cancelling_a_running_call_of_an_async_group(ray, gate):
    actor = make_async(ray).remote()
    running, other = actor.in_compute.remote(gate), actor.in_io.remote(gate)
    arrived(ray, gate, 2)
    ray.cancel(running, recursive=False)
    assert isinstance(raises_within(ray, running), ray.exceptions.TaskCancelledError)
    ray.get(gate.open.remote())
    assert ray.get(other, timeout=20) == "open"
    assert ray.get(actor.in_compute.remote(), timeout=20) == "compute"


# ------------------------------------------------------------------ out of order


def test_out_of_order(ray, gate):
    @ray.remote(num_cpus=0)
    class Plain:
        def echo(self, value):
            return value

    actor = Plain.options(allow_out_of_order_execution=True).remote()
    waits = actor.echo.remote(gate.wait.remote())
    assert ray.get(actor.echo.remote(1), timeout=20) == 1
    ray.get(gate.open.remote())
    assert ray.get(waits, timeout=20) == "open"


@pytest.mark.parametrize("order", [None, False])
def test_in_order(ray, gate, order):
    @ray.remote(num_cpus=0)
    class Plain:
        def echo(self, value):
            return value

    actor = Plain.options(allow_out_of_order_execution=order).remote()
    waits, behind = actor.echo.remote(gate.wait.remote()), actor.echo.remote(1)
    assert ray.wait([behind], timeout=0.3)[0] == []
    ray.get(gate.open.remote())
    assert ray.get([waits, behind], timeout=20) == ["open", 1]


def test_one_call_at_a_time_out_of_order(ray):
    @ray.remote(num_cpus=0, allow_out_of_order_execution=True)
    class Plain:
        running = 0

        def count(self):
            self.running += 1
            time.sleep(0.001)
            found = self.running
            self.running -= 1
            return found

    actor = Plain.remote()
    assert set(ray.get([actor.count.remote() for _ in range(50)])) == {1}


# ------------------------------------------------------------------ bad input


def test_orders_that_are_not_possible(ray):
    for kind in (make_async(ray), make_threaded(ray)):
        with pytest.raises(ValueError, match="allow_out_of_order_execution"):
            kind.options(allow_out_of_order_execution=False, max_concurrency=2).remote()
    with pytest.raises(TypeError):
        make_threaded(ray).options(allow_out_of_order_execution="no")


def test_groups_belong_to_the_class(ray):
    with pytest.raises(ValueError, match="concurrency_groups"):
        make_threaded(ray).options(concurrency_groups={"io": 1})


@pytest.mark.parametrize("groups", [{"io": "2"}, {1: 2}, ["io"], "io", {"io": -1}])
def test_malformed_groups(ray, groups):
    with pytest.raises((TypeError, ValueError, AttributeError, OverflowError)):

        @ray.remote(num_cpus=0, concurrency_groups=groups)
        class Plain:
            pass

        Plain.remote()


def test_no_groups(ray):
    @ray.remote(num_cpus=0)
    class Plain:
        def one(self):
            return 1

    nothing: list[Any] = [{}, [], None]
    for groups in nothing:
        kind = ray.remote(num_cpus=0, concurrency_groups=groups)(Plain.__ray_metadata__.modified_class)
        assert ray.get(kind.remote().one.remote()) == 1


def test_a_group_that_does_not_exist(ray, impl):
    with pytest.raises((ValueError, AssertionError)):

        @ray.remote(num_cpus=0, concurrency_groups={"io": 1})
        class Plain:
            @ray.method(concurrency_group="nope")
            def one(self):
                return 1

        Plain.remote()
    if impl == "zray":  # Ray's worker crashes
        with pytest.raises(ValueError, match="'io', 'compute'"):
            make_threaded(ray).remote().in_io.options(concurrency_group="nope")
