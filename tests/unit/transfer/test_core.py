"""The core of transfers: what it asks of which process, what it serves, and how it goes on after a loss."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, TypeVar

import pytest

from zray.protocol.contract import BROKER
from zray.protocol.messages import Chunk, CopyGone, CopyMade, Locate, Located, ProcessDied, Pull, PullFailed, Watch
from zray.transfer import effects
from zray.transfer.chunks import CHUNK_BYTES, make_chunk
from zray.transfer.core import (
    DIAL_PATIENCE_S,
    LOCATE_PATIENCE_S,
    MAX_DAMAGED,
    REDIAL_S,
    SMALL_BYTES,
    TransferCore,
)
from zray.transfer.effects import Dial, Finished, GiveUp, Origin, Refuse, Reserve, Seal, Serve
from zray.transfer.records import DIRECT_WINDOW, RELAYED_WINDOW
from zray.transfer.states import DIRECT, GONE, RELAYED, SEALING

E = TypeVar("E")

ME, SOURCE, OTHER, OWNER = (name.encode().ljust(16, b".") for name in ("me", "source", "other", "owner"))
OBJECT = OWNER + b"\0" * 12
CHILD = Origin(b"child".ljust(16, b"."), b"channel")


class Tell(NamedTuple):
    """A message to another process."""

    dest: bytes
    message: Any


class ToBroker(NamedTuple):
    """A message to the broker."""

    message: Any


class Ask(NamedTuple):
    """A request to a source."""

    source: bytes
    request: Pull
    direct: bool


def _as_told(dest: bytes, message: Any) -> Tell | ToBroker | Ask:
    if dest == BROKER:
        return ToBroker(message)
    return Ask(dest, message, direct=False) if isinstance(message, Pull) else Tell(dest, message)


class Host:
    """A core, with a shell that the test plays."""

    def __init__(self, size: int, is_host: bool = True) -> None:
        self.value = os.urandom(size)
        self.core = TransferCore(ME, is_host)
        self.room = bytearray(size)
        self.now = 0.0
        self.effects: list[Any] = []

    def no_channels(self) -> None:
        """No peer can be dialled."""
        for source in self.core.peers:
            self.core.channel_down(source, self.now - REDIAL_S)

    def take(self, kind: type[E]) -> list[E]:
        """Returns the effects of one kind since the last look."""
        output = self.core.take_output()
        for dest, messages in output.sends.items():
            for message in messages:
                self.effects.append(_as_told(dest, message))
        for effect in output.effects:
            self.effects.append(Ask(*effect, direct=True) if isinstance(effect, effects.Ask) else effect)
        found: list[E] = []
        found.extend(effect for effect in self.effects if isinstance(effect, kind))
        self.effects = [effect for effect in self.effects if not isinstance(effect, kind)]
        self.core.check()
        return found

    def told(self) -> list[object]:
        return [effect.message for effect in self.take(Tell)]

    def fetch(self, reader: str = "reader", hint: bytes = SOURCE) -> None:
        self.core.fetch(reader, OBJECT, hint, len(self.value), self.now)

    def reserve(self) -> None:
        (effect,) = self.take(Reserve)
        assert effect.size == len(self.value)
        self.core.reserved(effect.number, memoryview(self.room), len(self.value), self.now)

    def question(self) -> int:
        """Returns the number of the last question to the owner."""
        return self.core._by_object[OBJECT].question

    def located(self, *sources: bytes, size: int | None = None) -> None:
        size = len(self.value) if size is None else size
        self.core.receive(OWNER, Located(OBJECT, self.question(), size, list(sources), "", ""), self.now)

    def chunk(self, request: Pull) -> Chunk:
        data = memoryview(self.value)[request.offset : request.offset + request.length]
        head, packed = make_chunk(request, len(self.value), data)
        return head._replace(data=bytes(packed))

    def answer(self, ask: Ask) -> None:
        self.core.receive(ask.source, self.chunk(ask.request), self.now)

    def answer_all(self) -> None:
        while asks := self.take(Ask):
            for ask in asks:
                self.answer(ask)

    def seal(self) -> None:
        (effect,) = self.take(Seal)
        self.core.sealed(effect.number, self.now)


def ask(host: Host, origin: Origin, request: Pull) -> None:
    """Another process asks for a piece, by a channel."""
    host.core.received_by_channel(origin.process_id, origin.channel, request, host.now)


def running(chunks: int, *sources: bytes, dialling: bool = False) -> Host:
    """Makes a host that pulls ``n_chunks``; through the broker, unless it is still ``dialling``."""
    host = Host(chunks * CHUNK_BYTES)
    host.fetch()
    if host.core.pulls[1].question:
        host.located(*(sources or (SOURCE,)))
    if not dialling:
        host.no_channels()
    host.reserve()
    host.take(Tell)
    return host


# ------------------------------------------------------------------ without faults


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 40 * CHUNK_BYTES + 7])
def test_an_object_arrives_whole(size):
    host = Host(size)
    host.fetch()
    if size > SMALL_BYTES:
        assert host.told() == [Locate(OBJECT, 1, True, [])]
        assert not host.take(Reserve)
        host.located(SOURCE)
    host.reserve()
    host.answer_all()
    assert bytes(host.room) == host.value
    host.seal()
    assert host.told() == [CopyMade(OBJECT)]
    assert host.take(Finished) == [Finished("reader", "", "")]
    assert not host.core.pulls and not host.take(GiveUp)


def test_all_readers_share_one_pull():
    host = Host(SMALL_BYTES)
    for reader in "abc":
        host.fetch(reader)
    host.core.withdraw("b", host.now)
    host.reserve()
    host.answer_all()
    host.seal()
    assert host.take(Finished) == [Finished("a", "", ""), Finished("c", "", "")]


def test_nothing_is_asked_for_before_there_is_room():
    host = Host(SMALL_BYTES)
    host.fetch()
    assert not host.take(Ask)
    host.reserve()
    assert host.take(Ask)


def test_nothing_is_asked_for_that_has_no_place_yet():
    host = Host(10 * CHUNK_BYTES)
    host.fetch()
    host.located(SOURCE)
    host.no_channels()
    (effect,) = host.take(Reserve)
    host.core.reserved(effect.number, memoryview(host.room), 2 * CHUNK_BYTES + 5, 0.0)
    asks = host.take(Ask)
    assert [ask.request.offset for ask in asks] == [0, CHUNK_BYTES]
    for ask in asks:
        host.answer(ask)
    assert not host.take(Ask)
    host.core.prepared(effect.number, 5 * CHUNK_BYTES, 0.0)
    host.answer_all()
    host.core.prepared(effect.number, len(host.value), 0.0)
    host.answer_all()
    assert bytes(host.room) == host.value


def test_the_window_is_refilled_when_it_is_half_empty():
    host = running(100)
    asks = host.take(Ask)
    assert len(asks) == RELAYED_WINDOW and not any(ask.direct for ask in asks)
    host.answer(asks[0])
    assert not host.take(Ask)  # requests are sent together
    host.answer(asks[1])
    assert len(host.take(Ask)) == 2


def test_pulls_share_a_window():
    host = Host(20 * CHUNK_BYTES)
    host.fetch()
    second = OWNER + b"\1" * 12
    host.core.fetch("another", second, SOURCE, 20 * CHUNK_BYTES, 0.0)
    for object_id in (OBJECT, second):
        host.core.receive(OWNER, Located(object_id, 1, len(host.value), [SOURCE], "", ""), 0.0)
    host.core.channel_up(SOURCE, 0.0)
    rooms = [effect.number for effect in host.take(Reserve)]
    for number in rooms:
        host.core.reserved(number, memoryview(bytearray(len(host.value))), len(host.value), 0.0)
    asks = host.take(Ask)
    assert len(asks) == DIRECT_WINDOW
    for ask in asks:
        host.answer(ask)
    assert {ask.request.pull for ask in host.take(Ask)} == set(rooms)


def test_several_sources():
    host = running(40, SOURCE, OTHER)
    assert {ask.source for ask in host.take(Ask)} == {SOURCE, OTHER}
    for ask in [*(a for p in host.core.peers.values() for a in sorted(p.asked))]:
        assert ask[0] == 1
    # A faster source is asked for more.
    fast = 0
    for _ in range(10):
        peer = host.core.peers[OTHER]
        for _, chunk in sorted(peer.asked):
            host.core.receive(OTHER, host.chunk(Pull(OBJECT, 1, chunk * CHUNK_BYTES, CHUNK_BYTES, False)), 0.0)
            fast += 1
    assert fast > 20 and len(host.core.peers[SOURCE].asked) == RELAYED_WINDOW


# ------------------------------------------------------------------ channels


def test_a_channel_is_dialled_once_and_used_when_it_is_up():
    host = running(100, dialling=True)
    assert host.take(Dial) == [Dial(SOURCE)]
    asks = host.take(Ask)
    assert len(asks) == 1  # little goes through the broker
    host.core.channel_up(SOURCE, 0.0)
    more = host.take(Ask)
    assert len(asks) + len(more) == DIRECT_WINDOW and all(ask.direct for ask in more)
    host.answer_all()


def test_a_broken_channel_is_replaced_by_the_broker_and_dialled_again_later():
    host = running(100)
    host.core.channel_up(SOURCE, 0.0)
    asked = {ask.request.offset for ask in host.take(Ask)}
    host.core.channel_down(SOURCE, 1.0)
    again = host.take(Ask)
    assert len(again) == RELAYED_WINDOW and {ask.request.offset for ask in again} <= asked
    assert not any(ask.direct for ask in again)
    host.take(Dial)
    host.now = 1.0 + REDIAL_S
    for ask in again:
        host.answer(ask)
    host.answer_all()
    assert bytes(host.room) == host.value
    host.seal()
    host.fetch("once more")
    host.located(SOURCE)
    assert host.take(Dial) == [Dial(SOURCE)]


def test_a_late_chunk_of_a_broken_channel_is_ignored():
    host = running(30)
    host.core.channel_up(SOURCE, 0.0)
    late = host.take(Ask)
    host.core.channel_down(SOURCE, 1.0)
    for ask in late:
        host.answer(ask)  # some of them are under way again, the others are not
    host.answer_all()
    assert bytes(host.room) == host.value


def test_a_driver_dials_no_peer_and_keeps_no_copy():
    host = Host(10 * CHUNK_BYTES, is_host=False)
    host.fetch()
    assert host.told() == [Locate(OBJECT, 1, False, [])]
    host.located(SOURCE)
    host.reserve()
    host.answer_all()
    host.seal()
    assert not host.take(Dial)
    assert host.told() == [CopyGone(OBJECT)]


# ------------------------------------------------------------------ losses


def test_a_source_without_the_object_is_replaced_by_one_that_the_owner_names():
    host = running(3)
    asks = host.take(Ask)
    host.answer(asks[0])
    host.core.receive(SOURCE, PullFailed(1, "evicted"), 0.0)
    assert host.told() == [Locate(OBJECT, host.question(), True, [SOURCE])]
    host.located(OTHER)
    host.no_channels()
    asks = host.take(Ask)
    assert {ask.request.offset for ask in asks} == {CHUNK_BYTES, 2 * CHUNK_BYTES}  # it goes on where it was
    assert {ask.source for ask in asks} == {OTHER}


def test_the_other_sources_take_over():
    host = running(20, SOURCE, OTHER)
    host.take(Ask)
    host.core.receive(BROKER, ProcessDied(SOURCE, "killed"), 0.0)
    host.core.check()
    for _, chunk in sorted(host.core.peers[OTHER].asked):
        host.core.receive(OTHER, host.chunk(Pull(OBJECT, 1, chunk * CHUNK_BYTES, CHUNK_BYTES, False)), 0.0)
    host.answer_all()
    assert bytes(host.room) == host.value and not host.told()


def test_no_process_has_it():
    host = running(20)
    host.core.receive(BROKER, ProcessDied(SOURCE, "killed"), 0.0)
    host.core.receive(OWNER, Located(OBJECT, host.question(), 0, [], "ObjectLostError", "no host has it"), 0.0)
    assert host.take(Finished) == [Finished("reader", "ObjectLostError", "no host has it")]
    assert host.take(GiveUp) == [GiveUp(1)]
    assert not host.core.pulls


def test_the_source_dies_before_there_is_room():
    host = Host(3 * CHUNK_BYTES)
    host.fetch()
    host.core.receive(BROKER, ProcessDied(SOURCE, "killed"), 0.0)
    assert host.told() == [Locate(OBJECT, host.question(), True, [SOURCE])]
    host.reserve()
    assert not host.take(Ask)
    host.located(OTHER)
    host.answer_all()
    assert bytes(host.room) == host.value


def test_the_owner_dies():
    host = running(20)
    host.core.receive(BROKER, ProcessDied(OWNER, "killed"), 0.0)
    ((_, kind, message),) = host.take(Finished)
    assert kind == "OwnerDiedError" and "killed" in message
    assert not host.told()


def test_an_owner_that_does_not_answer_is_not_waited_for():
    host = Host(SMALL_BYTES + 1)
    host.fetch()
    host.core.tick(LOCATE_PATIENCE_S / 2)
    assert not host.take(Reserve)
    host.core.tick(LOCATE_PATIENCE_S)
    host.reserve()
    assert {ask.source for ask in host.take(Ask)} == {SOURCE}
    host.located(OTHER)  # late, but the owner knows better
    assert {ask.source for ask in host.take(Ask)} == {OTHER}


def test_a_size_that_is_wrong():
    host = Host(SMALL_BYTES + 1)
    host.fetch()
    host.located(SOURCE, size=5)
    assert host.take(Finished)[0].kind == "ObjectLostError"


def test_damaged_chunks_are_asked_for_again_and_then_of_another_source():
    host = running(100)
    for count in range(MAX_DAMAGED + 1):
        ask = host.take(Ask)[0] if count == 0 else host.take(Ask)[-1]
        good = host.chunk(ask.request)
        host.core.receive(SOURCE, good._replace(data=good.data[:-1] + bytes([good.data[-1] ^ 1])), 0.0)
        for _, chunk in sorted(host.core.peers[SOURCE].asked)[: RELAYED_WINDOW // 2]:
            if count < MAX_DAMAGED:
                host.core.receive(SOURCE, host.chunk(Pull(OBJECT, 1, chunk * CHUNK_BYTES, CHUNK_BYTES, False)), 0.0)
    assert host.core.damaged_chunks == MAX_DAMAGED + 1
    assert host.told() == [Locate(OBJECT, host.question(), True, [SOURCE])]
    host.located(OTHER)
    host.answer_all()
    assert bytes(host.room) == host.value


@pytest.mark.parametrize(
    "wrong",
    [
        lambda c: c._replace(data=c.data + b"x"),
        lambda c: c._replace(data=b""),
        lambda c: c._replace(total=c.total + 1),
        lambda c: c._replace(offset=c.offset + 1),
        lambda c: c._replace(pull=99),
        lambda c: c._replace(packed=True),
        lambda c: c._replace(offset=1 << 60),
    ],
)
def test_malformed_chunks(wrong):
    host = running(6)
    ask = host.take(Ask)[0]
    host.core.receive(SOURCE, wrong(host.chunk(ask.request)), 0.0)
    host.core.receive(OTHER, host.chunk(ask.request), 0.0)  # from a process that was not asked
    host.core.check()
    host.core.receive(BROKER, ProcessDied(SOURCE, ""), 0.0)
    host.located(OTHER)
    host.answer_all()
    assert bytes(host.room) == host.value


def test_no_room():
    host = Host(100)
    host.fetch()
    (effect,) = host.take(Reserve)
    host.core.failed(effect.number, "ObjectStoreFullError", "full", host.now)
    assert host.take(Finished) == [Finished("reader", "ObjectStoreFullError", "full")]


def test_a_pull_without_readers_ends():
    host = running(20)
    host.core.withdraw("reader", host.now)
    assert host.take(GiveUp) == [GiveUp(1)] and not host.take(Finished)
    assert host.told() == [CopyGone(OBJECT)]


def test_the_cluster_is_gone():
    host = running(20)
    host.core.lose_cluster("gone", host.now)
    assert host.take(Finished) == [Finished("reader", "ClusterUnavailableError", "gone")]


def test_owner_and_sources_are_watched_once():
    host = running(20, SOURCE, OTHER)
    host.core.fetch("other", OWNER + b"\2" * 12, SOURCE, 5, 0.0)
    assert sorted(effect.message for effect in host.take(ToBroker)) == sorted(map(Watch, (OWNER, SOURCE, OTHER)))


# ------------------------------------------------------------------ serving others


def wanted(chunk: int, pull: int = 7) -> Pull:
    return Pull(OBJECT, pull, chunk * CHUNK_BYTES, CHUNK_BYTES, False)


def test_a_missing_chunk_is_served_when_it_arrives():
    host = running(4)
    first, second = host.take(Ask)[:2]
    host.answer(first)
    ask(host, CHILD, wanted(0))
    ask(host, CHILD, wanted(1))
    assert [effect.request for effect in host.take(Serve)] == [wanted(0)]
    host.answer(second)
    (served,) = host.take(Serve)
    assert served.origin == CHILD and served.request == wanted(1)
    assert served.room is not None
    assert bytes(served.room[CHUNK_BYTES : 2 * CHUNK_BYTES]) == host.value[CHUNK_BYTES : 2 * CHUNK_BYTES]


def test_a_repeated_request_is_parked_once():
    """Whatever number it gives its pull: requests cannot fill this host's memory."""
    host = running(4)
    for pull in range(1000):
        ask(host, CHILD, wanted(3, pull))
    ask(host, CHILD._replace(process_id=OTHER), wanted(3))
    (waiting,) = next(iter(host.core.pulls.values())).parked.values()
    assert [request.pull for _, request in waiting] == [999, 7]


