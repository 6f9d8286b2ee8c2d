"""How messages find their way: what processes send to each other goes by the broker, which passes it on unopened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from zray.protocol.codec import pack
from zray.protocol.contract import BROKER
from zray.protocol.messages import Forward
from zray.protocol.rows import encode_row

CHUNK_BYTES = 1 << 20
"""About so many bytes of values go into one message: a message has a largest size."""


class Arrival(NamedTuple):
    """A frame that came in. ``through``: the name of its connection; ``key``: with which key, b"" without any."""

    process_id: bytes
    through: bytes
    key: bytes
    data: bytes


def through_broker(sends: dict[bytes, list[Any]]) -> list[Any]:
    """The messages for the broker that stand for what a core sends, in order.

    Those to others go last: what lets a reference go must not overtake the answer that hands it over.
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
