"""The requests of other processes for chunks of objects that are here or on their way here.

A request for a chunk that has not arrived yet is parked with the pull of its object. It is answered when the chunk
arrives, and refused when the pull fails.
"""

from __future__ import annotations

from collections.abc import Callable

from zray.protocol.contract import Outbox
from zray.protocol.messages import Pull, PullFailed
from zray.transfer.chunks import CHUNK_BYTES
from zray.transfer.effects import Effect, Origin, Refuse, Serve
from zray.transfer.records import Incoming


class Requests:
    """Answers, parks or refuses requests. ``watch``: has the broker tell of a process's death."""

    def __init__(self, outbox: Outbox[Effect], watch: Callable[[bytes], None]) -> None:
        self._outbox = outbox
        self._watch = watch

    def take(self, pull: Incoming | None, origin: Origin, request: Pull) -> None:
        """Another process asks for a piece of an object. ``pull``: that of the object, if it is on its way here."""
        if pull is None:
            self._outbox.perform(Serve(origin, request, None))
            return
        chunk, remainder = divmod(request.offset, CHUNK_BYTES)
        if remainder or chunk >= pull.n_chunks or request.length > CHUNK_BYTES:
            self._refuse(origin, request.pull, "the requested piece is not a chunk")
        elif pull.have[chunk]:
            self._outbox.perform(Serve(origin, request, pull.room))
        else:
            self._watch(origin.process_id)
            # A process that asks again had asked by a channel that broke, and has lost that request.
            rows = [row for row in pull.parked.get(chunk, ()) if row[0].process_id != origin.process_id]
            pull.parked[chunk] = [*rows, (origin, request)]

    def serve_parked(self, pull: Incoming, chunk: int) -> None:
        """Answers the requests for a chunk that has arrived."""
        for origin, request in pull.parked.pop(chunk, ()):
            self._outbox.perform(Serve(origin, request, pull.room))

    def refuse_parked(self, pull: Incoming, reason: str) -> None:
        """Refuses all requests that wait for a pull, which has failed."""
        for waiting in pull.parked.values():
            for origin, request in waiting:
                self._refuse(origin, request.pull, reason)

    @staticmethod
    def forget(pull: Incoming, process_id: bytes) -> None:
        """Drops the parked requests of a process that has died."""
        for chunk, waiting in list(pull.parked.items()):
            left = [(origin, request) for origin, request in waiting if origin.process_id != process_id]
            if left:
                pull.parked[chunk] = left
            else:
                del pull.parked[chunk]

    def _refuse(self, origin: Origin, pull: int, reason: str) -> None:
        if origin.channel:
            self._outbox.perform(Refuse(origin.channel, pull, reason))
        else:
            self._outbox.send(origin.process_id, PullFailed(pull, reason))
