"""Complete drivers, each in a process of its own: start, end, ``__main__``, Ctrl-C, ``local_mode``."""

from __future__ import annotations

import pytest

from .helpers import run_driver


def test_functions_and_classes_of_main(impl):
    source = """
        import dataclasses

        FACTOR = 3

        @dataclasses.dataclass
        class Point:
            x: int

        def scaled(point):
            return Point(point.x * FACTOR)

        @ray.remote
        def f(point):
            return scaled(point)

        ray.init(**INIT)
        result = ray.get(f.remote(Point(2)))
        print(result, type(result) is Point)
    """
    assert run_driver(impl, source).strip().endswith("Point(x=6) True")


def test_init_shutdown_init(impl):
    source = """
        assert not ray.is_initialized()
        ray.shutdown()
        for _ in range(2):
            ray.init(**INIT)
            assert ray.is_initialized()
            assert ray.get(ray.remote(lambda: 1).remote()) == 1
            ray.shutdown()
            assert not ray.is_initialized()
        ray.shutdown()
    """
    run_driver(impl, source)


def test_remote_function_of_an_earlier_session(impl):
    source = """
        @ray.remote
        def f():
            return 1

        @ray.remote
        class A:
            def g(self):
                return 2

        for _ in range(2):
            ray.init(**INIT)
            assert ray.get(f.remote()) == 1
            assert ray.get(A.remote().g.remote()) == 2
            ray.shutdown()
    """
    run_driver(impl, source)


def test_what_came_before_shutdown_stays_usable_as_a_value(impl):
    source = """
        import numpy as np
        ray.init(**INIT)
        array = ray.get(ray.put(np.full(1 << 20, 7, dtype=np.uint8)))
        ray.shutdown()
        print(bool((array == 7).all()))
    """
    assert run_driver(impl, source).strip() == "True"


def test_driver_that_ends_without_shutdown(impl):
    source = """
        ray.init(**INIT)
        refs = [ray.remote(lambda: 1).remote() for _ in range(5)]
    """
    run_driver(impl, source)


def test_remote_before_init_starts_a_cluster(impl):
    source = """
        assert ray.get(ray.remote(lambda: 5).remote()) == 5
        assert ray.is_initialized()
    """
    run_driver(impl, source)


def test_init_as_a_context_manager(impl):
    source = """
        with ray.init(**INIT):
            assert ray.get(ray.remote(lambda: 5).remote()) == 5
        assert not ray.is_initialized()
    """
    run_driver(impl, source)


def test_namespace_of_init(impl):
    source = """
        ray.init(**INIT, namespace="mine")
        assert ray.get_runtime_context().namespace == "mine"

        @ray.remote
        class A:
            def f(self):
                return ray.get_runtime_context().namespace

        actor = A.options(name="x").remote()
        assert ray.get(actor.f.remote()) == "mine"
        assert ray.get(ray.get_actor("x", namespace="mine").f.remote()) == "mine"
    """
    run_driver(impl, source)


def test_interrupt_during_get(impl):
    source = """
        import os, signal, threading

        @ray.remote
        class Gate:
            async def wait(self):
                import asyncio
                await asyncio.Event().wait()

            async def f(self):
                return "usable"

        ray.init(**INIT)
        gate = Gate.remote()
        ray.get(gate.f.remote())
        for _ in range(2):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                ray.get(gate.wait.remote())
            except KeyboardInterrupt:
                print("interrupted")
            assert ray.get(gate.f.remote()) == "usable"
            assert ray.get(ray.remote(lambda: 1).remote()) == 1
    """
    assert run_driver(impl, source).split() == ["interrupted"] * 2


def test_local_mode(impl):
    if impl == "ray":
        pytest.skip("Ray took local_mode away: init raises RuntimeError")
    source = """
        import os, warnings
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, local_mode=True)

        @ray.remote
        def f(x):
            return x + 1, os.getpid()

        @ray.remote(num_returns=2)
        def pair():
            return 1, 2

        @ray.remote
        def fail():
            raise ValueError("x")

        @ray.remote
        def parent():
            return ray.get(f.remote(10))[0]

        @ray.remote
        class Counter:
            def __init__(self):
                self.value = 0

            def increment(self, by=1):
                self.value += by
                return self.value, os.getpid()

        assert ray.get(f.remote(ray.put(1))) == (2, os.getpid())
        assert ray.get(pair.remote()) == [1, 2]
        assert ray.get(parent.remote()) == 11
        counter = Counter.remote()
        assert ray.get([counter.increment.remote() for _ in range(2)]) == [(1, os.getpid()), (2, os.getpid())]
        assert ray.wait([f.remote(1)])[1] == []
        try:
            ray.get(fail.remote())
        except ValueError as error:
            assert isinstance(error, ray.exceptions.RayTaskError)
        else:
            raise AssertionError
    """
    run_driver(impl, source)
