"""Generators as the source of return values, where zray differs from Ray; the rest is in ``tests/conformance``."""

from __future__ import annotations

import pytest

import zray


def test_a_function_that_returns_a_generator_is_none(ray):
    """Ray gives the first value."""

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
    """A generator of more than the machine could hold at once, each of which fits: they leave as they come."""
    import weakref

    class Block:
        def __init__(self, size):
            self.data = bytes(size)

    @ray.remote(num_returns=20)
    def blocks():
        alive = weakref.WeakSet()
        for _ in range(20):
            assert len(alive) <= 1
            block = Block(300_000)
            alive.add(block)
            yield block
            del block

    assert [len(block.data) for block in ray.get(blocks.remote())] == [300_000] * 20


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
