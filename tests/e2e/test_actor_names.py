"""An actor's output is named by its ``__repr__``, if its class has one."""

from __future__ import annotations

import re

from .helpers import driver


def shown_under(process, text):
    """Returns the names under which a line was shown."""
    return re.findall(rf"^\((.*) pid=\d+\) {re.escape(text)}$", process.out, re.M)


def test_output_is_named_by_the_actors_own_representation():
    source = """
    import asyncio, dataclasses
    ray.init(num_cpus=1)

    class Base:
        def __init__(self, number=1):
            self.number = number
            print("constructor of", type(self).__name__)

        def __repr__(self):
            return f"{type(self).__name__}(number={self.number})"

        def speak(self, text):
            self.number += 1
            print(text)

    class Plain(Base):
        pass

    class Async(Base):
        async def speak(self, text):
            print(text)

    class Lines(Base):
        def __repr__(self):
            return "first line" + chr(10) + "second line"

    class Raises(Base):
        def __repr__(self):
            raise KeyError("no name")

    class Number(Base):
        def __repr__(self):
            return 7

    class Empty(Base):
        def __repr__(self):
            return ""

    class Without:
        def speak(self, text):
            print(text)

    class Items(dict):
        def speak(self, text):
            print(text)

    @dataclasses.dataclass
    class Data:
        x: int = 3

        def speak(self, text):
            print(text)

    for kind in (Plain, Async, Lines, Raises, Number, Empty, Without, Items, Data):
        actor = ray.remote(num_cpus=0)(kind).remote()
        ray.get(actor.speak.remote(f"{kind.__name__} speaks"))
        ray.get(actor.speak.remote(f"{kind.__name__} again"))
    ray.shutdown()
    """
    with driver(source) as process:
        process.succeed()
        names = {
            "Plain": "Plain(number=1)",
            "Async": "Async(number=1)",
            "Lines": "first line",
            "Raises": "Raises",
            "Number": "Number",
            "Empty": "Empty",
            "Without": "Without",
            "Items": "Items",
            "Data": "Data(x=3)",
        }
        for kind, name in names.items():
            assert shown_under(process, f"{kind} speaks") == [name]
            assert shown_under(process, f"{kind} again") == [name]
        assert shown_under(process, "constructor of Plain") == ["Plain"]
        assert "named by its class, as its __repr__ raised KeyError" in process.out + process.err


def test_output_of_a_restarted_actor():
    source = """
    import asyncio
    ray.init(num_cpus=1)

    @ray.remote(max_restarts=1)
    class A:
        def __init__(self, name):
            self.name = name

        def __repr__(self):
            return self.name

        def speak(self, text):
            print(text, flush=True)

        def die(self):
            os._exit(1)

    actor = A.remote("my name")
    ray.get(actor.speak.remote("before"))
    actor.die.remote()
    ray.get(actor.__ray_ready__.options(max_task_retries=-1).remote())
    ray.get(actor.speak.options(max_task_retries=-1).remote("after"))
    ray.shutdown()
    """
    with driver(source) as process:
        process.succeed()
        assert shown_under(process, "before") == shown_under(process, "after") == ["my name"]
