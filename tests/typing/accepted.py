"""A program as a user types it. ``mypy --strict`` accepts it and infers the types that are asserted, and it runs.

Annotations are evaluated here, as they are in programs that do not put that off.
"""

import asyncio
import sys
from typing import Any

import zray
from zray import ObjectRef
from zray.actor import ActorClass, ActorHandle
from zray.remote_function import RemoteFunction

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


class Counter:
    def __init__(self, start: int) -> None:
        self.n = start

    @zray.method(num_returns=1)
    def add(self, more: int) -> int:
        self.n += more
        return self.n


# Not as a decorator: mypy takes a decorated class for the plain one. Other type checkers know better.
RemoteCounter = zray.remote(Counter)
IdleCounter = zray.remote(num_cpus=0)(Counter)


def total(refs: list[ObjectRef[int]], extra: ObjectRef[int]) -> int:
    return sum(zray.get(refs)) + zray.get(extra)


def use(counter: ActorHandle[Any], anything: ObjectRef) -> Any:  # a bare ObjectRef is one to anything
    return zray.get(counter.add.remote(anything))


async def awaited(ref: ObjectRef[str]) -> str:
    return await ref


def tasks() -> None:
    assert_type(square.remote(2), ObjectRef[int])
    assert_type(zray.get(square.remote(square.remote(2))), int)
    assert_type(zray.get([square.remote(n) for n in range(3)], timeout=20), list[int])
    assert_type(zray.get((square.remote(1), square.remote(2))), list[int])
    assert_type(zray.get([square.remote(1), name_of.remote(2)]), list[object])
    assert_type(name_of.remote(1), ObjectRef[str])
    assert_type(square.options(num_cpus=1, name="x"), RemoteFunction[ObjectRef[int]])
    assert_type(zray.remote(len), RemoteFunction[ObjectRef[int]])
    assert_type(zray.get(zray.remote(lambda: "text").remote()), str)
    one, other = halves.remote(5)  # how many come is not known to types: Any
    assert_type(halves.remote(4), Any)
    assert_type(square.options(num_returns=0).remote(2), Any)
    assert zray.get([one, other]) == [2, 3]
    assert total([square.remote(2), square.remote(3)], zray.put(1)) == 14


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
    assert_type(RemoteCounter, ActorClass[Counter])
    assert_type(IdleCounter.remote(1), ActorHandle[Counter])
    counter = RemoteCounter.options(name="counter").remote(1)
    value: int = zray.get(counter.add.remote(2))  # methods are known when they are called: Any
    assert value == 3
    assert use(counter, zray.put(1)) == 4
    assert_type(Counter(1).add(1), int)  # and the class itself is what it was
    assert_type(zray.get_actor("counter"), ActorHandle[Any])
    zray.kill(counter)


if __name__ == "__main__":
    with zray.init(num_cpus=2):
        tasks()
        objects()
        actors()
    print("fine")
