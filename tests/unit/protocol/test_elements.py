"""Limits of the memory that a peer's message can take: values are counted before they are made."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zray.protocol import elements
from zray.protocol.codec import MAX_SHAPE_BYTES, pack, pack_body, shape_key, unpack, unpack_messages
from zray.protocol.elements import MAX_DEPTH, UNCOUNTED_BYTES, has_few_elements
from zray.protocol.messages import FROM_DRIVER, FROM_HOST, Forward, Inspected, ProtocolError, WorkerLogs
from zray.protocol.questions import NamedActorsQuery
from zray.protocol.records import Activity, WorkerLines
from zray.protocol.rows import NUMBER_OF

MIB = 1 << 20


def array(count: int, item: bytes) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + item * count


def table(count: int, pair: bytes) -> bytes:
    return b"\xdf" + count.to_bytes(4, "big") + pair * count


BOMBS = {
    "empty maps": array(16 * MIB, b"\x80"),
    "empty lists": array(16 * MIB, b"\x90"),
    "maps in maps": array(3 * MIB, b"\x81\x00\x80"),
    "chains of lists": array(30_000, b"\x91" * 500 + b"\xc0"),
    "short texts": array(5 * MIB, b"\xa2ab"),
    "numbers": array(4 * MIB, b"\xce\x12\x34\x56\x78"),
    "lists that never end": b"\xdd\x00\x10\x00\x00" * 3 * MIB,
    "a header alone": b"\xdd\xff\xff\xff\xff" + bytes(3 * MIB),
    "within its row": b"\x91\x91" + array(16 * MIB, b"\x80"),
    "times": array(2 * MIB, b"\xd6\xff\x00\x00\x00\x01"),
    "maps, in what is not counted": array(2 * MIB - 5, b"\x80"),
    "maps in maps, in what is not counted": array((2 * MIB - 5) // 3, b"\x81\x00\x80"),
    "chains of lists, in what is not counted": array(2000, b"\x91" * 1000 + b"\xc0"),
    "texts, in what is not counted": array((2 * MIB - 5) // 3, b"\xa2ab"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_bodies_do_not_take_much_memory(name):
    """Without the count, 16 MiB of empty maps became 1.2 GB before they were found not to be a message."""
    body = memoryview(BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            unpack_messages(body, FROM_DRIVER)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * MIB


def count(value: Any) -> int:
    if isinstance(value, list):
        return 1 + sum(map(count, value))
    if isinstance(value, dict):
        return 1 + sum(count(key) + count(each) for key, each in value.items())
    return 1


SIZES = st.sampled_from([0, 1, 15, 16, 31, 32, 255, 256])
SCALARS = (
    st.none() | st.booleans() | st.floats() | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from([0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, -1, -32, -33, -128, -129, -(2**31) - 1])
    | SIZES.map(bytes) | SIZES.map(lambda size: "x" * size)
    | st.sampled_from([1, 2, 4, 8, 16, 3, 256]).map(lambda size: msgpack.ExtType(5, bytes(size)))
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=20)
        | st.dictionaries(st.integers(0, 99), inner, max_size=20)
        | SIZES.map(lambda size: [None] * size)
        | SIZES.map(lambda size: dict.fromkeys(range(size)))
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(VALUES, st.integers(0, 40))
@example([None] * 65_535, 0)
@example([None] * 65_536, 0)
@example(dict.fromkeys(range(65_535)), 0)
@example(dict.fromkeys(range(65_536)), 0)
@example(["x" * 65_535, "x" * 65_536, bytes(65_536), msgpack.ExtType(5, bytes(65_536)), None], 6)
def test_the_count_is_right(value, limit):
    """This holds for all forms that msgpack chooses for a value."""
    packed = msgpack.packb(value)
    number = count(value)
    with pytest.MonkeyPatch.context() as patch:
        for most in (limit, number, number - 1):
            patch.setattr(elements, "MAX_ELEMENTS", most)
            assert has_few_elements(packed) == (number <= most or number == 1)


@given(st.binary(max_size=200))
def test_anything_can_be_counted(data):
    assert has_few_elements(data) in (True, False)


def test_depth_is_limited_too():
    assert has_few_elements(b"\x91" * MAX_DEPTH + b"\xc0")
    assert not has_few_elements(b"\x91" * (MAX_DEPTH + 1) + b"\xc0")


def test_large_values_and_many_small_messages_pass():
    large = Forward(b"p" * 16, bytes(3 * UNCOUNTED_BYTES))
    assert unpack_messages(pack_body([large]), FROM_DRIVER) == [large]
    many = [Inspected(number, Activity([], [], {"a": 1})) for number in range(70_000)]
    assert len(pack_body(many)) < UNCOUNTED_BYTES
    with pytest.raises(ProtocolError, match="maps"):  # more maps than any batch has
        unpack_messages(pack_body(many), FROM_DRIVER)
    assert unpack_messages(pack_body(many[:60_000]), FROM_DRIVER) == many[:60_000]
    logs = WorkerLogs([WorkerLines(b"w" * 16, "f", 1, "stdout", ["a line of text"] * 2000) for _ in range(300)], {})
    assert unpack_messages(pack_body([logs]), FROM_HOST) == [logs]


# ------------------------------------------------------------------ values that the protocol does not use


@pytest.mark.parametrize("levels", [1, 511, 600, 1000])
def test_deep_values_are_refused(levels):
    """msgpack reads 1,024 levels, but older versions write only 511: passing such a value on ended the broker."""
    value: Any = None
    for _ in range(levels):
        value = [value]
    for message in (NamedActorsQuery(1, None), Inspected(1, Activity([], [], {}))):
        with pytest.raises(ProtocolError):
            unpack_messages(msgpack.packb([[*NUMBER_OF[type(message)], 1, value]]), FROM_DRIVER)


@pytest.mark.parametrize("odd", [
    b"\xd4\x05\x00", b"\xc7\x00\x05", b"\xc7\x03\x05abc", b"\xd6\xff\x00\x00\x00\x01", b"\xd7\xff" + b"\xff" * 8,
    b"\xa1\xff", b"\x81\x90\x01", b"\x81\x80\x01", b"\xc1",
])  # fmt: skip
def test_values_that_the_protocol_does_not_use(odd):
    """Extensions, timestamps, text that is not UTF-8, keys that cannot be hashed."""
    with pytest.raises(ProtocolError):
        unpack(odd)
    with pytest.raises(ProtocolError):
        unpack(b"\x91" + odd)


@settings(deadline=None)
@given(st.binary(max_size=60) | VALUES.map(msgpack.packb))
def test_values_that_can_be_read_can_be_written(data):
    try:
        value = unpack(data)
    except ProtocolError:
        return
    assert pack(unpack(pack(value))) == pack(value)


def test_resources_of_too_many_names_are_refused():
    with pytest.raises(ValueError, match="resources"):
        shape_key({f"resource {number} with a long name": 1 for number in range(5000)})
    assert len(shape_key({f"resource {number}": 1 for number in range(3000)})) < MAX_SHAPE_BYTES
