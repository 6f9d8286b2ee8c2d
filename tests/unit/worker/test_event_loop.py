"""Cancelled calls of an async actor: each is answered once, in any state. The worker is a stand-in."""

import asyncio
import contextvars
import os
import queue
import threading
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from zray.worker.process.event_loop import EventLoop


class Worker:
    """``answers``: [task, its answer]; ``begun`` reports each call that runs, which then waits for ever."""

    def __init__(self):
        self.running = set()
        self.far = {}  # calls whose arguments have to be waited for, with the event that they wait for
        self.answers: queue.Queue[Any] = queue.Queue()
        self.begun: queue.Queue[Any] = queue.Queue()
        self.loop = EventLoop(cast(Any, self))
        self.flushed = []
        self.left: queue.Queue[Any] = queue.Queue()

    def start(self, name):
        self.running.add(name)
        task: Any = SimpleNamespace(task_id=name, producer=None)
        options: Any = SimpleNamespace(of=name, timeout_s=0.0)
        self.loop.start(task, options)

    def hold_loop(self):
        """Blocks the loop until the returned event is set."""
        holding, held = threading.Event(), threading.Event()

        def hold():
            holding.set()
            held.wait()

        self.loop._loop.call_soon_threadsafe(hold)
        holding.wait()
        return held

    def begin_call(self, options):
        self.begun.put(options.of)

    def context(self, task, options):
        return None

    def arguments_are_here(self, task):
        return task.task_id not in self.far

    def call_arguments(self, task):
        if task.task_id in self.far:
            self.far[task.task_id].wait()
        return [], {}

    def method(self, options):
        return asyncio.Event().wait

    def is_timed_out(self, task):
        return False

    def end_call(self, task, options, value, error):
        raise AssertionError(error)

    def end_cancelled(self, task):
        if task.task_id in self.running:
            self.running.remove(task.task_id)
            self.answers.put(task.task_id)

    def leave(self, error):
        self.left.put(error)

    def flush(self, ended):
        assert not ended
        self.flushed.append(self.answers.qsize())


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    for arrive in worker.far.values():
        arrive.set()
    for name in list(worker.running):
        worker.loop.cancel(name)
        worker.answers.get(timeout=10)
    worker.loop._loop.call_soon_threadsafe(worker.loop._loop.stop)
    worker.loop._thread.join()
    worker.loop._loop.close()


def test_a_call_that_runs(worker):
    worker.start(b"a")
    assert worker.begun.get(timeout=10) == b"a"
    worker.loop.cancel(b"a")
    assert worker.answers.get(timeout=10) == b"a"


def test_a_call_that_has_not_started(worker):
    held = worker.hold_loop()
    for name in (b"a", b"b"):
        worker.start(name)
    worker.loop.cancel(b"b")
    held.set()
    assert worker.answers.get(timeout=10) == b"b"
    assert worker.begun.get(timeout=10) == b"a"
    worker.loop.cancel(b"a")
    assert worker.answers.get(timeout=10) == b"a"
    assert worker.begun.empty()


def test_twice(worker):
    held = worker.hold_loop()
    worker.start(b"a")
    for _ in range(2):
        worker.loop.cancel(b"a")
    held.set()
    assert worker.answers.get(timeout=10) == b"a"
    worker.loop.cancel(b"a")
    worker.start(b"b")
    assert worker.begun.get(timeout=10) == b"b"
    worker.loop.cancel(b"b")
    assert worker.answers.get(timeout=10) == b"b"
    assert worker.answers.empty()


def test_the_answer_is_sent(worker):
    held = worker.hold_loop()
    worker.start(b"a")
    worker.loop.cancel(b"a")
    held.set()
    worker.answers.get(timeout=10)
    worker.start(b"b")
    worker.begun.get(timeout=10)
    assert worker.flushed
    assert worker.loop._running.keys() == {b"b"}


def ends_at_once(worker):
    """Makes the calls of a worker end as they begin. Returns what happens on the loop, and a queue that tells."""
    seen: list[Any] = []
    done: queue.Queue[None] = queue.Queue()

    def method(options):
        worker.loop._loop.call_soon(seen.append, "another turn")
        worker.loop._loop.call_soon(lambda: worker.loop._loop.call_soon(done.put, None))
        return lambda: options.of

    worker.method = method
    worker.end_call = lambda task, options, value, error: value
    worker.flush = lambda ended: seen.append(list(ended))
    return seen, done


def test_a_call_that_is_alone_is_answered_in_the_turn_in_which_it_ends(worker):
    seen, done = ends_at_once(worker)
    worker.start(b"a")
    done.get(timeout=10)
    assert seen == [[b"a"], "another turn"]
    worker.running.clear()


