"""Converts frames to bytes and back. SPEC.md has the layout. The only state is a cache of packers."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import msgpack

from zray.named_tuples import NamedTuple
from zray.protocol.elements import MAX_ELEMENTS, MAX_MAPS, UNCOUNTED_BYTES, MapCounter, has_few_elements
from zray.protocol.messages import ProtocolError
from zray.protocol.rows import decode_handshake, decode_row, encode_row

MAGIC = 0xA7
KIND_HANDSHAKE, KIND_DATA = 0, 1
HEADER = struct.Struct("<BB8sQQ")
NO_INCARNATION = bytes(8)
PACK_ERRORS = (ValueError, TypeError, OverflowError, RecursionError)
"""What ``pack_body`` raises for a message with content that msgpack cannot pack."""
_TEXT = "surrogatepass"
"""Python reads file names that are not UTF-8 as text with surrogates. This keeps them unchanged on the wire."""


MAX_IDLE_PACKER_BYTES = 1 << 18
"""A packer that has made a longer result is not kept, since it keeps its buffer of that size."""
_idle_packers: list[Any] = []


def pack(value: Any) -> bytes:
    """Returns ``value`` in msgpack. Raises one of ``PACK_ERRORS``.

    Making a packer takes longer than using it, so packers are kept. Each is used by one call at a time, also if other
    threads or finalizers call. A packer that has raised is not used again.
    """
    try:
        packer = _idle_packers.pop()
    except IndexError:
        packer = msgpack.Packer(unicode_errors=_TEXT)
    packed: bytes = packer.pack(value)
    if len(packed) <= MAX_IDLE_PACKER_BYTES:
        _idle_packers.append(packer)
    return packed


MAX_SHAPE_BYTES = 1 << 16


def shape_key(
    amounts: dict[str, int], constraint: list[Any] | None = None, environment_id: bytes = b"", priority: int = 0
) -> bytes:
    """The canonical form of ``amounts`` (ten-thousandths by name) for messages.

    ``constraint``: the hosts that may take the work, see ``zray.scheduling.constraint.Constraint.to_row``; None: all.
    ``environment_id``: the runtime environment in which the work runs; empty for none. ``priority``: among the waiting
    work of its job. Raises ValueError if the form is longer than ``MAX_SHAPE_BYTES``.
    """
    pairs = sorted(item for item in amounts.items() if item[1])
    if constraint is None and not environment_id and not priority:
        key = pack(pairs)
    else:
        more = {"priority": priority} if priority else {}
        key = pack({"amounts": pairs, "constraint": constraint, "environment": environment_id, **more})
    if len(key) > MAX_SHAPE_BYTES:
        raise ValueError(
            f"resources: {len(amounts)} names and amounts of {len(key):,} bytes together, with their label selectors, "
            f"are more than the {MAX_SHAPE_BYTES:,} that one call may ask for: use fewer, or shorter, names"
        )
    return key


class Frame(NamedTuple):
    """A frame whose header has been read. ``body`` has not been parsed yet."""

    kind: int
    incarnation: bytes
    seq: int
    ack: int
    body: memoryview


def pack_body(messages: Iterable[Any]) -> bytes:
    """Packs messages into the body of a frame. Raises one of ``PACK_ERRORS``."""
    return pack([encode_row(message) for message in messages])


def pack_frame(kind: int, incarnation: bytes, seq: int, ack: int, body: bytes) -> bytes:
    """Returns a whole frame: header and body."""
    return HEADER.pack(MAGIC, kind, incarnation, seq, ack) + body


def read_frame(data: bytes | memoryview) -> Frame:
    """Splits a frame into header and body. Raises ProtocolError if ``data`` is not a frame."""
    if len(data) < HEADER.size:
        raise ProtocolError("shorter than a header")
    magic, kind, incarnation, seq, ack = HEADER.unpack_from(data)
    if magic != MAGIC or kind not in (KIND_HANDSHAKE, KIND_DATA):
        raise ProtocolError("not a zray frame")
    return Frame(kind, incarnation, seq, ack, memoryview(data)[HEADER.size :])


def unpack_row(body: bytes, allowed: frozenset[Any]) -> Any:
    """Returns the message of a single row, as channels carry it.

    Raises ProtocolError if it is malformed or not of an ``allowed`` class.
    """
    return decode_row(unpack(body), allowed)


def unpack(data: bytes | memoryview) -> Any:
    """Parses the msgpack of a peer, in bounded memory (see ``elements``). Raises ProtocolError if it is malformed."""
    try:
        if len(data) <= MAX_MAPS:
            return msgpack.unpackb(
                data, strict_map_key=False, max_ext_len=0, ext_hook=_no_extension, unicode_errors=_TEXT
            )
        if len(data) > UNCOUNTED_BYTES and not has_few_elements(data):
            raise ProtocolError(f"more than {MAX_ELEMENTS:,} values, or nested too deep")
        count_map = MapCounter() if len(data) <= UNCOUNTED_BYTES else None
        return msgpack.unpackb(
            data,
            strict_map_key=False,
            max_ext_len=0,
            ext_hook=_no_extension,
            unicode_errors=_TEXT,
            object_hook=count_map,
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise ProtocolError(f"undecodable body: {error}") from None


def _no_extension(code: int, data: bytes) -> Any:
    raise ProtocolError("an extension type, which this protocol does not use")


def unpack_messages(body: bytes | memoryview, allowed: frozenset[Any]) -> list[Any]:
    """Returns the messages of a body.

    Raises ProtocolError if one of them is malformed or not of an ``allowed`` class.
    """
    rows = unpack(body)
    if type(rows) is not list:
        raise ProtocolError("a body that is not an array of messages")
    return [decode_row(row, allowed) for row in rows]


def pack_handshake(message: Any, incarnation: bytes = NO_INCARNATION) -> bytes:
    """Returns a handshake frame with one message."""
    return pack_frame(KIND_HANDSHAKE, incarnation, 0, 0, pack_body([message]))


def unpack_handshake(frame: Frame) -> Any:
    """Returns the message of a handshake frame. Raises ProtocolError if it is malformed."""
    rows = unpack(frame.body)
    if type(rows) is not list or len(rows) != 1:
        raise ProtocolError("a handshake frame that does not hold one message")
    return decode_handshake(rows[0])
