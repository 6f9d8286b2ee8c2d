"""Code and values that are redefined between calls. Ray keeps those of the first call."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from zray.api.remote_function import MANY_SHIPMENTS

from .helpers import driver


@pytest.fixture
def namespace(ray) -> dict[str, object]:
    """The globals of a program whose cells are run one after the other, as in a notebook."""
    module = types.ModuleType("__main__")
    return vars(module) | {"ray": ray}


def run(cell: str, namespace: dict[str, object]) -> None:
    exec(compile(cell, "<cell>", "exec"), namespace)


def test_a_helper_is_redefined(ray, namespace):
    run("def helper(): return 1", namespace)
    run("@ray.remote\ndef f(): return helper()", namespace)
    assert ray.get(namespace["f"].remote()) == 1
    run("def helper(): return 2", namespace)
    assert ray.get(namespace["f"].remote()) == 2


def test_a_helper_of_a_helper_is_redefined(ray, namespace):
    run("def inner(): return 1\ndef helper(): return inner()", namespace)
    run("@ray.remote\ndef f(): return helper()", namespace)
    assert ray.get(namespace["f"].remote()) == 1
    run("def inner(): return 2", namespace)
    assert ray.get(namespace["f"].remote()) == 2


def test_what_a_remote_function_calls_remotely_is_redefined(ray, namespace):
    run("@ray.remote\ndef inner(): return 1", namespace)
    run("@ray.remote\ndef f(): return ray.get(inner.remote())", namespace)
    assert ray.get(namespace["f"].remote()) == 1
    run("@ray.remote\ndef inner(): return 2", namespace)
    assert ray.get(namespace["f"].remote()) == 2


def test_what_was_missing_is_defined(ray, namespace):
    run("@ray.remote\ndef f(): return helper()", namespace)
    with pytest.raises(NameError):
        ray.get(namespace["f"].remote())
    run("def helper(): return 1", namespace)
    assert ray.get(namespace["f"].remote()) == 1


def test_a_global_is_bound_to_another_value(ray, namespace):
    run("N = 1\n@ray.remote\ndef f(): return N", namespace)
    assert ray.get(namespace["f"].remote()) == 1
    run("N = 2", namespace)
    assert ray.get(namespace["f"].remote()) == 2
    run("del N", namespace)
    with pytest.raises(NameError):
        ray.get(namespace["f"].remote())


def test_a_variable_of_the_enclosing_function_is_rebound(ray):
    step = 1

    @ray.remote
    def f():
        return step

    assert ray.get(f.remote()) == 1
    step = 2
    assert ray.get(f.remote()) == 2


def test_with_other_options(ray, namespace):
    run("def helper(): return 1\n@ray.remote\ndef f(): return helper()", namespace)
    other = namespace["f"].options(name="other")
    assert ray.get(other.remote()) == 1
    run("def helper(): return 2", namespace)
    assert ray.get([other.remote(), namespace["f"].remote()]) == [2, 2]


def test_what_an_actor_class_uses_is_redefined(ray, namespace):
    run("def helper(): return 1", namespace)
    run("@ray.remote\nclass A:\n    def m(self): return helper()", namespace)
    old = namespace["A"].remote()
    assert ray.get(old.m.remote()) == 1
    run("def helper(): return 2", namespace)
    new = namespace["A"].remote()
    assert ray.get([old.m.remote(), new.m.remote()]) == [1, 2]  # an actor keeps the code it was made with


def test_a_large_value_is_shipped_once_and_code_beside_it_again(ray, namespace):
    """Each copy of it would stay in the store as long as the job."""
    run("data = bytes(2_000_000)\ndef helper(): return 1", namespace)
    run("@ray.remote\ndef f(): return len(data), helper()", namespace)
    assert ray.get(namespace["f"].remote()) == (2_000_000, 1)
    run("data = bytes(3_000_000)", namespace)
    assert ray.get(namespace["f"].remote()) == (2_000_000, 1)
    run("def helper(): return 2", namespace)
    assert ray.get(namespace["f"].remote()) == (3_000_000, 2)


def test_a_global_that_changes_at_each_call_is_reported(ray, namespace):
    run("N = 0\n@ray.remote\ndef f(): return N", namespace)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(MANY_SHIPMENTS + 5):
            namespace["N"] = number
            ref = namespace["f"].remote()
    assert ray.get(ref) == MANY_SHIPMENTS + 4
    (warning,) = caught
    assert "f has been shipped 100 times" in str(warning.message)
    assert warning.filename == __file__


@pytest.fixture
def edited(tmp_path, monkeypatch) -> Iterator[Path]:
    """A module of the user's, which workers find too."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "edited_between_calls.py"
    path.write_text("def h():\n    return 1\n")
    importlib.invalidate_caches()
    yield path
    sys.modules.pop(path.stem, None)


def test_a_module_is_reloaded(edited, ray):
    module = importlib.import_module("edited_between_calls")

    @ray.remote
    def through_the_module():
        return module.h()

    @ray.remote
    def direct(h):
        return h()

    assert ray.get(through_the_module.remote()) == 1
    edited.write_text("def h():\n    return 2222\n")
    importlib.reload(module)
    assert ray.get(through_the_module.remote()) == 2222
    edited.write_text("def h():\n    return 333333\n")
    importlib.reload(module)
    assert ray.get(through_the_module.remote()) == 333333
    assert ray.get(direct.remote(module.h)) == 333333  # the process has the new one by now


def test_a_function_from_a_reloaded_module(edited, ray):
    module = importlib.import_module("edited_between_calls")

    space = {"ray": ray, "h": module.h, "__name__": "__main__"}
    run("@ray.remote\ndef f(): return h()", space)
    assert ray.get(space["f"].remote()) == 1
    edited.write_text("def h():\n    return 2222\n")
    importlib.reload(module)
    space["h"] = module.h
    assert ray.get(space["f"].remote()) == 2222


def test_a_call_fails_if_its_worker_cannot_reload_a_module(edited, ray):
    module = importlib.import_module("edited_between_calls")

    @ray.remote
    def f():
        return module.h()

    assert ray.get(f.remote()) == 1
    edited.write_text("def h():\n    return 2222\n")
    importlib.reload(module)
    edited.write_text("this is no Python\n")
    with pytest.raises(ray.exceptions.RaySystemError, match="SyntaxError: invalid syntax"):
        ray.get(f.remote())


def test_nested_calls_have_what_was_reloaded(edited, ray):
    """A worker that has reloaded a module ships functions that make others reload it too."""
    module = importlib.import_module("edited_between_calls")

    @ray.remote
    def inner():
        return module.h()

    @ray.remote
    def outer():
        return ray.get([inner.remote() for _ in range(4)])

    assert ray.get(outer.remote()) == [1] * 4
    edited.write_text("def h():\n    return 2222\n")
    importlib.reload(module)
    assert ray.get(outer.remote()) == [2222] * 4


def test_a_script():
    source = """
        def helper(): return 1

        @ray.remote
        def f(): return helper()

        ray.init(num_cpus=1)
        print(ray.get(f.remote()))
        def helper(): return 2
        print(ray.get(f.remote()))
    """
    with driver(source) as process:
        assert process.succeed().split() == ["1", "2"]
