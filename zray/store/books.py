"""The store's ledger as all processes of the machine share it: a small mapped file and the one lock of the store.

Whoever changes where a segment is, and the books with it, holds the lock: for some microseconds, or the milliseconds
that it takes to give pages up, never while data is copied. The kernel drops the lock of a process that dies. The books
carry a mark while they are being changed; who finds it there counts the files anew, so that the books are right again
whatever died, at the next use of the store.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator

from zray.store.ledger import Ledger, Place

_ENTRIES = struct.Struct("<B7x6Q")  # 1 while being changed, then the bytes in each place
_OPEN = b"\1"


class Books:
    """The books of one store, opened by one process. Not thread-safe: the lock is between processes."""

    def __init__(self, path: str, capacity: int, recount: Callable[[], dict[Place, int]]) -> None:
        """``recount`` tells the bytes in each place as the files say."""
        self._capacity = capacity
        self._recount = recount
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size < _ENTRIES.size:
            os.ftruncate(self._fd, _ENTRIES.size)
        with open(path, "r+b") as own:  # the map keeps a copy of its descriptor, which must not share the lock
            self._map = mmap.mmap(own.fileno(), _ENTRIES.size)

    @contextlib.contextmanager
    def changing(self) -> Iterator[Ledger]:
        """The ledger, to be changed together with the files. An exception leaves it to the next one to recount."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield from self._change()
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def changing_if_idle(self) -> Iterator[Ledger | None]:
        """Like ``changing``, but None instead of a wait when another process is at it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        try:
            yield from self._change()
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _change(self) -> Iterator[Ledger]:
        interrupted, *held = _ENTRIES.unpack(self._map)
        ledger = Ledger(self._capacity, self._recount() if interrupted else dict(zip(Place, held, strict=True)))
        self._map[:1] = _OPEN
        yield ledger
        _ENTRIES.pack_into(self._map, 0, 1, *ledger.held.values())
        self._map[:1] = b"\0"

    def close(self) -> None:
        """Closes the file."""
        self._map.close()
        os.close(self._fd)

    def close_in_child(self) -> None:
        """Closes the descriptor that a forked child shares: the lock would else outlive the parent."""
        os.close(self._fd)
