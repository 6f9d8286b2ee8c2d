"""``cancel``: queued, waiting, running, finished, with children, by force, and of actor calls."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time

import pytest

from .helpers import eventually, make_gate, raises_within


def cancelled(ray, error):
    return isinstance(error, ray.exceptions.TaskCancelledError)


def spin(ray, gate):
    """Runs Python until it is interrupted."""
    gate.arrive.remote()
    while True:
        time.sleep(0.01)


def settle(ray, impl):
    """Avoids a race in Ray: its driver aborts if a task is cancelled at the moment when it completes."""
    if impl == "ray":
        ray.get(ray.remote(lambda: None).remote())


def spinning(ray, gate, **options):
    """Starts a task that never ends by itself, and waits until it runs."""
    ref = ray.remote(max_retries=0, **options)(spin).remote(ray, gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    return ref


def test_running_task(ray, gate):
    ref = spinning(ray, gate)
    ray.cancel(ref)
    assert cancelled(ray, raises_within(ray, ref))


def test_running_task_sees_keyboard_interrupt_and_cleans_up(ray, gate, tmp_path):
    @ray.remote(max_retries=0)
    def f(gate, path):
        gate.arrive.remote()
        try:
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            path.write_text("interrupted")
            raise

    ref = f.remote(gate, tmp_path / "log")
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(ref)
    assert cancelled(ray, raises_within(ray, ref))
    assert eventually((tmp_path / "log").exists)


def test_running_task_by_force(ray, gate):
    ref = spinning(ray, gate)
    ray.cancel(ref, force=True)
    error = raises_within(ray, ref)
    assert cancelled(ray, error) or isinstance(error, ray.exceptions.WorkerCrashedError)


def test_task_that_ignores_the_interrupt_goes_by_force(ray, gate):
    @ray.remote(max_retries=0)
    def stubborn(gate):
        gate.arrive.remote()
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0.01)

    ref = stubborn.remote(gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(ref, force=True)
    error = raises_within(ray, ref)
    assert cancelled(ray, error) or isinstance(error, ray.exceptions.WorkerCrashedError)


def test_cancelled_task_is_not_retried(ray, gate):
    ref = ray.remote(max_retries=3, retry_exceptions=True)(spin).remote(ray, gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(ref)
    assert cancelled(ray, raises_within(ray, ref))
    assert ray.get(gate.arrived.remote()) == 1


def test_queued_task_never_runs(ray, gate, tmp_path):
    blocker = spinning(ray, gate, num_cpus=2)

    @ray.remote(num_cpus=2)
    def touch(path):
        path.touch()

    queued = touch.remote(tmp_path / "ran")
    ray.cancel(queued)
    assert cancelled(ray, raises_within(ray, queued))
    ray.cancel(blocker)
    assert cancelled(ray, raises_within(ray, blocker))
    assert ray.get(ray.remote(num_cpus=2)(lambda: "free").remote(), timeout=20) == "free"
    assert not (tmp_path / "ran").exists()


def test_task_that_waits_for_its_argument(ray, gate):
    ref = ray.remote(lambda x: x).remote(gate.wait.remote())
    ray.cancel(ref)
    assert cancelled(ray, raises_within(ray, ref))


def test_task_blocked_in_get(ray, gate):
    @ray.remote(max_retries=0)
    def f(gate):
        return ray.get(gate.wait.remote())

    ref = f.remote(gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(ref)
    assert cancelled(ray, raises_within(ray, ref))


def test_finished_task_keeps_its_value(ray, impl):
    ref = ray.remote(lambda: 1).remote()
    assert ray.get(ref) == 1
    settle(ray, impl)
    ray.cancel(ref)
    ray.cancel(ref, force=True)
    assert ray.get(ref) == 1


def test_failed_task_keeps_its_error(ray, impl):
    def fail():
        raise ValueError("x")

    ref = ray.remote(fail).remote()
    assert isinstance(raises_within(ray, ref), ValueError)
    settle(ray, impl)
    ray.cancel(ref)
    assert isinstance(raises_within(ray, ref), ValueError)


def test_cancel_twice(ray, impl, gate):
    ref = spinning(ray, gate)
    ray.cancel(ref)
    ray.cancel(ref)
    assert cancelled(ray, raises_within(ray, ref))
    settle(ray, impl)
    ray.cancel(ref)


def test_dependents_of_a_cancelled_task_fail(ray, gate):
    ref = spinning(ray, gate)
    follow = ray.remote(lambda x: x)
    refs = [follow.remote(follow.remote(ref)) for _ in range(2)]
    ray.cancel(ref)
    for ref in refs:
        error = raises_within(ray, ref)
        assert isinstance(error, ray.exceptions.RayError)
        assert cancelled(ray, error) or "cancel" in str(error).lower()


def test_children_are_cancelled_too(ray, gate):
    @ray.remote(max_retries=0)
    def parent(box):
        child = ray.remote(max_retries=0)(spin).remote(ray, gate)
        ray.get(box.wait.remote())
        return ray.get(child)

    ref = parent.remote(make_gate(ray))
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(ref, recursive=True)
    assert cancelled(ray, raises_within(ray, ref))
    assert ray.get(ray.remote(num_cpus=2)(lambda: "both free").remote(), timeout=20) == "both free"


def test_other_tasks_go_on(ray, gate):
    ref = spinning(ray, gate)
    others = [ray.remote(lambda n=n: n).remote() for n in range(20)]
    ray.cancel(ref)
    assert ray.get(others) == list(range(20))


def test_object_that_was_put(ray):
    ref = ray.put(1)
    ray.cancel(ref)
    assert ray.get(ref) == 1


def test_all_returns_of_a_cancelled_task(ray, gate):
    refs = ray.remote(max_retries=0, num_returns=2)(spin).remote(ray, gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(refs[1])
    for ref in refs:
        assert cancelled(ray, raises_within(ray, ref))


def test_queued_actor_call(ray, impl, gate):
    @ray.remote(num_cpus=0)
    class A:
        def wait(self, gate):
            return ray.get(gate.wait.remote())

        def f(self):
            return 1

    actor = A.remote()
    running = actor.wait.remote(gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    queued, last = actor.f.remote(), actor.f.remote()
    ray.cancel(queued)
    gate.open.remote()
    assert ray.get(running, timeout=20) == "open"
    assert cancelled(ray, raises_within(ray, queued))
    if impl == "zray":  # in Ray, calls after a cancelled one may end with ActorUnavailableError after 30 s
        assert ray.get(last) == 1


def test_running_async_actor_call(ray, gate):
    @ray.remote(num_cpus=0)
    class A:
        async def wait(self, gate):
            gate.arrive.remote()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.seen = "cancelled"
                raise

        async def read(self):
            return self.seen

    actor = A.remote()
    ref = actor.wait.remote(gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(ref)
    assert cancelled(ray, raises_within(ray, ref))
    assert ray.get(actor.read.remote()) == "cancelled"


def test_actor_call_cannot_be_cancelled_by_force(ray, gate):
    ref = gate.wait.remote()
    with pytest.raises((ValueError, TypeError)):
        ray.cancel(ref, force=True)


def test_async_calls_that_have_hardly_begun(ray):
    @ray.remote(num_cpus=0)
    class A:
        async def wait(self):
            await asyncio.Event().wait()

        async def f(self):
            return "alive"

    actor = A.remote()
    assert ray.get(actor.f.remote()) == "alive"
    for _ in range(20):
        refs = [actor.wait.remote() for _ in range(10)]
        for ref in refs:
            ray.cancel(ref)
        for ref in refs:
            assert cancelled(ray, raises_within(ray, ref))
    assert ray.get(actor.f.remote(), timeout=20) == "alive"


@pytest.mark.parametrize("force", [False, True])
def test_calls_of_actors_that_a_task_has_made(ray, gate, force):
    @ray.remote(num_cpus=0)
    class Sleeper:
        seen = ""

        async def sleep(self, gate):
            gate.arrive.remote()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.seen = "cancelled"
                raise

        async def read(self):
            return self.seen

    @ray.remote(max_retries=0)
    def parent(sleeper, gate):
        ray.get(sleeper.sleep.remote(gate))

    sleeper = Sleeper.remote()
    ref = parent.remote(sleeper, gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(ref, recursive=True, force=force)
    error = raises_within(ray, ref)
    assert cancelled(ray, error) or (force and isinstance(error, ray.exceptions.WorkerCrashedError))
    assert eventually(lambda: ray.get(sleeper.read.remote())) == "cancelled"


def test_tasks_below_that_ignore_the_interrupt_go_by_force(ray, gate):
    @ray.remote(max_retries=0, num_cpus=0)
    def stubborn(gate, deeper):
        below = []
        if deeper:
            below.append(stubborn.remote(gate, deeper - 1))
        gate.arrive.remote()
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0.01)

    ref = stubborn.options(num_cpus=2).remote(gate, 2)
    eventually(lambda: ray.get(gate.arrived.remote()) == 3)
    ray.cancel(ref, recursive=True, force=True)
    error = raises_within(ray, ref)
    assert cancelled(ray, error) or isinstance(error, ray.exceptions.WorkerCrashedError)
    assert ray.get(ray.remote(num_cpus=2)(lambda: "free").remote(), timeout=20) == "free"


def test_a_task_that_never_lets_the_interpreter_go_ends_by_force(ray, gate):
    @ray.remote(max_retries=0)
    def search(gate):
        ray.get(gate.arrive.remote())
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                re.match("(a+)+$", "a" * 40 + "b")

    ref = search.options(num_cpus=2).remote(gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(ref, force=True)
    error = raises_within(ray, ref)
    assert cancelled(ray, error) or isinstance(error, ray.exceptions.WorkerCrashedError)
    assert ray.get(ray.remote(num_cpus=2)(lambda: "free").remote(), timeout=20) == "free"


# ------------------------------------------------------------------ code that was interrupted


def is_task_error(ray, error):
    return isinstance(error, ray.exceptions.RayTaskError) and cancelled(ray, error) and "cancelled" in str(error)


def test_an_interrupted_task_has_a_task_error(ray, gate):
    ref = spinning(ray, gate)
    ray.cancel(ref)
    assert is_task_error(ray, raises_within(ray, ref))


def test_an_interrupted_async_method_has_a_task_error(ray, gate):
    @ray.remote(num_cpus=0)
    class Waiter:
        async def wait(self, gate):
            await gate.wait.remote()

    waiter = Waiter.remote()
    ref = waiter.wait.remote(gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(ref)
    error = raises_within(ray, ref)
    assert isinstance(error, ray.exceptions.RayTaskError)
    assert cancelled(ray, error)


def test_an_interrupted_generator_has_a_task_error_as_its_last_item(ray, gate):
    @ray.remote(max_retries=0)
    def numbers(gate):
        yield 1
        spin(ray, gate)

    items = numbers.remote(gate)
    assert ray.get(next(items)) == 1
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(items)
    assert is_task_error(ray, raises_within(ray, next(items)))
    with pytest.raises(StopIteration):
        next(items)


def test_a_task_that_did_not_begin_has_none(ray, gate):
    ref = ray.remote(max_retries=0)(spin).remote(ray, gate.wait.remote())
    ray.cancel(ref)
    error = raises_within(ray, ref)
    assert cancelled(ray, error)
    assert not isinstance(error, ray.exceptions.RayTaskError)


def test_the_error_of_an_interrupted_task_is_passed_on(ray, gate):
    @ray.remote
    def reads(refs):
        return ray.get(refs[0])

    ref = spinning(ray, gate)
    ray.cancel(ref)
    assert is_task_error(ray, raises_within(ray, reads.remote([ref])))
