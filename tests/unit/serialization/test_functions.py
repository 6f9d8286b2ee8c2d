"""Functions and classes arrive as they were when they were decorated, even if their names are bound anew since."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading

import pytest

import zray
from zray.exceptions import ModuleMissingError, SerializationError
from zray.serialization import load_callable, pickle_callable


def no_refs(object_id):
    raise AssertionError("no reference was expected")


def round_trip(obj, load_ref=no_refs):
    return load_callable(pickle_callable(obj).blob, load_ref)


def module_level():
    return "by reference"


DECORATED = """
import functools

class Wrapper:
    def __init__(self, inner):
        self.inner = inner
    def __call__(self, *args):
        raise TypeError("call .remote()")

LIMIT = 3

def helper(x):
    return x + LIMIT

@Wrapper
def doubled(x):
    return 2 * helper(x)

@Wrapper
def factorial(n):
    return n * factorial.inner(n - 1) if n else 1

class Base:
    def name(self):
        return "base"

@Wrapper
class Counter(Base):
    "Counts."
    step = 2
    def __init__(self):
        super().__init__()
        self.n = 0
    def add(self):
        self.n += self.step
        return self.n
    def twin(self):
        return type(self)()
"""


@pytest.fixture
def decorated(tmp_path, monkeypatch):
    (tmp_path / "zray_test_decorated.py").write_text(DECORATED)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("zray_test_decorated")
    sys.modules.pop("zray_test_decorated", None)


def test_importable_functions_and_classes_go_by_reference():
    assert round_trip(module_level) is module_level
    assert round_trip(json.JSONEncoder) is json.JSONEncoder
    assert round_trip(len) is len
    assert len(pickle_callable(json.dumps).blob) < 60


def test_what_a_wrapper_replaced_in_its_module_goes_by_value(decorated):
    function = round_trip(decorated.doubled.inner)
    assert function is not decorated.doubled.inner
    assert function(1) == 8
    assert function.__module__ == "zray_test_decorated"
    assert round_trip(decorated.factorial.inner)(5) == 120


def test_a_class_that_a_wrapper_replaced_goes_by_value(decorated):
    kind = round_trip(decorated.Counter.inner)
    counter = kind()
    assert [counter.add(), counter.add()] == [2, 4]
    assert counter.name() == "base"
    assert counter.twin().add() == 2
    assert (kind.__name__, kind.__doc__) == ("Counter", "Counts.")


def test_loading_in_a_process_of_its_own(decorated, tmp_path):
    """In a process that has to import the module for its helper, and in one that cannot."""
    blob = pickle_callable(decorated.doubled.inner).blob
    script = (
        "import sys\nfrom zray.serialization import load_callable\n"
        "try:\n    print(load_callable(bytes.fromhex(sys.argv[1]), None)(1))\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    root = str(zray.__path__[0]).rpartition("/")[0]

    def run(path):
        return subprocess.run(
            [sys.executable, "-c", script, blob.hex()], capture_output=True, text=True, env={"PYTHONPATH": path}
        ).stdout

    assert run(f"{root}:{tmp_path}") == "8\n"
    told = run(root)
    assert told.startswith("ModuleMissingError module 'zray_test_decorated' cannot be imported on host")
    assert root in told


def test_a_missing_module_raises_module_missing(decorated, monkeypatch):
    blob = pickle_callable(decorated.helper).blob
    sys.modules.pop("zray_test_decorated")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "test_loading" not in entry][1:])
    with pytest.raises(ModuleMissingError) as caught:
        load_callable(blob, no_refs)
    assert caught.value.name == "zray_test_decorated"


def test_lambdas_closures_and_local_functions():
    offset = 5

    def local(x):
        return x + offset

    assert round_trip(lambda x: x * 2)(4) == 8
    assert round_trip(local)(1) == 6
    assert pickle_callable(local).name == "local"
    assert pickle_callable(lambda: 0).name == "<lambda>"


def test_recursion_through_its_own_name():
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert round_trip(fib)(10) == 55
    space = {"__name__": "__main__"}
    exec("def fact(n):\n    return n * fact(n - 1) if n else 1", space)
    assert round_trip(space["fact"])(5) == 120


def test_mutable_defaults_are_copied_as_they_are_now():
    def remember(x, seen=[]):  # noqa: B006
        seen.append(x)
        return list(seen)

    remember(1)
    loaded = round_trip(remember)
    assert loaded(2) == [1, 2]
    assert loaded(3) == [1, 2, 3]
    assert remember(9) == [1, 9]


def define(source, name="f"):
    space = {"__name__": "__main__"}
    exec(source, space)
    return space[name]


def test_ids_are_the_hash_of_the_pickle():
    first, second = define("def f(): return 1"), define("def f(): return 2")
    one, two = pickle_callable(first), pickle_callable(second)
    assert one.id16 != two.id16
    assert one.name == two.name == "f"
    assert len(one.id16) == 16
    assert pickle_callable(first) == one
    assert round_trip(first)() == 1


def test_redefined_classes_have_ids_of_their_own():
    source = "class C:\n    def get(self): return {}"
    first, second = define(source.format(1), "C"), define(source.format(2), "C")
    assert pickle_callable(first).id16 != pickle_callable(second).id16
    assert pickle_callable(first).id16 == pickle_callable(first).id16
    assert round_trip(second)().get() == 2


def test_references_in_closures_defaults_and_class_attributes(tracker):
    first, second, third = tracker.make(), tracker.make(), tracker.make()

    def function(default=second):
        return first, default

    class Actor:
        ref = third

    pickled = pickle_callable(function)
    assert set(pickled.refs) == {first.binary(), second.binary()}
    assert load_callable(pickled.blob, tracker.intern)() == (first, second)
    assert pickle_callable(Actor).refs == (third.binary(),)


def test_what_cannot_be_pickled_is_named():
    lock = threading.Lock()

    class Holder:
        def use(self):
            return lock

    with pytest.raises(SerializationError, match=r"function '<lambda>': closure variable 'lock' is a"):
        pickle_callable(lambda: lock)
    with pytest.raises(SerializationError, match=r"class 'Holder': \.use closure variable 'lock' is a"):
        pickle_callable(Holder)


def test_tracebacks_name_the_file_of_a_shipped_function():
    def outer():
        return lambda: 1 / 0

    loaded = load_callable(pickle_callable(outer).blob, no_refs)
    assert loaded.__code__.co_filename == loaded().__code__.co_filename == __file__
