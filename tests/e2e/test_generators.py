"""Generators as the source of return values, where zray differs from Ray; the rest is in ``tests/conformance``."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

import zray

from .helpers import driver, eventually


def test_a_function_that_returns_a_generator_is_not_a_generator(ray):
    """Ray returns the first value."""

    @ray.remote
    def makes():
        return (number for number in range(2))

    with pytest.raises(TypeError, match="generator"):
        ray.get(makes.remote())


def test_a_generator_that_failed_is_tried_again_as_a_whole(ray, tmp_path):
    """Ray does not try it again."""
    marks = tmp_path / "attempts"

    @ray.remote(num_returns=2, max_retries=1, retry_exceptions=True)
    def flaky():
        with open(marks, "a") as file:
            file.write("x")
        yield len(marks.read_text())
        if len(marks.read_text()) == 1:
            raise ValueError("the first attempt")
        yield "done"

    assert ray.get(flaky.remote()) == [2, "done"]


def test_values_are_stored_as_they_come(ray):
    """A generator of more data than the machine can hold at once. Each value fits: they leave one by one."""
    import weakref

    class Block:
        def __init__(self, size):
            self.data = bytes(size)

    @ray.remote(num_returns=20)
    def blocks():
        alive: weakref.WeakSet[Any] = weakref.WeakSet()
        for _ in range(20):
            assert len(alive) <= 1
            block = Block(300_000)
            alive.add(block)
            yield block
            del block

    assert [len(block.data) for block in ray.get(blocks.remote())] == [300_000] * 20


def test_the_body_runs_to_its_end(ray, tmp_path):
    @ray.remote(num_returns=2)
    def two():
        yield 1
        yield 2
        (tmp_path / "end").write_text("reached")

    @ray.remote(num_returns=2)
    def endless():
        try:
            while True:
                yield 1
        finally:
            (tmp_path / "closed").write_text("closed")

    assert ray.get(two.remote()) == [1, 2]
    assert (tmp_path / "end").read_text() == "reached"
    assert ray.get(endless.remote()) == [1, 1]
    assert (tmp_path / "closed").read_text() == "closed"


def test_the_worker_reports_an_exception_after_the_last_value():
    source = """
        @ray.remote(num_returns=2)
        def two():
            yield 1
            yield 2
            raise ValueError("too late")

        ray.init(num_cpus=1)
        print(ray.get(two.remote()))
    """
    with driver(source) as process:
        assert process.succeed().splitlines()[0] == "[1, 2]"
    assert "two raised after its last value" in process.err and "ValueError: too late" in process.err


def test_a_generator_is_cancelled(ray, tmp_path):
    @ray.remote(num_returns=2)
    def slow():
        yield 1
        (tmp_path / "begun").touch()
        time.sleep(60)
        yield 2

    refs = slow.remote()
    eventually((tmp_path / "begun").exists)
    ray.cancel(refs[0])
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(refs[1], timeout=10)


def test_short_tasks_do_not_wait_behind_a_long_generator(ray, tmp_path):
    """Tasks behind it in its worker are handed back, as behind any long task."""

    @ray.remote(num_returns=2)
    def generator(path):
        yield 1
        while path is not None and not path.exists():
            time.sleep(0.01)
        yield 2

    ray.get([ref for refs in [generator.remote(None) for _ in range(50)] for ref in refs])  # known to be short
    end = tmp_path / "end"
    long = generator.remote(end)
    others = [ref for refs in [generator.remote(None) for _ in range(50)] for ref in refs]
    assert ray.get(others, timeout=20) == [1, 2] * 50
    end.touch()
    assert ray.get(long) == [1, 2]


def test_a_child_that_a_generator_forks_ends_by_itself(sandbox):
    zray.init(num_cpus=1)

    @zray.remote(num_returns=2)
    def forks():
        yield 1
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        yield pid > 0

    assert zray.get(forks.remote()) == [1, True]


def test_values_of_an_attempt_that_is_tried_again_are_freed(ray, tmp_path):
    marks = tmp_path / "attempts"

    @ray.remote(num_returns=2, max_retries=1, retry_exceptions=True)
    def flaky():
        with open(marks, "a") as file:
            file.write("x")
        first = marks.read_text() == "x"
        yield bytes(8_000_000) if first else b""
        if first:
            raise ValueError("the first attempt")
        yield b""

    before = ray.available_resources()["object_store_memory"]
    assert ray.get(flaky.remote()) == [b"", b""]
    eventually(lambda: ray.available_resources()["object_store_memory"] == before)


@pytest.mark.parametrize("argument", ["good", "bad"])
def test_a_stream_that_fails_at_once_in_local_mode(argument):
    zray.init(local_mode=True)

    @zray.remote
    def stream(value):
        raise KeyError("x")
        yield value

    @zray.remote
    def fails():
        raise KeyError("x")

    refs = list(stream.remote(fails.remote() if argument == "bad" else 1))
    assert len(refs) == 1
    with pytest.raises(KeyError):
        zray.get(refs[0])


def test_local_mode():
    zray.init(local_mode=True)

    @zray.remote(num_returns=3)
    def fails():
        yield 1
        raise KeyError("x")

    one, *failed = fails.remote()
    assert zray.get(one) == 1
    for ref in failed:
        with pytest.raises(KeyError):
            zray.get(ref)
    assert zray.get(fails.options(num_returns=1).remote()) == 1
