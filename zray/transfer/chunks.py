"""The form in which a piece of an object travels: as it is, or compressed where that pays, with a checksum of its own.

The checksum is of the data as they were in the source's store: it also catches what goes wrong before they are sent
and after they have arrived, which neither TCP's nor CURVE's own can. XXH3 is as fast as memory is; a CRC-32 would
take more time than all the rest that a host does for a chunk.
"""

from __future__ import annotations

import xxhash

from zray.protocol.messages import Chunk, Pull

CHUNK_BYTES = 1 << 20
SAMPLE_BYTES = 64 << 10
WORTH_PACKING = 0.75
"""A sample that shrinks to less than this part is worth the time that the whole takes."""


def chunk_length(total: int, offset: int) -> int:
    """How many bytes the chunk at ``offset`` of an object of ``total`` bytes has."""
    return min(CHUNK_BYTES, total - offset)


def make_chunk(request: Pull, total: int, data: memoryview) -> tuple[Chunk, bytes | memoryview]:
    """The answer to a request: its head, and the data that go with it."""
    checksum = xxhash.xxh3_64_digest(data)
    packed = _packed(data) if request.pack else None
    head = Chunk(request.pull, request.offset, total, checksum, packed is not None, b"")
    return head, data if packed is None else packed


def _packed(data: memoryview) -> bytes | None:
    import lz4.block  # only where a channel turns out to be slow

    def compress(part: memoryview) -> bytes:
        done: bytes = lz4.block.compress(part, store_size=False)
        return done

    sample = data[:SAMPLE_BYTES]
    if len(compress(sample)) > WORTH_PACKING * len(sample):
        return None
    packed = compress(data)
    return packed if len(packed) < len(data) else None


def unpack_chunk(head: Chunk, data: bytes | memoryview, place: memoryview) -> bool:
    """Puts the data of a chunk to their place; False if they are damaged."""
    if head.packed:
        import lz4.block

        try:
            data = lz4.block.decompress(data, uncompressed_size=len(place))
        except (lz4.block.LZ4BlockError, ValueError):
            return False
    if len(data) != len(place):
        return False
    place[:] = data
    return is_intact(head, place)


def is_intact(head: Chunk, place: memoryview) -> bool:
    """Whether what is in its place is what was sent."""
    return xxhash.xxh3_64_digest(place) == head.checksum
