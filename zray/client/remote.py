"""Objects in the stores of other machines: read by way of this machine's store, or, where there is none, of memory.

Whoever reads an object that lies elsewhere pulls it (``core/pulls.py``) and writes it into the store of its own
machine, where all others find it. A lock on a file, which dies with its holder, sees to it that no machine pulls an
object twice at a time. The owner is told of the copy and frees it with the original.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from zray.client.core import ClientCore
from zray.client.core.pulls import PullState
from zray.client.shell import ClientShell, Waiter
from zray.client.stores import Stores
from zray.exceptions import ClusterUnavailableError, GetTimeoutError, ObjectLostError
from zray.ids import owner_of
from zray.protocol.messages import CopyMade
from zray.store import SegmentMissing, Store

FIRST_PAUSE_S, LAST_PAUSE_S = 0.002, 0.05
"""Between two looks whether another process has finished pulling the same object."""


class RemoteObjects:
    """Reads for one session. ``block`` waits as ``get`` does."""

    def __init__(
        self, shell: ClientShell, core: ClientCore, stores: Stores, block: Callable[[Waiter, float | None], None]
    ) -> None:
        self._shell = shell
        self._core = core
        self._stores = stores
        self._block = block

    def read(self, host: bytes, object_id: bytes, deadline: float | None) -> memoryview:
        """The bytes of an object that ``host`` holds, on another machine.

        Raises ObjectLostError if it cannot be had any more, GetTimeoutError at ``deadline`` (of the monotonic clock).
        """
        home = self._stores.find_home()
        store = self._stores.of(home) if home else None
        if store is None:
            with self._pulling(host, object_id, deadline) as pull:
                room = memoryview(bytearray(pull.total))
                self._complete(pull, room, deadline)
            return room.toreadonly()
        with self._turn_to_pull(store, object_id, deadline):
            try:
                return store.read(object_id)
            except SegmentMissing:
                self._copy(host, object_id, store, deadline)
                self._tell_owner(object_id, home)
                return store.read(object_id)

    def _copy(self, host: bytes, object_id: bytes, store: Store, deadline: float | None) -> None:
        with self._pulling(host, object_id, deadline) as pull:
            store.write(object_id, pull.total, lambda room: self._complete(pull, room, deadline))

    def _tell_owner(self, object_id: bytes, home: bytes) -> None:
        self._shell.run(lambda: self._core.to_peer(owner_of(object_id), CopyMade(object_id, home)))

    @contextlib.contextmanager
    def _pulling(self, host: bytes, object_id: bytes, deadline: float | None) -> Iterator[PullState]:
        """A pull whose size is known."""
        waiter = Waiter(self._shell)
        pull: PullState = self._shell.run(lambda: self._core.pulls.begin(host, object_id, waiter))
        try:
            self._await(pull, waiter, deadline)
            yield pull
        finally:
            with self._shell.lock:
                self._core.pulls.end(pull)

    def _complete(self, pull: PullState, room: memoryview, deadline: float | None) -> None:
        waiter = Waiter(self._shell)
        try:
            self._shell.run(lambda: self._core.pulls.proceed(pull, room, waiter))
            self._await(pull, waiter, deadline)
        finally:
            with self._shell.lock:
                pull.room = None  # nobody writes there from now on

    def _await(self, pull: PullState, waiter: Waiter, deadline: float | None) -> None:
        timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        self._block(waiter, timeout_s)
        if pull.error:
            raise ObjectLostError(f"object {pull.object_id.hex()} cannot be fetched from another machine: {pull.error}")
        if self._shell.closed:
            raise ClusterUnavailableError("zray.shutdown() was called while an object was fetched")
        if not waiter.is_done():
            raise GetTimeoutError(
                f"an object of {max(0, pull.total):,} bytes is on another machine, and only {pull.received:,} of them "
                "had arrived within the timeout"
            )

    @contextlib.contextmanager
    def _turn_to_pull(self, store: Store, object_id: bytes, deadline: float | None) -> Iterator[None]:
        """Waits until no other process or thread of this machine pulls the object."""
        directory = store.path / "pulling"
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / object_id.hex()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(fd, object_id, deadline)
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # before it is unlocked: whoever waits for it finds the object, or pulls it himself
            os.close(fd)

    def _lock(self, fd: int, object_id: bytes, deadline: float | None) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise GetTimeoutError(f"object {object_id.hex()} was still being fetched at the timeout") from None
            if self._shell.lost:
                raise ClusterUnavailableError(self._shell.lost)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
