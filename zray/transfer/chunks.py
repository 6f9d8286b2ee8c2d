"""The form in which a piece of an object travels: plain, or compressed where that saves time, with its own checksum.

The checksum is over the data as they were in the source's store. So it also catches damage before the data are sent and
after they have arrived, which the checks of TCP and CURVE cannot. XXH3 is as fast as memory; a CRC-32 would take more
time than everything else that a host does for a chunk.
"""

from __future__ import annotations

import xxhash

from zray.protocol.messages import Chunk, Pull

CHUNK_BYTES = 1 << 20
SAMPLE_BYTES = 64 << 10
WORTH_PACKING = 0.75
"""The whole is compressed if its sample shrinks to less than this part."""


def chunk_length(total: int, offset: int) -> int:
    """Returns the length in bytes of the chunk at ``offset`` of an object of ``total`` bytes."""
    return min(CHUNK_BYTES, total - offset)


def make_chunk(request: Pull, total: int, data: memoryview) -> tuple[Chunk, bytes | memoryview]:
    """Returns the answer to a request: its head, and the data that go with it."""
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
    """Puts the data of a chunk into their place. Returns False if they are damaged."""
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
    """Whether the data in their place are what was sent."""
    return xxhash.xxh3_64_digest(place) == head.checksum
