"""Mistakes that type checkers find in users' programs: each line that has one says so."""

from collections.abc import Iterator

import zray
from zray import ObjectRef
from zray.util import methods_of


@zray.remote
def square(n: int) -> int:
    return n * n


@zray.remote
class Counter:  # mypy takes it for what it was before; pyright knows better
    def add(self) -> int:
        return 1


@zray.remote
def pair(n: int, text: str = "") -> str:
    return text * n


@zray.remote
def countdown(n: int) -> Iterator[int]:
    yield n


class Adder:
    @zray.method
    def add(self, n: int, m: int = 1) -> int:
        return n + m

    def plain(self) -> int:
        return 1


adder = methods_of(zray.remote(Adder).remote())

text: str = zray.get(square.remote(2))  # wrong
texts: list[str] = zray.get([square.remote(2)])  # wrong
wrong: ObjectRef[str] = square.remote(2)  # wrong
zray.get(5)  # wrong
zray.get([1, 2])  # wrong
zray.get({square.remote(2)})  # wrong
zray.get(square.remote(2), 5.0)  # wrong
zray.wait(square.remote(2))  # wrong
zray.wait([square.remote(2)], num_returns="2")  # wrong
zray.cancel(5)  # wrong
zray.kill(square.remote(2))  # wrong
Counter.remote()  # wrong for mypy
zray.remote(Adder).remote().plain.remote().anything()  # what a method returns is Any
square.remote(2).resolve()  # wrong
zray.remote(5)  # wrong
zray.put()  # wrong
square.remote("2")  # wrong
square.remote()  # wrong
square.remote(2, 3)  # wrong
square.remote(m=2)  # wrong
square.remote(zray.put("2"))  # wrong
pair.remote(2, 3)  # wrong
pair.remote(2, text=3)  # wrong
pair.remote(zray.put(2), zray.put(3))  # wrong
pair.options(num_cpus=1).remote("2")  # wrong
items: list[int] = countdown.remote(2)  # wrong
first: str = zray.get(next(countdown.remote(2)))  # wrong
adder.add.remote("2")  # wrong
adder.add.remote(zray.put("2"))  # wrong
adder.add.remote()  # wrong
added: str = zray.get(adder.add.remote(2))  # wrong
adder.subtract.remote(2)  # wrong
adder.plain.remote()  # wrong
Adder().add("2")  # wrong


class Named:
    def __init__(self, n: int, name: str = "") -> None:
        self.n = n


class Plain:
    pass


RemoteNamed = zray.remote(Named)
IdleNamed = zray.remote(num_cpus=0)(Named)

RemoteNamed.remote("1")  # wrong
RemoteNamed.remote()  # wrong
RemoteNamed.remote(1, "a", "b")  # wrong
RemoteNamed.remote(1, name=2)  # wrong
RemoteNamed.remote(1, title="a")  # wrong
RemoteNamed.options(name="a").remote("1")  # wrong
IdleNamed.remote("1")  # wrong
zray.remote(Plain).remote(1)  # wrong for mypy
