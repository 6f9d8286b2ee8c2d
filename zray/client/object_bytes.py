"""The bytes of stored objects: in a store of this machine, in this driver's memory, or on another machine."""

from __future__ import annotations

from zray.client.checked import CheckedRefs
from zray.client.remote import RemoteObjects
from zray.client.shell import ClientShell
from zray.client.stores import Stores
from zray.exceptions import ObjectLostError, ObjectReconstructionFailedError, SystemFailure
from zray.protocol.messages import FreeObjects
from zray.serialization import Serialized
from zray.system.processes import describe_error


class ObjectBytes:
    """Reads, writes and frees the bytes of objects for one process."""

    def __init__(
        self, shell: ClientShell, stores: Stores, remote: RemoteObjects, checked: CheckedRefs, process_id: bytes
    ) -> None:
        self._shell = shell
        self._core = shell.core
        self._stores = stores
        self._remote = remote
        self._checked = checked
        self._process_id = process_id

    def read(self, host: bytes, object_id: bytes, size: int, deadline: float | None = None) -> memoryview:
        """Returns the bytes of a stored object, on any machine. Raises ObjectLostError, GetTimeoutError."""
        if host == self._process_id:
            return memoryview(self._remote.transfers().memory[object_id])
        data = self._stores.read(host, object_id)
        return self._remote.read(host, object_id, size, deadline) if data is None else data

    def look_again(self, object_id: bytes, host: bytes, error: ObjectLostError) -> None:
        """Has a stored value looked for again that could not be read at ``host``, and made again if it is lost.

        Raises ``error``, with the reason, if that is of no use.
        """
        if type(error) is not ObjectLostError:
            raise error
        missing = host if self._stores.lacks(host, object_id) else b""
        why = self._shell.run(lambda: self._core.directory.look_again(object_id, host, missing))
        if why:
            raise ObjectReconstructionFailedError(f"{error}; {why}") from None

    def write(self, host: bytes, object_id: bytes, serialized: Serialized) -> None:
        """Writes a serialized value into a local store, or into this driver's memory if the machine has no store.

        First frees what is no longer used: the value may need its room.
        """
        if host == self._process_id:
            self._remote.transfers().memory[object_id] = serialized.to_bytes()
            return
        self._checked.forget()
        if self._core.dropped:
            with self._shell.lock:
                self._shell.collect()
            self._shell.settle()
        try:
            store = self._stores.of(host)
        except OSError as error:
            raise SystemFailure(f"the object store cannot be opened: {describe_error(error)}") from error
        assert store is not None
        store.write(object_id, serialized.total_bytes, serialized.write_into)

    def release_dropped(self) -> None:
        """Releases what the program has dropped: segments of values that are gone, and the references that ``wait`` has
        returned. Called after each piece of work, and regularly for a process that does not use its stores."""
        self._checked.forget()  # what a call has dropped must not seem to be held
        for store in self._stores.opened:  # a call's arguments are free: others may use their room
            store.settle()

    def free(self, host: bytes, object_ids: list[bytes]) -> None:
        """Frees objects of this process. If ``host`` is on another machine, it is asked to."""
        if host == self._process_id:
            for object_id in object_ids:
                self._remote.transfers().memory.pop(object_id, None)
        elif not self._stores.free(host, object_ids):
            with self._shell.lock:
                self._core.send(host, FreeObjects(object_ids))
                self._shell.submitted()
