"""Objects from other machines: a reader and sources that may be late, dead or wrong."""

from __future__ import annotations

import os

import pytest

from zray.client.core.pulls import CHUNK_BYTES, WINDOW, PullTable
from zray.protocol.messages import Chunk, ProtocolError, Pull, PullFailed

SOURCE, OTHER, OBJECT = b"s" * 16, b"o" * 16, b"x" * 28


class Reader:
    """A waiting thread, and what the table sent."""

    def __init__(self) -> None:
        self.woken = 0
        self.sent: list[tuple[bytes, Pull]] = []
        self.watched: list[bytes] = []
        self.table = PullTable(lambda dest, message: self.sent.append((dest, message)), self.watched.append)

    def wake(self) -> None:
        self.woken += 1

    def answer(self, value: bytes) -> None:
        """The source answers the oldest request."""
        _, request = self.sent.pop(0)
        data = value[request.offset : request.offset + request.length]
        self.table.on_chunk(SOURCE, Chunk(request.pull, request.offset, len(value), data))


@pytest.mark.parametrize(
    "size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 20 * CHUNK_BYTES + 7]
)
def test_a_pull_brings_exactly_the_object_and_asks_for_a_window_ahead(size):
    value, reader = os.urandom(size), Reader()
    pull = reader.table.begin(SOURCE, OBJECT, reader)
    assert reader.sent == [(SOURCE, Pull(OBJECT, pull.number, 0, CHUNK_BYTES))] and reader.watched == [SOURCE]
    reader.answer(value)
    assert pull.total == size and reader.woken == 1
    room = bytearray(size)
    reader.table.proceed(pull, memoryview(room), reader)
    while reader.sent:
        assert len(reader.sent) <= WINDOW
        reader.answer(value)
    assert pull.done and bytes(room) == value and reader.woken == 2
    reader.table.end(pull)
    assert not reader.table.pulls


def test_a_source_that_has_it_not_or_dies():
    reader = Reader()
    first = reader.table.begin(SOURCE, OBJECT, reader)
    second = reader.table.begin(OTHER, OBJECT, reader)
    reader.table.on_failed(OTHER, PullFailed(first.number, "not asked"))
    assert not first.error
    reader.table.on_failed(SOURCE, PullFailed(first.number, "gone"))
    assert first.error == "gone" and reader.woken == 1
    reader.table.on_process_died(OTHER, "killed")
    assert "killed" in second.error and reader.woken == 2
    third = reader.table.begin(OTHER, OBJECT, reader)
    assert reader.watched == [SOURCE, OTHER, OTHER], "a source that died is watched anew"
    reader.table.lose_everything("no broker")
    assert third.error == "no broker"


def test_a_source_that_dies_half_way_ends_the_pull():
    value, reader = os.urandom(3 * CHUNK_BYTES), Reader()
    pull = reader.table.begin(SOURCE, OBJECT, reader)
    reader.answer(value)
    reader.table.proceed(pull, memoryview(bytearray(len(value))), reader)
    reader.answer(value)
    reader.table.on_process_died(SOURCE, "killed")
    assert pull.error and not pull.done and reader.woken == 2
    reader.answer(value)  # was still under way
    assert pull.received == 2 * CHUNK_BYTES


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": 1},
        {"data": b"short"},
        {"data": bytes(CHUNK_BYTES + 1)},
        {"total": 7},
    ],
)
def test_a_source_that_sends_something_else(wrong):
    value, reader = os.urandom(3 * CHUNK_BYTES), Reader()
    pull = reader.table.begin(SOURCE, OBJECT, reader)
    reader.answer(value)
    room = bytearray(len(value))
    reader.table.proceed(pull, memoryview(room), reader)
    good = Chunk(pull.number, CHUNK_BYTES, len(value), value[CHUNK_BYTES : 2 * CHUNK_BYTES])
    with pytest.raises(ProtocolError):
        reader.table.on_chunk(SOURCE, good._replace(**wrong))
    assert pull.error and room[CHUNK_BYTES:] == bytes(2 * CHUNK_BYTES)


def test_what_nobody_waits_for_is_dropped():
    value, reader = os.urandom(2 * CHUNK_BYTES), Reader()
    pull = reader.table.begin(SOURCE, OBJECT, reader)
    reader.answer(value)
    room = bytearray(len(value))
    reader.table.proceed(pull, memoryview(room), reader)
    reader.table.end(pull)
    reader.answer(value)
    assert room[CHUNK_BYTES:] == bytes(CHUNK_BYTES) and reader.woken == 1
    reader.table.on_chunk(OTHER, Chunk(99, 0, 1, b"x"))
