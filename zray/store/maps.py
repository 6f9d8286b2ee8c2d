"""Maps of segments, and buffers on them.

Mapping a file again for each use halves the bandwidth of that use, so a process keeps its maps by inode. A map is
unmapped when its last holder is gone: the cache, or a buffer on it that is still alive. ``mmap.mmap`` is not used: each
one holds a descriptor, and it tells neither the address of a read-only map nor when a buffer on it is gone.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import errno
import functools
import mmap
import os
import weakref
from collections.abc import Callable
from typing import Any

from zray.exceptions import SystemFailure

SMALL_BYTES = 1 << 20
"""Objects up to this size are copied by a process that has used half of the maps that the system allows it."""
DEFAULT_MAX_MAPS = 65530
ALIGNMENT = 64

_MAP_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MADV_POPULATE_WRITE = 23  # since Linux 5.14; before, pages are mapped one by one when they are written to


class Mapping:
    """``size`` bytes of a file in the address space, shared with its other maps; made by ``Maps.make``."""

    __slots__ = ("__weakref__", "_last_buffer", "address", "populated", "size")

    def __init__(self, address: int, size: int, populated: int) -> None:
        self.address = address
        self.size = size
        self.populated = populated
        """The number of bytes from the beginning that have pages."""
        self._last_buffer: Callable[[], Any] = _nothing

    def populate(self, offset: int, size: int) -> None:
        """Maps existing pages for writing. ``offset`` is a multiple of the page size."""
        _libc.madvise(self.address + offset, size, _MADV_POPULATE_WRITE)

    def buffer(self, size: int) -> memoryview:
        """Returns a writable view of the first ``size`` bytes. The map stays as long as any buffer made from it.

        All these buffers are on one object, the view's ``obj``.
        """
        exporter = _array_type(self.size).from_address(self.address)
        exporter.holds = self
        self._last_buffer = weakref.ref(exporter)
        return memoryview(exporter).cast("B")[:size]

    @property
    def complete(self) -> bool:
        """Whether all pages exist."""
        return self.populated >= self.size

    @property
    def lent(self) -> bool:
        """Whether the last ``buffer``, or anything made from it, is still alive."""
        return self._last_buffer() is not None

    def store(self, offset: int, data: bytes) -> None:
        """Copies ``data`` to ``offset``."""
        ctypes.memmove(self.address + offset, data, len(data))


class HeldMap(weakref.ref[Mapping]):
    """A weak reference that knows what to unmap when its map is gone."""

    __slots__ = ("address", "size")
    address: int
    size: int


class Maps:
    """The maps of one process on the segments of one store.

    ``ended`` is called with the ``HeldMap`` of each map that is gone; the callee has it unmapped later. The call is
    made in C, so it is never half done. A ``__del__`` could be interrupted before its first line by an exception of a
    signal handler.
    """

    def __init__(self, ended: Callable[[Any], None]) -> None:
        self._ended = ended
        self.most = _max_map_count() // 2
        """The number of maps before small objects are copied.

        The rest is for large objects, and for other maps of the process.
        """
        self._held: dict[int, HeldMap] = {}  # by address; a weak reference calls back only while it exists

    def make(self, fd: int, size: int, writable: bool, at_once: bool = True) -> Mapping:
        """Maps the first ``size`` bytes of ``fd``. A writable map gets its pages ``at_once``, or by ``populate``.

        Raises OSError, and SystemFailure when the process can have no more maps.
        """
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if writable and at_once else 0)
        address = _libc.mmap(None, size, protection, flags, fd, 0)
        if address == _MAP_FAILED:
            code = ctypes.get_errno()
            if code == errno.ENOMEM:
                raise SystemFailure(_no_more_maps(size, len(self._held)))
            raise OSError(code, f"mapping a segment of {size} bytes: {os.strerror(code)}")
        mapping = Mapping(address, size, size if at_once else 0)
        held = HeldMap(mapping, self._ended)
        held.address, held.size = address, size
        self._held[address] = held
        return mapping

    def unmap(self, held: HeldMap) -> None:
        """Removes a map that is gone from the address space. Call it once for each ``held``."""
        del self._held[held.address]  # first: another map may get the address as soon as it is free
        _libc.munmap(held.address, held.size)

    def copies(self, size: int) -> bool:
        """Whether to copy an object of ``size`` bytes, as this process has many maps already."""
        return size <= SMALL_BYTES and len(self._held) >= self.most

    def __len__(self) -> int:
        return len(self._held)


def copy_of(fd: int, size: int) -> memoryview:
    """Returns the first ``size`` bytes of a file in memory of this process, aligned for any array. Raises OSError."""
    memory = bytearray(size + ALIGNMENT)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % ALIGNMENT
    view = memoryview(memory)[start : start + size]
    done = 0
    while done < size:
        n_bytes = os.preadv(fd, [view[done:]], done)
        if not n_bytes:
            raise OSError(errno.EIO, "a segment ended early while it was copied")
        done += n_bytes
    return view


@functools.cache
def _max_map_count() -> int:
    """Returns how many maps a process may have."""
    with contextlib.suppress(OSError, ValueError), open("/proc/sys/vm/max_map_count") as file:
        return int(file.read())
    return DEFAULT_MAX_MAPS


def _no_more_maps(size: int, n_maps: int) -> str:
    return (
        f"a segment of {size:,} bytes cannot be mapped into this process, with {n_maps:,} maps of the object store: "
        f"the system allows a process {_max_map_count():,} maps of all kinds (vm.max_map_count), and the address space "
        f"that ulimit -v sets. Drop values that are not needed, or raise the limit with "
        f"sysctl -w vm.max_map_count=1048576"
    )


def _nothing() -> None:
    return None


@functools.lru_cache(maxsize=256)  # as many as there are size classes in practice; making a type costs 20 us
def _array_type(size: int) -> Any:
    return ctypes.c_ubyte * size


class MapCache:
    """Maps by inode, the least recently used first. Bounded by bytes and number; not thread-safe."""

    def __init__(self, max_bytes: int, max_maps: int = 512) -> None:
        self._max_bytes = max_bytes
        self._max_maps = max_maps
        self._maps: collections.OrderedDict[int, Mapping] = collections.OrderedDict()
        self._bytes = 0

    def __contains__(self, inode: object) -> bool:
        return inode in self._maps

    def get(self, inode: int) -> Mapping | None:
        """Returns the map of ``inode`` and makes it the most recently used one."""
        found = self._maps.get(inode)
        if found is not None:
            self._maps.move_to_end(inode)
        return found

    def add(self, inode: int, mapping: Mapping) -> None:
        """Keeps a map, and drops the least recently used ones beyond the bounds."""
        self.discard(inode)
        self._maps[inode] = mapping
        self._bytes += mapping.size
        while self._maps and (self._bytes > self._max_bytes or len(self._maps) > self._max_maps):
            self._bytes -= self._maps.popitem(last=False)[1].size

    def discard(self, inode: int) -> None:
        """Drops the map of ``inode``."""
        mapping = self._maps.pop(inode, None)
        if mapping is not None:
            self._bytes -= mapping.size

    def clear(self) -> None:
        """Drops every map."""
        self._maps.clear()
        self._bytes = 0
