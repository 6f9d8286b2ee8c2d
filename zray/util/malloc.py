"""glibc's allocator, where it is the one: how much of what was freed it keeps.

A process through which chunks of 1 MiB pass, each in a buffer of libzmq's, would else get and return the pages of each
one: a fault for every 4 KiB, a tenth of the time that the transfer takes.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES = 64 << 20
FROM_HEAP_BYTES = 8 << 20
"""Blocks up to this size are taken from the heap, where they are kept when they are freed."""

_libc = ctypes.CDLL(None)


def keep_what_is_freed() -> None:
    """From now on blocks of some megabytes are recycled."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_MMAP_THRESHOLD, FROM_HEAP_BYTES)
        _libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Returns to the system what is kept."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
