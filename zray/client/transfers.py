"""Transfers objects between machines for a driver on a machine without a host.

The driver pulls objects into its memory, and serves objects from there. It uses the core of hosts
(``zray/transfer/core.py``); all of its messages go through the broker. Only such drivers load this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zray.protocol.messages import PullFailed
from zray.transfer.chunks import chunk_length, make_chunk
from zray.transfer.core import TransferCore
from zray.transfer.effects import Finished, GiveUp, Reserve, Seal, Serve

if TYPE_CHECKING:
    from zray.client.core.client_core import ClientCore


class Reader:
    """A thread that waits for an object. At the end, ``data`` is its bytes, or ``kind`` and ``message`` the error."""

    def __init__(self, object_id: bytes) -> None:
        self.object_id = object_id
        self.data: memoryview | None = None
        self.kind = ""
        self.message = ""
        self.over = False

    def wake(self) -> None:
        """Tells the thread that the transfer is over. Called under the lock of the client's shell."""


class DriverTransfers:
    """The transfers of one driver. ``memory``: its own large objects, by identifier. All under the lock of the client's
    shell."""

    def __init__(self, client: ClientCore) -> None:
        self.memory: dict[bytes, bytes] = {}
        self._client = client
        self._core = TransferCore(client.process_id, is_host=False)
        self._rooms: dict[int, bytearray] = {}
        self._complete: dict[bytes, memoryview] = {}

    def fetch(self, reader: Reader, hint: bytes, size: int) -> None:
        """Fetches an object; ``reader`` is woken when the object is here, or cannot be fetched."""
        self._core.fetch(reader, reader.object_id, hint, size, self._client.now)
        self._perform()

    def withdraw(self, reader: Reader) -> None:
        """Removes a reader that does not wait any more."""
        self._core.withdraw(reader, self._client.now)
        self._perform()

    def receive(self, source: bytes, message: Any) -> None:
        """Handles a message of another process."""
        self._core.receive(source, message, self._client.now)
        self._perform()

    def lose_cluster(self, reason: str) -> None:
        """Ends all transfers, because the broker is gone."""
        self._core.lose_cluster(reason, self._client.now)
        self._perform()

    def tick(self) -> None:
        """Lets time pass. Called several times a second."""
        self._core.tick(self._client.now)
        self._perform()

    def _perform(self) -> None:
        while output := self._core.take_output():
            for dest, messages in output.sends.items():
                for message in messages:
                    self._client.send(dest, message)
            for effect in output.effects:
                if isinstance(effect, Serve):
                    self._serve(effect)
                elif isinstance(effect, Reserve):
                    self._reserve(effect)
                elif isinstance(effect, Seal):
                    self._complete[effect.object_id] = memoryview(self._rooms.pop(effect.number)).toreadonly()
                    self._core.sealed(effect.number, self._client.now)
                elif isinstance(effect, GiveUp):
                    self._rooms.pop(effect.number, None)
                elif isinstance(effect, Finished):
                    self._finish(effect.reader, effect.kind, effect.message)
        self._complete.clear()  # the readers have the data now

    def _reserve(self, effect: Reserve) -> None:
        try:
            room = self._rooms[effect.number] = bytearray(effect.size)
        except MemoryError:
            why = f"no memory for {effect.size:,} bytes"
            self._core.failed(effect.number, "ObjectLostError", why, self._client.now)
        else:
            self._core.reserved(effect.number, memoryview(room), effect.size, self._client.now)

    def _serve(self, effect: Serve) -> None:
        origin, request, room = effect
        data = room if room is not None else memoryview(self.memory.get(request.object_id, b""))
        if request.offset >= len(data):
            answer: Any = PullFailed(request.pull, "its driver has freed it")
        else:
            length = min(request.length, chunk_length(len(data), request.offset))
            head, packed = make_chunk(request, len(data), data[request.offset : request.offset + length])
            answer = head._replace(data=bytes(packed))
        self._client.send(origin.process_id, answer)

    def _finish(self, reader: Reader, kind: str, message: str) -> None:
        reader.kind, reader.message = kind, message
        reader.data = None if kind else self._complete[reader.object_id]
        reader.over = True
        reader.wake()