def test_a_chunk_that_is_not_being_pulled_is_read_from_the_store():
    host = Host(100)
    ask(host, CHILD, wanted(0))
    assert host.take(Serve) == [Serve(CHILD, wanted(0), None)]


def test_a_process_that_waits_for_a_failed_pull_is_told():
    host = running(4)
    ask(host, CHILD, wanted(3))
    host.core.receive(BROKER, ProcessDied(OWNER, "killed"), 0.0)
    ((channel, pull, _),) = host.take(Refuse)
    assert (channel, pull) == (CHILD.channel, 7)


def test_a_pull_goes_on_while_it_serves_other_processes():
    host = running(8)
    ask(host, CHILD, wanted(7))
    host.core.withdraw("reader", host.now)
    assert host.core.pulls
    host.answer_all()
    assert len(host.take(Serve)) == 1
    host.seal()


def test_dead_processes_are_not_served():
    host = running(4)
    ask(host, CHILD, wanted(3))
    host.core.receive(BROKER, ProcessDied(CHILD.process_id, "killed"), 0.0)
    host.answer_all()
    assert not host.take(Serve)


@pytest.mark.parametrize("request_", [wanted(0)._replace(offset=5), wanted(4), wanted(0)._replace(length=1 << 40)])
def test_pieces_that_are_no_chunks_are_refused(request_):
    host = running(4)
    ask(host, CHILD, request_)
    assert host.take(Refuse) and not host.take(Serve)


