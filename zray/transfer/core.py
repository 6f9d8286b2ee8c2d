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
from collections import OrderedDict, deque
from typing import Any, NamedTuple

from zray.ids import PROCESS_ID_BYTES, owner_of
from zray.protocol.contract import BROKER, Outbox, Output, event
from zray.protocol.messages import Chunk, CopyGone, CopyMade, Locate, Located, ProcessDied, Pull, PullFailed, Watch
from zray.transfer.chunks import CHUNK_BYTES, chunk_length, unpack_chunk
from zray.transfer.states import (
    CHANNEL,
    DIALLING,
    DIRECT,
    DONE,
    FAILED,
    GONE,
    LOCATING,
    PULL,
    RELAYED,
    RESERVING,
    RUNNING,
    SEALING,
    PullState,
)

DIRECT_WINDOW = 16
"""Chunks under way from one peer by a channel: 16 MiB fill 10 Gbit/s with a round trip of 13 ms."""
RELAYED_WINDOW = 4
"""Chunks under way from one peer through the broker, for all pulls together.

Heartbeats queue behind them: 3.4 s at 10 Mbit/s.
"""
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
PACK_BELOW = 250e6
"""Bytes a second. A slower source is asked to compress, where a sample shows that it saves time."""
RATE_SPAN_BYTES = 4 * CHUNK_BYTES
MAX_DAMAGED = 3
"""A source is given up after more chunks than this that do not match their checksums."""


class Origin(NamedTuple):
    """The process that a request came from. ``channel``: by which it came; b"" through the broker."""

    process_id: bytes
    channel: bytes


# The effects, in the order in which the shell performs them.


class Ask(NamedTuple):
    """Send a request to a source by the channel to it."""

    source: bytes
    request: Pull


class Dial(NamedTuple):
    """Try to make a channel; then ``channel_up`` or ``channel_down``."""

    peer: bytes


class Serve(NamedTuple):
    """Answer a request from ``room``, which holds the wanted chunk, or from the store if ``room`` is None."""

    origin: Origin
    request: Pull
    room: memoryview | None


class Refuse(NamedTuple):
    """Refuse a request that came by a channel."""

    channel: bytes
    pull: int
    reason: str


class Reserve(NamedTuple):
    """Make room; then ``reserved`` or ``failed``."""

    number: int
    size: int


class Seal(NamedTuple):
    """Publish a complete object; then ``sealed`` or ``failed``."""

    number: int
    object_id: bytes


class GiveUp(NamedTuple):
    """Release the room of a pull, if there is any yet."""

    number: int


class Finished(NamedTuple):
    """Tell a reader that the object is here, or why not. ``kind``: the name of an exception, "" for success."""

    reader: Any
    kind: str
    message: str


Effect = Ask | Dial | Serve | Refuse | Reserve | Seal | GiveUp | Finished


class Peer:
    """A process that this one pulls from.

    ``state``: of the channel to it. ``asked``: the chunks under way from it, of all pulls.
    """

    __slots__ = ("asked", "damaged", "dialled_at", "process_id", "pulls", "rate", "redial_at", "since", "since_bytes",
                 "state")  # fmt: skip

    def __init__(self, process_id: bytes) -> None:
        self.process_id = process_id
        self.state = RELAYED
        self.dialled_at = 0.0
        self.redial_at = 0.0
        self.asked: set[tuple[int, int]] = set()  # pull, chunk
        self.pulls: OrderedDict[int, Incoming] = OrderedDict()
        self.damaged = 0
        self.rate = 0.0  # bytes a second, as measured last; 0: not yet
        self.since = 0.0
        self.since_bytes = 0

    def enter(self, state: int) -> None:
        """Changes the state; raises IllegalTransition if the new state may not follow."""
        self.state = CHANNEL.after[self.state][state]

    @property
    def window(self) -> int:
        """The most chunks that may be under way."""
        return _WINDOWS[self.state]

    def measure(self, n_bytes: int, now: float) -> None:
        """Counts arrived bytes towards the rate."""
        self.since_bytes += n_bytes
        if self.since_bytes >= RATE_SPAN_BYTES and now > self.since:
            self.rate = self.since_bytes / (now - self.since)
            self.since, self.since_bytes = now, 0


# Dialling takes milliseconds, if it succeeds. Meanwhile little goes through the broker.
_WINDOWS = {RELAYED: RELAYED_WINDOW, DIALLING: 1, DIRECT: DIRECT_WINDOW, GONE: 0}


