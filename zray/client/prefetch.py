"""Brings objects to this machine before a process reads them, for ``wait(fetch_local=True)``.

The objects are requested in the way of readers (``zray/transfer/local_readers.py``), by threads that end when no object
is left to bring. A transfer goes on after the wait has ended, so the next wait finds the object here.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque

from zray.client.shell import ClientShell
from zray.client.stores import Stores
from zray.client.waiter import Waiter
from zray.system.threads import start_thread

MAX_THREADS = 8
"""The number of objects that are brought at once. Each thread waits for the host, which does the work."""
MAX_REMEMBERED = 10_000
"""The number of objects remembered as brought here. A full store may have dropped the copy again by now."""


class Prefetch:
    """An object on its way here. ``over``: it is here, or cannot be fetched; then ``waiters`` are told. All under the
    lock."""

    __slots__ = ("holder", "object_id", "over", "size", "waiters")

    def __init__(self, holder: bytes, object_id: bytes, size: int) -> None:
        self.holder = holder
        self.object_id = object_id
        self.size = size
        self.over = False
        self.waiters: list[Waiter] = []


class Prefetches:
    """The prefetches of one session."""

    def __init__(self, shell: ClientShell, stores: Stores) -> None:
        self._shell = shell
        self._stores = stores
        self._under_way: dict[bytes, Prefetch] = {}
        self._waiting: deque[Prefetch] = deque()
        self._over: OrderedDict[bytes, bytes] = OrderedDict()
        self._threads = 0

    def is_here(self, holder: bytes, object_id: bytes) -> bool:
        """Whether the object is on this machine, or a prefetch of it has ended; a read reports if that failed."""
        home = self._stores.home
        # Without a store on this machine it cannot be brought: a process that reads it pulls it into its own memory.
        if holder == home or not home or self._over.get(object_id) == holder:
            return True
        try:
            if self._stores.of(holder) is not None:
                return True
            store = self._stores.of(home)
            return store is None or store.contains(object_id)
        except OSError:  # the store cannot be opened: a read will report it
            return True

    def bring(self, holder: bytes, object_id: bytes, size: int) -> Prefetch:
        """Starts to bring an object here that ``holder`` has, on another machine."""
        with self._shell.lock:
            prefetch = self._under_way.get(object_id)
            if prefetch is None:
                prefetch = Prefetch(holder, object_id, size)
                if self._threads < MAX_THREADS:
                    start_thread(self._work)  # it waits for the lock
                    self._threads += 1
                self._under_way[object_id] = prefetch
                self._waiting.append(prefetch)
            return prefetch

    def _work(self) -> None:
        while True:
            with self._shell.lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                prefetch = self._waiting.popleft()
            try:
                with contextlib.suppress(OSError):  # the host, or the session, is gone: a read will report it
                    self._fetch(prefetch)
            finally:
                self._settle(prefetch)

    def _settle(self, prefetch: Prefetch) -> None:
        with self._shell.lock:
            prefetch.over = True
            del self._under_way[prefetch.object_id]
            self._over[prefetch.object_id] = prefetch.holder
            if len(self._over) > MAX_REMEMBERED:
                self._over.popitem(last=False)
            for waiter in prefetch.waiters:
                waiter.ready(prefetch.object_id)

    def _fetch(self, prefetch: Prefetch) -> None:
        from zray.transfer.local_readers import Request, fetched  # not at the top: most workers never need it

        path = self._stores.fetch_path(self._stores.home)
        request = Request(prefetch.object_id, prefetch.holder, prefetch.size)
        with fetched(path, request, self._patience_s):
            return  # even if it could not be brought

    def _patience_s(self) -> float:
        """The time to wait, in seconds: without limit as long as the session is open."""
        return -1.0 if self._shell.closed or self._shell.lost else 1e6
