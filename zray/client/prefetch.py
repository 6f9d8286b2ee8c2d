"""Objects that are brought to this machine before anybody reads them, for ``wait(fetch_local=True)``.

They are asked for as readers ask (``zray/transfer/local_readers.py``), by threads that live as long as there is
something to bring. What is under way goes on when the wait has ended: the next one finds it here.
"""

from __future__ import annotations

import _thread
import contextlib
from collections import OrderedDict, deque

from zray.client.shell import ClientShell, Waiter
from zray.client.stores import Stores

MAX_THREADS = 8
"""So many objects are brought at once. Each is a wait for the host, which does the work."""
MAX_REMEMBERED = 10_000
"""Objects of which is remembered that they were brought: a full store may have dropped the copy again by now."""


class Prefetch:
    """An object on its way here; ``over``: it is here, or cannot be had. ``waiters`` are told. All under the lock."""

    __slots__ = ("holder", "object_id", "over", "size", "waiters")

    def __init__(self, holder: bytes, object_id: bytes, size: int) -> None:
        self.holder = holder
        self.object_id = object_id
        self.size = size
        self.over = False
        self.waiters: list[Waiter] = []


class Prefetches:
    """What one session has under way."""

    def __init__(self, shell: ClientShell, stores: Stores) -> None:
        self._shell = shell
        self._stores = stores
        self._under_way: dict[bytes, Prefetch] = {}
        self._waiting: deque[Prefetch] = deque()
        self._over: OrderedDict[bytes, bytes] = OrderedDict()
        self._threads = 0

    def is_here(self, holder: bytes, object_id: bytes) -> bool:
        """Whether the object is on this machine, or was brought here, or could not be, as a read will tell."""
        home = self._stores.home
        # Without a store of this machine's there is nowhere to bring it: whoever reads it pulls it into his memory.
        if holder == home or not home or self._over.get(object_id) == holder:
            return True
        try:
            if self._stores.of(holder) is not None:
                return True
            store = self._stores.of(home)
            return store is None or store.contains(object_id)
        except OSError:  # a store that cannot be opened: a read will tell
            return True

    def bring(self, holder: bytes, object_id: bytes, size: int) -> Prefetch:
        """Has an object brought here that ``holder`` has, on another machine."""
        with self._shell.lock:
            prefetch = self._under_way.get(object_id)
            if prefetch is None:
                prefetch = Prefetch(holder, object_id, size)
                if self._threads < MAX_THREADS:
                    _thread.start_new_thread(self._work, ())  # it waits for the lock
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
                with contextlib.suppress(OSError):  # the host, or the session, is gone: a read will tell
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
        from zray.transfer.local_readers import Request, fetched  # most workers never need it

        path = self._stores.fetch_path(self._stores.home)
        request = Request(prefetch.object_id, prefetch.holder, prefetch.size)
        with fetched(path, request, self._patience_s):
            return  # whether it was brought or could not be

    def _patience_s(self) -> float:
        """For ever, as long as there is a session."""
        return -1.0 if self._shell.closed or self._shell.lost else 1e6
