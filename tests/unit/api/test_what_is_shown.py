"""Remote functions, actor classes and methods look like the originals; errors name what exists instead."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

import zray
from zray.actor import ActorHandle, ActorMethod


def function(a, b=2, *, c: int = 3) -> int:
    """Adds."""
    return a + b + c


class Counter:
    """Counts."""

    STEP = 1

    def __init__(self, start: int = 0):
        self.value = start

    def add(self, by: int = 1, *, twice: bool = False) -> int:
        """Adds to the counter."""
        self.value += by
        return self.value

    @staticmethod
    def double(x: float) -> float:
        """Twice as much."""
        return 2 * x

    @classmethod
    def step(cls) -> int:
        return cls.STEP

    @property
    def current(self):
        return self.value

    def _private(self):
        return None


@pytest.fixture(scope="module")
def ray():
    zray.init(local_mode=True)
    yield zray
    zray.shutdown()


@pytest.fixture
def handle(ray):
    return ray.remote(Counter).remote()


@pytest.fixture
def far(handle):
    """The same handle, in a process that does not know the class."""
    return pickle.loads(pickle.dumps(handle))


@pytest.mark.parametrize("make", [zray.remote, lambda f: zray.remote(f).options(num_cpus=2)])
def test_remote_of_a_function(make):
    remote = make(function).remote
    assert inspect.signature(remote) == inspect.signature(function)
    assert (remote.__doc__, remote.__name__) == ("Adds.", "function")


def test_remote_of_a_function_needs_its_function_only():
    remote = zray.remote(function).remote
    assert inspect.signature(remote) == inspect.signature(function)


def test_remote_of_what_has_no_signature():
    assert zray.remote(max).remote.__name__ == "max"


def test_remote_of_a_class():
    remote = zray.remote(Counter).remote
    assert list(inspect.signature(remote).parameters) == ["start"]
    assert (remote.__doc__, remote.__name__) == ("Counts.", "Counter")


def test_methods(handle):
    assert str(inspect.signature(handle.add)) == "(by: 'int' = 1, *, twice: 'bool' = False) -> 'int'"
    assert (handle.add.__doc__, handle.add.__name__) == ("Adds to the counter.", "add")
    assert str(inspect.signature(handle.add.options(name="x"))) == str(inspect.signature(handle.add))
    assert str(inspect.signature(handle.double)) == "(x: 'float') -> 'float'"
    assert str(inspect.signature(handle.step)) == "() -> 'int'"
    assert handle.step.__doc__ is None


def test_methods_of_a_handle_from_elsewhere(far):
    assert list(inspect.signature(far.add).parameters) == ["by", "twice"]
    assert far.add.__doc__ is None
    assert far.add.__name__ == "add"


def test_the_class_of_methods_is_itself():
    assert ActorMethod.__doc__ is not None and "handle.method.remote" in ActorMethod.__doc__
    assert ActorMethod.__name__ == "ActorMethod"
    assert "handle" in inspect.signature(ActorMethod).parameters


@pytest.mark.parametrize("which", ["handle", "far"])
def test_an_unknown_method(request, which):
    handle = request.getfixturevalue(which)
    with pytest.raises(
        AttributeError, match=r"no attribute 'ad': .*Counter has no such method; did you mean 'add'"
    ) as caught:
        handle.ad  # noqa: B018
    assert "It has add, double, step" in str(caught.value)
    with pytest.raises(AttributeError, match=r"'zzz': .*\. It has add, double, step$"):
        handle.zzz  # noqa: B018


@pytest.mark.parametrize("which", ["handle", "far"])
@pytest.mark.parametrize("name", ["current", "STEP"])
def test_what_is_no_method(request, which, name):
    handle = request.getfixturevalue(which)
    with pytest.raises(AttributeError, match="write a method that returns it") as caught:
        getattr(handle, name)
    assert f"lambda actor: actor.{name}" in str(caught.value)


def test_what_libraries_ask_for_is_answered_shortly(handle):
    with pytest.raises(AttributeError, match=r"no attribute '_repr_html_': actor class Counter has no such method$"):
        handle._repr_html_  # noqa: B018
    assert not hasattr(handle, "__array__")


def test_an_actor_class_is_no_instance_of_itself():
    kind: Any = zray.remote(Counter)
    assert isinstance(Counter(), kind) and not isinstance(kind, kind)
    assert issubclass(Counter, kind)
    assert copy.copy(kind).STEP == copy.deepcopy(kind).STEP == 1
    with pytest.raises(AttributeError, match="actor class Counter has no attribute 'nothing'"):
        kind.nothing  # noqa: B018


def test_a_class_with_copying_of_its_own():
    class Copied:
        def __deepcopy__(self, memo):
            raise AssertionError("of instances only")

        __copy__ = __deepcopy__

    kind = zray.remote(Copied)
    assert copy.copy(kind)._class is copy.deepcopy(kind)._class is Copied


def test_handles_keep_their_own_special_methods(handle):
    class Odd:
        def __eq__(self, other):
            return False

        def __hash__(self):
            return 1

        def __repr__(self):
            return "odd"

    odd = zray.remote(Odd).remote()
    assert odd == odd and repr(odd).startswith("Actor(Odd") and isinstance(odd, ActorHandle)
