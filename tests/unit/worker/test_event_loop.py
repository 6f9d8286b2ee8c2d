"""Calls of an async actor that are cancelled: each is answered once, wherever it is. The worker is a stand-in."""

import asyncio
import queue
import threading
from types import SimpleNamespace

import pytest

from zray.worker.process.event_loop import EventLoop


class Worker:
    """``answers``: [task, what it was answered]; ``begun`` tells of each call that runs, which then waits for ever."""

    def __init__(self):
        self.running = set()
        self.far = {}  # calls whose arguments have to be waited for, and until when
        self.answers = queue.Queue()
        self.begun = queue.Queue()
        self.loop = EventLoop(self)
        self.flushed = []

    def start(self, name):
        self.running.add(name)
        self.loop.start(SimpleNamespace(task_id=name), SimpleNamespace(of=name))

    def hold_loop(self):
        """The loop stands still until the event that is returned is set."""
        holding, held = threading.Event(), threading.Event()
        self.loop._loop.call_soon_threadsafe(lambda: (holding.set(), held.wait()))
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

    def end_call(self, task, options, value, error):
        raise AssertionError(error)

    def end_cancelled(self, task):
        if task.task_id in self.running:
            self.running.remove(task.task_id)
            self.answers.put(task.task_id)

    def flush(self):
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


def test_a_call_that_has_not_begun(worker):
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


def test_arguments_that_are_not_here_hold_nobody_up(worker):
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
