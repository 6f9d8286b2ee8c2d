"""Patterns that make a driver slow are reported, once."""

from __future__ import annotations

import asyncio
import sys
import types

import pytest

from zray.client import advice
from zray.client.advice import ONE_BY_ONE, SENT_AGAIN, SENT_BYTES, Advice


class Said:
    """Advice with a clock of its own, and the lines that it has shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        self.now = 100.0
        self.task = b"1"  # the only task under way
        self.advice = Advice(self.lines.append, lambda: self.task)
        monkeypatch.setattr(advice, "time", types.SimpleNamespace(monotonic=lambda: self.now))

    def wait(self, seconds: float, *, done: bool = True) -> None:
        with self.advice.waiting():
            self.now += seconds
            if done and self.task:
                self.task = str(int(self.task) + 1).encode()


@pytest.fixture
def said(monkeypatch) -> Said:
    return Said(monkeypatch)


def test_one_task_after_the_other(said):
    for _ in range(ONE_BY_ONE - 1):
        said.wait(1.0)
    assert said.lines == []
    said.wait(1.0)
    (line,) = said.lines
    assert f"the last {ONE_BY_ONE} tasks were each waited for" in line
    for _ in range(100):
        said.wait(1.0)
    assert said.lines == [line]


def test_short_waits_do_not_count(said):
    for _ in range(1000):
        said.wait(0.001)
    assert said.lines == []


def test_a_long_task_that_is_looked_at_again_and_again(said):
    for _ in range(10 * ONE_BY_ONE):
        said.wait(1.0, done=False)
    assert said.lines == []


def test_others_under_way(said):
    for number in range(100):
        said.task = b"1" if number % (ONE_BY_ONE - 1) else b""
        said.wait(1.0)
    assert said.lines == []


def test_a_running_loop(said, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # a test of notebooks may have left it

    async def main(seconds: float) -> None:
        said.wait(seconds)

    said.task = b""
    said.wait(2.0)
    asyncio.run(main(0.5))
    assert said.lines == []
    asyncio.run(main(2.0))
    asyncio.run(main(2.0))
    (line,) = said.lines
    assert "event loop for 2.0 s: use 'await ref'" in line


def test_the_loop_of_a_notebook(said, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))

    async def main() -> None:
        said.wait(2.0)

    asyncio.run(main())
    assert said.lines == []


class Large:
    pass


def test_the_same_large_argument(said):
    value = Large()
    for number in range(SENT_AGAIN - 1):
        said.advice.sent((value, number, "text"), SENT_BYTES)
    assert said.lines == []
    said.advice.sent((value, 0), SENT_BYTES)
    said.advice.sent((value, 0), SENT_BYTES)
    (line,) = said.lines
    assert f"the same Large has been an argument {SENT_AGAIN} times" in line and "1 MB" in line


class Array:
    nbytes = SENT_BYTES


def test_small_arguments_beside_a_large_one_are_not_named(said):
    handle = Large()
    for _ in range(2 * SENT_AGAIN):
        said.advice.sent((handle, Array()), SENT_BYTES)
        said.advice.sent((handle, bytes(SENT_BYTES)), SENT_BYTES)
    assert said.lines == []


def test_a_large_array_beside_others(said):
    array = Array()
    for _ in range(SENT_AGAIN):
        said.advice.sent((array, Large(), [1]), SENT_BYTES)
    assert "the same Array" in said.lines[0]


def test_others_are_not_the_same(said):
    for _ in range(10 * SENT_AGAIN):
        said.advice.sent((Large(), [1], b"x"), SENT_BYTES)  # each is gone before the next, which may get its address
    assert said.lines == []


def test_small_arguments_do_not_count(said):
    value = Large()
    for _ in range(2 * SENT_AGAIN):
        said.advice.sent((value,), SENT_BYTES - 1)
    assert said.lines == []


def test_a_few_are_remembered(said):
    values = [Large() for _ in range(1000)]
    for value in values:
        said.advice.sent((value,), SENT_BYTES)
    assert len(said.advice._sent) <= advice.MAX_REMEMBERED
