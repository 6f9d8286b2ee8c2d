"""The optimization ``tune-malloc``: sets how much freed memory glibc's allocator keeps.

A process that passes on chunks of 1 MiB, each in a buffer of libzmq, would otherwise get and return the pages of each
chunk: a page fault for every 4 KiB. A process that is about to be forked, or to report its memory use, first gives back
what it does not use.

Depends on: ``mallopt`` and ``malloc_trim``, which glibc documents. Tested with glibc 2.36. Where the C library has
neither, such as musl, nothing is done. Gain: see "Optimizations that can be switched off" in ``docs/architecture.md``.
Without it: the C library's own settings.
"""

from __future__ import annotations

import ctypes

from zray.memory.optimizations import left_out

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES = 64 << 20
FROM_HEAP_BYTES = 8 << 20
"""Blocks up to this size are taken from the heap, where they are kept when they are freed."""

_libc = ctypes.CDLL(None)


def keep_what_is_freed() -> None:
    """Makes the allocator recycle blocks of some megabytes from now on."""
    if _has("mallopt"):
        _libc.mallopt(M_MMAP_THRESHOLD, FROM_HEAP_BYTES)
        _libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Returns the kept memory to the system."""
    if _has("malloc_trim"):
        _libc.malloc_trim(0)


def _has(function: str) -> bool:
    there = hasattr(_libc, function)
    if not there:
        left_out("tune-malloc", f"this C library has no {function}")
    return there
