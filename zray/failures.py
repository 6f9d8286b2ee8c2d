"""How an error travels in place of a value: three forms, told apart by their first byte.

A *failure* is raised by zray itself (a worker died, an object was lost). It is a name and a message, which the broker
can write and read without pickle.  An *error* was raised by the user's code: see ``zray.serialization.errors``.  An
*alias* names the object whose error it is: a large error is in the store once, and is the outcome of many objects.
The tags differ from those of values, so the first byte also tells an error from a value (``is_error``).
"""

from __future__ import annotations

import msgpack

from zray.exceptions import FAILURES, SystemFailure, ZrayError

FAILURE_TAG = b"F"
ERROR_TAG = b"E"
ALIAS_TAG = b"@"
_ERROR_TAGS = frozenset(FAILURE_TAG + ERROR_TAG + ALIAS_TAG)


def is_error(data: bytes | memoryview) -> bool:
    """Whether ``data`` encodes a failure or an error, rather than a value."""
    return len(data) > 0 and data[0] in _ERROR_TAGS


def alias_of(object_id: bytes) -> bytes:
    """An error that is the one of another object."""
    return ALIAS_TAG + object_id


def aliased(data: bytes | memoryview) -> bytes:
    """The object whose error ``data`` stands for; empty when it is no alias."""
    return bytes(data[1:]) if bytes(data[:1]) == ALIAS_TAG else b""


def encode_failure(kind: str, message: str) -> bytes:
    """The failure ``zray.exceptions.<kind>``. Raises ValueError when no failure has that name."""
    if kind not in FAILURES:
        raise ValueError(f"{kind!r} is not a failure; there are {', '.join(sorted(FAILURES))}")
    packed: bytes = msgpack.packb([kind, message], unicode_errors="backslashreplace")
    return FAILURE_TAG + packed


def decode_failure(data: bytes | memoryview) -> ZrayError:
    """A new exception from what ``encode_failure`` returned. Raises SystemFailure when ``data`` is malformed."""
    try:
        kind, message = msgpack.unpackb(memoryview(data)[1:])
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise SystemFailure(f"a malformed failure arrived: {error}") from error
    known = FAILURES.get(str(kind))
    return known(message) if known else SystemFailure(f"{kind}: {message}")


def show_error(data: bytes | memoryview) -> str:
    """A failure or error for people: that of a task as its exception shows it, ``f (pid=4711, host=node7)`` and the
    traceback. Whatever it is, without unpickling anything."""
    try:
        fields = msgpack.unpackb(memoryview(data)[1:])
        heading = f"{fields[0]} (pid={fields[2]}, host={fields[3]})\n" if bytes(data[:1]) == ERROR_TAG else ""
        return f"{heading}{fields[1]}".rstrip()
    except (ValueError, TypeError, IndexError, KeyError, msgpack.UnpackException):
        return "an error that cannot be read"


def error_text(data: bytes | memoryview) -> str:
    """What a failure or error says, without unpickling anything."""
    try:
        fields = msgpack.unpackb(memoryview(data)[1:])
        return str(fields[1])
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise SystemFailure(f"a malformed error arrived: {error}") from error
