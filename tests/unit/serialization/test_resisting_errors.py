"""Exceptions whose own code raises or resists: each arrives as an error with its text."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import gc
import os
import signal
import threading
import traceback
import weakref

import pytest

from tests.unit.serialization.raising import caught, no_refs, pack, round_trip, throw
from zray.client.futures import raisable_in_coroutines
from zray.exceptions import TaskError, ZrayError
from zray.serialization import load_error


class Stop(BaseException):
    pass


FOREIGN = [RuntimeError("foreign"), Stop("foreign"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()]
"""The exceptions that an exception's own code raises here."""


def refuse(*args, **kwargs):
    raise FOREIGN[0]


def use(foreign):
    FOREIGN[0] = foreign


@pytest.fixture(autouse=True)
def as_before():
    first = FOREIGN[0]
    yield
    use(first)


def kind_with(name, **members):
    return type(name, (ValueError,), {"__module__": __name__, **members})


REFUSING = [
    kind_with("Set", __setattr__=refuse, __delattr__=refuse),
    kind_with("WithTraceback", with_traceback=refuse),
    kind_with("Str", __str__=refuse, __repr__=refuse, __format__=refuse),
    kind_with("Truth", __bool__=refuse, __len__=refuse),
    kind_with("Compared", __eq__=refuse, __ne__=refuse, __hash__=refuse),
    kind_with("Unhashable", __eq__=refuse, __hash__=None),
    kind_with("False_", __bool__=lambda self: False),
    kind_with("Traceback", __traceback__=property(refuse)),
    kind_with("Cause", __cause__=property(refuse), __context__=property(refuse)),
    kind_with("Suppressed", __suppress_context__=property(refuse)),
    kind_with("Dict", __dict__=property(refuse)),
]
UNSHOWN = kind_with("Notes", __notes__=property(refuse))
globals().update({kind.__name__: kind for kind in (*REFUSING, UNSHOWN)})


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", [*REFUSING, UNSHOWN], ids=lambda kind: kind.__name__)
def test_an_error_of_its_own_type_arrives(kind, foreign):
    use(foreign)
    error = round_trip(kind("text"))
    assert isinstance(error, TaskError)
    assert isinstance(error, kind)
    assert type(error.cause) is kind
    assert kind.__name__ in str(error)
    assert "in throw" in str(error)


@pytest.mark.parametrize("kind", REFUSING, ids=lambda kind: kind.__name__)
def test_the_error_can_be_used_as_any_other(kind):
    error = round_trip(kind("text"))

    @contextlib.contextmanager
    def passes_it_on():
        yield

    with pytest.raises(kind) as raised, passes_it_on():  # which assigns the traceback
        raise error from RuntimeError("why")
    assert raised.value is error
    assert error
    assert error in {error}
    assert "why" in "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert f"{error}" == str(error)
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_exception(error)
    with pytest.raises(kind):
        future.result(0)


class Got(Exception):
    __getattribute__ = refuse


class Class(Exception):
    __class__ = property(refuse)


class Reduced(Exception):
    __reduce__ = refuse


class Loaded(Exception):
    def __reduce__(self):
        return refuse, ()


class StateSet(Exception):
    def __reduce__(self):
        return StateSet, (), {"a": 1}

    __setstate__ = refuse


class Slot(Exception):
    __slots__ = ("lock",)

    def __init__(self):
        self.lock = threading.Lock()


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", [Got, Reduced, Loaded, StateSet, Slot], ids=lambda kind: kind.__name__)
def test_a_plain_task_error_arrives_with_the_reason(kind, foreign):
    original = kind()
    use(foreign)
    error = round_trip(original)
    assert type(error) is TaskError
    assert type(error.cause) is ZrayError
    assert "the exception itself did not arrive" in str(error.cause)
    assert kind.__name__ in str(error)
    assert "in throw" in str(error)
    if kind is not Slot:
        assert type(foreign).__name__ in str(error)


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda error: type(error).__name__)
def test_a_class_that_hides_itself(foreign):
    use(foreign)
    error = round_trip(Class("text"))
    assert type(error.cause).__name__ in ("Class", "ZrayError")
    assert "Class" in str(error)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    held: object


class Local:
    pass


def test_a_frozen_exception_does_not_keep_the_locals_of_its_task():
    def fail():
        local = Local()
        seen.append(weakref.ref(local))
        raise Frozen(3)

    seen: list[weakref.ref] = []
    error = caught(fail)
    pack(error)
    gc.collect()
    assert seen[0]() is None


def test_an_exception_that_pickling_raises_anew_does_not_keep_them_either():
    class Raised(Exception):
        def __reduce__(self):
            raise self

    def fail():
        local = Local()
        seen.append(weakref.ref(local))
        raise Raised

    seen: list[weakref.ref] = []
    error = caught(fail)
    pack(error)
    assert error.__traceback__ is None
    gc.collect()
    assert seen[0]() is None


class Interrupting(Exception):
    def __reduce__(self):
        return os.kill, (os.getpid(), signal.SIGINT)


def test_ctrl_c_while_an_error_is_loaded_is_no_fault_of_the_exception():
    from zray.client.lock import ClientLock
    from zray.system import signals

    lock = ClientLock()
    data = pack(caught(throw, Interrupting("text"))).to_bytes()
    signals.install(lock)
    try:
        with pytest.raises(KeyboardInterrupt):
            load_error(data, no_refs)
    finally:
        signals.uninstall(lock)


def test_stop_iteration_becomes_a_runtime_error_where_coroutines_wait():
    stop = round_trip(StopIteration(5))
    error = raisable_in_coroutines(stop)
    assert isinstance(error, TaskError)
    assert isinstance(error, RuntimeError)
    assert not isinstance(error, StopIteration)
    assert error.__cause__ is stop
    assert str(error) == str(stop)
    assert str(error.cause) == "f raised StopIteration"


def test_stop_iteration_that_is_not_from_a_task_becomes_one_too():
    stop = StopIteration(5)
    error = raisable_in_coroutines(stop)
    assert type(error) is RuntimeError
    assert error.__cause__ is stop


def test_other_errors_stay_as_they_are_where_coroutines_wait():
    error = round_trip(StopAsyncIteration(5))
    assert raisable_in_coroutines(error) is error
