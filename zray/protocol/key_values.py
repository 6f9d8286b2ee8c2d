"""The messages about the cluster's key-value store, which the broker keeps: one ``NamedTuple`` for each.

Keys, values and namespaces are bytes; the namespace ``b""`` is the default. ``request`` is the asker's number for a
message, which the answer repeats. Drivers and workers use the store; observers do not.
"""

from __future__ import annotations

from zray.named_tuples import NamedTuple


class KvPut(NamedTuple):
    """Sets the value of a key; only if it has none, unless ``overwrite``. Answer: ``KvCount``: the keys that are new.

    The answer has a ``fault`` if the store has no room. Then nothing is changed.
    """

    request: int
    namespace: bytes
    key: bytes
    value: bytes
    overwrite: bool


class KvGet(NamedTuple):
    """What is the value of a key? Answer: ``KvValue``; unless ``with_value``, only whether the key has one."""

    request: int
    namespace: bytes
    key: bytes
    with_value: bool


class KvDelete(NamedTuple):
    """Removes a key; with ``is_prefix``, all keys that begin with ``key``. Answer: ``KvCount``: the keys removed."""

    request: int
    namespace: bytes
    key: bytes
    is_prefix: bool


class KvList(NamedTuple):
    """Which keys begin with ``prefix``? Answer: ``KvKeys``."""

    request: int
    namespace: bytes
    prefix: bytes


KvRequest = KvPut | KvGet | KvDelete | KvList


class KvCount(NamedTuple):
    """How many keys were added or removed. ``fault``: why the store was not changed; empty if nothing went wrong."""

    request: int
    n_keys: int
    fault: str


class KvValue(NamedTuple):
    request: int
    found: bool
    value: bytes


class KvKeys(NamedTuple):
    request: int
    keys: list[bytes]


KvAnswer = KvCount | KvValue | KvKeys
