"""Encodes exceptions of the user's code as bytes. The text always arrives; the exception itself arrives if it can.

An error is the tag ``E`` and a msgpack array: function, text of the traceback, pid, host, the exception as a serialized
value or nil, and the reason if it is missing. The process that has the traceback makes the text. Whatever the
exception's own code does (it raises in ``__str__``, cannot be pickled or unpickled), the receiver gets a TaskError with
the text.
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
"""The longest text of a traceback. The middle of a longer one is left out."""

MAX_EXCEPTION_BYTES = (1 << 32) - 1
"""The limit of msgpack for binary data."""

_NAME: Any = vars(type)["__name__"].__get__
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


def pack_task_error(function_name: str, exc: BaseException, *, pid: int, host: str) -> Serialized:
    """Serializes an exception that the user's function raised, and removes its traceback from ``exc``. Never raises.

    With the traceback, ``exc`` would keep the frames of the task, and so its arguments and local variables. If ``exc``
    is a TaskError from another task, the innermost cause is sent; the text shows the tasks in between. A
    KeyboardInterrupt is sent as a TaskCancelledError, because it would end the process that receives it.
    """
    text = _describe(exc)
    cause: BaseException | None = exc
    while has_type(cause, TaskError):
        cause = cause.cause  # type: ignore[union-attr]  # a TaskError has one
    if has_type(cause, KeyboardInterrupt):
        cause = TaskCancelledError(error_message=f"{function_name} raised {_NAME(type(cause))}")
    data, missing = None, ""
    packed = None
    try:
        _drop_tracebacks(exc)
        if cause is not None:
            packed = serialize(cause, f"the {_NAME(type(cause))} that {function_name} raised")
            data = packed.to_bytes()
    except BaseException as error:  # raised by the exception's own code, which may raise anything
        packed = None
        missing = _reason(error)
    finally:
        _drop_tracebacks(exc)  # the exception's own code may have raised it again, which sets a new traceback
    if data is not None and len(data) > MAX_EXCEPTION_BYTES:
        missing = f"it has {len(data):,} bytes"
        data, packed = None, None
    fields = [function_name, text, pid, host, data, missing]
    body = ERROR_TAG + msgpack.packb(fields, unicode_errors="backslashreplace")
    if packed is None:
        return Serialized(body, [], (), framed=False)
    return Serialized(body, [], packed.refs, framed=False, held=packed.held)


def without_exception(packed: Serialized, reason: str) -> Serialized:
    """Returns the result of ``pack_task_error`` with the text only. ``reason``: why the exception is left out."""
    fields = msgpack.unpackb(memoryview(packed.to_bytes())[1:])
    fields[4:] = [None, reason]
    return Serialized(ERROR_TAG + msgpack.packb(fields), [], (), framed=False)


def load_error(data: bytes | memoryview, load_ref: LoadRef) -> BaseException:
    """Makes an exception from the result of ``pack_task_error`` or ``encode_failure``, ready to be raised.

    A user's exception becomes a TaskError. If the type of the exception can be loaded here, the TaskError is also an
    instance of that type; if not, its ``cause`` is a ZrayError that says why. Raises SystemFailure if ``data`` is
    malformed.
    """
    tag = bytes(data[:1])
    if tag == FAILURE_TAG:
        return decode_failure(data)
    if tag != ERROR_TAG:
        raise SystemFailure(f"a malformed error arrived: no error starts with {tag!r}")
    try:
        function_name, text, pid, host, packed, missing = msgpack.unpackb(memoryview(data)[1:])
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise SystemFailure(f"a malformed error arrived: {error}") from error
    cause: BaseException | None = None
    if packed is not None:
        try:
            cause = _load_cause(packed, load_ref)
        except BaseException as error:  # raised by the exception's own code, which may raise anything
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
    return cause  # type: ignore[no-any-return]  # checked above


def _describe(exc: BaseException) -> str:
    """The traceback as text, causes and groups included, without zray's own frames at its top."""
    kind = type(exc)
    shown = _user_frames(traceback_of(exc))
    try:
        text = "".join(traceback.TracebackException(kind, exc, shown, compact=True).format())
    except BaseException as error:  # raised by the exception's own code, which may raise anything
        frames = "".join(traceback.format_tb(shown))
        why = f"its text cannot be shown: {_NAME(type(error))}"
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
    """Removes the tracebacks of ``exc`` and of the exceptions chained to it. Never raises."""
    for each in family(exc):
        BaseException.with_traceback(each, None)  # not an assignment, which a frozen dataclass forbids


def _reason(error: BaseException) -> str:
    """Describes ``error`` in a line: the text of a SerializationError is enough, other errors need their type too."""
    if has_type(error, DeserializationError):
        return error.reason  # type: ignore[attr-defined,no-any-return]
    text = _safe_str(error)
    return text if has_type(error, SerializationError) else f"{_NAME(type(error))}: {text}"


def _safe_str(exc: BaseException) -> str:
    try:
        return str(exc)[:TEXT_CHARS]
    except BaseException:  # raised by the exception's own code, which may raise anything
        return f"<{_NAME(type(exc))}, whose str() fails>"
