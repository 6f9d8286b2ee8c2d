"""``ray.util.queue.Queue``."""

from __future__ import annotations

import asyncio
import importlib
import queue

import pytest

from .helpers import eventually


@pytest.fixture(scope="module")
def module(ray):
    return importlib.import_module(f"{ray.__name__}.util.queue")


@pytest.fixture
def make(module):
    queues = []

    def make(*args, **kwargs):
        queues.append(module.Queue(*args, **kwargs))
        return queues[-1]

    yield make
    for each in queues:
        if each.actor is not None:
            each.shutdown(force=True)


def test_first_in_first_out(make):
    q = make()
    for item in range(10):
        q.put(item)
    assert (q.size(), q.qsize(), len(q), q.empty(), q.full()) == (10, 10, 10, False, False)
    assert [q.get() for _ in range(10)] == list(range(10))
    assert q.empty()


def test_without_waiting(make, module):
    q = make(1)
    with pytest.raises(module.Empty):
        q.get_nowait()
    with pytest.raises(module.Empty):
        q.get(block=False)
    q.put_nowait(1)
    assert q.full()
    with pytest.raises(module.Full):
        q.put_nowait(2)
    with pytest.raises(module.Full):
        q.put(2, block=False)
    assert q.get_nowait() == 1


def test_waiting_for_a_while(make, module):
    q = make(1)
    with pytest.raises(module.Empty):
        q.get(timeout=0.05)
    q.put(1)
    with pytest.raises(module.Full):
        q.put(2, timeout=0.05)
    assert q.get(timeout=60) == 1


def test_errors_are_those_of_the_standard_library(module):
    assert issubclass(module.Empty, queue.Empty)
    assert issubclass(module.Full, queue.Full)


@pytest.mark.parametrize("method", ["get", "put"])
def test_a_negative_timeout_is_refused(make, method):
    arguments = [1] if method == "put" else []
    with pytest.raises(ValueError):
        getattr(make(), method)(*arguments, timeout=-1)


def test_batches(make, module):
    q = make(3)
    q.put_nowait_batch([1, 2])
    with pytest.raises(module.Full):
        q.put_nowait_batch([3, 4])
    assert q.size() == 2
    with pytest.raises(module.Empty):
        q.get_nowait_batch(3)
    assert q.get_nowait_batch(2) == [1, 2]
    assert q.get_nowait_batch(0) == []
    with pytest.raises(TypeError):
        q.put_nowait_batch(1)
    with pytest.raises(TypeError):
        q.get_nowait_batch("1")
    with pytest.raises(ValueError):
        q.get_nowait_batch(-1)


def test_coroutines(make, module):
    q = make(1)

    async def run():
        await q.put_async("a")
        with pytest.raises(module.Full):
            await q.put_async("b", block=False)
        with pytest.raises(module.Full):
            await q.put_async("b", timeout=0.05)
        with pytest.raises(ValueError):
            await q.put_async("b", timeout=-1)
        assert await q.get_async() == "a"
        with pytest.raises(module.Empty):
            await q.get_async(block=False)
        with pytest.raises(module.Empty):
            await q.get_async(timeout=0.05)
        with pytest.raises(ValueError):
            await q.get_async(timeout=-1)
        taken = asyncio.ensure_future(q.get_async())
        await q.put_async("later")
        return await taken

    assert asyncio.run(run()) == "later"


def test_a_waiting_put_goes_on_when_there_is_room(ray, make):
    q = make(1)
    q.put(1)

    @ray.remote(num_cpus=0)
    def put(q):
        q.put(2)

    done = put.remote(q)
    assert q.get() == 1
    assert q.get() == 2
    ray.get(done)


def test_a_waiting_get_goes_on_when_there_is_an_item(ray, make):
    q = make()

    @ray.remote(num_cpus=0)
    def take(q):
        return q.get()

    taken = take.remote(q)
    q.put("item")
    assert ray.get(taken) == "item"


def test_it_can_be_passed_on(ray, make):
    q = make(maxsize=5)

    @ray.remote(num_cpus=0)
    def fill(q):
        for item in range(q.maxsize):
            q.put(item)
        return q

    same = ray.get(fill.remote(q))
    assert [same.get() for _ in range(5)] == list(range(5))


def test_references_stay_alive_in_it(ray, make):
    q = make()
    q.put([ray.put("inside")])
    assert ray.get(q.get()[0]) == "inside"


def test_options_of_its_actor(ray, make):
    q = make(actor_options={"name": "shared", "num_cpus": 0})
    q.put(1)
    assert ray.get(ray.get_actor("shared").qsize.remote()) == 1


@pytest.mark.parametrize("force", [False, True])
def test_shutdown(ray, make, force):
    q = make()
    actor = q.actor
    q.shutdown(force=force)
    assert q.actor is None
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.empty.remote())
    q.shutdown()
    with pytest.raises(AttributeError):
        q.put(1)


def test_the_death_of_its_actor_ends_waits(ray, make):
    q = make()

    @ray.remote(num_cpus=0)
    def take(q):
        return q.get()

    taken = take.remote(q)
    eventually(lambda: len(ray.wait([taken], timeout=0)[1]) == 1)
    ray.kill(q.actor)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(taken, timeout=60)
    with pytest.raises(ray.exceptions.RayActorError):
        q.put(1)
