"""Generators whose values are references, one after the other: ``num_returns="streaming"`` and ``"dynamic"``."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import warnings

import pytest

from .helpers import eventually, make_counter, raises_within


@pytest.fixture(scope="module")
def numbers(ray):
    """A generator function: ``numbers(n, fail)`` yields 0 to n - 1 and raises ValueError instead of ``fail``."""

    @ray.remote
    def numbers(n, fail=None):
        for i in range(n):
            if i == fail:
                raise ValueError("the generator failed")
            yield i

    return numbers


@pytest.fixture(scope="module")
def actors(ray):
    """An ordinary, a threaded and an async actor, whose method ``numbers`` is a generator."""

    @ray.remote(num_cpus=0)
    class Plain:
        def numbers(self, n, fail=None):
            for i in range(n):
                if i == fail:
                    raise ValueError("the generator failed")
                yield i

        def pid(self):
            return os.getpid()

    @ray.remote(num_cpus=0)
    class Async:
        async def numbers(self, n, fail=None):
            for i in range(n):
                await asyncio.sleep(0)
                if i == fail:
                    raise ValueError("the generator failed")
                yield i

        async def pid(self):
            return os.getpid()

    return {"plain": Plain.remote(), "threads": Plain.options(max_concurrency=3).remote(), "async": Async.remote()}


KINDS = ("plain", "threads", "async")


def values(ray, stream):
    return [ray.get(ref, timeout=30) for ref in stream]


# ------------------------------------------------------------------ reading


def test_a_generator_function_streams(ray, numbers):
    stream = numbers.remote(3)
    assert isinstance(stream, ray.ObjectRefGenerator)
    refs = list(stream)
    assert all(isinstance(ref, ray.ObjectRef) for ref in refs) and ray.get(refs) == [0, 1, 2]
    with pytest.raises(StopIteration):
        next(stream)


def test_num_returns_may_say_so(ray, numbers):
    assert values(ray, numbers.options(num_returns="streaming").remote(2)) == [0, 1]


def test_a_number_of_returns_does_not_stream(ray, numbers):
    assert ray.get(numbers.options(num_returns=2).remote(2)) == [0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_generator_methods_stream(ray, actors, kind):
    assert values(ray, actors[kind].numbers.remote(5)) == [0, 1, 2, 3, 4]


def test_an_empty_generator(ray, numbers, actors):
    assert list(numbers.remote(0)) == [] and list(actors["async"].numbers.remote(0)) == []


def test_values_come_before_the_generator_has_ended(ray, gate):

    @ray.remote
    def two(gate):
        yield "first"
        ray.get(gate.wait.remote())
        yield "second"

    stream = two.remote(gate)
    assert ray.get(next(stream)) == "first"
    assert not stream.next_ready() and not stream.is_finished()
    assert ray.wait([stream], timeout=0.1) == ([], [stream])
    gate.open.remote()
    assert ray.wait([stream], timeout=30) == ([stream], [])
    assert stream.next_ready() and ray.get(next(stream)) == "second"
    assert ray.get(stream.completed(), timeout=30) is None
    assert stream.is_finished() and not stream.next_ready() and ray.wait([stream]) == ([stream], [])


def test_many_values(ray, numbers):
    assert values(ray, numbers.remote(2000)) == list(range(2000))


def test_large_values(ray):
    @ray.remote
    def blocks(n):
        for i in range(n):
            yield bytes([i]) * 1_000_000

    assert [(len(block), block[0]) for block in values(ray, blocks.remote(5))] == [(1_000_000, i) for i in range(5)]


def test_references_within_values(ray):
    @ray.remote
    def boxes():
        for i in range(3):
            yield [ray.put(i)]

    assert [ray.get(box[0]) for box in values(ray, boxes.remote())] == [0, 1, 2]


def test_values_are_passed_on(ray, numbers):
    @ray.remote
    def double(x):
        return 2 * x

    assert ray.get([double.remote(ref) for ref in numbers.remote(4)]) == [0, 2, 4, 6]


def test_a_task_reads_a_stream(ray, numbers):
    @ray.remote
    def total(n):
        return sum(ray.get(ref) for ref in numbers.remote(n))

    assert ray.get(total.remote(5), timeout=30) == 10


def test_streams_are_read_side_by_side(ray, numbers):
    streams = [numbers.remote(20) for _ in range(4)]
    seen: dict[object, list[int]] = {stream: [] for stream in streams}
    left = list(streams)
    while left:
        (ready, *_), _ = ray.wait(left, timeout=30)
        try:
            seen[ready].append(ray.get(next(ready)))
        except StopIteration:
            left.remove(ready)
    assert all(found == list(range(20)) for found in seen.values())


def test_a_stream_beside_references(ray, numbers):
    ref, stream = ray.put(1), numbers.remote(1)
    ready, rest = ray.wait([stream, ref], num_returns=2, timeout=30)
    assert ready == [stream, ref] and not rest


def test_async_for(ray, numbers, actors):
    async def read(stream):
        return [await ref async for ref in stream]

    async def both():
        return await asyncio.gather(read(numbers.remote(5)), read(actors["async"].numbers.remote(5)))

    assert asyncio.run(both()) == [[0, 1, 2, 3, 4]] * 2


def test_a_generator_that_is_dropped(ray, numbers):
    stream = numbers.remote(100)
    first = next(stream)
    del stream
    assert ray.get(first) == 0 and values(ray, numbers.remote(2)) == [0, 1]


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize("kind", ("task", *KINDS))
def test_the_error_is_the_last_value(ray, numbers, actors, kind):
    make = numbers if kind == "task" else actors[kind].numbers
    stream = make.remote(5, 2)
    refs = list(stream)
    assert len(refs) == 3 and ray.get(refs[:2]) == [0, 1]
    error = raises_within(ray, refs[2])
    assert isinstance(error, ValueError) and isinstance(error, ray.exceptions.RayTaskError)
    assert ray.get(stream.completed()) is None and stream.is_finished()


def test_a_worker_that_dies(ray):
    @ray.remote(max_retries=0)
    def dies():
        yield 1
        os._exit(1)

    stream = dies.remote()
    refs = list(stream)
    error = raises_within(ray, refs[-1])
    assert isinstance(error, ray.exceptions.WorkerCrashedError) and len(refs) <= 2
    assert isinstance(raises_within(ray, stream.completed()), ray.exceptions.WorkerCrashedError)


def test_an_attempt_after_a_death_goes_on_where_the_first_ended(ray):
    counter = make_counter(ray)

    @ray.remote(max_retries=1)
    def dies_once(counter):
        attempt = ray.get(counter.increment.remote())
        for i in range(6):
            if attempt == 1 and i == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield i

    assert values(ray, dies_once.remote(counter)) == [0, 1, 2, 3, 4, 5]
    assert ray.get(counter.read.remote()) == 2


def test_an_attempt_after_an_error_goes_on_where_the_first_ended(ray):
    counter = make_counter(ray)

    @ray.remote(max_retries=1, retry_exceptions=True)
    def fails_once(counter):
        attempt = ray.get(counter.increment.remote())
        for i in range(5):
            if attempt == 1 and i == 3:
                raise ValueError("the first attempt")
            yield attempt, i

    assert values(ray, fails_once.remote(counter)) == [(1, 0), (1, 1), (1, 2), (2, 3), (2, 4)]


def test_an_attempt_that_yields_less(ray):
    counter = make_counter(ray)

    @ray.remote(max_retries=1, retry_exceptions=True)
    def less(counter):
        if ray.get(counter.increment.remote()) == 1:
            yield from (i for i in range(3))  # a generator: see findings/ray-generator-send.sh
            raise ValueError("the first attempt")
        yield 0

    assert values(ray, less.remote(counter)) == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_an_actor_that_dies(ray, kind):
    @ray.remote(num_cpus=0)
    class Dies:
        def numbers(self):
            yield 1
            os._exit(1)

    @ray.remote(num_cpus=0)
    class DiesAsync:
        async def numbers(self):
            yield 1
            os._exit(1)

    actor = (
        DiesAsync.remote() if kind == "async" else Dies.options(max_concurrency=3 if kind == "threads" else 1).remote()
    )
    assert isinstance(raises_within(ray, list(actor.numbers.remote())[-1]), ray.exceptions.RayActorError)


def test_cancel(ray, gate):

    @ray.remote
    def waits(gate):
        yield 1
        ray.get(gate.wait.remote())
        yield 2

    stream = waits.remote(gate)
    assert ray.get(next(stream)) == 1
    ray.cancel(stream)
    (last,) = list(stream)
    assert isinstance(raises_within(ray, last), ray.exceptions.TaskCancelledError)


def test_an_argument_that_is_an_error(ray, numbers):
    @ray.remote
    def fails():
        raise KeyError("no number")

    refs = list(numbers.remote(fails.remote()))
    assert len(refs) == 1 and isinstance(raises_within(ray, refs[0]), KeyError)


def test_what_is_not_supported(ray, numbers):
    stream = numbers.remote(3)
    for refused in (lambda: stream.send(1), lambda: stream.throw(ValueError()), stream.close):
        with pytest.raises(NotImplementedError):
            refused()
    for refused in (lambda: stream.asend(1), lambda: stream.athrow(ValueError()), stream.aclose):
        with pytest.raises(NotImplementedError):
            asyncio.run(refused())
    for pickled in (lambda: pickle.dumps(stream), lambda: ray.put(stream), lambda: numbers.remote(stream)):
        with pytest.raises(TypeError):
            pickled()
    with pytest.raises(TypeError):
        ray.get([stream])
    assert ray.get(stream) is stream


# ------------------------------------------------------------------ options


def test_only_generators_stream(ray, actors):
    with pytest.raises(ValueError, match="can only be used with generator functions"):

        @ray.remote(num_returns="streaming")
        def plain():
            return [1, 2]

    with pytest.raises(ValueError):
        actors["plain"].pid.options(num_returns="streaming").remote()


@pytest.mark.parametrize("kind", ("task", *KINDS))
def test_back_pressure(ray, actors, kind):
    """The generator is not ahead of its reader by more than two values."""

    def steps(counter, n):
        for i in range(n):
            ray.get(counter.increment.remote())
            yield i

    async def async_steps(self, counter, n):
        for i in range(n):
            await counter.increment.remote()
            yield i

    if kind == "task":
        make = ray.remote(steps).options(_generator_backpressure_num_objects=2)
    else:
        method = async_steps if kind == "async" else lambda self, counter, n: (yield from steps(counter, n))
        Steps = ray.remote(num_cpus=0)(type("Steps", (), {"steps": method}))
        actor = Steps.options(**({"max_concurrency": 3} if kind == "threads" else {})).remote()
        make = actor.steps.options(num_returns="streaming", _generator_backpressure_num_objects=2)
    counter = make_counter(ray)
    stream = make.remote(counter, 6)
    assert ray.wait([stream], timeout=30)[0]
    for i in range(6):
        assert ray.get(next(stream), timeout=30) == i
        assert ray.get(counter.read.remote()) <= i + 3


def test_back_pressure_of_a_whole_actor(ray):
    @ray.remote(num_cpus=0, max_concurrency=3, _actor_generator_backpressure_num_objects=2)
    class Steps:
        def steps(self, counter, n):
            for i in range(n):
                ray.get(counter.increment.remote())
                yield i

    actor, counter = Steps.remote(), make_counter(ray)
    streams = [actor.steps.remote(counter, 3) for _ in range(2)]
    assert ray.wait(streams, timeout=30)[0]
    assert ray.get(counter.read.remote()) <= 4  # two values that are not read, and a step of each generator
    seen = []
    while streams:
        (ready, *_), _ = ray.wait(streams, timeout=30)
        try:
            seen.append(ray.get(next(ready)))
        except StopIteration:
            streams.remove(ready)
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("kind", ("task", *KINDS))
def test_back_pressure_after_a_death(ray, tmp_path, kind):
    """The worker dies when nothing was taken and no more may be sent. What is taken later reaches the next attempt."""

    class Sign:
        """Notes in a file that an attempt has begun, as its arguments are unpickled."""

        def __init__(self, path):
            self.path = path

        def __reduce__(self):
            return note, (self.path,)

    def note(path):
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")

    def steps(sign):
        yield from range(3)

    async def async_steps(self, sign):
        for i in range(3):
            yield i

    if kind == "task":
        make = ray.remote(steps).options(_generator_backpressure_num_objects=1, max_retries=1)
    else:
        method = async_steps if kind == "async" else lambda self, sign: (yield from steps(sign))
        Steps = ray.remote(num_cpus=0, max_restarts=1)(type("Steps", (), {"steps": method}))
        actor = Steps.options(**({"max_concurrency": 3} if kind == "threads" else {})).remote()
        make = actor.steps.options(num_returns="streaming", _generator_backpressure_num_objects=1, max_task_retries=1)
    signs = tmp_path / "attempts"
    stream = make.remote(Sign(str(signs)))
    assert ray.wait([stream], timeout=30)[0]
    os.kill(int(signs.read_text()), signal.SIGKILL)
    eventually(lambda: len(signs.read_text().split()) == 2)
    assert [ray.get(next(stream), timeout=30) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration):
        next(stream)


def test_bad_back_pressure(ray, numbers):
    with pytest.raises(ValueError):
        numbers.options(_generator_backpressure_num_objects=0)


def test_several_objects_for_each_yield(ray):
    @ray.remote(_num_objects_per_yield=2)
    def pairs(n):
        for i in range(n):
            yield i, 10 * i

    assert values(ray, pairs.remote(3)) == [0, 0, 1, 10, 2, 20]
    with pytest.raises(ValueError):
        pairs.options(_num_objects_per_yield=3).remote(1)


# ------------------------------------------------------------------ dynamic


@pytest.fixture(scope="module")
def dynamic(ray, numbers):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return numbers.options(num_returns="dynamic")


def test_dynamic_is_one_reference_to_all(ray, dynamic):
    ref = dynamic.remote(3)
    assert isinstance(ref, ray.ObjectRef)
    found = ray.get(ref)
    assert isinstance(found, ray.DynamicObjectRefGenerator) and len(found) == 3
    assert values(ray, found) == [0, 1, 2]


def test_dynamic_is_passed_on(ray, dynamic):
    @ray.remote
    def total(refs):
        return sum(ray.get(ref) for ref in refs)

    assert ray.get(total.remote(dynamic.remote(4)), timeout=30) == 6
    assert ray.get(total.remote(ray.get(dynamic.remote(4))), timeout=30) == 6


def test_dynamic_that_fails(ray, dynamic):
    first, last = ray.get(dynamic.remote(3, 1))
    assert ray.get(first) == 0 and isinstance(raises_within(ray, last), ValueError)


def test_dynamic_is_deprecated(ray, numbers):
    with pytest.warns(DeprecationWarning, match="streaming"):
        numbers.options(num_returns="dynamic").remote(1)
