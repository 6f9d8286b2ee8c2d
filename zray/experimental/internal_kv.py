"""Ray's ``ray.experimental.internal_kv``: a small key-value store of the whole cluster.

The broker keeps it (``zray.broker.key_values``), at most 64 MiB. It lives as long as the cluster, whoever put a value.
Keys, values and namespaces are bytes; strings are encoded as UTF-8. The names begin with an underscore as in Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from zray.client.session import Session, current
from zray.exceptions import ZrayError
from zray.protocol.key_values import KvCount, KvDelete, KvGet, KvKeys, KvList, KvPut, KvRequest, KvValue

Text = str | bytes
_Answer = TypeVar("_Answer")
_left: Session | None = None
"""The session that ``_internal_kv_reset`` was called in: the store is not used in it any more."""


def _internal_kv_initialized() -> bool:
    """Whether the store can be used: this process is part of a cluster."""
    session = current()
    return session is not None and session is not _left


def _internal_kv_reset() -> None:
    """Ends the use of the store by this process, until the next ``init`` or ``_initialize_internal_kv``."""
    global _left
    _left = current()


def _initialize_internal_kv(gcs_client: Any = None) -> None:
    """Undoes ``_internal_kv_reset``.

    Args:
        gcs_client: Ray's client. It has no meaning here: the process's own connection is used.
    """
    global _left
    _left = None


def _internal_kv_get(key: Text, *, namespace: Text | None = None) -> bytes | None:
    """Returns the value of a key; None if it has none.

    Raises:
        TypeError: ``key`` or ``namespace`` is neither bytes nor a string.
        ZrayError: this process is not part of a cluster.
        ClusterUnavailableError: the broker is gone.
    """
    space, name = _bytes(namespace or b"", "namespace"), _bytes(key, "key")
    answer = _ask(lambda request: KvGet(request, space, name, True), KvValue)
    return answer.value if answer.found else None


def _internal_kv_exists(key: Text, *, namespace: Text | None = None) -> bool:
    """Whether a key has a value. Raises as ``_internal_kv_get``."""
    space, name = _bytes(namespace or b"", "namespace"), _bytes(key, "key")
    return _ask(lambda request: KvGet(request, space, name, False), KvValue).found


def _internal_kv_put(key: Text, value: Text, overwrite: bool = True, *, namespace: Text | None = None) -> bool:
    """Sets the value of a key.

    Args:
        key: bytes or a string.
        value: bytes or a string.
        overwrite: whether an existing value is replaced.
        namespace: keys of different namespaces have nothing to do with each other.

    Returns:
        Whether the key had a value before.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: the store has no room for it.
        ZrayError: this process is not part of a cluster.
        ClusterUnavailableError: the broker is gone.
    """
    space, name, content = _bytes(namespace or b"", "namespace"), _bytes(key, "key"), _bytes(value, "value")
    if not isinstance(overwrite, bool):
        raise TypeError(f"overwrite must be a bool, got {overwrite!r}")
    answer = _ask(lambda request: KvPut(request, space, name, content, overwrite), KvCount)
    if answer.fault:
        raise ValueError(f"{key!r}: {answer.fault}")
    return answer.n_keys == 0


def _internal_kv_del(key: Text, *, del_by_prefix: bool = False, namespace: Text | None = None) -> int:
    """Removes a key; with ``del_by_prefix``, all keys that begin with it. Returns the number of keys removed.

    Raises as ``_internal_kv_get``.
    """
    space, name = _bytes(namespace or b"", "namespace"), _bytes(key, "key")
    return _ask(lambda request: KvDelete(request, space, name, bool(del_by_prefix)), KvCount).n_keys


def _internal_kv_list(prefix: Text, *, namespace: Text | None = None) -> list[bytes]:
    """Returns the keys that begin with ``prefix``. Raises as ``_internal_kv_get``."""
    space, start = _bytes(namespace or b"", "namespace"), _bytes(prefix, "prefix")
    return _ask(lambda request: KvList(request, space, start), KvKeys).keys


def _bytes(value: Any, name: str) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be bytes or a string, got {value!r:.100}")
    return value


def _ask(message: Callable[[int], KvRequest], kind: type[_Answer]) -> _Answer:
    """Sends ``message(number)``; returns the answer, of type ``kind``."""
    session = current()
    if session is None or session is _left:
        raise ZrayError("internal_kv: this process is not part of a cluster; call zray.init() first")
    return session.query(message, kind)
