"""A program as a user types it. Type checkers accept it and infer the types that are asserted, and it runs.

Annotations are evaluated here, as they are in programs that do not put that off.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, NoReturn

import zray
from zray import ObjectRef, ObjectRefGenerator
from zray.actor import ActorClass, ActorHandle
from zray.remote_function import RemoteFunction
from zray.util import methods_of

if sys.version_info >= (3, 11):
    from typing import assert_type
else:
    from typing_extensions import assert_type


@zray.remote
def square(n: int) -> int:
    return n * n


@zray.remote(num_cpus=0.5, max_retries=0)
def name_of(n: int) -> str:
    return str(n)


@zray.remote(num_returns=2)
def halves(n: int) -> tuple[int, int]:
    return n // 2, n - n // 2


@zray.remote
def scaled(n: int, factor: float = 2.0, *, label: str = "") -> str:
    return f"{label}{n * factor}"


@zray.remote
def total_of(*numbers: int) -> int:
    return sum(numbers)


@zray.remote
def countdown(n: int) -> Iterator[int]:
    yield from range(n, 0, -1)


@zray.remote(num_cpus=0.5)
def words(text: str) -> Generator[str, None, None]:
    yield from text.split()


@zray.remote
def leave() -> NoReturn:
    raise ValueError


@zray.remote
def numbers(n: int) -> list[int]:
    return list(range(n))


class Counter:
    def __init__(self, start: int) -> None:
        self.n = start

    @zray.method(num_returns=1)
    def add(self, more: int) -> int:
        self.n += more
        return self.n

    @zray.method
    async def later(self, more: int, times: int = 1) -> int:
        return self.n + more * times

    @zray.method
    def each(self, n: int) -> Iterator[int]:
        yield from range(self.n, n)

    @zray.method(max_task_retries=1)
    async def letters(self, text: str) -> AsyncIterator[str]:
        for letter in text:
            yield letter

    @zray.method(num_returns=2)
    def both(self, other: int) -> tuple[int, int]:
        return self.n, other

    def plain(self, n: int) -> int:
        return self.add(n) - n  # within the class a method is what it was


# Not as a decorator: mypy takes a decorated class for the plain one. Other type checkers know better.
RemoteCounter = zray.remote(Counter)
IdleCounter = zray.remote(num_cpus=0)(Counter)


def total(refs: list[ObjectRef[int]], extra: ObjectRef[int]) -> int:
    return sum(zray.get(refs)) + zray.get(extra)


def run(function: RemoteFunction[[int], ObjectRef[int]]) -> int:
    return zray.get(function.remote(3))


def use(counter: ActorHandle[Any], anything: ObjectRef) -> Any:  # a bare ObjectRef is one to anything
    return zray.get(counter.add.remote(anything))


def created_by(kind: ActorClass[Counter]) -> ActorHandle[Counter]:
    return kind.remote(1)


async def awaited(ref: ObjectRef[str]) -> str:
    return await ref


def tasks() -> None:
    assert_type(square.remote(2), ObjectRef[int])
    assert_type(zray.get(square.remote(square.remote(2))), int)
    assert_type(zray.get([square.remote(n) for n in range(3)], timeout=20), list[int])
    assert_type(zray.get((square.remote(1), square.remote(2))), list[int])
    mixed: list[object] = zray.get([square.remote(1), name_of.remote(2)])
    assert mixed == [1, "2"]
    assert_type(name_of.remote(1), ObjectRef[str])
    assert_type(zray.get(square.options(num_cpus=1, name="x").remote(zray.put(2))), int)
    assert_type(zray.get(zray.remote(len).remote("text")), int)
    assert run(square) == 9
    assert_type(zray.get(zray.remote(lambda: "text").remote()), str)
    one, other = halves.remote(5)  # how many come is not known to types: Any
    assert_type(halves.remote(4), Any)
    assert_type(square.options(num_returns=0).remote(2), Any)
    assert zray.get([one, other]) == [2, 3]
    assert total([square.remote(2), square.remote(3)], zray.put(1)) == 14


def arguments() -> None:
    number, factor, text = zray.put(2), zray.put(1.5), zray.put("text")
    assert_type(scaled.remote(number), ObjectRef[str])
    assert_type(scaled.remote(number, factor), ObjectRef[str])
    assert_type(scaled.remote(1, factor, label="x"), ObjectRef[str])
    assert_type(scaled.remote(number, factor=1.5, label="x"), ObjectRef[str])
    assert_type(scaled.remote(n=1, label="x"), ObjectRef[str])
    assert_type(total_of.remote(number, 2, number), ObjectRef[int])
    assert_type(zray.get(name_of.options(num_cpus=1).remote(number)), str)
    assert zray.get(words.remote(text).completed()) is None


def generators() -> None:
    assert_type(countdown.remote(3), ObjectRefGenerator[int])
    assert_type(next(countdown.remote(3)), ObjectRef[int])
    assert_type([zray.get(ref) for ref in words.remote("a b")], list[str])
    assert_type(numbers.remote(3), ObjectRef[list[int]])  # an iterable, but no generator
    assert_type(leave.remote(), ObjectRef[Any])
    assert_type(countdown.options(num_cpus=1).remote(3), ObjectRefGenerator[int])


def methods(counter: ActorHandle[Counter], number: ObjectRef[int]) -> None:
    known = methods_of(counter)
    assert_type(known.add.remote(2), ObjectRef[int])
    assert_type(known.add.remote(number), ObjectRef[int])
    assert_type(known.later.remote(1, times=2), ObjectRef[int])
    assert_type(known.later.options(name="x").remote(number, times=2), ObjectRef[int])
    assert_type(known.each.remote(5), ObjectRefGenerator[int])
    assert_type([zray.get(ref) for ref in known.letters.remote("ab")], list[str])
    assert_type(known.both.remote(1), Any)
    assert_type(zray.get(counter.plain.remote(1)), Any)
    assert_type(Counter(1).both(2), tuple[int, int])


def objects() -> None:
    ref = zray.put("text")
    assert_type(ref, ObjectRef[str])
    assert_type(zray.get(ref), str)
    assert_type(ref.future().result(), str)
    assert_type(zray.wait([ref], timeout=1.0), tuple[list[ObjectRef[str]], list[ObjectRef[str]]])
    assert_type(asyncio.run(awaited(ref)), str)
    wider: ObjectRef[object] = ref
    zray.cancel(wider)


def actors() -> None:
    assert_type(created_by(RemoteCounter), ActorHandle[Counter])
    assert_type(RemoteCounter.remote(zray.put(1)), ActorHandle[Counter])
    assert_type(RemoteCounter.remote(start=1), ActorHandle[Counter])
    assert_type(IdleCounter.remote(1), ActorHandle[Counter])
    counter = RemoteCounter.options(name="counter").remote(1)
    value: int = zray.get(counter.add.remote(2))  # pyright: ignore[reportUnknownVariableType]
    assert value == 3
    assert use(counter, zray.put(1)) == 4
    assert_type(Counter(1).add(1), int)  # and the class itself is what it was
    assert_type(zray.get_actor("counter"), ActorHandle[Any])
    methods(counter, zray.put(1))
    zray.kill(counter)


if __name__ == "__main__":
    with zray.init(num_cpus=2):
        tasks()
        arguments()
        generators()
        objects()
        actors()
    print("fine")
