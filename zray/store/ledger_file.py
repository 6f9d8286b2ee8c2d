"""The store's ledger as all processes of the machine share it: a small mapped file, and the one lock of the store.

A process that changes the place of a segment, and the ledger with it, holds the lock. It holds it for some
microseconds, or for the milliseconds that freeing pages takes, and never while data are copied. The kernel drops the
lock of a process that dies. The file carries a mark while it is being changed. A process that finds the mark when it
takes the lock counts the files again. So the ledger is correct at the next use of the store, whichever process died.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
from collections.abc import Callable

from zray.store.ledger import Ledger, Place

_CELL_BYTES = 8
_FILE_BYTES = _CELL_BYTES * (1 + len(Place))
"""One cell that is 1 while the others are being changed, and one cell for the bytes in each place."""


class LedgerFile:
    """The ledger file of one store, used by one process. Not thread-safe: the lock is between processes."""

    def __init__(self, path: str, capacity: int, count: Callable[[], list[int]]) -> None:
        """``count`` returns the bytes in each place, counted from the files."""
        self._count = count
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size < _FILE_BYTES:
            os.ftruncate(self._fd, _FILE_BYTES)
        with open(path, "r+b") as own:  # the map keeps a copy of its descriptor, which must not share the lock
            self._map = mmap.mmap(own.fileno(), _FILE_BYTES)
        self._cells = memoryview(self._map).cast("Q")
        self._held = self._cells[1:]
        self._ledger = Ledger(capacity, self._held)

    def open(self) -> Ledger:
        """Waits for the lock and returns the ledger. Change it together with the files, then call ``shut``."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        return self._opened()

    def open_if_idle(self) -> Ledger | None:
        """Like ``open``, but returns None instead of waiting while another process holds the lock."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return self._opened()

    def shut(self, complete: bool) -> None:
        """Ends what ``open`` began. Unless ``complete``, the next process to open the ledger counts the files again."""
        if complete:
            self._cells[0] = 0
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def peek(self, place: Place) -> int:
        """Returns the bytes in a place, without the lock: the number may be out of date."""
        return self._held[place]

    def _opened(self) -> Ledger:
        try:
            if self._cells[0]:
                self._held[:] = memoryview(array.array("Q", self._count()))
            self._cells[0] = 1
        except BaseException:
            self.shut(complete=False)
            raise
        return self._ledger

    def close(self) -> None:
        """Closes the file."""
        self._held.release()
        self._cells.release()
        self._map.close()
        os.close(self._fd)

    def close_in_child(self) -> None:
        """Closes the descriptor that a forked child shares: otherwise the lock would outlive the parent."""
        os.close(self._fd)
