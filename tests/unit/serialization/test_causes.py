"""Which errors are caused by a write to a read-only value: only these have the hint."""

from __future__ import annotations

import ctypes
import io
import struct

import numpy as np
import pandas as pd
import pytest

from zray.exceptions import READ_ONLY_HINT, TaskError
from zray.serialization import deserialize, hint_for, load_error, pack_task_error, serialize


def no_refs(object_id):
    raise AssertionError("no reference was expected")


def read(value):
    return deserialize(serialize(value).to_bytes(), no_refs)


def frame():
    return read(pd.DataFrame({"a": [1.0, 2.0], "t": pd.date_range("2000", periods=2)}))


def at_once(value, action):
    """Runs the action with a second reference to the value: without it, pandas warns about a temporary value."""
    kept = value
    action(value)
    del kept


WRITES = {
    "item": lambda: read(np.arange(3)).__setitem__(0, 1),
    "sort": lambda: read(np.arange(3.0)).sort(),
    "out": lambda: np.add(1, 2, out=read(np.arange(3))),
    "shuffle": lambda: np.random.default_rng(0).shuffle(read(np.arange(30))),
    "flag": lambda: read(np.arange(3)).setflags(write=True),
    "memoryview": lambda: memoryview(read(np.arange(3))).__setitem__(0, 1),
    "ctypes": lambda: ctypes.c_char.from_buffer(read(np.arange(3))),
    "readinto": lambda: io.BytesIO(b"xxx").readinto(read(np.arange(3))),
    "struct": lambda: struct.pack_into("d", read(np.arange(3.0)), 0, 1.0),
    "masked": lambda: read(np.ma.masked_array([1.0, 2.0], [0, 1])).__setitem__(0, 3),
    "datetime": lambda: read(np.arange(3).astype("M8[s]")).__setitem__(0, 1),
    "pandas at": lambda: at_once(frame(), lambda value: value.at.__setitem__((0, "a"), 5.0)),
    "pandas loc": lambda: at_once(frame(), lambda value: value.loc.__setitem__((slice(None), "a"), 9.0)),
    "pandas loc of times": lambda: at_once(
        frame(), lambda value: value.loc.__setitem__((slice(None), "t"), pd.Timestamp("2001"))
    ),
    "pandas update": lambda: at_once(frame(), lambda value: value.update(pd.DataFrame({"a": [7.0, 8.0]}))),
    "pandas series": lambda: at_once(frame()["t"], lambda value: value.__setitem__(0, pd.Timestamp("2001"))),
}


def error_of(action):
    try:
        action()
    except Exception as error:
        return error
    pytest.skip("this version of the library has copied the value")


@pytest.mark.parametrize("name", WRITES)
def test_the_hint_comes_with_whatever_says_read_only(name):
    error = error_of(WRITES[name])
    assert hint_for(error) == READ_ONLY_HINT
    told = load_error(pack_task_error("f", error, pid=1, host="h").to_bytes(), no_refs)
    assert str(told).count(READ_ONLY_HINT) == 1
    assert hint_for(told) == ""  # its text has the hint already


def raising(error, cause=None, context=None):
    def action():
        try:
            if context is not None:
                raise context
        except Exception:
            raise error from cause
        raise error from cause

    return action


@pytest.mark.parametrize(
    "error",
    [
        error_of(raising(TypeError("Invalid value"), context=ValueError("output array is read-only"))),
        error_of(raising(KeyError("x"), ValueError("Assignment destination is a view. Do you want to copy?"))),
        ValueError("WRITEBACKIFCOPY base is read-only"),
        RuntimeError("array is not writeable"),
        TypeError("No implementation of function setitem(readonly array(float64, 1d, C), ...)"),
        RuntimeError("img marked as output argument, but provided NumPy array marked as readonly"),
    ],
    ids=repr,
)
def test_libraries_that_name_another_reason(error):
    assert hint_for(error) == READ_ONLY_HINT


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        OSError(30, "Read-only file system"),
        AttributeError("readonly attribute"),
        RuntimeError("attempt to write a readonly database"),
        TaskError("f", "read-only", None, 1, "h"),
        error_of(raising(TypeError("f(): incompatible function arguments."))),
    ],
    ids=repr,
)
def test_other_errors_have_no_hint(error):
    assert hint_for(error) == ""


@pytest.mark.parametrize("writable", [False, True])
def test_bindings_that_find_no_overload(writable):
    array = np.arange(3) if writable else read(np.arange(3))

    def call():
        argument = array  # noqa: F841  # is looked at in the frame
        raise TypeError("scale(): incompatible function arguments. The following argument types are supported: ...")

    assert bool(hint_for(error_of(call))) is not writable


class Silent(Exception):
    def __str__(self):
        raise SystemExit


def test_an_exception_without_a_text():
    assert hint_for(Silent()) == ""
