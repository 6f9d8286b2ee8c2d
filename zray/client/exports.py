"""Ships functions and classes to the cluster: each once in a session, a large one through the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray.ids import function_id_of
from zray.serialization import PickledCallable
from zray.user_warnings import warn_user

if TYPE_CHECKING:
    from zray.client.shell import ClientShell
    from zray.object_ref import ObjectRef

LARGE_FUNCTION_BYTES = 1 << 20
WARN_FUNCTION_BYTES = 100 << 20
STORED_FUNCTION = b"zray-stored-function:"
"""The prefix of the blob that is shipped, and hashed, in place of a large pickle; the stored pickle's identifier
follows."""


class Exports:
    """The functions and classes that a session has shipped. ``put`` stores a value; ``keep`` keeps an object until this
    process ends."""

    def __init__(self, shell: ClientShell, put: Callable[[Any], ObjectRef], keep: Callable[[bytes], None]) -> None:
        self._shell = shell
        self._core = shell.core
        self._put = put
        self._keep = keep
        self._stored: dict[bytes, bytes] = {}  # hash of the pickle: identifier in the cluster

    def __call__(self, pickled: PickledCallable) -> bytes:
        """Ships a function or class, unless it has been shipped already. Returns its identifier in the cluster."""
        known = self._stored.get(pickled.id16, pickled.id16)
        if known in self._core.exported:
            return known
        if len(pickled.blob) > WARN_FUNCTION_BYTES:
            warn_user(
                f"{pickled.name} is {len(pickled.blob) >> 20} MiB when pickled, because it captures large values: put "
                f"them into the store with zray.put() and pass the references as arguments",
            )
        if len(pickled.blob) > LARGE_FUNCTION_BYTES:
            return self._ship_stored(pickled)
        with self._shell.lock:
            self._ship(pickled, pickled.id16, pickled.blob)
        return pickled.id16

    def _ship_stored(self, pickled: PickledCallable) -> bytes:
        stored = self._put(pickled.blob)
        blob = STORED_FUNCTION + stored._id
        self._keep(stored._id)
        with self._shell.lock:
            # Two threads may ship the same function at once: the first identifier is used for both.
            function_id = self._stored.setdefault(pickled.id16, function_id_of(blob))
            self._ship(pickled, function_id, blob)
        return function_id

    def _ship(self, pickled: PickledCallable, function_id: bytes, blob: bytes) -> None:
        core = self._core
        if function_id not in core.exported:
            for inner in pickled.refs:
                core.references.pin(inner)  # for the job: any worker may load the function at any time
            core.export(function_id, pickled.full_name, blob, pickled.name)
