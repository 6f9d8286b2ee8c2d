"""Routes messages between processes: they travel through the broker, which passes them on unopened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zray.named_tuples import NamedTuple
from zray.protocol.codec import pack
from zray.protocol.contract import BROKER
from zray.protocol.messages import Forward
from zray.protocol.rows import encode_row

CHUNK_BYTES = 1 << 20
"""The approximate most bytes of values in one message, since the size of a message is limited."""


class Arrival(NamedTuple):
    """A frame that came in. ``through``: the name of its connection; ``key``: the key of the connection, or b""."""

    process_id: bytes
    through: bytes
    key: bytes
    data: bytes


def through_broker(sends: dict[bytes, list[Any]]) -> list[Any]:
    """Returns the messages to the broker that carry a core's sends, in order.

    Those for other processes go last: the release of a reference must not overtake the answer that hands it over.
    """
    messages: list[Any] = sends.get(BROKER, [])
    if len(sends) <= (BROKER in sends):
        return messages
    messages = messages[:]
    for dest, inner in sends.items():
        if dest != BROKER:
            messages.extend(Forward(dest, pack(rows)) for rows in _chunks(inner))
    return messages


def _chunks(messages: list[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    size = 0
    for message in messages:
        row = encode_row(message)
        chunk.append(row)
        size += sum(len(field) for field in row if type(field) is bytes)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk = []
            size = 0
    if chunk:
        yield chunk
