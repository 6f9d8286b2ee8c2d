"""Frames and bodies: packed messages survive a round trip, and any other input raises only ProtocolError."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zray.protocol import codec
from zray.protocol.codec import HEADER, KIND_DATA, KIND_HANDSHAKE, MAGIC
from zray.protocol.messages import (
    FROM_BROKER,
    FROM_DRIVER,
    FROM_HOST,
    FROM_PEER,
    FROM_PEER_TO_HOST,
    FROM_WORKER,
    HANDSHAKE,
    PROTOCOL_VERSION,
    Blocked,
    BorrowAck,
    Goodbye,
    Hello,
    Leaving,
    ProtocolError,
    Refused,
    Run,
    Submit,
    Welcome,
)
from zray.protocol.records import ClusterInfo, HostInfo, HostState, JobSettings, JoinInfo, VersionPair

INCARNATION = b"12345678"
EVERYTHING = FROM_BROKER | FROM_DRIVER | FROM_HOST | FROM_PEER | FROM_PEER_TO_HOST | FROM_WORKER | HANDSHAKE
SUBMIT = Submit(b"t" * 24, 0, b"f" * 16, b"\x90", 1, b"", b"payload")


def data_frame(*messages: object) -> bytes:
    return codec.pack_frame(KIND_DATA, INCARNATION, 7, 3, codec.pack_body(messages))


def read_all(data: bytes) -> None:
    """Parses a frame as far as possible. Only ProtocolError may be raised."""
    with contextlib.suppress(ProtocolError):
        frame = codec.read_frame(data)
        if frame.kind == KIND_HANDSHAKE:
            codec.unpack_handshake(frame)
        else:
            codec.unpack_messages(frame.body, EVERYTHING)


def test_a_frame_survives_a_round_trip():
    frame = codec.read_frame(data_frame(SUBMIT, Blocked(True)))
    assert (frame.kind, frame.incarnation, frame.seq, frame.ack) == (KIND_DATA, INCARNATION, 7, 3)
    assert codec.unpack_messages(frame.body, FROM_WORKER) == [SUBMIT, Blocked(True)]


def test_the_header_is_as_the_specification_says():
    data = codec.pack_frame(KIND_DATA, INCARNATION, 0x0102030405060708, 9, b"body")
    assert data == b"\xa7\x01" + INCARNATION + bytes([8, 7, 6, 5, 4, 3, 2, 1]) + bytes([9]) + bytes(7) + b"body"
    assert HEADER.size == 26


@pytest.mark.parametrize("data", [b"", b"\xa7", data_frame()[: HEADER.size - 1]])
def test_shorter_than_a_header(data):
    with pytest.raises(ProtocolError, match="shorter"):
        codec.read_frame(data)


@pytest.mark.parametrize(("magic", "kind"), [(MAGIC, 2), (MAGIC, 255), (0, KIND_DATA), (ord("G"), ord("E"))])
def test_not_a_frame(magic, kind):
    with pytest.raises(ProtocolError, match="not a zray frame"):
        codec.read_frame(bytes([magic, kind]) + bytes(24))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",  # a byte that msgpack never uses
        b"\x80",  # a map
        b"\x01",
        b"\xa1x",
        b"\x91",  # an array that is cut off
        b"\x90\x90",  # trailing bytes
        b"\xdd\xff\xff\xff\xff",  # it claims four billion messages
        b"\x91" * 100_000,  # deeper than any stack
        b"\x91\xa1\xff",  # text that is not UTF-8
        b"\x91\x81\x90\x01",  # a key that cannot be hashed
        b"\x91\x81\x81\x01\x01\x01",
        b"\x91\xc7\x0c\xff" + b"\xff" * 12,  # an invalid timestamp
    ],
)
def test_undecodable_bodies(body):
    with pytest.raises(ProtocolError):
        codec.unpack_messages(body, FROM_WORKER)


def test_one_malformed_message_makes_its_frame_malformed():
    body = msgpack.packb([[8, True], [8, "yes"]])
    with pytest.raises(ProtocolError, match="malformed Blocked"):
        codec.unpack_messages(body, FROM_WORKER)


def test_only_messages_that_the_role_may_send():
    body = codec.pack_body([Leaving("x")])
    assert codec.unpack_messages(body, FROM_WORKER)
    with pytest.raises(ProtocolError, match="Leaving may not be sent"):
        codec.unpack_messages(body, FROM_DRIVER)


@pytest.mark.parametrize(
    "message",
    [
        Hello(PROTOCOL_VERSION, "3.11", "0.1", "driver", b"p" * 16, JoinInfo(1, 1 << 20, JobSettings("space", ["/x"]))),
        Welcome(INCARNATION, 1 << 20, ClusterInfo(b"job", [HostState(b"h" * 16, HostInfo(), {"CPU": 1.0}, {}, 2)])),
        Refused("versions differ", [VersionPair("python", "3.9", "3.11")]),
    ],
)
def test_handshakes(message):
    frame = codec.read_frame(codec.pack_handshake(message, INCARNATION))
    assert (frame.kind, frame.seq, frame.ack) == (KIND_HANDSHAKE, 0, 0)
    assert codec.unpack_handshake(frame) == message


def test_a_hello_has_no_incarnation():
    hello = Hello(PROTOCOL_VERSION, "3.11", "0.1", "driver", b"p" * 16, JoinInfo())
    assert codec.read_frame(codec.pack_handshake(hello)).incarnation == bytes(8)


@pytest.mark.parametrize("messages", [[], [Refused("a", [])] * 2, [SUBMIT], [Goodbye("bye")]])
def test_malformed_handshakes(messages):
    frame = codec.read_frame(codec.pack_frame(KIND_HANDSHAKE, bytes(8), 0, 0, codec.pack_body(messages)))
    with pytest.raises(ProtocolError):
        codec.unpack_handshake(frame)


def test_payloads_are_copied_out_of_the_frame():
    # A memoryview of a frame would keep the whole batch in memory as long as one small value.
    run = Run(b"t" * 24, 0, b"f" * 16, b"", [], b"x" * 1000)
    (back,) = codec.unpack_messages(codec.read_frame(data_frame(run)).body, FROM_BROKER)
    assert type(back.payload) is bytes


# ------------------------------------------------------------------ random and damaged input


@given(st.binary(max_size=200))
@example(b"\xa7\x01" + bytes(24) + b"\x91\x81\x90\x01")
def test_random_bytes(data):
    read_all(data)


@given(st.binary(max_size=200))
def test_random_bodies(body):
    read_all(codec.pack_frame(KIND_DATA, INCARNATION, 1, 0, body))
    read_all(codec.pack_frame(KIND_HANDSHAKE, INCARNATION, 0, 0, body))


GOOD = data_frame(
    SUBMIT,
    Hello(1, "3.11", "0.1", "host", b"p" * 16, JoinInfo(7, job=JobSettings("a", ["/x"]))),
    BorrowAck(3),
    Run(b"t" * 24, 2, b"f" * 16, b"", [1, 2], b""),
)


@given(st.integers(0, len(GOOD)))
def test_truncated_frames(length):
    read_all(GOOD[:length])


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_damaged_frames(changes):
    damaged = bytearray(GOOD)
    for position, value in changes:
        damaged[position] = value
    read_all(bytes(damaged))


any_value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.lists(
        st.lists(any_value, max_size=8).flatmap(lambda fields: st.integers(0, 60).map(lambda n: [n, *fields])),
        max_size=3,
    )
)
def test_well_packed_nonsense(rows):
    read_all(codec.pack_frame(KIND_DATA, INCARNATION, 1, 0, msgpack.packb(rows)))


class TestPacker:
    def test_a_packer_that_has_raised_leaves_nothing_behind(self):
        with pytest.raises(TypeError):
            codec.pack([b"some of it", object()])
        assert msgpack.unpackb(codec.pack([1])) == [1]

    def test_a_packer_with_a_large_buffer_is_not_kept(self):
        codec._idle_packers.clear()
        codec.pack(bytes(codec.MAX_IDLE_PACKER_BYTES + 1))
        assert not codec._idle_packers
        codec.pack(b"little")
        assert len(codec._idle_packers) == 1

    def test_a_packer_is_used_by_one_call_at_a_time(self):
        codec._idle_packers.clear()

        class Inner(dict):
            def items(self):  # as a finalizer may do, in the middle of another call
                assert msgpack.unpackb(codec.pack(["inner"])) == ["inner"]
                return super().items()

        assert msgpack.unpackb(codec.pack(["outer", Inner(key=1), "end"])) == ["outer", {"key": 1}, "end"]
