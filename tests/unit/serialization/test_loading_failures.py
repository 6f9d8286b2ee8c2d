"""Errors about a value that cannot be loaded name the constructor, the argument, and the exception."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from zray.exceptions import DeserializationError, ModuleMissingError, SystemFailure
from zray.serialization import deserialize, load_callable, pickle_callable, serialize, serialize_call
from zray.serialization.explain_load import _arguments


def no_refs(object_id):
    raise AssertionError("no reference was expected")


def fail(what):
    raise KeyError(what)


class ByFunction:
    def __reduce__(self):
        return fail, ("inner",)


class ByState:
    def __getstate__(self):
        return 1

    def __setstate__(self, state):
        raise ValueError("state")


class ByNew:
    def __new__(cls, a):
        return super().__new__(cls)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError


def speechless():
    raise Unspeakable


class BySilence:
    def __reduce__(self):
        return speechless, ()


def load(value):
    return deserialize(serialize(value).to_bytes(), no_refs)


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [1, v], lambda v: {"a": (v, np.zeros(9))}, lambda v: [[v], v]])
@pytest.mark.parametrize(
    "value, text, kind",
    [
        (ByFunction(), f"{__name__}.fail raised KeyError: 'inner'", KeyError),
        (ByState(), f"{__name__}.ByState.__setstate__ raised ValueError: state", ValueError),
        (ByNew(1), f"{__name__}.ByNew.__new__ raised TypeError: ", TypeError),
        (BySilence(), f"{__name__}.speechless raised Unspeakable", Unspeakable),
    ],
    ids=["function", "state", "new", "silence"],
)
def test_the_constructor_is_named(value, wrap, text, kind):
    with pytest.raises(DeserializationError) as caught:
        load(wrap(value))
    assert str(caught.value).startswith(f"a value cannot be loaded: {text}")
    assert type(caught.value.__cause__) is kind
    assert isinstance(caught.value, SystemFailure)


def test_an_attribute_that_is_not_here():
    data = pickle.dumps(fail, 5).replace(b"\x04fail", b"\x04fial")
    with pytest.raises(DeserializationError, match=r"the import of .*\.fial raised AttributeError"):
        deserialize(data, no_refs)


class OnlyOnce:
    """Fails the first time and not the second time, so the error cannot name the constructor."""

    times = 0

    def __reduce__(self):
        return once, ()


def once():
    OnlyOnce.times += 1
    if OnlyOnce.times == 1:
        raise OSError("busy")


def test_what_fails_only_once():
    with pytest.raises(DeserializationError, match="a value cannot be loaded: OSError: busy"):
        load([OnlyOnce()])


@pytest.mark.parametrize("error", [MemoryError(), SystemFailure("x"), ModuleMissingError("y", name="y")])
def test_what_is_not_the_values_fault_stays(error, monkeypatch):
    monkeypatch.setitem(globals(), "fail", lambda what: throw(error))
    with pytest.raises(type(error)) as caught:
        load([Throws()])
    assert not isinstance(caught.value, DeserializationError)
    monkeypatch.undo()


def throw(error):
    raise error


class Throws:
    def __reduce__(self):
        return throws, ()


def throws():
    fail("x")


ARGUMENTS: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "only": ([ByFunction()], {}, "0"),
    "last": ([1, "x", [2], ByFunction()], {}, "3"),
    "nested": ([[1], {"a": [1, ByFunction()]}, 2], {}, "1"),
    "first of many": ([ByFunction(), *range(5000)], {}, "0"),
    "late of many": ([*range(3000), [ByFunction()], 1], {}, "3000"),
    "keyword": ([1], {"key": ByFunction()}, "key"),
    "of keywords": ([1, 2], {"a": 1, "long" * 100: [ByFunction()], "c": {}}, "long" * 100),
    "shared": ([list("ab")] * 2 + [ByFunction()], {"a": 1}, "2"),
    "beside an array": ([np.zeros(9), ByState()], {"k": np.zeros(3)}, "1"),
    "tuple": ([(1, 2, 3), (ByState(), 2)], {}, "1"),
    "long tuple": ([(1, 2, 3, 4, 5), (1, 2, 3, 4, ByState())], {"k": 1}, "1"),
    "set": ([{1, 2}, frozenset((3, ByState()))], {}, "1"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_argument_is_found(name):
    args, kwargs, expected = ARGUMENTS[name]
    with pytest.raises(DeserializationError) as caught:
        deserialize(serialize_call(args, kwargs).to_bytes(), no_refs)
    assert caught.value.argument == expected
    assert str(caught.value.about("argument 'x' of f")).startswith("argument 'x' of f cannot be loaded: ")


def test_arguments_are_where_they_begin():
    args, kwargs = [1, [2, 3], "x", {"y": (4,)}], {"k": [5], "l": None}
    data = pickle.dumps((args, kwargs), 5)
    assert [name for _, name in _arguments(data)] == ["0", "1", "2", "3", "k", "l"]
    assert sorted(begin for begin, _ in _arguments(data)) == [begin for begin, _ in _arguments(data)]


def test_a_function_that_uses_what_cannot_be_loaded():
    value = ByFunction()
    blob = pickle_callable(lambda: value).blob
    with pytest.raises(DeserializationError, match=r"a function or class, with what it uses, cannot be loaded: .*fail"):
        load_callable(blob, no_refs)


def test_references_are_not_made_again(tracker):
    made = []

    def load_ref(object_id):
        made.append(object_id)
        return tracker.intern(object_id)

    with pytest.raises(DeserializationError):
        deserialize(serialize([tracker.make(), ByFunction()]).to_bytes(), load_ref)
    assert len(made) == 1
