"""The option ``timeout_s``: tasks, calls and streams that end when they are interrupted, and those that do not."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import zray
from tests.conformance.helpers import eventually
from zray.exceptions import ActorDiedError, GetTimeoutError, TaskError, TaskTimeoutError

SHORT_S = 0.2
LONG_S = 1.0
"""For calls that do something before they hang, or end in time."""
FOR_EVER_S = 600


@pytest.fixture(autouse=True)
def cluster() -> Iterator[None]:
    zray.init(num_cpus=2)
    yield
    zray.shutdown()


def timeout_of(ref: Any) -> str:
    with pytest.raises(TaskTimeoutError) as caught:
        zray.get(ref, timeout=60)
    assert isinstance(caught.value, TimeoutError)
    assert not isinstance(caught.value, GetTimeoutError)
    return str(caught.value)


def in_pieces() -> None:
    """Waits for ever, in Python code that can be interrupted."""
    while True:
        time.sleep(0.01)


def stop() -> None:
    """Stops the process, after the broker has all that was sent before."""
    zray.nodes()
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_the_interpreter_lock() -> None:
    """Runs C code that neither handles signals nor lets other threads run."""
    ctypes.PyDLL(None).sleep(FOR_EVER_S)


def shrug() -> None:
    while True:
        try:
            in_pieces()
        except KeyboardInterrupt:
            continue


# ------------------------------------------------------------------ tasks


def test_a_task_in_time():
    assert zray.get(zray.remote(timeout_s=60)(lambda: 7).remote()) == 7


def test_a_task_is_interrupted_and_its_worker_stays():
    @zray.remote(timeout_s=SHORT_S, num_cpus=2)
    def slow() -> None:
        in_pieces()

    @zray.remote(num_cpus=2)
    def pid() -> int:
        return os.getpid()

    before = zray.get(pid.remote())
    text = timeout_of(slow.remote())
    assert text.startswith("`")
    assert "slow` (attempt 1) ran longer than timeout_s=0.2: it was interrupted at " in text
    assert text.endswith(", in in_pieces")
    assert zray.get(pid.remote()) == before


def test_cleaning_up(tmp_path):
    @zray.remote(timeout_s=SHORT_S)
    def slow() -> str:
        try:
            in_pieces()
        finally:
            (tmp_path / "clean").touch()
        return "never"

    timeout_of(slow.remote())
    assert (tmp_path / "clean").exists()


def test_a_value_that_comes_too_late_does_not_count():
    @zray.remote(timeout_s=SHORT_S)
    def late() -> str:
        try:
            in_pieces()
        except KeyboardInterrupt:
            return "late"
        return "never"

    assert timeout_of(late.remote()).endswith("its value came too late")


@pytest.mark.parametrize(("hang", "limit_s"), [(stop, LONG_S), (hold_the_interpreter_lock, SHORT_S), (shrug, SHORT_S)])
def test_a_task_that_cannot_be_interrupted_loses_its_worker(hang: Callable[[], None], limit_s: float):
    @zray.remote(timeout_s=limit_s)
    def stuck() -> int:
        hang()
        return 1

    text = timeout_of(stuck.remote())
    assert "attempt 1 of 4 of " in text
    assert "did not end within 1 s after it was interrupted, so its worker was killed (pid " in text
    assert zray.get(zray.remote(lambda: 5).remote()) == 5


def test_waiting_in_the_queue_does_not_count(tmp_path):
    """The second task waits for longer than it may run, and then runs."""

    @zray.remote(num_cpus=2)
    def first() -> None:
        eventually((tmp_path / "go").exists)

    @zray.remote(num_cpus=2, timeout_s=LONG_S)
    def second() -> str:
        return "ran"

    blocker, waiter = first.remote(), second.remote()
    with pytest.raises(GetTimeoutError):
        zray.get(waiter, timeout=1.5 * LONG_S)
    (tmp_path / "go").touch()
    assert zray.get([blocker, waiter])[1] == "ran"


def attempt() -> int:
    return zray.get_runtime_context().get_attempt_number()


@pytest.mark.parametrize("hang", [in_pieces, shrug])
def test_retries(hang: Callable[[], None]):
    def twice() -> int:
        if attempt() < 2:
            hang()
        return attempt()

    twice = zray.remote(timeout_s=LONG_S, max_retries=2, retry_exceptions=[TimeoutError])(twice)
    assert zray.get(twice.remote(), timeout=60) == 2
    timeout_of(twice.options(max_retries=1).remote())
    timeout_of(twice.options(retry_exceptions=[ValueError]).remote())


def test_children_are_cancelled():
    @zray.remote
    def child() -> None:
        in_pieces()

    @zray.remote(timeout_s=LONG_S)
    def parent(box: list[Any]) -> None:
        ref = child.options(num_cpus=0).remote()
        zray.get(box[0].keep.remote([ref]))
        zray.get(ref)

    @zray.remote(num_cpus=0)
    class Box:
        def keep(self, refs: list[Any]) -> None:
            self.refs = refs

        def child_ended(self) -> bool:
            ready, _ = zray.wait(self.refs, timeout=60)
            return bool(ready)

    box = Box.remote()
    timeout_of(parent.remote([box]))
    assert zray.get(box.child_ended.remote(), timeout=60)


def test_the_error_of_an_argument():
    @zray.remote(timeout_s=SHORT_S)
    def slow() -> None:
        in_pieces()

    with pytest.raises(TaskError) as caught:
        zray.get(zray.remote(lambda value: value).remote(slow.remote()), timeout=60)
    assert isinstance(caught.value.cause, TaskTimeoutError)


def test_streams():
    @zray.remote(timeout_s=LONG_S)
    def count() -> Iterator[int]:
        yield 1
        yield 2
        in_pieces()

    refs = list(count.remote())
    assert zray.get(refs[:2]) == [1, 2]
    timeout_of(refs[2])


def test_several_return_values():
    @zray.remote(timeout_s=SHORT_S, num_returns=2)
    def slow() -> tuple[int, int]:
        in_pieces()
        return 1, 2

    for ref in slow.remote():
        timeout_of(ref)


# ------------------------------------------------------------------ actors


class Worker:
    @zray.method(timeout_s=SHORT_S)
    def work(self, how: Callable[[], None]) -> str:
        how()
        return "done"

    def cooperate(self) -> None:
        eventually(zray.get_runtime_context().is_canceled)

    def pid(self) -> int:
        return os.getpid()


def test_a_method_is_interrupted_and_the_actor_stays():
    actor = zray.remote(Worker).remote()
    before = zray.get(actor.pid.remote())
    assert "Worker.work` (attempt 1) ran longer than timeout_s=0.2" in timeout_of(actor.work.remote(in_pieces))
    assert zray.get(actor.pid.remote()) == before
    assert zray.get(actor.work.options(timeout_s=None).remote(lambda: time.sleep(2 * SHORT_S))) == "done"


@pytest.mark.parametrize(("hang", "limit_s"), [(stop, LONG_S), (shrug, SHORT_S)])
def test_an_actor_that_cannot_be_interrupted_is_restarted(hang: Callable[[], None], limit_s: float):
    actor = zray.remote(max_restarts=1)(Worker).remote()
    before = zray.get(actor.pid.remote())
    assert "so its worker was killed" in timeout_of(actor.work.options(timeout_s=limit_s).remote(hang))
    assert zray.get(actor.pid.remote(), timeout=60) != before


def test_an_actor_without_restarts_dies():
    actor = zray.remote(Worker).remote()
    ref, behind = actor.work.remote(shrug), actor.pid.remote()
    timeout_of(ref)
    with pytest.raises(ActorDiedError, match=r"its call ran longer than timeout_s=0\.2"):
        zray.get(behind, timeout=60)


def test_a_call_is_tried_again_after_the_restart(tmp_path):
    def once() -> None:
        if not (tmp_path / "before").exists():
            (tmp_path / "before").touch()
            shrug()

    actor = zray.remote(max_restarts=1, max_task_retries=1)(Worker).remote()
    assert (
        zray.get(actor.work.options(timeout_s=LONG_S, retry_exceptions=[TaskTimeoutError]).remote(once), timeout=60)
        == "done"
    )


def test_a_method_in_a_thread_can_ask():
    actor = zray.remote(max_concurrency=2)(Worker).remote()
    before = zray.get(actor.pid.remote())
    assert timeout_of(actor.cooperate.options(timeout_s=SHORT_S).remote()).endswith("its value came too late")
    assert zray.get(actor.pid.remote()) == before


def test_a_thread_that_goes_on_ends_the_actor():
    actor = zray.remote(max_concurrency=2, max_restarts=1)(Worker).remote()
    before = zray.get(actor.pid.remote())
    assert "so its worker was killed" in timeout_of(actor.work.remote(in_pieces))
    assert zray.get(actor.pid.remote(), timeout=60) != before


class Async:
    async def wait(self) -> None:
        await asyncio.sleep(FOR_EVER_S)

    async def clean_up(self, path: Any) -> None:
        try:
            await asyncio.sleep(FOR_EVER_S)
        finally:
            path.touch()

    async def block(self) -> None:
        in_pieces()

    async def stream(self) -> Any:
        yield 1
        await asyncio.sleep(FOR_EVER_S)

    async def pid(self) -> int:
        return os.getpid()


def test_async_calls_are_cancelled(tmp_path):
    actor = zray.remote(Async).remote()
    before = zray.get(actor.pid.remote())
    text = timeout_of(actor.wait.options(timeout_s=SHORT_S).remote())
    assert text.endswith(f"it was interrupted at {__file__}:{Async.wait.__code__.co_firstlineno + 1}, in wait")
    timeout_of(actor.clean_up.options(timeout_s=SHORT_S).remote(tmp_path / "clean"))
    assert (tmp_path / "clean").exists()
    refs = list(actor.stream.options(timeout_s=LONG_S).remote())
    assert zray.get(refs[0]) == 1
    timeout_of(refs[1])
    assert zray.get(actor.pid.remote()) == before


def test_a_call_that_blocks_its_loop_ends_the_actor():
    actor = zray.remote(max_restarts=1)(Async).remote()
    before = zray.get(actor.pid.remote())
    assert "so its worker was killed" in timeout_of(actor.block.options(timeout_s=SHORT_S).remote())
    assert zray.get(actor.pid.remote(), timeout=60) != before


# ------------------------------------------------------------------ the option


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_values_that_are_not_allowed(value: float):
    with pytest.raises(ValueError, match=r"timeout_s=.* is not allowed: it must be > 0"):
        zray.remote(timeout_s=value)(in_pieces)


@pytest.mark.parametrize("value", ["1", True, [1]])
def test_types_that_are_not_allowed(value: Any):
    with pytest.raises(TypeError, match="'timeout_s' must be a number of seconds > 0, or None, but received type"):
        zray.method(timeout_s=value)


def test_an_actor_class_has_no_limit_itself():
    with pytest.raises(ValueError, match=r"give it to the method, with @zray.method\(timeout_s=...\)"):
        zray.remote(timeout_s=1)(Worker)
