"""What public tests and programs of Ray rely on, in corners that no other scenario visits."""

from __future__ import annotations

import asyncio
import importlib

import pytest

from tests.conformance.helpers import run_driver


class TestAwaitables:
    """A plain method of an async actor returns what it returns. Only coroutines are awaited."""

    def test_a_plain_method_of_an_async_actor_returns_a_reference(self, ray):
        @ray.remote
        class Maker:
            def plain(self):
                return ray.put("plain")

            async def coroutine(self):
                return ray.put("coroutine")

            def call_oneself(self):
                return ray.get_runtime_context().current_actor.coroutine.remote()

        maker = Maker.remote()
        for method, value in ((maker.plain, "plain"), (maker.coroutine, "coroutine")):
            inner = ray.get(method.remote())
            assert isinstance(inner, ray.ObjectRef)
            assert ray.get(inner) == value
        assert ray.get(ray.get(ray.get(maker.call_oneself.remote()))) == "coroutine"

    def test_an_awaitable_object_is_a_value(self, ray):
        class Later:
            def __await__(self):
                yield

        @ray.remote
        class Maker:
            async def coroutine(self):
                return None

            def plain(self):
                return Later()

        assert hasattr(ray.get(Maker.remote().plain.remote()), "__await__")


class TestTypesOfErrors:
    """An error of a type that ``RayTaskError`` has already is a plain one, as programs compare types."""

    @pytest.mark.parametrize("kind", [Exception, BaseException])
    def test_a_plain_exception(self, ray, kind):
        @ray.remote
        def fail():
            raise kind("text of the error")

        with pytest.raises(ray.exceptions.RayTaskError, match="text of the error") as caught:
            ray.get(fail.remote())
        assert caught.type is ray.exceptions.RayTaskError
        assert type(caught.value.cause) is kind

    def test_any_other_exception_is_both(self, ray):
        @ray.remote
        def fail():
            raise ArithmeticError("text of the error")

        with pytest.raises(ArithmeticError) as caught:
            ray.get(fail.remote())
        assert isinstance(caught.value, ray.exceptions.RayTaskError)
        assert caught.type is not ray.exceptions.RayTaskError


def test_actors_are_listed_by_the_qualified_name_of_their_class(ray):
    def make():
        @ray.remote
        class Inner:
            def ping(self):
                return ray.get_runtime_context().get_task_name()

        return Inner.remote()

    actor = make()
    assert ray.get(actor.ping.remote()) == "Inner.ping"
    qualified = f"{make.__qualname__}.<locals>.Inner"
    row = importlib.import_module(f"{ray.__name__}._private.state").actors(actor._actor_id.hex())
    assert row["ActorClassName"] == qualified


COUNTING = """
import contextlib, io, sys, time

ray.init(num_cpus=1, log_to_driver=True)

@ray.remote
def count():
    for number in range(3):
        print(number, end=" ")
        print(100 + number, end=" ", file=sys.stderr)

out, err = io.StringIO(), io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    ray.get(count.remote())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not ("0 1 2" in out.getvalue() and "100 101 102" in err.getvalue()):
        time.sleep(0.02)
print("0 1 2" in out.getvalue(), "100 101 102" in err.getvalue())
"""


def test_a_line_without_an_end_is_shown_once_its_task_has_ended(impl):
    assert run_driver(impl, COUNTING).split()[-2:] == ["True", "True"]


def test_workers_are_the_first_to_go_when_memory_runs_out(ray):
    @ray.remote
    def own():
        with open("/proc/self/oom_score_adj") as file:
            return int(file.read())

    with open("/proc/self/oom_score_adj") as file:
        assert int(file.read()) < 1000
    assert ray.get(own.remote()) == 1000


def test_the_pickling_library_under_its_old_name(ray):
    @ray.remote
    class Kept:
        def ping(self):
            return "pong"

    pickle = importlib.import_module(f"{ray.__name__}._private.worker").pickle
    kept = Kept.remote()
    assert ray.get(pickle.loads(pickle.dumps(kept)).ping.remote()) == "pong"


def test_gathered_calls_of_both_kinds(ray):
    @ray.remote
    class Both:
        async def slowly(self, number):
            await asyncio.sleep(0)
            return number

        def at_once(self, number):
            return number

    both = Both.remote()
    calls = [method.remote(number) for number in range(5) for method in (both.slowly, both.at_once)]
    assert ray.get(calls) == [number for number in range(5) for _ in range(2)]
