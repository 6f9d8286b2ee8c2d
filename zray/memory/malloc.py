"""The optimization ``tune-malloc``: how much of what was freed glibc's allocator keeps.

A process through which chunks of 1 MiB pass, each in a buffer of libzmq's, would else get and return the pages of each
one: a fault for every 4 KiB.  And a process that is about to be forked, or to tell how much memory it uses, first
gives back what it does not use.

Rests on: ``mallopt`` and ``malloc_trim``, which glibc documents.  Tried with glibc 2.36.  Where the C library has
none of them, as musl, nothing is done.  Gain: see "Optimizations that can be switched off" in ``docs/architecture.md``.
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
    """From now on blocks of some megabytes are recycled."""
    if _has("mallopt"):
        _libc.mallopt(M_MMAP_THRESHOLD, FROM_HEAP_BYTES)
        _libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Returns to the system what is kept."""
    if _has("malloc_trim"):
        _libc.malloc_trim(0)


def _has(function: str) -> bool:
    there = hasattr(_libc, function)
    if not there:
        left_out("tune-malloc", f"this C library has no {function}")
    return there
