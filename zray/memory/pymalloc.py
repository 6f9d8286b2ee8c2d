"""The optimization ``fill-holes``: fills holes in CPython's allocator of small objects before a fork.

The allocator takes blocks of up to 512 bytes from pools of 16 KiB, each for blocks of one size. It uses the pools that
have a free block before it begins another. After a fork these pools are on pages that parent and child share: every
block that the child takes there costs it a page of its own. With the holes filled, the child begins new pools, and its
blocks are side by side.

Depends on: CPython's ``Objects/obmalloc.c``, as of 3.10 to 3.13; tested on 3.10.13, 3.11.7, 3.12.1 and 3.13.0. Where
the addresses do not show the first objects of a new pool (another allocator, another layout), nothing is filled. Gain:
see "Optimizations that can be switched off" in ``docs/architecture.md``. Without it: each worker copies a page for a
few of its own objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.memory.optimizations import left_out

POOL_BYTES = 16 << 10
POOL_HEADER_BYTES = 48
ALIGNMENT = 16
LARGEST_BLOCK = 512
INTEGER_BYTES = 32
INTEGERS_APART = 16
"""The number of objects of an integer's size made between two looks: their addresses are integers, and take blocks."""
BLOCKS_OF_A_NEW_POOL = 8
"""The number of adjacent blocks, from the first on, that show a new pool.

Blocks of an old pool are free in no order.
"""
MAX_HOLES = 8192
"""The most fillers of one size. If this many begin no new pool, the allocator is unknown, and all are released."""


def fill_holes() -> list[Any]:
    """Fills the free blocks of all pools that have been begun. They stay filled as long as the result is kept."""
    fillers: list[Any] = []
    for size in range(LARGEST_BLOCK, 0, -ALIGNMENT):
        if not _fill(size, fillers):
            left_out("fill-holes", f"blocks of {size} bytes are not handed out from pools as in CPython's pymalloc")
            return []
    return fillers


def _fill(size: int, fillers: list[Any]) -> bool:
    """Makes objects until some are in a row at the beginning of a new pool. Returns False if none are."""
    make = _maker(size)
    at_once = INTEGERS_APART if size == INTEGER_BYTES else 1
    last = in_a_row = 0
    for _ in range(0, MAX_HOLES, at_once):
        made = [make() for _ in range(at_once)]
        fillers += made
        for filler in made:
            address = id(filler)
            if in_a_row and address == last + size:
                in_a_row += 1
            else:
                in_a_row = address % POOL_BYTES == POOL_HEADER_BYTES
            if in_a_row == BLOCKS_OF_A_NEW_POOL:
                return True
            last = address
    return False


def _maker(size: int) -> Callable[[], Any]:
    """Returns a function that makes objects in a block of ``size`` bytes that the collector does not track."""
    if size == ALIGNMENT:
        return object
    if size == INTEGER_BYTES:
        return lambda: float("1.5")  # 24 bytes
    overhead = b"".__sizeof__()
    return lambda: bytes(size - overhead)
