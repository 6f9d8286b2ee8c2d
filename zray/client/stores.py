"""The object stores that this process can reach: its own, and those of other hosts on the same machine.

A host reports the identifier of its machine. If it is this machine, the store is checked. The store counts as reachable
if it belongs to that host (``zray.store.shares_store``): a container has a ``/dev/shm`` of its own. Objects of all
other hosts travel.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable

from zray.exceptions import ObjectLostError, ZrayError
from zray.protocol.records import HostState
from zray.store import SegmentMissing, Shield, Store, shares_store
from zray.system.machine import machine_id


class Stores:
    """Stores by host, opened when they are first needed. ``known``: the hosts known so far. ``hosts()`` asks the broker
    for all hosts. ``shield()`` returns the shield that holds interrupts back. ``tell`` shows a warning to the user."""

    def __init__(
        self,
        home: bytes,
        known: list[HostState],
        hosts: Callable[[], list[HostState]],
        shield: Callable[[], Shield],
        tell: Callable[[str], None],
    ) -> None:
        self._shield = shield
        self._tell = tell
        self._hosts = hosts
        self._lock = threading.Lock()
        self._stores: dict[bytes, Store] = {}
        self.opened: tuple[Store, ...] = ()
        """The stores that have been opened."""
        self._paths: dict[bytes, str] = {}
        self._fetch_paths: dict[bytes, str] = {}
        self._elsewhere: set[bytes] = set()  # hosts, and drivers, whose stores cannot be reached
        self._here = machine_id()
        self._home = home
        self._learn(known)
        self.home = home or next(iter(self._paths), b"")

    def _learn(self, hosts: Iterable[HostState]) -> None:
        for each in hosts:
            host, info = each.host_id, each.info
            if host in self._paths or host in self._elsewhere or info.machine_id != self._here:
                continue
            if host == self._home or shares_store(info.store, host):  # a worker's own host needs no check: it forked it
                self._paths[host] = info.store
                self._fetch_paths[host] = info.fetch
            else:
                self._elsewhere.add(host)

    def find_home(self) -> bytes:
        """The host whose store this process writes to; empty if this machine has none."""
        if not self.home:
            self._learn(self._hosts())
            self.home = next(iter(self._paths), b"")
        return self.home

    def of(self, host: bytes) -> Store | None:
        """The store of a host; None if it cannot be reached."""
        store = self._stores.get(host)
        if store is not None:
            return store
        if host in self._elsewhere:
            return None
        if host not in self._paths:
            self._learn(self._hosts())
        shield = self._shield()
        shield.enter_section()
        try:
            with self._lock:
                path = self._paths.get(host)
                if path is None:
                    self._elsewhere.add(host)
                    return None
                if host not in self._stores:
                    store = self._stores[host] = Store.open(path, shield)
                    store.notices.tell = self._tell
                    self.opened = tuple(self._stores.values())
                return self._stores[host]
        finally:
            shield.leave_section()

    def fetch_path(self, host: bytes) -> str:
        """The path at which a host of this machine accepts requests for objects of other hosts."""
        return self._fetch_paths[host]

    def read(self, host: bytes, object_id: bytes) -> memoryview | None:
        """The bytes of an object that ``host`` stores; None if its store cannot be reached. Raises ObjectLostError."""
        try:
            store = self.of(host)
        except OSError as error:
            why = f"the store that held it cannot be opened: {error}"
            raise ObjectLostError(self._loss(host, object_id, why)) from None
        if store is None:
            return None
        try:
            return store.read(object_id)
        except SegmentMissing:
            why = "its segment is gone from the store"
            raise ObjectLostError(self._loss(host, object_id, why)) from None

    def lacks(self, host: bytes, object_id: bytes) -> bool:
        """Whether the store of ``host`` can be looked into from here, and does not have the object."""
        path = self._paths.get(host)
        if path is None:
            return False
        try:
            store = self.of(host)
            return store is not None and not store.contains(object_id)
        except OSError:
            return not os.path.exists(path)

    def _loss(self, host: bytes, object_id: bytes, why: str) -> str:
        """Returns the text of an ObjectLostError. The usual reason is that the host is gone."""
        path = self._paths.get(host)
        if (path and not os.path.exists(path)) or not self._is_known(host):
            why = f"the host that kept it ({host.hex()[:8]}) has died, and no other has a copy"
        return f"object {object_id.hex()} is lost: {why}"

    def _is_known(self, host: bytes) -> bool:
        try:
            return any(each.host_id == host for each in self._hosts())
        except ZrayError:  # the broker does not answer, so it cannot be known
            return True

    def free(self, host: bytes, object_ids: list[bytes]) -> bool:
        """Frees segments. Returns False if the store cannot be reached, so that the host has to be asked to free them.

        Never asks the broker, because the thread that waits for the broker's answers calls it.
        """
        if host not in self._paths:
            return False
        with contextlib.suppress(FileNotFoundError):  # the whole store has been removed, with its segments
            store = self.of(host)
            if store is None:
                return False
            store.free(object_ids)
        return True

    def close(self) -> None:
        """Closes every store of this process. Values that are still used stay mapped."""
        for store in self.opened:
            store.close()
        self._stores.clear()
        self.opened = ()
