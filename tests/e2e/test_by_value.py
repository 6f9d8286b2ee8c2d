"""Definitions of a script, which go to workers by value: classes with slots, caches, dispatchers, variables."""

from __future__ import annotations

import abc
import contextvars
import dataclasses
import functools
import pickle
import sys
import threading
import typing
from typing import NoReturn

import pytest

from .helpers import driver

T = typing.TypeVar("T")


def slotted():
    """Returns instances of local classes, each with its readable attributes."""

    @dataclasses.dataclass(slots=True)
    class Point:
        x: int
        y: list

        def clone(self):
            return Point(self.x, self.y)

    @dataclasses.dataclass(slots=True, kw_only=True)
    class Weighted(Point):
        weight: int = 1

    @dataclasses.dataclass(slots=True, frozen=True)
    class Frozen:
        x: int

    class Base:
        __slots__ = ("a",)

    class Derived(Base):
        __slots__ = ["b"]

    class WithDict(Base):
        __slots__ = ("__dict__", "__weakref__", "c")

    class WithoutSlots(Base):
        pass

    class Private:
        __slots__ = ("__hidden",)

        def __init__(self):
            self.__hidden = 4

        @property
        def shown(self):
            return self.__hidden

    class Single:
        __slots__ = "one"

    class SinglePrivate:
        __slots__ = "__one"

        def __init__(self):
            self.__one = 5

        def read(self):
            return self.__one

    class Described:
        __slots__ = {"k": "what it is"}

    class Abstract(abc.ABC):
        __slots__ = ()

        @abc.abstractmethod
        def read(self): ...

    class Concrete(Abstract):
        __slots__ = ("g",)

        def read(self):
            return self.g

    class Generic(typing.Generic[T]):
        __slots__ = ("q",)

    class OwnState:
        __slots__ = ("v",)

        def __getstate__(self):
            return self.v

        def __setstate__(self, state):
            self.v = state

    class Supers(Base):
        __slots__ = ("k",)

        def __init__(self):
            super().__init__()
            self.k = 6

    def made(kind, **values):
        value = kind()
        for name, each in values.items():
            setattr(value, name, each)
        return value

    yield Point(1, [2]), lambda v: (v.x, v.y, v.clone() == v)
    yield Weighted(x=1, y=[], weight=3), dataclasses.astuple
    yield Frozen(3), dataclasses.asdict
    yield made(Derived, a=1, b=2), lambda v: (v.a, v.b)
    yield made(WithDict, a=1, c=2, other=3), lambda v: (v.a, v.c, v.other)
    yield made(WithoutSlots, a=1, other=3), lambda v: (v.a, v.other)
    yield Private(), lambda v: v.shown
    yield made(Single, one=1), lambda v: (v.one, type(v).__slots__)
    yield SinglePrivate(), lambda v: v.read()
    yield made(Described, k=1), lambda v: (v.k, type(v).__slots__)
    yield made(Concrete, g=4), lambda v: v.read()
    yield made(Generic, q=4), lambda v: v.q
    yield made(OwnState, v=4), lambda v: v.v
    yield Supers(), lambda v: v.k


SLOTTED = list(slotted())


@pytest.mark.parametrize("value, read", SLOTTED, ids=[type(value).__name__ for value, _ in SLOTTED])
def test_classes_with_slots(ray, value, read):
    """In both directions, made there, and with slots that are slots."""

    def work(given, kind):
        assert type(given) is kind
        if not hasattr(value, "__dict__"):
            assert not hasattr(given, "__dict__")
        return given, read(given)

    given, seen = ray.get(ray.remote(work).remote(value, type(value)), timeout=20)
    assert type(given) is type(value)
    assert seen == read(value) == read(given)


def test_what_a_slot_does_not_have_is_an_error_there_too(ray):
    value, _ = SLOTTED[0]

    def work(given):
        given.z = 1

    with pytest.raises(AttributeError):
        ray.get(ray.remote(max_retries=0)(work).remote(value), timeout=20)


def test_caches(ray):
    @functools.lru_cache(maxsize=3, typed=True)
    def fib(n):
        "Doc."
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    @functools.cache
    def square(n):
        return n * n

    class Thing:
        made = 0

        @functools.cached_property
        def once(self):
            "What is made once."
            self.made += 1
            return self.made

        @functools.lru_cache  # noqa: B019  # as scripts do
        def twice(self, n):
            return 2 * n

    fib(20)

    def work(given, thing):
        return (
            given(20), given.__doc__, given.__name__, given.cache_parameters(), given.cache_info().currsize, square(3),
            thing.once, thing.once, Thing.once.__doc__, thing.twice(4),
        )  # fmt: skip

    expected = (6765, "Doc.", "fib", {"maxsize": 3, "typed": True}, 3, 9, 1, 1, "What is made once.", 8)
    assert ray.get(ray.remote(work).remote(fib, Thing()), timeout=20) == expected
    assert ray.get(ray.put([fib, functools.cached_property]), timeout=20)[0](10) == 55


