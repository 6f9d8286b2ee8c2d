"""``cancel`` by a process that has not submitted the task: any holder of the reference may cancel it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

import pytest

from .helpers import eventually, make_gate, raises_within
from .test_cancel import cancelled, spin

TIMEOUT_S = 20


@pytest.fixture(params=["task", "actor", "async actor"])
def by(ray, request):
    """A function that calls ``cancel`` in another process: ``by(ref, force=...)``."""

    class Canceller:
        def cancel(self, refs, **options):
            ray.cancel(refs[0], **options)

    class AsyncCanceller:
        async def cancel(self, refs, **options):
            ray.cancel(refs[0], **options)

    if request.param == "task":
        call = ray.remote(num_cpus=0)(Canceller.cancel).remote

        def by(ref, **options):
            ray.get(call(None, [ref], **options), timeout=TIMEOUT_S)
    else:
        actor = ray.remote(num_cpus=0)(Canceller if request.param == "actor" else AsyncCanceller).remote()

        def by(ref, **options):
            ray.get(actor.cancel.remote([ref], **options), timeout=TIMEOUT_S)

    return by


def running(ray, gate, **options):
    ref = ray.remote(max_retries=0, **options)(spin).remote(ray, gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    return ref


def make_sleeper(ray, **options):
    @ray.remote(num_cpus=0, **options)
    class Sleeper:
        async def sleep(self, gate):
            gate.arrive.remote()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.seen = "cancelled"
                raise

        async def read(self):
            return self.seen

    return Sleeper.remote()


# ------------------------------------------------------------------ tasks


def test_a_running_task(ray, gate, by):
    ref = running(ray, gate)
    by(ref)
    assert cancelled(ray, raises_within(ray, ref))


def test_a_running_task_is_not_retried(ray, gate, by):
    ref = ray.remote(max_retries=3, retry_exceptions=True)(spin).remote(ray, gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    by(ref)
    assert cancelled(ray, raises_within(ray, ref))
    assert ray.get(gate.arrived.remote()) == 1


def test_a_task_by_force_that_ignores_the_interrupt(ray, gate, by):
    @ray.remote(max_retries=3)
    def stubborn(gate):
        gate.arrive.remote()
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0.01)

    ref = stubborn.remote(gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    by(ref, force=True)
    error = raises_within(ray, ref)
    assert cancelled(ray, error) or isinstance(error, ray.exceptions.WorkerCrashedError)
    assert ray.get(gate.arrived.remote()) == 1


def test_a_queued_task(ray, gate, by, tmp_path):
    blocker = running(ray, gate, num_cpus=2)

    @ray.remote(num_cpus=2)
    def touch(path):
        path.touch()

    queued = touch.remote(tmp_path / "ran")
    by(queued)
    assert cancelled(ray, raises_within(ray, queued))
    ray.cancel(blocker)
    assert cancelled(ray, raises_within(ray, blocker))
    assert ray.get(ray.remote(num_cpus=2)(lambda: "free").remote(), timeout=TIMEOUT_S) == "free"
    assert not (tmp_path / "ran").exists()


def test_a_task_that_waits_for_its_argument(ray, gate, by):
    ref = ray.remote(lambda x: x).remote(gate.wait.remote())
    by(ref)
    assert cancelled(ray, raises_within(ray, ref))


def test_children_of_a_task(ray, gate, by):
    @ray.remote(max_retries=0)
    def parent(box):
        child = ray.remote(max_retries=0)(spin).remote(ray, gate)
        ray.get(box.wait.remote())
        return ray.get(child)

    ref = parent.remote(make_gate(ray))
    eventually(lambda: ray.get(gate.arrived.remote()))
    by(ref, recursive=True)
    assert cancelled(ray, raises_within(ray, ref))
    assert ray.get(ray.remote(num_cpus=2)(lambda: "both free").remote(), timeout=TIMEOUT_S) == "both free"


def test_a_child_whose_parent_has_returned_it(ray, gate, by):
    """Its owner is a worker that is idle."""

    @ray.remote(max_retries=0)
    def parent():
        return [ray.remote(max_retries=0)(spin).remote(ray, gate)]

    (child,) = ray.get(parent.remote(), timeout=TIMEOUT_S)
    eventually(lambda: ray.get(gate.arrived.remote()))
    by(child)
    assert cancelled(ray, raises_within(ray, child))


@pytest.mark.parametrize("force", [False, True])
def test_the_driver_cancels_a_workers_task(ray, gate, force):
    @ray.remote(num_cpus=0)
    class Parent:
        def submit(self):
            return [ray.remote(max_retries=0)(spin).remote(ray, gate)]

    parent = Parent.remote()
    (child,) = ray.get(parent.submit.remote(), timeout=TIMEOUT_S)
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.cancel(child, force=force)
    error = raises_within(ray, child)
    assert cancelled(ray, error) or (force and isinstance(error, ray.exceptions.WorkerCrashedError))
    del parent


def test_a_holder_that_waits_for_it_sees_the_end(ray, gate):
    @ray.remote(num_cpus=0)
    def cancel_and_get(refs):
        ray.cancel(refs[0])
        return cancelled(ray, raises_within(ray, refs[0]))

    assert ray.get(cancel_and_get.remote([running(ray, gate)]), timeout=TIMEOUT_S)


def test_a_task_that_has_ended_keeps_its_value(ray, by):
    ref = ray.remote(lambda: 1).remote()
    assert ray.get(ref) == 1
    ray.get(ray.remote(lambda: None).remote())
    by(ref)
    by(ref, force=True)
    assert ray.get(ref) == 1


def test_a_cancellation_that_crosses_with_the_result(ray, by):
    """It may be in time or too late. Nothing hangs, and no other task is cancelled."""
    refs = [ray.remote(max_retries=0)(lambda n=n: n).remote() for n in range(30)]
    others = [ray.remote(lambda n=n: n).remote() for n in range(30)]
    for ref in refs:
        by(ref)
    for n, ref in enumerate(refs):
        with contextlib.suppress(ray.exceptions.TaskCancelledError):
            assert ray.get(ref, timeout=TIMEOUT_S) == n
    assert ray.get(others, timeout=TIMEOUT_S) == list(range(30))


def test_by_several_at_once(ray, gate):
    @ray.remote(num_cpus=0)
    def cancel(refs):
        ray.cancel(refs[0])

    ref = running(ray, gate)
    ray.get([cancel.remote([ref]) for _ in range(5)], timeout=TIMEOUT_S)
    assert cancelled(ray, raises_within(ray, ref))


# ------------------------------------------------------------------ calls of actors


def test_a_running_async_call(ray, gate, by):
    actor = make_sleeper(ray)
    ref = actor.sleep.remote(gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    by(ref)
    assert cancelled(ray, raises_within(ray, ref))
    assert ray.get(actor.read.remote(), timeout=TIMEOUT_S) == "cancelled"


def test_a_call_that_waits_for_its_argument(ray, gate, by):
    actor = make_sleeper(ray)
    ref = actor.sleep.remote(gate.wait.remote())
    by(ref)
    assert cancelled(ray, raises_within(ray, ref))


def test_a_queued_call(ray, impl, gate, by):
    if impl == "ray":
        pytest.skip("a call that another process cancels may run all the same")

    @ray.remote(num_cpus=0)
    class A:
        def wait(self, gate):
            return ray.get(gate.wait.remote())

        def f(self):
            return 1

    actor = A.remote()
    first = actor.wait.remote(gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    queued, last = actor.f.remote(), actor.f.remote()
    by(queued)
    assert cancelled(ray, raises_within(ray, queued))
    gate.open.remote()
    assert ray.get([first, last], timeout=TIMEOUT_S) == ["open", 1]


def test_what_an_async_call_has_submitted(ray, gate, by):
    @ray.remote(num_cpus=0)
    class A:
        async def f(self):
            return await ray.remote(max_retries=0)(spin).options(num_cpus=2).remote(ray, gate)

    actor = A.remote()
    ref = actor.f.remote()
    eventually(lambda: ray.get(gate.arrived.remote()))
    by(ref)
    assert cancelled(ray, raises_within(ray, ref))
    assert ray.get(ray.remote(num_cpus=2)(lambda: "free").remote(), timeout=TIMEOUT_S) == "free"


def test_force_has_no_effect_on_a_call(ray, gate, by):
    ref = gate.wait.remote()
    eventually(lambda: ray.get(gate.arrived.remote()))
    by(ref, force=True)
    gate.open.remote()
    assert ray.get(ref, timeout=TIMEOUT_S) == "open"


# ------------------------------------------------------------------ objects and identifiers without a task


def test_an_object_that_was_put(ray, by):
    ref = ray.put(1)
    by(ref)
    by(ref, force=True)
    assert ray.get(ref) == 1


def test_an_object_that_another_process_has_put(ray):
    (ref,) = ray.get(ray.remote(lambda: [ray.put(1)]).remote(), timeout=TIMEOUT_S)
    ray.cancel(ref)
    assert ray.get(ref, timeout=TIMEOUT_S) == 1


@pytest.mark.parametrize("make", [lambda: os.urandom(28), lambda: b"\0" * 28, lambda: b"\xff" * 28])
def test_an_identifier_that_no_process_owns(ray, make):
    with pytest.raises(TypeError):
        ray.cancel(ray.ObjectRef(make()))


def test_an_owner_that_is_dead(ray):
    @ray.remote(num_cpus=0)
    class Owner:
        def submit(self):
            return [ray.remote(max_retries=0)(lambda: time.sleep(60)).remote()]

    owner = Owner.remote()
    (ref,) = ray.get(owner.submit.remote(), timeout=TIMEOUT_S)
    ray.kill(owner)
    assert isinstance(raises_within(ray, owner.submit.remote()), ray.exceptions.ActorDiedError)
    ray.cancel(ref)
    assert isinstance(raises_within(ray, ref), ray.exceptions.RayError)
