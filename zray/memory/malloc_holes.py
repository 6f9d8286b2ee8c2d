"""The optimization ``fill-malloc``: fills holes in the heap of glibc's allocator before a fork.

The heap of a process that has imported much has free blocks everywhere between blocks in use. After a fork parent and
child share its pages: every block that the child takes there costs it a page of its own. With the holes filled, the
child takes its blocks from the end of the heap, side by side.

Depends on: glibc's ``malloc``, which extends one heap by ``sbrk``, prefers free blocks within it to its end, and whose
``malloc_trim`` shortens it to its last page in use. Tested with glibc 2.36. Where the C library has no ``malloc_trim``,
such as musl, or hands out blocks from elsewhere, nothing is filled. Gain: see "Optimizations that can be switched off"
in ``docs/architecture.md``. Without it: each worker copies a page for a few of its own blocks.
"""

from __future__ import annotations

import ctypes
from typing import Any

from zray.memory.optimizations import left_out

LARGEST_BLOCK = 120_000
"""In bytes. A larger block may have a mapping of its own: 128 KiB is the least from which ``malloc`` makes one."""
SMALL_BLOCKS = 1024
"""Up to this size in bytes all sizes are tried; above it each is a tenth smaller than the one before."""
SMALLEST_BLOCK = 24
ALIGNMENT = 16
LAST_PAGES_BYTES = 8192
"""The end of a trimmed heap. Holes in it stay: there a block looks as if it were taken from the heap's end."""
MAX_FILLERS = 1 << 16
MAX_FILLED_BYTES = 64 << 20
"""If this many blocks, or bytes, fill no heap, the allocator is unknown, and all are released."""

_libc: Any = ctypes.CDLL(None)  # by itself: what its functions return is set below


def fill_malloc_holes() -> int:
    """Fills the holes of the heap, for as long as the process lives. Returns the number of blocks that it took."""
    if not hasattr(_libc, "malloc_trim") or not hasattr(_libc, "sbrk"):
        left_out("fill-malloc", "this C library has no malloc_trim")
        return 0
    _libc.malloc.restype = _libc.sbrk.restype = ctypes.c_void_p
    _libc.malloc_trim(ctypes.c_size_t(0))
    end = (_libc.sbrk(ctypes.c_ssize_t(0)) or 0) - LAST_PAGES_BYTES
    fillers: list[int] = []
    filled_bytes = 0
    for size in _sizes():
        while (block := _libc.malloc(ctypes.c_size_t(size))) and block < end:
            fillers.append(block)
            filled_bytes += size
            if len(fillers) == MAX_FILLERS or filled_bytes > MAX_FILLED_BYTES:
                for filler in fillers:
                    _free(filler)
                left_out("fill-malloc", "its blocks do not come from a heap that grows at its end, as glibc's do")
                return 0
        _free(block)  # from the heap's end: there is no hole of this size
    return len(fillers)


def _sizes() -> list[int]:
    """The sizes of the blocks, in bytes, the largest first: each the most that fits into a chunk of glibc's."""
    sizes = [LARGEST_BLOCK]
    while (smaller := sizes[-1] * 9 // 10) > SMALL_BLOCKS:
        sizes.append(smaller)
    return sizes + list(range(SMALL_BLOCKS + ALIGNMENT // 2, SMALLEST_BLOCK - 1, -ALIGNMENT))


def _free(block: int | None) -> None:
    _libc.free(ctypes.c_void_p(block))
