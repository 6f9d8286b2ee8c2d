"""Helpers that raise exceptions, and encode and decode them."""

from __future__ import annotations

from zray.serialization import load_error, pack_task_error


def no_refs(object_id):
    raise AssertionError("no reference was expected")


def caught(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def throw(error):
    raise error


def pack(error, name="f"):
    return pack_task_error(name, error, pid=123, host="node7")


def round_trip(error, name="f"):
    """Encodes and decodes an exception. Raises it first, so that it has a traceback."""
    error = caught(throw, error)
    return load_error(pack(error, name).to_bytes(), no_refs)