# ------------------------------------------------------------------ compression


def test_a_slow_source_is_asked_to_compress():
    host = running(64)
    assert not any(ask.request.pack for ask in host.take(Ask))
    while host.core.peers[SOURCE].asked and host.now < 10:
        host.now += 0.1
        for _, chunk in sorted(host.core.peers[SOURCE].asked)[:1]:
            host.core.receive(SOURCE, host.chunk(Pull(OBJECT, 1, chunk * CHUNK_BYTES, CHUNK_BYTES, False)), host.now)
    assert any(ask.request.pack for ask in host.take(Ask))


def test_compressed_chunks_arrive():
    host = running(4)
    host.value = b"the same again and again " * (4 * CHUNK_BYTES // 25 + 1)
    host.value = host.value[: 4 * CHUNK_BYTES]
    for ask in host.take(Ask):
        chunk = host.chunk(ask.request._replace(pack=True))
        assert chunk.packed and len(chunk.data) < CHUNK_BYTES // 10
        host.core.receive(SOURCE, chunk, 0.0)
    assert bytes(host.room) == host.value


def test_what_does_not_shrink_travels_as_it_is():
    host = running(4)
    chunk = host.chunk(host.take(Ask)[0].request._replace(pack=True))
    assert not chunk.packed and len(chunk.data) == CHUNK_BYTES


# ------------------------------------------------------------------ regressions


def test_a_source_that_drops_one_pull_is_asked_for_the_others():
    """One pull has the whole window, and fails: the other must not wait for ever."""
    host = Host(40 * CHUNK_BYTES)
    host.fetch()
    second = OWNER + b"\1" * 12
    host.core.fetch("another", second, SOURCE, 40 * CHUNK_BYTES, 0.0)
    host.located(SOURCE)
    host.core.channel_up(SOURCE, 0.0)
    for effect in host.take(Reserve):
        host.core.reserved(effect.number, memoryview(host.room), len(host.value), 0.0)
    assert len(host.take(Ask)) == DIRECT_WINDOW
    host.core.receive(OWNER, Located(second, 1, 40 * CHUNK_BYTES, [SOURCE], "", ""), 0.0)
    for effect in host.take(Reserve):
        host.core.reserved(effect.number, memoryview(bytearray(40 * CHUNK_BYTES)), 40 * CHUNK_BYTES, 0.0)
    assert not host.take(Ask)
    host.core.receive(SOURCE, PullFailed(1, "evicted"), 0.0)
    assert {ask.request.pull for ask in host.take(Ask)} == {2}


def test_the_answer_to_an_earlier_question_is_ignored():
    host = Host(SMALL_BYTES + 1)
    host.fetch()
    host.core.tick(LOCATE_PATIENCE_S)  # the hint is tried
    host.core.receive(BROKER, ProcessDied(SOURCE, "killed"), LOCATE_PATIENCE_S)
    host.reserve()
    assert host.told()[-1] == Locate(OBJECT, 2, True, [SOURCE])
    host.core.receive(OWNER, Located(OBJECT, 1, len(host.value), [SOURCE], "", ""), 5.0)
    assert not host.take(Finished)
    host.located(OTHER)
    assert {ask.source for ask in host.take(Ask)} == {OTHER}


def test_a_peer_that_does_not_answer_a_dial_is_asked_through_the_broker():
    host = running(100, dialling=True)
    assert len(host.take(Ask)) == 1
    host.core.tick(DIAL_PATIENCE_S)
    assert host.core.peers[SOURCE].state == RELAYED
    assert len(host.take(Ask)) == RELAYED_WINDOW - 1


@pytest.mark.parametrize("size", [0, -1, 1 << 62])
def test_malformed_sizes(size):
    host = Host(100)
    host.core.fetch("reader", OBJECT, SOURCE, size, 0.0)
    assert host.take(Finished)[0].kind == "ObjectLostError"


def test_malformed_sources():
    host = Host(SMALL_BYTES + 1)
    host.fetch()
    host.located(b"short", ME)
    assert host.take(Finished)[0].kind == "ObjectLostError"


def test_a_process_that_waits_for_a_chunk_is_watched():
    host = running(4)
    host.take(ToBroker)
    ask(host, CHILD, wanted(3))
    assert host.take(ToBroker) == [ToBroker(Watch(CHILD.process_id))]


def test_a_channel_is_idle_when_nothing_is_under_way():
    host = running(20)
    host.core.channel_up(SOURCE, 0.0)
    assert not host.core.is_at_rest(SOURCE) and host.core.is_at_rest(OTHER)
    host.answer_all()
    host.seal()
    assert host.core.is_at_rest(SOURCE)
    host.core.hung_up(SOURCE, 0.0)
    assert host.core.peers[SOURCE].state is RELAYED
    host.fetch("once more")
    host.located(SOURCE)
    assert Dial(SOURCE) in host.take(Dial)


def test_an_answer_of_the_owner_after_the_last_chunk_is_ignored():
    """The known host has been asked meanwhile, and has sent everything."""
    host = Host(SMALL_BYTES + 1)
    host.fetch()
    host.core.tick(LOCATE_PATIENCE_S)
    host.reserve()
    host.answer_all()
    (pull,) = host.core.pulls.values()
    host.located(SOURCE, OTHER)
    host.core.receive(SOURCE, PullFailed(pull.number, "evicted"), 0.0)
    assert pull.state is SEALING and not host.take(Ask)
    host.seal()
    assert host.take(Finished) == [Finished("reader", "", "")]


def test_a_channel_that_is_made_after_it_was_given_up_is_used():
    host = running(20, dialling=True)
    host.core.tick(DIAL_PATIENCE_S)
    assert host.core.peers[SOURCE].state is RELAYED
    host.core.channel_up(SOURCE, 0.0)
    host.take(Ask)
    host.core.channel_up(SOURCE, 0.0)  # reported twice
    assert host.core.peers[SOURCE].state is DIRECT


def test_a_source_that_dies_has_no_channel():
    host = running(20)
    host.core.channel_up(SOURCE, 0.0)
    peer = host.core.peers[SOURCE]
    host.core.receive(BROKER, ProcessDied(SOURCE, "killed"), 0.0)
    assert peer.state is GONE and peer.window == 0