def test_calls_that_end_together_are_answered_together(worker):
    seen, done = ends_at_once(worker)
    held = worker.hold_loop()
    for name in (b"a", b"b", b"c"):
        worker.start(name)
    held.set()
    for _ in range(3):
        done.get(timeout=10)
    assert [each for each in seen if each != "another turn"] == [[b"a", b"b", b"c"]]
    worker.running.clear()


def test_a_call_that_ends_while_another_runs_is_answered(worker):
    seen, done = ends_at_once(worker)
    method = worker.method
    worker.method = lambda options: asyncio.Event().wait if options.of == b"a" else method(options)
    worker.start(b"a")
    worker.start(b"b")
    done.get(timeout=10)
    assert [b"b"] in seen
    worker.running.discard(b"b")


def test_a_call_runs_in_the_context_of_who_started_it(worker):
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: queue.Queue[str] = queue.Queue()
    worker.method = lambda options: lambda: seen.put(variable.get())
    worker.end_call = lambda task, options, value, error: None
    for value in ("first", "second"):
        variable.set(value)
        worker.start(value.encode())
        assert seen.get(timeout=10) == value
    worker.running.clear()


def test_a_call_that_is_cancelled_before_the_loop_has_seen_it(worker):
    """What is started and what is cancelled reach the loop by different ways."""
    for number in range(100):
        name = b"%d" % number
        worker.start(name)
        worker.loop.cancel(name)
        assert worker.answers.get(timeout=10) == name
    assert not worker.running


def test_calls_that_are_started_together_wake_the_loop_once(worker, monkeypatch):
    wake = Mock(wraps=os.eventfd_write)
    monkeypatch.setattr(os, "eventfd_write", wake)
    held = worker.hold_loop()
    for name in (b"a", b"b", b"c"):
        worker.start(name)
    held.set()
    assert {worker.begun.get(timeout=10) for _ in range(3)} == {b"a", b"b", b"c"}
    assert wake.call_count == 1


def test_waiting_for_arguments_does_not_block_other_calls(worker):
    worker.far = {name: threading.Event() for name in (b"a", b"b")}
    for name in (b"a", b"b", b"c"):
        worker.start(name)
    begun = {worker.begun.get(timeout=10) for _ in range(3)}
    assert begun == {b"a", b"b", b"c"}
    worker.loop.cancel(b"c")
    assert worker.answers.get(timeout=10) == b"c"


def test_a_call_that_waits_for_its_arguments_ends_when_they_are_loaded(worker):
    """Until then a thread counts references for it."""
    worker.far = {b"a": threading.Event()}
    worker.start(b"a")
    assert worker.begun.get(timeout=10) == b"a"
    for _ in range(2):
        worker.loop.cancel(b"a")
    worker.start(b"b")
    assert worker.begun.get(timeout=10) == b"b"
    assert worker.answers.empty()
    worker.far[b"a"].set()
    assert worker.answers.get(timeout=10) == b"a"


# ------------------------------------------------------------------ the actor's own code


def test_the_constructor_runs_on_the_loop_in_the_callers_context(worker):
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")

    class Actor:
        def __init__(self, *args, **kwargs):
            self.loop = asyncio.get_running_loop()
            self.seen = variable.get(), args, kwargs

    variable.set("mine")
    actor = worker.loop.construct(Actor, [1], {"two": 2})
    assert actor.loop is worker.loop._loop
    assert actor.seen == ("mine", (1,), {"two": 2})


def test_a_constructor_that_is_a_coroutine_function(worker):
    class Actor:
        async def __init__(self, value):
            await asyncio.sleep(0)
            self.value = value

    assert worker.loop.construct(Actor, [], {"value": 1}).value == 1


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_what_a_constructor_raises(worker, error, kind):
    class Plain:
        def __init__(self):
            raise error

    class Async:
        async def __init__(self):
            raise error

    with pytest.raises(type(error)) as caught:
        worker.loop.construct(Plain if kind == "plain" else Async, [], {})
    assert caught.value is error
    assert worker.loop.construct(dict, [], {"the": "loop goes on"}) == {"the": "loop goes on"}


def test_a_background_task_that_exits_is_told_and_the_loop_goes_on(worker):
    class Actor:
        def __init__(self):
            self.task = asyncio.create_task(self.leave())

        async def leave(self):
            raise SystemExit(3)

    actor = worker.loop.construct(Actor, [], {})
    assert worker.left.get(timeout=10).code == 3
    assert worker.loop.construct(dict, [], {}) == {}
    assert actor.task.done() and type(actor.task.exception()) is SystemExit


def test_what_is_called_at_the_end_is_awaited(worker):
    called = []

    async def hook():
        await asyncio.sleep(0)
        called.append("async")

    worker.loop.finish(hook)
    worker.loop.finish(lambda: called.append("plain"))
    assert called == ["async", "plain"]
