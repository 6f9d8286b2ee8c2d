"""Whatever an exception's own code does, a TaskError with the original text arrives."""

from __future__ import annotations

import builtins
import copy
import dataclasses
import gc
import importlib
import pickle
import re
import sys
import threading
import types
import weakref
from typing import Any

import msgpack
import numpy as np
import pytest

import zray
from tests.unit.serialization.raising import caught, no_refs, pack, round_trip, throw
from zray.exceptions import (
    FAILURES,
    ActorError,
    SystemFailure,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
    ZrayError,
)
from zray.failures import encode_failure, is_error
from zray.serialization import deserialize, load_error, serialize


class NeedsArguments(Exception):
    def __init__(self, code, reason, *, extra):
        super().__init__(f"{reason} ({code})")
        self.code, self.extra = code, extra


class NeedsNewArguments(ValueError):
    second: Any

    def __new__(cls, first, second):
        made = super().__new__(cls, first)
        made.second = second
        return made

    def __init__(self, first, second):
        super().__init__(first)


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code):
        self.code = code


class Strict(ValueError):
    """Forgets its argument, and has a property."""

    def __init__(self, given):
        super().__init__()
        self._given = given

    @property
    def given(self):
        return self._given


class WithOSError(OSError):
    def __init__(self, path):
        super().__init__(2, "gone", path)


class Both(zray.exceptions.ZrayError, KeyError):
    pass


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


ORDINARY = [
    ValueError("bad", 3),
    KeyError("key"),
    OSError(2, "No such file", "/x"),
    FileNotFoundError(2, "No such file", "/x"),
    UnicodeDecodeError("utf-8", b"\xff\xfe", 0, 1, "invalid"),
    StopIteration(5),
    StopAsyncIteration(),
    RecursionError("too deep"),
    ImportError("no", name="m", path="p"),
    SyntaxError("bad", ("file", 1, 2, "text")),
    NeedsArguments(3, "x", extra=[1]),
    NeedsNewArguments(1, 2),
    Slotted(7),
    Strict(4),
    WithOSError("/y"),
    Both("k"),
    WorkerCrashedError("signal 11"),
    AssertionError(),
]


@pytest.mark.parametrize("original", ORDINARY, ids=lambda error: type(error).__name__)
def test_an_error_is_an_instance_of_both_types(original):
    error = round_trip(original)
    assert isinstance(error, TaskError)
    assert isinstance(error, type(original))
    assert isinstance(error.cause, type(original))
    for each in (error, error.cause):
        assert each.args == original.args
        for name in (*vars(original), *getattr(type(original), "__slots__", ())):
            assert getattr(each, name) == getattr(original, name)
    assert (error.function_name, error.pid, error.host) == ("f", 123, "node7")
    assert error.__traceback__ is None
    with pytest.raises(type(original)):
        raise error


@pytest.mark.parametrize("original", ORDINARY, ids=lambda error: type(error).__name__)
def test_what_users_do_with_the_error(original):
    error = round_trip(original)
    text = str(error)
    assert text.startswith("zray::f() (pid=123, host=node7)\nTraceback (most recent call last)")
    assert "raise error" in text
    assert type(original).__name__ in repr(error)
    for again in (pickle.loads(pickle.dumps(round_trip(ValueError(1)))), error.as_instanceof_cause()):
        assert isinstance(again, TaskError)
        assert type(again) is not TaskError
    # As a value in another task's arguments or result, which zray's own pickler encodes.
    again = zray.serialization.deserialize(zray.serialization.serialize(error).to_bytes(), no_refs)
    assert isinstance(again, type(original))
    assert str(again) == text


def test_the_fields_that_c_keeps_arrive():
    error = round_trip(OSError(2, "No such file", "/x"))
    assert (error.errno, error.strerror, error.filename) == (2, "No such file", "/x")
    assert (round_trip(WithOSError("/y")).errno, round_trip(WithOSError("/y")).filename) == (2, "/y")
    unicode_error = round_trip(UnicodeDecodeError("utf-8", b"\xff\xfe", 0, 1, "invalid"))
    assert (unicode_error.object, unicode_error.reason) == (b"\xff\xfe", "invalid")
    assert round_trip(StopIteration(5)).value == 5
    assert round_trip(ImportError("no", name="m")).name == "m"
    assert round_trip(Strict(4)).given == 4


