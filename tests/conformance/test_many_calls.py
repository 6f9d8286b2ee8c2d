"""More calls and tasks than may be under way at a time: only the place where they wait is different."""

from __future__ import annotations

import os

import pytest

from .helpers import make_counter, raises_within

TIMEOUT_S = 60
MANY = 6000
"""The number of calls: three times as many as zray has under way to an ordinary actor."""


@pytest.fixture
def notebook(ray, gate):
    """An actor class that records its calls. The first call can be made to wait."""

    class Notebook:
        def __init__(self):
            self.notes = []

        def wait(self, gate):
            return ray.get(gate.wait.remote())

        def note(self, value):
            self.notes.append(value)
            return value

        def read(self):
            return self.notes

        def die(self):
            os._exit(1)

    return ray.remote(num_cpus=0)(Notebook)


def get(ray, refs):
    return ray.get(refs, timeout=TIMEOUT_S)


def test_the_order_of_many_calls(ray, gate, notebook):
    actor = notebook.remote()
    waiting = actor.wait.remote(gate)
    argument = gate.wait.remote()
    refs = [actor.note.remote(argument if number % 1000 == 999 else number) for number in range(MANY)]
    gate.open.remote()
    expected = ["open" if number % 1000 == 999 else number for number in range(MANY)]
    assert get(ray, waiting) == "open"
    assert get(ray, refs) == expected
    assert get(ray, actor.read.remote()) == expected


def test_many_callers(ray, notebook):
    @ray.remote(num_cpus=0)
    def call(actor, caller):
        refs = [actor.note.remote((caller, number)) for number in range(MANY // 2)]
        return ray.get(refs[-1])

    actor = notebook.remote()
    assert get(ray, [call.remote(actor, caller) for caller in range(2)]) == [(0, MANY // 2 - 1), (1, MANY // 2 - 1)]
    notes = get(ray, actor.read.remote())
    for caller in range(2):
        assert [number for who, number in notes if who == caller] == list(range(MANY // 2))


def test_cancelling_among_many_calls(ray, impl, gate, notebook):
    actor = notebook.remote()
    waiting = actor.wait.remote(gate)
    refs = [actor.note.remote(number) for number in range(MANY)]
    cancelled = [MANY - 1, 4000, 10, 3999, 4001]
    for number in cancelled:
        ray.cancel(refs[number])
    if impl == "ray":  # Ray reports it when the actor reaches the calls
        gate.open.remote()
    for number in cancelled:
        assert isinstance(raises_within(ray, refs[number]), ray.exceptions.TaskCancelledError)
    gate.open.remote()
    assert get(ray, waiting) == "open"
    left = [number for number in range(MANY) if number not in cancelled]
    assert get(ray, [refs[number] for number in left]) == left
    if impl != "ray":  # Ray runs the calls in spite of the cancellation
        assert get(ray, actor.read.remote()) == left


def test_another_process_cancels_one_of_many_calls(ray, impl, gate, notebook):
    @ray.remote(num_cpus=0)
    def cancel(refs):
        for ref in refs:
            ray.cancel(ref)

    actor = notebook.remote()
    waiting = actor.wait.remote(gate)
    refs = [actor.note.remote(number) for number in range(MANY)]
    get(ray, cancel.remote([refs[5000]]))
    if impl == "ray":  # as above
        gate.open.remote()
    assert isinstance(raises_within(ray, refs[5000]), ray.exceptions.TaskCancelledError)
    gate.open.remote()
    assert get(ray, waiting) == "open"
    assert get(ray, refs[-1]) == MANY - 1


def test_the_actor_dies_under_many_calls(ray, gate, notebook):
    actor = notebook.remote()
    actor.wait.remote(gate)
    dying = actor.die.remote()
    refs = [actor.note.remote(number) for number in range(MANY)]
    gate.open.remote()
    assert isinstance(raises_within(ray, dying), ray.exceptions.RayActorError)
    for ref in (refs[0], refs[1999], refs[2000], refs[-1]):
        assert isinstance(raises_within(ray, ref), ray.exceptions.RayActorError)
    ready, _ = ray.wait(refs, num_returns=MANY, timeout=TIMEOUT_S)
    assert len(ready) == MANY


def test_the_actor_restarts_under_many_calls(ray, impl, gate, notebook):
    """Calls that were sent are sent again; the others follow."""
    actor = notebook.options(max_restarts=1, max_task_retries=1).remote()
    actor.wait.options(max_task_retries=0).remote(gate)
    dying = actor.die.options(max_task_retries=0).remote()
    refs = [actor.note.remote(number) for number in range(MANY)]
    gate.open.remote()
    assert isinstance(raises_within(ray, dying), ray.exceptions.RayError)
    assert get(ray, refs) == list(range(MANY))
    notes = get(ray, actor.read.remote())
    assert (sorted(notes) if impl == "ray" else notes) == list(range(MANY))


def test_the_last_handle_goes_while_many_calls_are_made(ray):
    counter = make_counter(ray)
    refs = [counter.increment.remote() for _ in range(MANY)]
    del counter
    assert get(ray, refs) == list(range(1, MANY + 1))


@pytest.mark.parametrize("kind", ["async", "threads"])
def test_many_calls_wait_for_a_later_one(ray, kind):
    """As many calls may wait as the actor runs at once, even if that is more than are usually under way."""
    waiting = 5000 if kind == "async" else 50

    class AsyncSignal:
        def __init__(self):
            import asyncio

            self.event = asyncio.Event()

        async def wait(self, data):
            await self.event.wait()
            return len(data)

        async def send(self):
            self.event.set()

    class Signal:
        def __init__(self):
            import threading

            self.event = threading.Event()

        def wait(self, data):
            self.event.wait()
            return len(data)

        def send(self):
            self.event.set()

    signal = ray.remote(num_cpus=0, max_concurrency=waiting + 1)(AsyncSignal if kind == "async" else Signal).remote()
    refs = [signal.wait.remote(bytes(20_000)) for _ in range(waiting)]
    signal.send.remote()
    assert get(ray, refs) == [20_000] * waiting


def test_many_large_tasks_wait_for_a_later_one_of_other_resources(ray, gate):
    """The running tasks wait, and further ones are queued. A later task of another shape passes them."""

    @ray.remote(num_cpus=0, resources={"slot": 1})
    def wait(gate, data):
        return ray.get(gate.wait.remote()), len(data)

    @ray.remote(num_cpus=0)
    def open_gate(gate):
        ray.get(gate.open.remote())

    refs = [wait.remote(gate, bytes(80_000)) for _ in range(300)]
    get(ray, open_gate.remote(gate))
    assert get(ray, refs) == [("open", 80_000)] * 300
