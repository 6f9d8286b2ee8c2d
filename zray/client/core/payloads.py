"""What travels with a task and comes back from it: payloads and outcomes, as bytes that the broker forwards.

What comes from another process is checked here, where it is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from zray.client.core.references import is_stored
from zray.client.core.states import ERROR, INLINE
from zray.exceptions import SystemFailure
from zray.failures import aliased, error_text, is_error
from zray.ids import OBJECT_ID_BYTES, PROCESS_ID_BYTES
from zray.protocol.codec import pack, unpack
from zray.protocol.messages import ProtocolError

MAX_OBJECT_BYTES = 1 << 46
"""What says that it is larger is not true."""


class Arguments(NamedTuple):
    """A call's arguments as they were serialized.

    ``refs`` are the top-level references, as (position or keyword, object); their places in ``data`` are blank.
    ``held`` is everything to be pinned until the outcome: those, the ones nested in values, a handle.
    """

    status: int  # INLINE, or STORED: too large for a payload, in the store under object_id
    data: bytes
    object_id: bytes
    host: bytes
    size: int  # of what is STORED, in bytes
    refs: tuple[tuple[int | str, bytes], ...]
    held: tuple[bytes, ...]


class TaskPayload(NamedTuple):
    """What a worker is given; opaque to the broker."""

    options: bytes
    status: int
    data: bytes
    object_id: bytes
    host: bytes
    size: int
    refs: list[Any]  # [key, object_id, status, data, host, size]


_NO_PAYLOAD = TaskPayload(b"", INLINE, b"", b"", b"", 0, [])
_make_tuple: Any = tuple.__new__
"""Of a named tuple from a list whose length is known to be right: two thirds of what ``_make`` takes."""


def read_payload(packed: bytes) -> tuple[TaskPayload, str]:
    """A payload, and "", or an empty one and why it cannot be read: who sent it is to be told.

    What of it is looked at only when the call is run, where whatever is wrong is the call's error, is not checked here.
    """
    try:
        fields = unpack(packed)
    except ProtocolError as error:
        return _NO_PAYLOAD, str(error)
    if type(fields) is not list or len(fields) != len(TaskPayload._fields):
        return _NO_PAYLOAD, "malformed payload"
    payload = _make_tuple(TaskPayload, fields)
    refs = payload.refs
    if type(payload.options) is bytes and type(refs) is list and (not refs or _are_arguments(refs)):
        return payload, ""
    return _NO_PAYLOAD, "malformed payload"


def _are_arguments(refs: list[Any]) -> bool:
    """Whether each is [key, object_id, status, data, host, size]."""
    try:
        for key, object_id, status, data, host, size in refs:  # each by itself: there may be thousands
            if (
                type(object_id) is not bytes or len(object_id) != OBJECT_ID_BYTES or type(status) is not int
                or type(data) is not bytes or type(host) is not bytes or type(size) is not int
                or (type(key) is not int and type(key) is not str)
            ):  # fmt: skip
                return False
    except (ValueError, TypeError):  # no list of six
        return False
    return True


class Outcome(NamedTuple):
    """What a worker answers; opaque to the broker. ``returns``: [status, data, size, inner references]."""

    host: bytes
    returns: list[Any]
    kept: list[bytes]
    retryable: bool


def read_outcome(payload: bytes) -> Outcome:
    """Parses and checks a worker's answer."""
    fields = unpack(payload)
    if type(fields) is not list or len(fields) != len(Outcome._fields):
        raise ProtocolError("malformed outcome")
    host, returns, kept, _ = fields
    if type(host) is not bytes or type(returns) is not list or type(kept) is not list:
        raise ProtocolError("malformed outcome")
    try:
        for status, data, size, inner in returns:
            if (  # each by itself: this is done for every result
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
    """The first of a call's return values that is an error: of a generator others may come before it."""
    for each in returns:
        if each[0] == ERROR:
            return each  # type: ignore[no-any-return]
    return None


def raised(outcome: Outcome) -> str:
    """The last line of what an attempt raised; an error that is in the store is not read for it."""
    failed = first_error(outcome.returns)
    data = b"" if failed is None else failed[1]
    lines: list[str] = []
    if is_error(data) and not aliased(data):
        with contextlib.suppress(SystemFailure):  # whatever its worker has sent: it is tried again
            lines = error_text(data).strip().splitlines()
    return lines[-1] if lines else "an error"


def _are_objects(identifiers: list[Any]) -> bool:
    return all(type(x) is bytes and len(x) == OBJECT_ID_BYTES for x in identifiers)


def pack_outcome(host: bytes, returns: Iterable[Any], kept: list[bytes], retryable: bool) -> bytes:
    """The counterpart of ``read_outcome``."""
    return pack((host, list(returns), kept, retryable))
