"""The cluster's key-value store: a few small values that all drivers and workers of a cluster share.

It lives as long as the broker, whoever put a value, and longer if the broker has a journal. The death of a process
changes nothing in it. A request of a dead process that has arrived is carried out; its answer is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.broker.records import Process
from zray.protocol.key_values import KvCount, KvDelete, KvGet, KvKeys, KvList, KvPut, KvValue

MAX_BYTES = 64 * 2**20
"""The size of all keys and values together, with ``ENTRY_BYTES`` for each."""
ENTRY_BYTES = 200
"""What an entry costs besides the content of its key and value, about."""


class KeyValues:
    """The values by namespace and key. ``n_bytes``: the size that ``MAX_BYTES`` limits."""

    def __init__(self, send: Callable[[bytes, Any], None], max_bytes: int = MAX_BYTES) -> None:
        self.on_change: Callable[[bytes, bytes, bytes | None], None] = lambda namespace, key, value: None
        """Called with each value that was put, or deleted (None)."""
        self._send = send
        self._max_bytes = max_bytes
        self._spaces: dict[bytes, dict[bytes, bytes]] = {}
        self.n_bytes = 0

    def on_put(self, source: Process, message: KvPut) -> None:
        values = self._spaces.get(message.namespace, {})
        before = values.get(message.key)
        if before is not None and not message.overwrite:
            self._send(source.process_id, KvCount(message.request, 0, ""))
            return
        more = len(message.value) - len(before) if before is not None else _size(message.key, message.value)
        if self.n_bytes + more > self._max_bytes:
            fault = (
                f"the cluster's key-value store is full: it has {self.n_bytes:,} of {self._max_bytes:,} bytes, and "
                f"needs {more:,} more. Delete keys, or put large values with zray.put()"
            )
            self._send(source.process_id, KvCount(message.request, 0, fault))
            return
        self._set(message.namespace, message.key, message.value, more)
        self.on_change(message.namespace, message.key, message.value)
        self._send(source.process_id, KvCount(message.request, int(before is None), ""))

    def _set(self, namespace: bytes, key: bytes, value: bytes, more: int) -> None:
        self._spaces.setdefault(namespace, {})[key] = value
        self.n_bytes += more

    def restore(self, namespace: bytes, key: bytes, value: bytes) -> None:
        """Brings back a value of an earlier run of the broker."""
        self._set(namespace, key, value, _size(key, value))

    def on_get(self, source: Process, message: KvGet) -> None:
        value = self._spaces.get(message.namespace, {}).get(message.key)
        content = value if value is not None and message.with_value else b""
        self._send(source.process_id, KvValue(message.request, value is not None, content))

    def on_delete(self, source: Process, message: KvDelete) -> None:
        values = self._spaces.get(message.namespace, {})
        if message.is_prefix:
            keys = [key for key in values if key.startswith(message.key)]
        else:
            keys = [message.key] if message.key in values else []
        for key in keys:
            self.n_bytes -= _size(key, values.pop(key))
            self.on_change(message.namespace, key, None)
        if not values:
            self._spaces.pop(message.namespace, None)
        self._send(source.process_id, KvCount(message.request, len(keys), ""))

    def on_list(self, source: Process, message: KvList) -> None:
        values = self._spaces.get(message.namespace, {})
        keys = [key for key in values if key.startswith(message.prefix)]
        self._send(source.process_id, KvKeys(message.request, keys))

    def check(self) -> None:
        """Raises AssertionError if an invariant does not hold; for tests."""
        sizes = [_size(key, value) for values in self._spaces.values() for key, value in values.items()]
        assert self.n_bytes == sum(sizes), "the size of all keys and values"
        assert all(self._spaces.values()), "a namespace without keys"


def _size(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_BYTES
