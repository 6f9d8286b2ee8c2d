"""Payloads, which travel with a task, and outcomes, which come back: bytes that the broker forwards.

Bytes from another process are checked here, where they are read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from zray.client.core.references import is_stored
from zray.client.core.states import ERROR, INLINE
from zray.exceptions import SystemFailure
from zray.failures import aliased, error_text, is_error
from zray.ids import OBJECT_ID_BYTES, PROCESS_ID_BYTES
from zray.named_tuples import NamedTuple
from zray.protocol.codec import pack, unpack
from zray.protocol.messages import ProtocolError

CANCELLED, INTERRUPTED = b"", b"!"
CANCELLATIONS = {CANCELLED: "TaskCancelledError", INTERRUPTED: "RunningTaskCancelledError"}
"""In place of the outcome of a cancelled task: it returned or never began, or its code was interrupted."""

MAX_OBJECT_BYTES = 1 << 46
"""The largest size of an object. A larger size in a message is malformed."""


class Arguments(NamedTuple):
    """A call's serialized arguments.

    ``refs``: the top-level references, as (position or keyword, object). Their places in ``data`` are blank. ``held``:
    the objects to pin until the outcome: these, references nested in values, and a handle.
    """

    status: int  # INLINE, or STORED if too large for a payload: then it is in the store under object_id
    data: bytes
    object_id: bytes
    host: bytes
    size: int  # of the stored object, in bytes
    refs: tuple[tuple[int | str, bytes], ...]
    held: tuple[bytes, ...]


class TaskPayload(NamedTuple):
    """The part of a task that a worker reads. The broker does not read it."""

    options: bytes
    status: int
    data: bytes
    object_id: bytes
    host: bytes
    size: int
    refs: list[Any]  # [key, object_id, status, data, host, size]
    stream: list[int]  # see StreamTable.begin; empty: the task has no stream


_NO_PAYLOAD = TaskPayload(b"", INLINE, b"", b"", b"", 0, [], [])
_make_tuple: Any = tuple.__new__
"""Makes a named tuple from a list of the right length, in two thirds of the time of ``_make``."""


def read_payload(packed: bytes) -> tuple[TaskPayload, str]:
    """Returns the payload and ""; or an empty payload and the reason why it cannot be read, which the sender is told.

    Parts that are read only when the call runs are not checked here: a fault in them is the call's error.
    """
    try:
        fields = unpack(packed)
    except ProtocolError as error:
        return _NO_PAYLOAD, str(error)
    if type(fields) is not list or len(fields) != len(TaskPayload._fields):
        return _NO_PAYLOAD, "malformed payload"
    payload = _make_tuple(TaskPayload, fields)
    refs, stream = payload.refs, payload.stream
    if (
        type(payload.options) is bytes and type(refs) is list and (not refs or _are_arguments(refs))
        and type(stream) is list and (not stream or [type(count) for count in stream] == [int, int, int])
    ):  # fmt: skip
        return payload, ""
    return _NO_PAYLOAD, "malformed payload"


def _are_arguments(refs: list[Any]) -> bool:
    """Whether each element is [key, object_id, status, data, host, size]."""
    try:
        for key, object_id, status, data, host, size in refs:  # written out for speed: there may be thousands
            if (
                type(object_id) is not bytes or len(object_id) != OBJECT_ID_BYTES or type(status) is not int
                or type(data) is not bytes or type(host) is not bytes or type(size) is not int
                or (type(key) is not int and type(key) is not str)
            ):  # fmt: skip
                return False
    except (ValueError, TypeError):  # an element is not a list of six
        return False
    return True


class Return(NamedTuple):
    """One return value, or item of a stream; see ``Outcome``."""

    status: int
    data: bytes
    size: int
    inner: tuple[bytes, ...]


class Outcome(NamedTuple):
    """A worker's answer. The broker does not read it. ``returns``: a list of [status, data, size, inner references].

    ``run_us``: how long the attempt ran, in microseconds; 0 for items of a stream.
    """

    host: bytes
    returns: list[Any]
    kept: list[bytes]
    retryable: bool
    run_us: int


def read_outcome(payload: bytes) -> Outcome:
    """Decodes and checks a worker's answer. Raises ProtocolError if it is malformed."""
    fields = unpack(payload)
    if type(fields) is not list or len(fields) != len(Outcome._fields):
        raise ProtocolError("malformed outcome")
    host, returns, kept, _, run_us = fields
    if type(host) is not bytes or type(returns) is not list or type(kept) is not list or type(run_us) is not int:
        raise ProtocolError("malformed outcome")
    try:
        for status, data, size, inner in returns:
            if (  # written out for speed: this runs for every result
                type(status) is not int or type(data) is not bytes or type(size) is not int or type(inner) is not list
                or not INLINE <= status <= ERROR or not 0 <= size <= MAX_OBJECT_BYTES
                or (inner and not _are_objects(inner))
                or (status != INLINE and is_stored(status, data) and len(host) != PROCESS_ID_BYTES)
            ):  # fmt: skip
                raise ProtocolError("malformed outcome")
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"malformed outcome: {error}") from None
    if kept and not _are_objects(kept):
        raise ProtocolError("malformed outcome")
    outcome: Outcome = _make_tuple(Outcome, fields)
    return outcome


def first_error(returns: list[Any]) -> list[Any] | None:
    """The first of a call's return values that is an error; None if none is. A generator's values may precede it."""
    for each in returns:
        if each[0] == ERROR:
            return each  # type: ignore[no-any-return]
    return None


def raised(outcome: Outcome) -> str:
    """The last line of the error that an attempt raised. An error in the store is not read: then it is "an error"."""
    failed = first_error(outcome.returns)
    data = b"" if failed is None else failed[1]
    lines: list[str] = []
    if is_error(data) and not aliased(data):
        with contextlib.suppress(SystemFailure):  # the error is malformed: the task is tried again all the same
            lines = error_text(data).strip().splitlines()
    return lines[-1] if lines else "an error"


def _are_objects(identifiers: list[Any]) -> bool:
    return all(type(x) is bytes and len(x) == OBJECT_ID_BYTES for x in identifiers)


def pack_outcome(host: bytes, returns: Iterable[Any], kept: list[bytes], retryable: bool, run_us: int = 0) -> bytes:
    """Encodes an outcome for ``read_outcome``."""
    return pack((host, list(returns), kept, retryable, run_us))
