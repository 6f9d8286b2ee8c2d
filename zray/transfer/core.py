"""The pulls of a process, and what it serves to others meanwhile: a state machine without I/O.

Theory. A reader asks for an object (``fetch``). It is pulled once, however many readers ask. A pull goes through the
states of ``zray.transfer.states``. The core asks the object's owner which processes have the object or are getting it
(``client/core/locations.py``). It has room made for the whole object before it asks for data. So the store can hold
everything that is under way. It asks for chunks, each from one of the sources, and they go straight to their places.
The shell publishes the object.

A source keeps nothing of a pull except the requests that it cannot answer yet: a process that is still receiving an
object parks requests for a chunk until it has the chunk. So chunks of a broadcast travel along a tree, and the owner's
choice of sources shapes the tree. When a source is lost, the others go on. When none is left, the owner is asked again,
and the pull goes on where it was. A source whose request is parked at its own reader would wait for ever; the owner
never names such a source.

Requests go by a channel where there is one, else through the broker. When a channel breaks, what was under way is asked
for again. The broker loses no messages, so for requests through it only the deaths of processes matter.
"""

from __future__ import annotations

import math
from typing import Any

from zray.ids import PROCESS_ID_BYTES, owner_of
from zray.protocol.contract import BROKER, Outbox, Output, event
from zray.protocol.messages import Chunk, CopyGone, CopyMade, Locate, Located, ProcessDied, Pull, PullFailed, Watch
from zray.transfer.chunks import CHUNK_BYTES, unpack_chunk
from zray.transfer.effects import Dial, Effect, Finished, GiveUp, Origin, Reserve, Seal
from zray.transfer.records import Incoming, Peer
from zray.transfer.requests import Requests
from zray.transfer.states import (
    DIALLING,
    DIRECT,
    DONE,
    FAILED,
    GONE,
    LOCATING,
    RELAYED,
    RESERVING,
    RUNNING,
    SEALING,
)
from zray.transfer.windows import Windows

SMALL_BYTES = 4 * CHUNK_BYTES
"""An object up to this size is asked of the host that is known to have it.

The owner is not asked for more sources.
"""
LOCATE_PATIENCE_S = 3.0
"""How long an owner may take to answer, as it may hold the GIL, before the known host is asked."""
DIAL_PATIENCE_S = 5.0
"""How long a peer may take to answer a dial before requests go through the broker."""
REDIAL_S = 30.0
"""The shortest time before a channel that broke or could not be made is tried again."""
MAX_OBJECT_BYTES = 1 << 46
"""A larger size in a message is false."""
MAX_DAMAGED = 3
"""A source is given up after more chunks than this that do not match their checksums."""


