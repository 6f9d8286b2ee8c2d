"""Mistakes that ``mypy --strict`` finds in users' programs: each line that has one says so."""

import zray
from zray import ObjectRef


@zray.remote
def square(n: int) -> int:
    return n * n


@zray.remote
class Counter:  # mypy takes it for what it was before: see accepted.py
    def add(self) -> int:
        return 1


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
Counter.remote()  # wrong
zray.remote(Counter).remote().add.remote().anything()  # what a method returns is Any
square.remote(2).resolve()  # wrong
zray.remote(5)  # wrong
zray.put()  # wrong
