"""``ray.util.ActorPool``."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def doubler(ray):
    @ray.remote(num_cpus=0)
    class Doubler:
        def double(self, value):
            if isinstance(value, str):
                raise ValueError(value)
            return 2 * value

        def pair(self, value):
            return value, -value

        def end(self):
            import os

            os._exit(1)

        def wait_for(self, refs):
            return ray.get(refs[0])

    return Doubler


@pytest.fixture
def pool(ray, doubler):
    return ray.util.ActorPool([doubler.remote() for _ in range(2)])


def call(actor, value):
    return actor.double.remote(value)


def test_map_keeps_the_order(pool):
    assert list(pool.map(call, range(20))) == [2 * value for value in range(20)]


def test_map_unordered_gives_all(pool):
    assert sorted(pool.map_unordered(call, range(20))) == [2 * value for value in range(20)]


def test_results_in_the_order_of_submission(pool):
    for value in (1, 2, 3):
        pool.submit(call, value)
    assert not pool.has_free()
    assert [pool.get_next() for _ in range(3)] == [2, 4, 6]
    assert pool.has_free()
    assert not pool.has_next()


def test_results_as_they_come(pool):
    for value in (1, 2, 3):
        pool.submit(call, value)
    assert {pool.get_next_unordered() for _ in range(3)} == {2, 4, 6}


def test_nothing_left_is_stop_iteration(pool):
    with pytest.raises(StopIteration):
        pool.get_next()
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


def test_order_is_lost_after_an_unordered_result(ray, pool):
    pool.submit(call, 1)
    pool.submit(call, 2)
    ray.wait([pool._idle_actors[0].double.remote(0)] if pool._idle_actors else [ray.put(1)])
    first = pool.get_next_unordered()
    if first == 2:  # the older result was taken: what follows is in order still
        assert pool.get_next() == 4
    else:
        with pytest.raises(ValueError):
            pool.get_next()


def test_a_timeout_leaves_the_result(ray, pool, gate):
    refs = [gate.wait.remote()]
    pool.submit(lambda actor, value: actor.wait_for.remote(value), refs)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0)
    with pytest.raises(TimeoutError):
        pool.get_next_unordered(timeout=0)
    assert pool.has_next()
    ray.get(gate.open.remote())
    assert pool.get_next(timeout=60) == "open"


def test_a_timeout_may_skip_the_result(ray, pool, gate):
    pool.submit(lambda actor, value: actor.wait_for.remote(value), [gate.wait.remote()])
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0, ignore_if_timedout=True)
    assert not pool.has_next()
    ray.get(gate.open.remote())
    pool.submit(call, 4)
    assert pool.get_next() == 8


def test_an_error_frees_the_actor(pool):
    for value in ("bad", 1, 2):
        pool.submit(call, value)
    with pytest.raises(ValueError, match="bad"):
        pool.get_next()
    assert [pool.get_next(), pool.get_next()] == [2, 4]


def test_map_drops_what_was_not_taken(pool):
    for value in (1, 2, 3):
        pool.submit(call, value)
    assert list(pool.map(call, [10])) == [20]


def test_a_dead_actor_leaves_the_pool(ray, pool):
    pool.submit(lambda actor, value: actor.end.remote(), 0)
    with pytest.raises(ray.exceptions.RayActorError):
        pool.get_next()
    for value in (1, 2, 3):
        pool.submit(call, value)
    assert [pool.get_next() for _ in range(3)] == [2, 4, 6]


def test_calls_with_several_results(ray, pool):
    for value in (1, 2, 3):
        pool.submit(lambda actor, value: actor.pair.options(num_returns=2).remote(value), value)
    assert [pool.get_next() for _ in range(3)] == [[1, -1], [2, -2], [3, -3]]


def test_actors_come_and_go(ray, doubler):
    pool = ray.util.ActorPool([doubler.remote()])
    actor = pool.pop_idle()
    assert actor is not None
    assert pool.pop_idle() is None
    pool.submit(call, 5)  # waits for an actor
    assert not pool.has_next()
    pool.push(actor)
    assert pool.get_next() == 10
    with pytest.raises(ValueError):
        pool.push(actor)


def test_a_busy_actor_cannot_be_pushed(ray, doubler):
    actor = doubler.remote()
    pool = ray.util.ActorPool([actor])
    pool.submit(call, 1)
    with pytest.raises(ValueError):
        pool.push(actor)
    assert pool.get_next() == 2
