"""Which chunks are asked of which process: from each one a bounded number at a time, for all pulls in turn."""

from __future__ import annotations

from zray.protocol.contract import Outbox
from zray.protocol.messages import Chunk, Pull
from zray.transfer.chunks import CHUNK_BYTES, chunk_length
from zray.transfer.effects import Ask, Effect
from zray.transfer.records import DIRECT_WINDOW, RELAYED_WINDOW, Incoming, Peer
from zray.transfer.states import DIRECT, RUNNING

PACK_BELOW = 250e6
"""Bytes a second. A slower source is asked to compress, where a sample shows that it saves time."""


class Windows:
    """The chunks under way, of the core's ``pulls`` (by number) from its ``peers`` (by process)."""

    def __init__(self, pulls: dict[int, Incoming], peers: dict[bytes, Peer], outbox: Outbox[Effect]) -> None:
        self._pulls = pulls
        self._peers = peers
        self._outbox = outbox

    def ask_for_more(self, pull: Incoming, now: float) -> None:
        """Asks the sources of a pull for as many chunks as may be under way."""
        for peer in list(pull.sources.values()):
            self.fill(peer, now)

    def fill(self, peer: Peer, now: float) -> None:
        """Asks for as many chunks as may be under way, from each pull in turn."""
        if len(peer.asked) > peer.window // 2:
            return
        if not peer.asked:
            peer.since, peer.since_bytes = now, 0
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
                self._outbox.perform(Ask(peer.process_id, request))
            else:
                self._outbox.send(peer.process_id, request)

    def place_for(self, source: bytes, message: Chunk) -> memoryview | None:
        """Returns where the data of a chunk belong.

        None if the chunk is not wanted, or differs from what was asked for.
        """
        pull = self._pulls.get(message.pull)
        peer = self._peers.get(source)
        if pull is None or peer is None or pull.room is None or message.offset % CHUNK_BYTES:
            return None
        if (message.pull, message.offset // CHUNK_BYTES) not in peer.asked or message.total != pull.size:
            return None
        return pull.room[message.offset : message.offset + chunk_length(pull.size, message.offset)]

    def take_back(self, peer: Peer, pull: Incoming, now: float) -> None:
        """Removes a peer from a pull's sources.

        Its chunks are asked of others, and its window is filled with other pulls.
        """
        pull.sources.pop(peer.process_id, None)
        peer.pulls.pop(pull.number, None)
        for number, chunk in [asked for asked in peer.asked if asked[0] == pull.number]:
            peer.asked.discard((number, chunk))
            pull.again.append(chunk)
        self.fill(peer, now)

    def check(self) -> None:
        """Raises AssertionError if an invariant does not hold; for tests."""
        peers = self._peers
        for pull in self._pulls.values():
            under_way = [chunk for peer in peers.values() for number, chunk in peer.asked if number == pull.number]
            waiting = [*pull.again, *range(pull.unasked, pull.n_chunks)]
            here = [chunk for chunk in range(pull.n_chunks) if pull.have[chunk]]
            assert sorted(under_way + waiting + here) == list(range(pull.n_chunks)), "a chunk is in exactly one place"
            assert pull.left == pull.n_chunks - len(here), "the chunks left are those not here"
            assert not any(pull.have[chunk] for chunk in pull.parked), "no request is parked for a chunk that is here"
            assert pull.state is not RUNNING or pull.sources, "a pull that runs has a source"
            assert all(peers.get(process_id) is peer for process_id, peer in pull.sources.items()), "known sources"
        for peer in peers.values():
            assert len(peer.asked) <= max(DIRECT_WINDOW, RELAYED_WINDOW), "the window"
            assert all(number in self._pulls for number, _ in peer.asked), "every chunk asked for belongs to a pull"
            wanting = [p for p in peer.pulls.values() if p.state is RUNNING and (p.again or p.unasked < p.prepared)]
            assert peer.asked or not wanting, "a peer with wanted chunks is asked for some"
