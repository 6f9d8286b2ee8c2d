"""The objects that a pickled function uses by name, and whether the names are bound to others now."""

from __future__ import annotations

import types

import pytest

from zray.serialization import pickle_callable


def function(source: str, space: dict[str, object]) -> types.FunctionType:
    """The function ``f`` of a program whose globals are ``space``."""
    space.setdefault("__name__", "__main__")
    exec(source, space)
    made = space["f"]
    assert isinstance(made, types.FunctionType)
    return made


def test_a_function_that_uses_nothing_has_nothing_to_look_at():
    assert pickle_callable(function("def f(x): return len(x) + x.real", {})).captures is None


@pytest.mark.parametrize("source", [
    "def f(): return name",
    "def f(): return (lambda: [name for _ in ()])",
    "def helper(): return name\ndef f(): return helper()",
    "class Local:\n    def m(self): return name\ndef f(): return Local()",
])  # fmt: skip
def test_names_are_found_wherever_they_are_used(source):
    space: dict[str, object] = {"name": "before"}
    captures = pickle_callable(function(source, space)).captures
    assert captures is not None and not captures.changed()
    space["name"] = "after"
    assert captures.changed()
    space["name"] = "before"
    assert not captures.changed()
    del space["name"]
    assert captures.changed()


def test_what_is_named_like_a_global_and_is_an_attribute_is_none():
    space: dict[str, object] = {"real": 1}
    assert pickle_callable(function("def f(x): return x.real", space)).captures is None


def test_variables_of_enclosing_functions():
    def make():
        value = 1

        def f():
            return value

        def rebind():
            nonlocal value
            value = 2

        return f, rebind

    f, rebind = make()
    captures = pickle_callable(f).captures
    assert captures is not None and not captures.changed()
    rebind()
    assert captures.changed()


def test_a_name_that_is_missing():
    space: dict[str, object] = {}
    captures = pickle_callable(function("def f(): return later", space)).captures
    assert captures is not None and not captures.changed()
    space["later"] = 1
    assert captures.changed()


def test_modules_of_libraries_cost_nothing():
    import os
    import time

    import msgpack

    space: dict[str, object] = {"os": os, "time": time, "msgpack": msgpack}
    source = "def f(): return os.getpid(), time.time(), msgpack.packb(1)"
    assert pickle_callable(function(source, space)).captures is None


def test_equal_is_not_the_same():
    """Comparing values could take long, raise, or return no bool, as for arrays."""

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = None  # type: ignore[assignment]

    space: dict[str, object] = {"odd": Odd()}
    captures = pickle_callable(function("def f(): return odd", space)).captures
    assert captures is not None and not captures.changed()
    space["odd"] = Odd()
    assert captures.changed()


def test_a_large_pickle_looks_at_code_only():
    space: dict[str, object] = {"data": bytes(2 << 20), "helper": function("def f(): return 1", {})}
    captures = pickle_callable(function("def f(): return data, helper()", space)).captures
    assert captures is not None
    space["data"] = b""
    assert not captures.changed()
    space["helper"] = function("def f(): return 2", {})
    assert captures.changed()
