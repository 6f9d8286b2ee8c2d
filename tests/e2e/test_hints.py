"""Helpful messages of one line for frequent mistakes of beginners."""

from __future__ import annotations

import pytest

from zray.client.advice import SENT_AGAIN

from .helpers import driver


def test_a_generator_given_to_get(ray):
    with pytest.raises(ValueError, match=r"not generator.*; make a list of it, list\(\.\.\.\)"):
        ray.get(ref for ref in [ray.put(1)])


def test_a_breakpoint_in_a_task(ray):
    @ray.remote
    def task():
        breakpoint()

    with pytest.raises(RuntimeError, match=r"a worker has no terminal. zray.init\(local_mode=True\)"):
        ray.get(task.remote())


def test_a_debugger_of_the_users(ray, monkeypatch):
    @ray.remote
    def task():
        import os

        os.environ["PYTHONBREAKPOINT"] = "builtins.max"
        return breakpoint(1, 2)

    assert ray.get(task.remote()) == 2


def test_the_same_large_argument_again_and_again():
    source = f"""
        class Table:
            def __init__(self): self.data = bytes(2_000_000)

        ray.init(num_cpus=1)
        table = Table()
        size = ray.remote(lambda table: len(table.data))
        for _ in range({SENT_AGAIN + 2}):
            assert ray.get(size.remote(table)) == 2_000_000
    """
    with driver(source) as process:
        process.succeed()
    (line,) = process.err.splitlines()
    assert line.startswith(f"zray: the same Table has been an argument {SENT_AGAIN} times")
    assert "ref = zray.put(value)" in line


def test_get_within_a_running_loop():
    source = """
        import asyncio

        ray.init(num_cpus=1)

        async def main():
            ray.get(ray.remote(time.sleep).remote(1.2))

        asyncio.run(main())
    """.replace("ray.remote(time.sleep)", "ray.remote(lambda s: time.sleep(s))")
    with driver(source) as process:
        process.succeed()
    (line,) = process.err.splitlines()
    assert "has blocked the running event loop" in line and "await ref" in line


def test_a_reference_inside_a_list_that_is_met_as_a_value(ray):
    @ray.remote
    def add(refs):
        return refs[0] + 1

    @ray.remote
    def read(refs):
        return refs[0].shape

    for task, error in ((add, TypeError), (read, AttributeError)):
        with pytest.raises(error, match=r"hint: an ObjectRef is not its value: zray.get\(ref\) returns that"):
            ray.get(task.remote([ray.put(1)]))


def test_a_reference_that_is_met_as_a_value_at_the_driver():
    with driver("ray.init(num_cpus=1)\nray.put(1) + 1") as process:
        process.wait()
    assert "hint: an ObjectRef is not its value" in process.err.splitlines()[-1]