class Incoming:
    """An object that is being pulled. ``state``: see ``zray.transfer.states``.

    Every chunk is in exactly one place: not asked for (from ``unasked`` on, or in ``again``), under way (in ``asked``
    of one peer), or here (in ``have``).
    """

    __slots__ = ("again", "asked_owner_at", "have", "hint", "left", "lost", "n_chunks", "number", "object_id", "parked",
                 "prepared", "question", "readers", "room", "size", "sources", "state", "unasked")  # fmt: skip

    def __init__(self, number: int, object_id: bytes, hint: bytes, size: int) -> None:
        self.number = number
        self.object_id = object_id
        self.hint = hint
        self.size = size
        self.state: PullState = LOCATING
        self.readers: list[Any] = []
        self.sources: dict[bytes, Peer] = {}
        self.lost: list[bytes] = []  # sources that have failed
        self.room: memoryview | None = None
        self.prepared = 0  # chunks whose place can be written to; pages for the others are being made
        self.n_chunks = -(-size // CHUNK_BYTES)
        self.have = bytearray(self.n_chunks)
        self.left = self.n_chunks
        self.unasked = 0
        self.again: deque[int] = deque()
        self.parked: dict[int, list[tuple[Origin, Pull]]] = {}
        self.asked_owner_at: float | None = None  # None: it is not being asked
        self.question = 0  # how often the owner was asked: it counts on this pull then

    def enter(self, state: int) -> None:
        """Changes the state; raises IllegalTransition if the new state may not follow."""
        self.state = PULL.after[self.state][state]

    def next_chunk(self) -> int:
        """Takes the next chunk to ask for; returns -1 when there is none."""
        if self.again:
            return self.again.popleft()
        if self.unasked < self.prepared:
            self.unasked += 1
            return self.unasked - 1
        return -1


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
            self._on_pull(Origin(source, b""), message)
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
            self._on_pull(Origin(source, channel), message)
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
                    self._take_back(peer, pull)
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
        self._ask_for_more(pull)

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
            self._ask_for_more(pull)

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

    def _ask_for_more(self, pull: Incoming) -> None:
        for peer in list(pull.sources.values()):
            self._fill_window(peer)

    def _fill_window(self, peer: Peer) -> None:
        """Asks for as many chunks as may be under way, from each pull in turn."""
        if len(peer.asked) > peer.window // 2:
            return
        if not peer.asked:
            peer.since, peer.since_bytes = self._now, 0
        idle = 0
        while len(peer.asked) < peer.window and idle < len(peer.pulls):
            number, pull = next(iter(peer.pulls.items()))
            peer.pulls.move_to_end(number)
            chunk = pull.next_chunk() if pull.state is RUNNING else -1
            if chunk < 0:
                idle += 1
                continue
            idle = 0
            peer.asked.add((number, chunk))
            offset = chunk * CHUNK_BYTES
            packed = 0 < peer.rate < PACK_BELOW
            request = Pull(pull.object_id, number, offset, chunk_length(pull.size, offset), packed)
            if peer.state is DIRECT:
                self._perform(Ask(peer.process_id, request))
            else:
                self._outbox.send(peer.process_id, request)

    def place_for(self, source: bytes, message: Chunk) -> memoryview | None:
        """Returns where the data of a chunk belong.

        None if the chunk is not wanted, or differs from what was asked for.
        """
        pull = self.pulls.get(message.pull)
        peer = self.peers.get(source)
        if pull is None or peer is None or pull.room is None or message.offset % CHUNK_BYTES:
            return None
        if (message.pull, message.offset // CHUNK_BYTES) not in peer.asked or message.total != pull.size:
            return None
        return pull.room[message.offset : message.offset + chunk_length(pull.size, message.offset)]

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
                self._ask_for_more(pull)
        self._fill_window(peer)

    def _has(self, pull: Incoming, chunk: int) -> None:
        pull.have[chunk] = 1
        pull.left -= 1
        for origin, request in pull.parked.pop(chunk, ()):
            self._perform(Serve(origin, request, pull.room))
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
        self._take_back(peer, pull)
        pull.lost.append(peer.process_id)
        if pull.state is SEALING:  # it needs no source any more
            return
        if pull.sources:
            self._ask_for_more(pull)
            return
        if pull.state is RUNNING:
            pull.enter(LOCATING)
        self._locate(pull)  # again, even if an answer is under way: that one does not know of the loss

    def _take_back(self, peer: Peer, pull: Incoming) -> None:
        """Removes a peer from a pull's sources.

        Its chunks are asked of others, and its window is filled with other pulls.
        """
        pull.sources.pop(peer.process_id, None)
        peer.pulls.pop(pull.number, None)
        for number, chunk in [asked for asked in peer.asked if asked[0] == pull.number]:
            peer.asked.discard((number, chunk))
            pull.again.append(chunk)
        self._fill_window(peer)

    # ------------------------------------------------------------------ the end of a pull

    def _fail(self, pull: Incoming, kind: str, message: str) -> None:
        pull.enter(FAILED)
        self._forget(pull)
        self._perform(GiveUp(pull.number))
        for waiting in pull.parked.values():
            for origin, request in waiting:
                self._refuse(origin, request.pull, message)
        if pull.question and owner_of(pull.object_id) in self._watched:
            self._outbox.send(owner_of(pull.object_id), CopyGone(pull.object_id))
        for reader in pull.readers:
            self._perform(Finished(reader, kind, message))

    def _forget(self, pull: Incoming) -> None:
        del self.pulls[pull.number], self._by_object[pull.object_id]
        pull.room = None
        for peer in list(pull.sources.values()):
            self._take_back(peer, pull)

    # ------------------------------------------------------------------ others ask

    def _on_pull(self, origin: Origin, request: Pull) -> None:
        """Another process asks for a piece of an object that is here or on its way here."""
        pull = self._by_object.get(request.object_id)
        if pull is None:
            self._perform(Serve(origin, request, None))
            return
        chunk, remainder = divmod(request.offset, CHUNK_BYTES)
        if remainder or chunk >= pull.n_chunks or request.length > CHUNK_BYTES:
            self._refuse(origin, request.pull, "the requested piece is not a chunk")
        elif pull.have[chunk]:
            self._perform(Serve(origin, request, pull.room))
        else:
            self._watch(origin.process_id)
            # A process that asks again had asked by a channel that broke, and has lost that request.
            rows = [row for row in pull.parked.get(chunk, ()) if row[0].process_id != origin.process_id]
            pull.parked[chunk] = [*rows, (origin, request)]

    def _refuse(self, origin: Origin, pull: int, reason: str) -> None:
        if origin.channel:
            self._perform(Refuse(origin.channel, pull, reason))
        else:
            self._outbox.send(origin.process_id, PullFailed(pull, reason))

    # ------------------------------------------------------------------ channels, deaths, time

    @event
    def channel_up(self, process_id: bytes, now: float) -> None:
        """A channel can be used."""
        self._now = now
        peer = self.peers.get(process_id)
        if peer is not None:
            if peer.state is not DIRECT:
                peer.enter(DIRECT)
            self._fill_window(peer)

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
        self._fill_window(peer)
        for number in {number for number, _ in lost}:
            self._ask_for_more(self.pulls[number])

    def _on_process_died(self, process_id: bytes, reason: str) -> None:
        """A source or an owner has died."""
        self._watched.discard(process_id)
        for pull in list(self.pulls.values()):
            if owner_of(pull.object_id) == process_id:
                self._fail(pull, "OwnerDiedError", f"the process that owned the object is gone: {reason}")
            for chunk, waiting in list(pull.parked.items()):
                left = [(origin, request) for origin, request in waiting if origin.process_id != process_id]
                if left:
                    pull.parked[chunk] = left
                else:
                    del pull.parked[chunk]
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
        for pull in self.pulls.values():
            under_way = [chunk for peer in self.peers.values() for number, chunk in peer.asked if number == pull.number]
            waiting = [*pull.again, *range(pull.unasked, pull.n_chunks)]
            here = [chunk for chunk in range(pull.n_chunks) if pull.have[chunk]]
            assert sorted(under_way + waiting + here) == list(range(pull.n_chunks)), "a chunk is in exactly one place"
            assert pull.left == pull.n_chunks - len(here), "the chunks left are those not here"
            assert not any(pull.have[chunk] for chunk in pull.parked), "no request is parked for a chunk that is here"
            assert pull.state is not RUNNING or pull.sources, "a pull that runs has a source"
            assert all(self.peers.get(process_id) is peer for process_id, peer in pull.sources.items()), "known sources"
        for peer in self.peers.values():
            assert len(peer.asked) <= max(DIRECT_WINDOW, RELAYED_WINDOW), "the window"
            assert all(number in self.pulls for number, _ in peer.asked), "every chunk asked for belongs to a pull"
            wanting = [p for p in peer.pulls.values() if p.state is RUNNING and (p.again or p.unasked < p.prepared)]
            assert peer.asked or not wanting, "a peer with wanted chunks is asked for some"