def test_what_would_end_the_caller_is_a_plain_task_error():
    error = round_trip(SystemExit(3))
    assert type(error) is TaskError
    assert type(error.cause) is SystemExit
    assert error.cause.args == (3,)


def test_other_base_exceptions_are_of_their_type():
    error = round_trip(GeneratorExit(3))
    assert isinstance(error, TaskError)
    assert isinstance(error, GeneratorExit)
    assert type(error.cause) is GeneratorExit


class OwnInterrupt(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OwnInterrupt])
def test_a_keyboard_interrupt_is_a_cancellation(kind):
    error = round_trip(kind())
    assert isinstance(error, TaskError)
    assert isinstance(error, TaskCancelledError)
    assert not isinstance(error, KeyboardInterrupt)
    assert str(error.cause) == f"f raised {kind.__name__}"
    assert "raise error" in str(error)


def test_a_frozen_dataclass():
    error = round_trip(Frozen(3))
    assert isinstance(error, Frozen) and isinstance(error, TaskError)
    assert isinstance(error.cause, Frozen) and error.code == error.cause.code == 3


def test_copies_and_pickles_of_the_error_are_of_both_types():
    error = round_trip(KeyError("k"))
    for again in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error, 2))):
        assert isinstance(again, KeyError)
        assert str(again) == str(error)
        assert again.args == ("k",)


def test_every_load_makes_a_new_error():
    data = pack(ValueError("x")).to_bytes()
    first: Any = load_error(data, no_refs)
    second: Any = load_error(data, no_refs)
    assert first is not second
    assert first.cause is not second.cause
    assert type(first) is type(second)


def test_types_that_cannot_be_combined_leave_a_plain_task_error():
    class Final(Exception):
        def __init_subclass__(cls):
            raise TypeError("final")

    class Clashing(Exception):
        pid = property(lambda self: 0)

    for kind in (Final, Clashing):
        error = round_trip(kind("x"))
        assert type(error) is TaskError
        assert error.pid == 123
        assert type(error.cause).__name__ == kind.__name__


# -- exceptions that do not arrive


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("held a lock")
        self.lock = threading.Lock()


class FailsToLoad(Exception):
    def __reduce__(self):
        return (throw, (RuntimeError("not loading"),))


class NotAnException(Exception):
    def __reduce__(self):
        return (int, ("5",))


@pytest.mark.parametrize(
    ("original", "why"),
    [
        (Unpicklable(), r"\.lock is a <class '_thread.lock'>"),
        (FailsToLoad("x"), "it could not be loaded here: .*RuntimeError: not loading"),
        (NotAnException("x"), "its __reduce__ makes a int"),
    ],
    ids=["unpicklable", "unloadable", "something else"],
)
def test_without_the_exception_the_text_arrives(original, why):
    error = round_trip(original)
    assert type(error) is TaskError
    assert type(error.cause) is ZrayError
    assert type(original).__name__ in str(error)
    for text in (str(error), str(error.cause)):
        assert "the exception itself did not arrive: " in text
        assert re.search(why, text)