def test_dispatchers(ray):
    @functools.singledispatch
    def show(value):
        "Doc."
        return f"<{value}>"

    @show.register
    def _(value: int):
        return f"int {value}"

    @show.register(list)
    @show.register(tuple)
    def _(value):
        return [show(each) for each in value]

    class Shower:
        @functools.singledispatchmethod
        def show(self, value):
            return "other"

        @show.register
        def _(self, value: int):
            return "int"

    show(4.5)  # fills its cache

    def work(given, shower):
        return given([1, "x", (2,)]), show.__doc__, show.__name__, shower.show(1), shower.show("x")

    expected = (["int 1", "<x>", ["int 2"]], "Doc.", "show", "int", "other")
    assert ray.get(ray.remote(work).remote(show, Shower()), timeout=20) == expected
    assert ray.get(ray.remote(show).remote(3), timeout=20) == "int 3"


def no_refs(object_id: bytes) -> NoReturn:
    raise AssertionError("there is no reference in it")


def test_what_an_import_finds_goes_by_reference():
    from zray.serialization import deserialize, serialize

    for value in (functools.singledispatch, cached_here, dispatched_here, typing.Generic, abc.ABC):
        assert deserialize(serialize([value]).to_bytes(), no_refs) == [value]
        assert serialize([value]).to_bytes() == pickle.dumps([value], 5)


@functools.cache
def cached_here():
    return 1


@functools.singledispatch
def dispatched_here(value):
    return 1


def test_variables_are_one_in_each_process(ray):
    variable = contextvars.ContextVar("variable", default=5)
    bare: contextvars.ContextVar[int] = contextvars.ContextVar("bare")
    local = threading.local()
    local.x = 1
    variable.set(7)

    @ray.remote(num_cpus=0)
    class Keeper:
        def write(self):
            variable.set(8)
            local.x = 9
            self.seen = bare.get("none"), bare.name
            return getattr(local, "y", "empty")

        def read(self, given, place):
            assert given is variable
            assert place is local
            return given.get(), place.x, self.seen

    keeper = Keeper.remote()
    assert ray.get(keeper.write.remote(), timeout=20) == "empty"
    assert ray.get(keeper.read.remote(variable, local), timeout=20) == (8, 9, ("none", "bare"))
    assert ray.get(ray.remote(lambda: variable.get()).remote(), timeout=20) == 5
    back = ray.get(ray.remote(lambda: (variable, local)).remote(), timeout=20)
    assert back[0] is variable
    assert back[1] is local


class Opened(threading.local):
    pass


def a_token():
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("v")
    return variable.set(1)


@pytest.mark.parametrize(
    "name, make",
    [("lock", threading.Lock), ("token", a_token), ("opened", Opened)],
)
def test_what_cannot_be_shipped_is_refused_by_name(ray, name, make):
    space = {name: make()}
    exec(f"def use():\n    return {name}", space)
    with pytest.raises(ray.exceptions.ZrayError, match=f"global variable '{name}'"):
        ray.remote(space["use"]).remote()


def test_a_script():
    source = """
    import dataclasses, functools
    ray.init(num_cpus=1)

    @dataclasses.dataclass(slots=True)
    class Point:
        x: int

    @functools.cache
    def double(n):
        return Point(2 * n)

    @functools.singledispatch
    def name(value):
        return "other"

    @name.register
    def _(value: Point):
        return "point"

    @ray.remote
    def work(point):
        return double(point.x), name(point), isinstance(point, Point)

    print(ray.get(work.remote(Point(2))))
    """
    with driver(source) as process:
        assert process.succeed().strip() == "(Point(x=4), 'point', True)"


def test_named_tuples_of_a_script(ray):
    class Pair(typing.NamedTuple):
        a: int
        b: str = "x"

    class Longer(Pair):
        def total(self):
            return self.a + len(self.b)

    @ray.remote
    def read(pair, longer):
        return pair.a, pair._asdict(), longer.total(), type(pair).__name__

    assert ray.get(read.remote(Pair(1), Longer(3, "yy"))) == (1, {"a": 1, "b": "x"}, 5, "Pair")
    back = ray.get(ray.put([Pair(1)]))
    assert back == [(1, "x")] and isinstance(back[0], Pair)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="named tuples may be generic from Python 3.11 on")
def test_generic_named_tuples_of_a_script(ray):
    class Box(typing.NamedTuple, typing.Generic[T]):
        content: T

    assert ray.get(ray.remote(lambda box: box.content).remote(Box([2]))) == [2]


def test_variables_of_a_module_are_the_modules_own(ray, tmp_path, monkeypatch):
    """A copy would not be the one that the module itself reads."""
    (tmp_path / "holds_variables.py").write_text(
        "import contextvars, threading\n"
        "current = contextvars.ContextVar('current', default='none')\n"
        "local = threading.local()\n"
        "def set_both(value):\n"
        "    current.set(value)\n"
        "    local.value = value\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source = f"""
        sys.path.insert(0, {str(tmp_path)!r})
        from holds_variables import current, local, set_both

        @ray.remote
        def task():
            set_both("bob")
            return current.get(), local.value

        ray.init(num_cpus=1)
        print(*ray.get(task.remote()))
    """
    with driver(source) as process:
        assert process.succeed().split() == ["bob", "bob"]
