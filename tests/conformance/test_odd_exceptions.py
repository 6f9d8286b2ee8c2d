"""Exceptions whose own code misbehaves: whatever it does, the call that raised them ends with an error."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import threading

import pytest

from .helpers import eventually, raises_within


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int = 7


class ForbidsAttributes(Exception):
    def __setattr__(self, name, value):
        raise RuntimeError("no attributes")


class ForbidsTraceback(Exception):
    def with_traceback(self, traceback):
        raise RuntimeError("no traceback")


class HidesCause(Exception):
    @property
    def __cause__(self):  # type: ignore[override]
        raise RuntimeError("no cause")

    __context__ = __traceback__ = __cause__


class Stop(BaseException):
    pass


class StopsPickling(Exception):
    def __reduce__(self):
        raise Stop


class ExitsInPickling(Exception):
    def __reduce__(self):
        raise SystemExit(3)


def stop():
    raise Stop


class StopsUnpickling(Exception):
    def __reduce__(self):
        return stop, ()


class StopsText(Exception):
    def __str__(self):
        raise Stop

    __repr__ = __str__


class ExitsInText(Exception):
    def __str__(self):
        raise SystemExit(3)

    __repr__ = __str__


class False_(Exception):
    def __bool__(self):
        return False


class Equal(Exception):
    def __eq__(self, other):
        raise RuntimeError("not to be compared")

    def __bool__(self):
        raise RuntimeError("neither true nor false")


RESISTING = [
    Frozen, ForbidsAttributes, ForbidsTraceback, HidesCause, StopsPickling, ExitsInPickling, StopsUnpickling,
    StopsText, ExitsInText, False_, Equal, Stop, GeneratorExit, KeyboardInterrupt,
]  # fmt: skip
NOT_ON_RAY = {HidesCause, StopsPickling, ExitsInPickling, StopsUnpickling, ExitsInText, Equal}
"""With these, Ray's worker dies, or its driver raises the exception that unpickling raised."""


@pytest.fixture
def wanted(request, impl):
    if impl == "ray" and request.param in NOT_ON_RAY:
        pytest.skip("Ray's worker dies of it")
    return request.param


def for_each_kind(test):
    return pytest.mark.parametrize("wanted", RESISTING, indirect=True, ids=lambda kind: kind.__name__)(test)


def is_user_error(ray, error):
    # Ray's UnserializableException is a RayError that has only the text.
    died = (ray.exceptions.WorkerCrashedError, ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError)
    return isinstance(error, ray.exceptions.RayError) and not isinstance(error, died)


@for_each_kind
def test_the_task_ends_with_an_error(ray, wanted):
    @ray.remote(max_retries=0)
    def f(kind):
        raise kind

    assert is_user_error(ray, raises_within(ray, f.remote(wanted)))


@for_each_kind
@pytest.mark.parametrize("how", ["plain", "threads", "async"])
def test_the_call_ends_with_an_error_and_the_actor_lives(ray, impl, wanted, how):
    if impl == "ray" and how == "async" and wanted in (KeyboardInterrupt, False_):
        pytest.skip("the first ends the event loop of Ray's actor, the second is taken for no error")

    class Raiser:
        def fail(self, kind):
            raise kind

        def pid(self):
            return os.getpid()

    class AsyncRaiser(Raiser):
        async def fail(self, kind):
            raise kind

    kind = AsyncRaiser if how == "async" else Raiser
    actor = ray.remote(num_cpus=0, max_concurrency=2 if how == "threads" else None)(kind).remote()
    pid = ray.get(actor.pid.remote())
    assert is_user_error(ray, raises_within(ray, actor.fail.remote(wanted)))
    assert ray.get(actor.pid.remote(), timeout=20) == pid


@for_each_kind
def test_a_constructor_that_raises_it_ends_the_actor(ray, wanted):
    @ray.remote(num_cpus=0)
    class Stillborn:
        def __init__(self, kind):
            raise kind

        def ping(self):
            return 1

    error = raises_within(ray, Stillborn.remote(wanted).ping.remote())
    if wanted is not Frozen:  # Ray raises UnserializableException for it
        assert isinstance(error, ray.exceptions.RayActorError)


def test_a_base_exception_is_caught_by_its_own_type(ray):
    @ray.remote
    def f():
        raise Stop("original text")

    with pytest.raises(Stop, match="original text") as caught:
        ray.get(f.remote())
    assert isinstance(caught.value, ray.exceptions.RayTaskError)


def test_a_keyboard_interrupt_is_a_cancellation(ray):
    @ray.remote
    def f():
        raise KeyboardInterrupt

    with pytest.raises(ray.exceptions.TaskCancelledError) as caught:
        ray.get(f.remote())
    assert isinstance(caught.value, ray.exceptions.RayTaskError)


def test_the_cause_of_what_cannot_be_pickled_is_an_error(ray):
    @ray.remote
    def f():
        error = ValueError("original text")
        error.lock = threading.Lock()
        raise error

    error = raises_within(ray, f.remote())
    assert isinstance(error, ray.exceptions.RayTaskError)
    assert not isinstance(error, ValueError)
    assert isinstance(error.cause, ray.exceptions.RayError)
    assert "original text" in str(error)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_stop_iteration_raises_where_it_is_awaited(ray, kind):
    @ray.remote
    def f():
        raise kind(5)

    async def wait_for(ref):
        return await ref

    with pytest.raises(Exception, match=kind.__name__):
        asyncio.run(wait_for(f.remote()))
    with pytest.raises(Exception, match=kind.__name__):
        f.remote().future().result(20)


def test_stop_iteration_is_a_runtime_error_where_it_is_awaited(ray):
    @ray.remote
    def f():
        raise StopIteration(5)

    async def wait_for(ref):
        return await ref

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(wait_for(f.remote()))


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("how", ["plain", "threads"])
def test_sys_exit_in_a_method_ends_the_actor(ray, how, code):
    @ray.remote(num_cpus=0, max_concurrency=2 if how == "threads" else None)
    class Leaver:
        def leave(self):
            sys.exit(code)

    error = raises_within(ray, Leaver.remote().leave.remote())
    assert isinstance(error, ray.exceptions.ActorDiedError)


def test_sys_exit_restarts_an_actor_unless_the_code_is_zero(ray):
    @ray.remote(num_cpus=0, max_restarts=1)
    class Leaver:
        def leave(self, code):
            sys.exit(code)

        def pid(self):
            return os.getpid()

    actor = Leaver.remote()
    first = ray.get(actor.pid.remote())
    assert isinstance(raises_within(ray, actor.leave.remote(3)), ray.exceptions.RayActorError)

    def second():
        try:
            return ray.get(actor.pid.remote(), timeout=20)
        except ray.exceptions.ActorUnavailableError:  # Ray raises it until the actor is restarted
            return None

    assert eventually(second) != first
    assert isinstance(raises_within(ray, actor.leave.remote(0)), ray.exceptions.ActorDiedError)


def test_sys_exit_in_an_async_method_ends_the_actor(ray, impl):
    if impl == "ray":
        pytest.skip("it ends the event loop of Ray's actor, whose calls wait for ever")

    @ray.remote(num_cpus=0)
    class Leaver:
        async def leave(self, code):
            sys.exit(code)

    for code in (0, 3):
        error = raises_within(ray, Leaver.remote().leave.remote(code))
        assert isinstance(error, ray.exceptions.ActorDiedError)
