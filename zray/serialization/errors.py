"""Exceptions of the user's code as bytes: the text always arrives, the exception itself when it can.

An error is the tag ``E`` and a msgpack array: function, text of the traceback, pid, host, the exception as a serialized
value or nil, and why that is missing.  The text is made where the traceback is.  Whatever the exception's own code does
(raise in ``__str__``, fail to pickle, fail to unpickle), the receiver gets a TaskError with the text.
"""

from __future__ import annotations

import os
import traceback
import types
from typing import Any

import msgpack

from zray.exceptions import (
    DeserializationError,
    SerializationError,
    SystemFailure,
    TaskCancelledError,
    TaskError,
    ZrayError,
    has_type,
)
from zray.failures import ERROR_TAG, FAILURE_TAG, decode_failure
from zray.serialization.causes import family, hint_for, traceback_of
from zray.serialization.pickler import LoadRef
from zray.serialization.values import Serialized, deserialize, serialize
from zray.system.signals import came_from_handler

TEXT_CHARS = 20_000
"""Longest text of a traceback; of a longer one the middle is left out."""

MAX_EXCEPTION_BYTES = (1 << 32) - 1
"""msgpack has no larger binary data."""

_NAME: Any = vars(type)["__name__"].__get__
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


def pack_task_error(function_name: str, exc: BaseException, *, pid: int, host: str) -> Serialized:
    """Serializes what the user's function raised, and cuts ``exc`` off from its traceback. Raises nothing.

    Without that the frames of the task, and so its arguments and local variables, would live as long as ``exc`` does.
    Of a TaskError that came from another task the first cause is kept; the text tells the way that it came. A
    KeyboardInterrupt, which would end whoever gets the error, becomes a TaskCancelledError.
    """
    text = _describe(exc)
    cause: BaseException | None = exc
    while has_type(cause, TaskError):
        cause = cause.cause  # type: ignore[union-attr]  # a TaskError's
    if has_type(cause, KeyboardInterrupt):
        cause = TaskCancelledError(f"{function_name} raised {_NAME(type(cause))}")
    data, missing = None, ""
    packed = None
    try:
        _drop_tracebacks(exc)
        if cause is not None:
            packed = serialize(cause, f"the {_NAME(type(cause))} that {function_name} raised")
            data = packed.to_bytes()
    except BaseException as error:  # of the exception's own code, which may raise anything
        packed = None
        missing = _reason(error)
    finally:
        _drop_tracebacks(exc)  # that code may have raised it once more
    if data is not None and len(data) > MAX_EXCEPTION_BYTES:
        missing = f"it has {len(data):,} bytes"
        data, packed = None, None
    fields = [function_name, text, pid, host, data, missing]
    body = ERROR_TAG + msgpack.packb(fields, unicode_errors="backslashreplace")
    if packed is None:
        return Serialized(body, [], (), framed=False)
    return Serialized(body, [], packed.refs, framed=False, held=packed.held)


def without_exception(packed: Serialized, reason: str) -> Serialized:
    """What ``pack_task_error`` made, with the text only; ``reason``: why the exception itself is left out."""
    fields = msgpack.unpackb(memoryview(packed.to_bytes())[1:])
    fields[4:] = [None, reason]
    return Serialized(ERROR_TAG + msgpack.packb(fields), [], (), framed=False)


def load_error(data: bytes | memoryview, load_ref: LoadRef) -> BaseException:
    """A new exception from what ``pack_task_error`` or ``encode_failure`` wrote, ready to be raised.

    Of a user's exception: a TaskError that is an instance of its type as well, where that type can be loaded here; else
    its ``cause`` is a ZrayError that says why not. Raises SystemFailure when ``data`` is malformed.
    """
    tag = bytes(data[:1])
    if tag == FAILURE_TAG:
        return decode_failure(data)
    if tag != ERROR_TAG:
        raise SystemFailure(f"no error starts with {tag!r}")
    try:
        function_name, text, pid, host, packed, missing = msgpack.unpackb(memoryview(data)[1:])
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise SystemFailure(f"a malformed error arrived: {error}") from error
    cause: BaseException | None = None
    if packed is not None:
        try:
            cause = _load_cause(packed, load_ref)
        except BaseException as error:  # of the exception's own code, which may raise anything
            if came_from_handler(error):
                raise
            missing = f"it could not be loaded here: {_reason(error)}"
    if missing:
        missing = f"the exception itself did not arrive: {missing}"
        text = f"{text.rstrip()}\n({missing})"
        cause = ZrayError(missing)
    return TaskError(function_name, text, cause, pid, host).as_instanceof_cause()


def _load_cause(packed: bytes, load_ref: LoadRef) -> BaseException:
    cause = deserialize(packed, load_ref)
    if not has_type(cause, BaseException):
        raise TypeError(f"its __reduce__ makes a {_NAME(type(cause))}")
    return cause  # type: ignore[no-any-return]  # looked at above


def _describe(exc: BaseException) -> str:
    """The traceback as text, causes and groups included, without zray's own frames at its top."""
    kind = type(exc)
    shown = _user_frames(traceback_of(exc))
    try:
        text = "".join(traceback.TracebackException(kind, exc, shown, compact=True).format())
    except BaseException as error:  # of the exception's own code, which may raise anything
        frames = "".join(traceback.format_tb(shown))
        why = f"its text cannot be had: {_NAME(type(error))}"
        text = f"Traceback (most recent call last):\n{frames}{_NAME(kind)} ({why})"
    if len(text) > TEXT_CHARS:
        half = TEXT_CHARS // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    hint = hint_for(exc)
    return f"{text.rstrip()}\n{hint}" if hint and hint not in text else text


def _user_frames(top: types.TracebackType | None) -> types.TracebackType | None:
    shown = top
    while shown is not None and shown.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        shown = shown.tb_next
    return shown or top


def _drop_tracebacks(exc: BaseException) -> None:
    """Cuts ``exc``, and what hangs on it, off from the frames that raised them. Raises nothing."""
    for each in family(exc):
        BaseException.with_traceback(each, None)  # an assignment may be forbidden: frozen dataclasses


def _reason(error: BaseException) -> str:
    """What went wrong, in a line: SerializationError tells by itself, others by their type as well."""
    if has_type(error, DeserializationError):
        return error.reason  # type: ignore[attr-defined,no-any-return]
    text = _safe_str(error)
    return text if has_type(error, SerializationError) else f"{_NAME(type(error))}: {text}"


def _safe_str(exc: BaseException) -> str:
    try:
        return str(exc)[:TEXT_CHARS]
    except BaseException:  # of the exception's own code, which may raise anything
        return f"<{_NAME(type(exc))}, whose str() fails>"
