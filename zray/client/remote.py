"""Reads objects on other machines, for one session.

If this machine has a host, the host is asked. It pulls the object into its store, once for all readers, and the object
is read there (``zray/transfer``). If there is no host, the driver pulls the object into its own memory, and serves the
objects that it has put from there (``transfers.py``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from zray import exceptions
from zray.client.shell import ClientShell
from zray.client.stores import Stores
from zray.client.waiter import Waiter
from zray.exceptions import ClusterUnavailableError, GetTimeoutError, ObjectLostError, ZrayError

if TYPE_CHECKING:
    from zray.client.transfers import DriverTransfers
    from zray.store import Store

ATTEMPTS = 3
"""The number of attempts. If the store is very full, a copy may be evicted between the host's answer and the read."""


class RemoteObjects:
    """Reads for one session. ``lending``: a context in which a waiting task lends its CPUs."""

    def __init__(
        self,
        shell: ClientShell,
        stores: Stores,
        lending: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._shell = shell
        self._stores = stores
        self._lending = lending
        self._transfers: DriverTransfers | None = None

    def read(self, host: bytes, object_id: bytes, size: int, deadline: float | None) -> memoryview:
        """Returns the bytes of an object that ``host``, on another machine, holds.

        Raises ObjectLostError or a subclass if the object is gone, ObjectStoreFullError if there is no room for it
        here, GetTimeoutError at ``deadline`` (of the monotonic clock).
        """
        if not self._stores.find_home():
            return self._into_memory(host, object_id, size, deadline)
        store = self._stores.of(self._stores.find_home())
        assert store is not None
        for _ in range(ATTEMPTS):
            with contextlib.suppress(LookupError):
                return store.read(object_id)  # another process of this machine may have fetched it
            with contextlib.suppress(LookupError):
                return self._by_host(store, host, object_id, size, deadline)
        raise ObjectLostError(
            f"object {object_id.hex()} was fetched from another machine {ATTEMPTS} times, and evicted before it could "
            "be read: the object store of this machine is too full"
        )

    # ------------------------------------------------------------------ by this machine's host

    def _by_host(self, store: Store, host: bytes, object_id: bytes, size: int, deadline: float | None) -> memoryview:
        from zray.transfer.local_readers import Request, fetched  # not at the top: most workers never need it

        def left_s() -> float:
            self._check()
            return 1e6 if deadline is None else deadline - time.monotonic()

        try:
            with self._lending():
                self._shell.run(lambda: None)  # sends pending messages: perhaps no other thread waits for the socket
                path = self._stores.fetch_path(self._stores.find_home())
                with fetched(path, Request(object_id, host, size), left_s) as (kind, message):
                    if kind:
                        raise _error(object_id, kind, message)
                    return store.read(object_id)
        except TimeoutError:
            raise GetTimeoutError(
                f"an object of {size:,} bytes is on another machine, and had not arrived within the timeout"
            ) from None
        except OSError as error:
            self._check()
            raise ObjectLostError(
                f"object {object_id.hex()} cannot be fetched: the host of this machine is gone: {error}"
            ) from None

    def _check(self) -> None:
        if self._shell.lost:
            raise ClusterUnavailableError(self._shell.lost)
        if self._shell.closed:
            raise ClusterUnavailableError("zray.shutdown() was called while an object was fetched")

    # ------------------------------------------------------------------ by this process itself

    def transfers(self) -> DriverTransfers:
        """Returns what a driver without a host uses to pull and serve objects. It is made at its first use."""
        from zray.client.transfers import DriverTransfers

        core = self._shell.core
        with self._shell.lock:
            if self._transfers is None:
                self._transfers = core.transfers = DriverTransfers(core)
            return self._transfers

    def _into_memory(self, host: bytes, object_id: bytes, size: int, deadline: float | None) -> memoryview:
        from zray.client.transfers import Reader

        transfers = self.transfers()
        reader, waiter = Reader(object_id), Waiter(self._shell)
        reader.wake = waiter.wake  # type: ignore[method-assign]
        self._shell.run(lambda: transfers.fetch(reader, host, size))
        try:
            self._shell.wait(waiter, None if deadline is None else max(0.0, deadline - time.monotonic()))
        finally:
            if not reader.over:
                self._shell.run(lambda: transfers.withdraw(reader))
        if reader.kind:
            raise _error(object_id, reader.kind, reader.message)
        if reader.data is None:
            self._check()
            raise GetTimeoutError(
                f"an object of {size:,} bytes is on another machine, and had not arrived within the timeout"
            )
        return reader.data


def _error(object_id: bytes, kind: str, message: str) -> ZrayError:
    known = exceptions.FAILURES.get(kind, ObjectLostError)
    if known is exceptions.ObjectStoreFullError or issubclass(known, exceptions.ObjectStoreFullError):
        return known(message)
    return known(f"object {object_id.hex()} cannot be fetched from another machine: {message}")