def test_a_class_that_exists_only_on_the_worker(tmp_path, monkeypatch):
    (tmp_path / "zray_test_worker_only.py").write_text("class Own(Exception): pass\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        zray_test_worker_only = importlib.import_module("zray_test_worker_only")

        data = pack(caught(throw, zray_test_worker_only.Own("x"))).to_bytes()
        sys.modules.pop("zray_test_worker_only")
    error = load_error(data, no_refs)
    assert type(error) is TaskError
    assert "zray_test_worker_only.Own: x" in str(error)
    assert "module 'zray_test_worker_only' cannot be imported" in str(error)


class HostileText(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class EndlessText(Exception):
    def __str__(self):
        return str(self)


class WrongText(Exception):
    def __str__(self):
        return 5


class HostileAttributes(Exception):
    def __getattr__(self, name):
        raise RuntimeError(name)

    @property
    def exceptions(self):
        raise RuntimeError("exceptions")


@pytest.mark.parametrize("kind", [HostileText, EndlessText, WrongText, HostileAttributes])
def test_exceptions_whose_text_cannot_be_shown(kind):
    error = round_trip(kind("x"))
    assert isinstance(error, kind)
    assert kind.__name__ in str(error)
    assert kind.__name__ in repr(error)


def test_long_texts_lose_their_middle():
    text = str(round_trip(ValueError("a" * 1_000_000 + "the end")))
    assert len(text) < 21_000
    assert "characters left out" in text
    assert text.endswith("the end")


def test_text_that_is_no_utf8():
    assert r"\udcff" in str(round_trip(ValueError("\udcff")))


# -- the text


def fail_with_cause():
    try:
        dict[str, object]()["inner"]
    except KeyError as error:
        raise ValueError("outer") from error


def endless():
    return endless()


def test_causes_are_in_the_text():
    text = str(load_error(pack(caught(fail_with_cause)).to_bytes(), no_refs))
    assert "KeyError: 'inner'" in text
    assert "direct cause" in text
    assert text.endswith("ValueError: outer")


def test_endless_recursion_is_a_short_text():
    error = load_error(pack(caught(endless)).to_bytes(), no_refs)
    assert isinstance(error, RecursionError)
    assert len(str(error)) < 3000


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are new in 3.11")
def test_exception_groups():
    exception_group = vars(builtins)["ExceptionGroup"]  # types are checked for 3.10, which does not have it

    def fail():
        group = exception_group("several", [ValueError(1), NeedsArguments(3, "x", extra=2)])
        group.exceptions[0].__cause__ = caught(endless)
        raise group

    original = caught(fail)
    error = load_error(pack(original).to_bytes(), no_refs)
    assert isinstance(error, exception_group)
    assert [type(member) for member in error.exceptions] == [ValueError, NeedsArguments]
    assert error.exceptions[1].code == 3
    assert "several (2 sub-exceptions)" in str(error)
    assert error.split(ValueError)[0].exceptions[0].args == (1,)
    assert original.exceptions[0].__cause__.__traceback__ is None
    again = pickle.loads(pickle.dumps(round_trip(exception_group("g", [OSError(1, "x")]))))
    assert again.exceptions[0].errno == 1


def test_frames_of_zray_at_the_top_are_left_out():
    """A traceback that starts in zray's code, and enters it again below the user's function."""
    package = zray.__path__[0]
    space: dict[str, Any] = {"__name__": "zray.worker.fake"}
    exec(compile("def run(function):\n    function()\n", f"{package}/worker/fake.py", "exec"), space)
    exec(compile("def get():\n    raise ValueError('inside of get')\n", f"{package}/api/fake.py", "exec"), space)

    def user():
        space["get"]()

    text = str(load_error(pack(caught(lambda: space["run"](user)).with_traceback(None)).to_bytes(), no_refs))
    assert "Traceback" not in text
    error = caught(space["run"], user)
    error.__traceback__ = error.__traceback__.tb_next  # as if zray's frame were the first
    text = str(load_error(pack(error).to_bytes(), no_refs))
    assert "worker/fake.py" not in text
    assert "in user" in text
    assert "api/fake.py" in text
    error = caught(space["get"])
    error.__traceback__ = error.__traceback__.tb_next
    assert "api/fake.py" in str(load_error(pack(error).to_bytes(), no_refs))  # there are no other frames


def test_read_only_arrays_come_with_a_hint():
    array = np.zeros(3)
    array.flags.writeable = False
    error = load_error(pack(caught(array.__setitem__, 0, 1)).to_bytes(), no_refs)
    assert isinstance(error, ValueError)
    assert str(error).endswith("write to a copy (array.copy(), frame.copy())")
    assert "hint" not in str(round_trip(ValueError("something else")))
    assert "hint" in str(round_trip(TypeError("read-only")))


# -- chains of tasks


def test_an_error_that_went_through_several_tasks_names_the_first():
    first: Any = round_trip(KeyError("first cause"), "a")
    second: Any = round_trip(first, "b")
    third: Any = round_trip(second, "c")
    for error in (second, third):
        assert isinstance(error, KeyError)
        assert isinstance(error, TaskError) and type(error.cause) is KeyError
        assert error.args == ("first cause",)
    assert third.function_name == "c"
    text = str(third)
    assert (
        text.index("c() (pid") < text.index("b() (pid") < text.index("a() (pid") < text.index("KeyError: 'first cause'")
    )


def test_a_chain_whose_first_cause_did_not_arrive():
    error = round_trip(round_trip(Unpicklable(), "a"), "b")
    assert type(error) is TaskError
    assert type(error.cause) is ZrayError
    assert "a() (pid" in str(error)
    assert "did not arrive" in str(error)


def test_an_error_raised_from_a_task_error():
    def fail():
        try:
            raise round_trip(KeyError("inner"), "a")
        except KeyError as error:
            raise ValueError("outer") from error

    error = load_error(pack(caught(fail), "b").to_bytes(), no_refs)
    assert isinstance(error, ValueError)
    assert not isinstance(error, KeyError)
    assert "a() (pid" in str(error)


# -- references in an error


class Local:
    """The value of a task's local variable."""


def test_an_error_does_not_keep_the_locals_of_its_task():
    watched = []

    def inner():
        local = Local()
        watched.append(weakref.ref(local))
        raise KeyError("inner")

    def task():
        local = Local()
        watched.append(weakref.ref(local))
        try:
            inner()
        except KeyError as error:
            raise ValueError("outer") from error

    error = caught(task)
    gc.collect()
    assert all(ref() is not None for ref in watched)
    packed = pack(error)
    gc.collect()
    assert [ref() for ref in watched] == [None, None]
    assert error.__traceback__ is None
    assert isinstance(error.__cause__, KeyError)
    assert isinstance(load_error(packed.to_bytes(), no_refs), ValueError)


def test_references_in_exceptions_are_collected(tracker):
    ref = tracker.make()
    packed = pack(ValueError("x", ref))
    assert packed.refs == (ref.binary(),)
    assert packed.total_bytes == len(packed.to_bytes())
    room = bytearray(packed.total_bytes)
    packed.write_into(memoryview(room))
    assert load_error(memoryview(room), tracker.intern).args == ("x", ref)


def test_arrays_in_exceptions_arrive():
    error = round_trip(ValueError(np.arange(1000)))
    np.testing.assert_array_equal(error.args[0], np.arange(1000))


# -- failures


@pytest.mark.parametrize("kind", sorted(FAILURES))
def test_failures_travel_by_name(kind):
    data = encode_failure(kind, "what happened \udcff")
    assert is_error(data)
    error = load_error(memoryview(data), no_refs)
    assert type(error) is FAILURES[kind]
    assert "what happened" in str(error)


@pytest.mark.parametrize("kind", ["ActorDiedError", "ActorUnavailableError"])
def test_failures_of_actors_tell_which(kind):
    error = load_error(encode_failure(kind, "what happened", b"\1\2"), no_refs)
    assert isinstance(error, ActorError)
    assert (error.actor_id, error.error_msg, error.preempted) == ("0102", "what happened", False)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.actor_id, str(again)) == (type(error), "0102", "what happened")
    unknown = load_error(encode_failure(kind, "nobody knows whose"), no_refs)
    assert isinstance(unknown, ActorError) and unknown.actor_id is None


@pytest.mark.parametrize("more", [["text"], [1, 2], [b"1", b"2"]])
def test_failures_with_more_than_is_known(more):
    error = load_error(b"F" + msgpack.packb(["ActorDiedError", "text", *more]), no_refs)
    assert str(error) == "text"


def test_an_unknown_failure_is_refused_by_the_sender_and_told_by_the_receiver():
    with pytest.raises(ValueError, match="'Oops' is not a failure"):
        encode_failure("Oops", "x")
    error = load_error(b"F" + msgpack.packb(["Newer", "text"]), no_refs)
    assert type(error) is SystemFailure
    assert str(error) == "Newer: text"


@pytest.mark.parametrize(
    "data", [b"", b"x", b"F", b"E", b"F\xc1", b"E\xc1", b"E\x93\1\2\3", b"F\1", b"F\x92\x90\2", b"E\xff"]
)
def test_malformed_errors_are_system_failures(data):
    with pytest.raises(SystemFailure):
        throw(load_error(data, no_refs))


def test_a_type_made_at_run_time_goes_by_value():
    kind = types.new_class("Made", (RuntimeError,))
    kind.__module__ = "__main__"
    error = round_trip(kind("x"))
    assert isinstance(error, RuntimeError)
    assert type(error).__name__ == "RayTaskError(Made)"


def test_the_class_of_an_error_can_be_sent():
    """The class is made at run time, from TaskError and the user's class."""
    kind = type(TaskError("f", "text", ValueError(1), 1, "host").as_instanceof_cause())
    received = deserialize(serialize([kind]).to_bytes(), no_refs)[0]
    assert received is kind and issubclass(received, ValueError)