class TransferCore:
    """The pulls of one process, and the requests of others; see ``zray/protocol/contract.py``.

    ``is_host``: it has a store, keeps what it has pulled there for others, and can have channels.
    """

    def __init__(self, process_id: bytes, is_host: bool) -> None:
        self.process_id = process_id
        self.pulls: dict[int, Incoming] = {}
        self.peers: dict[bytes, Peer] = {}
        self.damaged_chunks = 0
        self._is_host = is_host
        self._by_object: dict[bytes, Incoming] = {}
        self._outbox: Outbox[Effect] = Outbox()
        self._perform = self._outbox.perform
        self._watched: set[bytes] = set()
        self._requests = Requests(self._outbox, self._watch)
        self._windows = Windows(self.pulls, self.peers, self._outbox)
        self._last_number = 0
        self._now = 0.0

    def take_output(self) -> Output[Effect]:
        """Returns messages and effects since the last call."""
        return self._outbox.take()

    def receive(self, source: bytes, message: Any, now: float) -> None:
        """Handles a message of the broker, or one that came through it."""
        self._now = now
        if isinstance(message, Chunk):
            self._on_chunk(source, message)
        elif isinstance(message, Pull):
            self._requests.take(self._by_object.get(message.object_id), Origin(source, b""), message)
        elif isinstance(message, PullFailed):
            self._on_pull_failed(source, message)
        elif isinstance(message, Located):
            self._on_located(source, message)
        elif isinstance(message, ProcessDied) and source == BROKER:
            self._on_process_died(message.process_id, message.message)

    @event
    def received_by_channel(self, source: bytes, channel: bytes, message: Pull | PullFailed, now: float) -> None:
        """Handles a message that came by a channel, except a chunk: see ``place_for`` and ``chunk_arrived``."""
        self._now = now
        if isinstance(message, Pull):
            self._requests.take(self._by_object.get(message.object_id), Origin(source, channel), message)
        else:
            self._on_pull_failed(source, message)

    def due_s(self, now: float) -> float:
        """Returns infinity: nothing here is more urgent than a regular tick."""
        return math.inf

    # ------------------------------------------------------------------ readers

    @event
    def fetch(self, reader: Any, object_id: bytes, hint: bytes, size: int, now: float) -> None:
        """Starts to get an object of ``size`` bytes for ``reader``; ``Finished`` follows.

        ``hint``: a host that probably has it.
        """
        self._now = now
        pull = self._by_object.get(object_id)
        if pull is not None and pull.size == size:
            pull.readers.append(reader)
            return
        if pull is not None or not 0 < size <= MAX_OBJECT_BYTES:
            self._perform(Finished(reader, "ObjectLostError", f"its size is not {size:,} bytes"))
            return
        self._last_number += 1
        pull = Incoming(self._last_number, object_id, hint, size)
        pull.readers.append(reader)
        self.pulls[pull.number] = self._by_object[object_id] = pull
        self._watch(owner_of(object_id))
        if size <= SMALL_BYTES:
            self._located(pull, [hint])
        else:
            self._locate(pull)

    @event
    def withdraw(self, reader: Any, now: float) -> None:
        """Ends a reader's wait. A pull that has no reader left ends, unless it serves other processes."""
        self._now = now
        for pull in list(self.pulls.values()):
            if reader in pull.readers:
                pull.readers.remove(reader)
                if not pull.readers and not pull.parked and pull.state is not SEALING:
                    self._fail(pull, "ObjectLostError", "no reader waits for it any more")

    # ------------------------------------------------------------------ where it is

    def _locate(self, pull: Incoming) -> None:
        pull.asked_owner_at = self._now
        pull.question += 1
        locate = Locate(pull.object_id, pull.question, self._is_host, list(pull.lost))
        self._outbox.send(owner_of(pull.object_id), locate)

    def _on_located(self, owner: bytes, message: Located) -> None:
        """An owner has named the sources of an object, or why there is none."""
        pull = self._by_object.get(message.object_id)
        if pull is None or owner_of(message.object_id) != owner or pull.asked_owner_at is None:
            return
        if message.question != pull.question:  # an answer to an earlier question, from before a source was lost
            return
        pull.asked_owner_at = None
        if pull.state is SEALING:  # all chunks have arrived meanwhile, from the known host
            return
        if message.kind:
            self._fail(pull, message.kind, message.message)
        elif message.size != pull.size:
            self._fail(pull, "ObjectLostError", f"its size is {message.size:,} bytes, not {pull.size:,}")
        else:
            for peer in list(pull.sources.values()):  # those that were tried meanwhile; the owner knows better
                if peer.process_id not in message.sources:
                    self._windows.take_back(peer, pull, self._now)
            self._located(pull, message.sources)

    def _located(self, pull: Incoming, sources: list[bytes]) -> None:
        for process_id in sources:
            if len(process_id) == PROCESS_ID_BYTES and process_id not in (self.process_id, *pull.lost):
                peer = self._peer(process_id)
                pull.sources[process_id] = peer
                peer.pulls[pull.number] = pull
        if not pull.sources:
            self._fail(pull, "ObjectLostError", "no other host has it any more")
        elif pull.room is not None:
            self._go_on(pull)
        elif pull.state is LOCATING:
            pull.enter(RESERVING)
            self._perform(Reserve(pull.number, pull.size))

    def _go_on(self, pull: Incoming) -> None:
        """Goes on: there is room, and there are sources."""
        if pull.state is not RUNNING:
            pull.enter(RUNNING)
        self._windows.ask_for_more(pull, self._now)

    def _peer(self, process_id: bytes) -> Peer:
        peer = self.peers.get(process_id)
        if peer is None:
            peer = self.peers[process_id] = Peer(process_id)
            self._watch(process_id)
        if self._is_host and peer.state is RELAYED and self._now >= peer.redial_at:
            peer.enter(DIALLING)
            peer.dialled_at = self._now
            self._perform(Dial(process_id))
        return peer

    @event
    def admitted(self, process_id: bytes, now: float) -> None:
        """Lets a process dial this one as long as it lives."""
        self._now = now
        self._watch(process_id)

    def _watch(self, process_id: bytes) -> None:
        """Has the broker tell of a process's death, once."""
        if process_id not in self._watched and process_id != self.process_id:
            self._watched.add(process_id)
            self._outbox.to_broker(Watch(process_id))

    # ------------------------------------------------------------------ room

    @event
    def reserved(self, number: int, room: memoryview, prepared: int, now: float) -> None:
        """There is room for a whole object; ``prepared`` bytes of it can be written to."""
        self._now = now
        pull = self.pulls[number]
        pull.room = room
        pull.prepared = self._chunks_in(pull, prepared)
        if pull.sources:
            self._go_on(pull)
        elif pull.asked_owner_at is None:
            self._locate(pull)

    @event
    def prepared(self, number: int, prepared: int, now: float) -> None:
        """More of the room can be written to."""
        self._now = now
        if (pull := self.pulls.get(number)) is not None:
            pull.prepared = self._chunks_in(pull, prepared)
            self._windows.ask_for_more(pull, self._now)

    @staticmethod
    def _chunks_in(pull: Incoming, n_bytes: int) -> int:
        return pull.n_chunks if n_bytes >= pull.size else n_bytes // CHUNK_BYTES

    @event
    def failed(self, number: int, kind: str, message: str, now: float) -> None:
        """The shell cannot go on with a pull."""
        self._now = now
        pull = self.pulls.get(number)
        if pull is not None:
            self._fail(pull, kind, message)

    # ------------------------------------------------------------------ chunks

    def place_for(self, source: bytes, message: Chunk) -> memoryview | None:
        """Returns where the data of a chunk belong.

        None if the chunk is not wanted, or differs from what was asked for.
        """
        return self._windows.place_for(source, message)

    def _on_chunk(self, source: bytes, message: Chunk) -> None:
        """Handles a chunk that came through the broker: puts its data into their place."""
        place = self.place_for(source, message)
        intact = place is not None and unpack_chunk(message, message.data, place)
        self._chunk_arrived(source, message, intact, len(message.data))

    @event
    def chunk_arrived(self, source: bytes, message: Chunk, intact: bool, wire_bytes: int, now: float) -> None:
        """A chunk has arrived by a channel; if it is ``intact``, its data are in their place."""
        self._now = now
        self._chunk_arrived(source, message, intact, wire_bytes)

    def _chunk_arrived(self, source: bytes, message: Chunk, intact: bool, wire_bytes: int) -> None:
        peer, pull = self.peers.get(source), self.pulls.get(message.pull)
        chunk, remainder = divmod(message.offset, CHUNK_BYTES)
        if peer is None or remainder or (message.pull, chunk) not in peer.asked:
            return  # late: it has been asked of another source, or is not needed
        peer.asked.discard((message.pull, chunk))
        peer.measure(wire_bytes, self._now)
        if pull is not None and intact:
            self._has(pull, chunk)
        elif pull is not None:
            pull.again.append(chunk)
            self.damaged_chunks += 1
            peer.damaged += 1
            if message.total != pull.size or peer.damaged > MAX_DAMAGED:
                self._lose_source(pull, peer)
            else:
                self._windows.ask_for_more(pull, self._now)
        self._windows.fill(peer, self._now)

    def _has(self, pull: Incoming, chunk: int) -> None:
        pull.have[chunk] = 1
        pull.left -= 1
        self._requests.serve_parked(pull, chunk)
        if not pull.left:
            pull.enter(SEALING)
            self._perform(Seal(pull.number, pull.object_id))

    @event
    def sealed(self, number: int, now: float) -> None:
        """The object can be read here."""
        self._now = now
        pull = self.pulls[number]
        pull.enter(DONE)
        self._forget(pull)
        if self._is_host:
            self._outbox.send(owner_of(pull.object_id), CopyMade(pull.object_id))
        elif pull.question:
            self._outbox.send(owner_of(pull.object_id), CopyGone(pull.object_id))
        for reader in pull.readers:
            self._perform(Finished(reader, "", ""))

    def _on_pull_failed(self, source: bytes, message: PullFailed) -> None:
        """A source does not have the object, or not any more."""
        pull, peer = self.pulls.get(message.pull), self.peers.get(source)
        if pull is not None and peer is not None and source in pull.sources:
            self._lose_source(pull, peer)

    def _lose_source(self, pull: Incoming, peer: Peer) -> None:
        """Goes on with the other sources, or asks the owner for more."""
        self._windows.take_back(peer, pull, self._now)
        pull.lost.append(peer.process_id)
        if pull.state is SEALING:  # it needs no source any more
            return
        if pull.sources:
            self._windows.ask_for_more(pull, self._now)
            return
        if pull.state is RUNNING:
            pull.enter(LOCATING)
        self._locate(pull)  # again, even if an answer is under way: that one does not know of the loss

    # ------------------------------------------------------------------ the end of a pull

    def _fail(self, pull: Incoming, kind: str, message: str) -> None:
        pull.enter(FAILED)
        self._forget(pull)
        self._perform(GiveUp(pull.number))
        self._requests.refuse_parked(pull, message)
        if pull.question and owner_of(pull.object_id) in self._watched:
            self._outbox.send(owner_of(pull.object_id), CopyGone(pull.object_id))
        for reader in pull.readers:
            self._perform(Finished(reader, kind, message))

    def _forget(self, pull: Incoming) -> None:
        del self.pulls[pull.number], self._by_object[pull.object_id]
        pull.room = None
        for peer in list(pull.sources.values()):
            self._windows.take_back(peer, pull, self._now)

    # ------------------------------------------------------------------ channels, deaths, time

    @event
    def channel_up(self, process_id: bytes, now: float) -> None:
        """A channel can be used."""
        self._now = now
        peer = self.peers.get(process_id)
        if peer is not None:
            if peer.state is not DIRECT:
                peer.enter(DIRECT)
            self._windows.fill(peer, self._now)

    def is_at_rest(self, process_id: bytes) -> bool:
        """Whether nothing is under way from a peer."""
        peer = self.peers.get(process_id)
        return peer is None or not peer.asked

    @event
    def hung_up(self, process_id: bytes, now: float) -> None:
        """A channel that was not used has been closed. It is made again when it is needed."""
        self._now = now
        peer = self.peers.get(process_id)
        if peer is not None and peer.state is DIRECT:
            peer.enter(RELAYED)

    @event
    def channel_down(self, process_id: bytes, now: float) -> None:
        """A channel has broken, or could not be made. What was under way by it is asked for again."""
        self._now = now
        peer = self.peers.get(process_id)
        if peer is None:
            return
        lost = sorted(peer.asked) if peer.state is DIRECT else []
        if peer.state is not RELAYED:
            peer.enter(RELAYED)
        peer.redial_at = now + REDIAL_S
        for number, chunk in lost:
            peer.asked.discard((number, chunk))
            self.pulls[number].again.append(chunk)
        self._windows.fill(peer, self._now)
        for number in {number for number, _ in lost}:
            self._windows.ask_for_more(self.pulls[number], now)

    def _on_process_died(self, process_id: bytes, reason: str) -> None:
        """A source or an owner has died."""
        self._watched.discard(process_id)
        for pull in list(self.pulls.values()):
            if owner_of(pull.object_id) == process_id:
                self._fail(pull, "OwnerDiedError", f"the process that owned the object is gone: {reason}")
            self._requests.forget(pull, process_id)
        peer = self.peers.pop(process_id, None)
        if peer is not None:
            peer.enter(GONE)
            for pull in list(peer.pulls.values()):
                self._lose_source(pull, peer)

    @event
    def lose_cluster(self, message: str, now: float) -> None:
        """Fails all pulls: the broker is gone, or this process ends."""
        self._now = now
        for pull in list(self.pulls.values()):
            self._fail(pull, "ClusterUnavailableError", message)

    def tick(self, now: float) -> None:
        """Ends waits that take too long: for a dial, and for an owner's answer where a host is known to have the
        object.
        """
        self._now = now
        for peer in list(self.peers.values()):
            if peer.state is DIALLING and now - peer.dialled_at >= DIAL_PATIENCE_S:
                self.channel_down(peer.process_id, now)
        for pull in list(self.pulls.values()):
            waited = pull.asked_owner_at is not None and now - pull.asked_owner_at >= LOCATE_PATIENCE_S
            if waited and not pull.sources and pull.hint not in pull.lost:
                self._located(pull, [pull.hint])

    def check(self) -> None:
        """Raises AssertionError if an invariant does not hold; for tests."""
        self._windows.check()
