"""Links: each message arrives once and in order, whatever the transport does to the frames."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zray.protocol import link as link_module
from zray.protocol.codec import KIND_DATA, Frame, pack_body, pack_frame, read_frame
from zray.protocol.link import (
    ACK_EVERY_FRAMES,
    MAX_BACKLOG_BYTES,
    MAX_BODY_BYTES,
    MAX_BODY_MESSAGES,
    MAX_EARLY_FRAMES,
    Link,
)
from zray.protocol.messages import BorrowAck, Forward
from zray.protocol.questions import NamedActorsQuery

INCARNATION = b"12345678"
ALLOWED = frozenset((BorrowAck, Forward))
PROBE_S = 3.0


def make_link(now: float = 0.0) -> Link:
    return Link(INCARNATION, ALLOWED, now, heartbeat_s=1.0, silence_s=6.0, probe_s=PROBE_S)


def numbers(messages: list[BorrowAck]) -> list[int]:
    return [message.token for message in messages]


def send(link: Link, *tokens: int, now: float = 0.0) -> list[Frame]:
    """Sends messages in one turn. Returns the frames."""
    for token in tokens:
        link.send(BorrowAck(token))
    return [read_frame(data) for data in link.outgoing(now)]


def data_frame(seq: int, *tokens: int, ack: int = 0) -> Frame:
    return read_frame(pack_frame(KIND_DATA, INCARNATION, seq, ack, pack_body([BorrowAck(token) for token in tokens])))


def malformed_frame(seq: int) -> Frame:
    return read_frame(pack_frame(KIND_DATA, INCARNATION, seq, 0, b"\xc1"))


# ------------------------------------------------------------------ without faults


def test_one_turn_makes_one_frame():
    here, there = make_link(), make_link()
    frames = send(here, 1, 2, 3)
    assert [(frame.seq, frame.incarnation) for frame in frames] == [(1, INCARNATION)]
    assert numbers(there.receive(frames[0], 0.0)) == [1, 2, 3]
    assert send(here) == []


def test_pending_and_idle():
    here, there = make_link(), make_link()
    assert (here.pending, here.idle) == (False, True)
    here.send(BorrowAck(1))
    assert (here.pending, here.idle) == (True, False)
    (frame,) = send(here)
    assert (here.pending, here.idle) == (False, False)  # sent, not acknowledged
    there.receive(frame, 0.0)
    (answer,) = send(there, 9)
    here.receive(answer, 0.0)
    assert here.idle


def test_data_frames_carry_acknowledgements():
    here, there = make_link(), make_link()
    for token in range(3):
        there.receive(send(here, token)[0], 0.0)
    (answer,) = send(there, 9)
    assert (answer.seq, answer.ack) == (1, 3)


def test_without_traffic_back_a_tick_acknowledges():
    here, there = make_link(), make_link()
    there.receive(send(here, 1)[0], 0.0)
    assert send(there) == []
    there.tick(0.1)
    (ack,) = send(there, now=0.1)
    assert (ack.seq, ack.ack, bytes(ack.body)) == (0, 1, b"")
    assert here.receive(ack, 0.2) == []
    assert here.idle
    there.tick(0.2)
    assert send(there, now=0.2) == []  # once is enough


def test_many_frames_in_one_direction_are_acknowledged():
    here, there = make_link(), make_link()
    acks = 0
    for token in range(10 * ACK_EVERY_FRAMES):
        there.receive(send(here, token)[0], 0.0)
        acks += len(send(there))
    assert acks == 10


def test_many_bytes_are_acknowledged():
    here, there = make_link(), make_link()
    here.send(Forward(b"p" * 16, bytes(MAX_BODY_BYTES)))
    (frame,) = send(here)
    there.receive(frame, 0.0)
    (ack,) = send(there)
    assert (ack.seq, ack.ack) == (0, 1)


# ------------------------------------------------------------------ silence


def test_a_ping_after_each_heartbeat():
    link = make_link()
    assert link.tick(0.9)
    assert send(link, now=0.9) == []
    link.tick(1.0)
    (ping,) = send(link, now=1.0)
    assert (ping.seq, ping.ack) == (0, 0)
    link.tick(1.5)
    assert send(link, now=1.5) == []
    link.tick(2.0)
    assert len(send(link, now=2.0)) == 1


def test_a_data_frame_replaces_a_ping():
    link = make_link()
    send(link, 1, now=0.9)
    link.tick(1.5)
    assert send(link, now=1.5) == []


def test_a_silent_peer_is_dead():
    link = make_link(now=10.0)
    assert link.tick(15.9)
    assert not link.tick(16.0)
    link.receive(read_frame(pack_frame(KIND_DATA, INCARNATION, 0, 0, b"")), 16.0)  # a ping counts as heard
    assert link.tick(21.9)


def test_a_process_that_was_stopped_gives_its_peer_new_time():
    link = make_link(now=0.0)
    link.restart_silence(100.0)
    assert link.tick(103.9)
    assert not link.tick(104.1)


def test_restarting_the_silence_never_shortens_it():
    link = make_link(now=99.9)
    link.restart_silence(100.0)
    assert link.last_heard == 99.9


# ------------------------------------------------------------------ loss, duplicates, disorder


def probe(here: Link, there: Link, now: float) -> list[Frame]:
    """``here`` probes ``there`` and gets the answer. Returns the frames that ``here`` sends then."""
    here.tick(now)
    for frame in send(here, now=now):
        there.receive(frame, now)
    for answer in send(there, now=now):
        here.receive(answer, now)
    return send(here, now=now)


def test_a_lost_frame_is_sent_again_after_the_answer_to_a_probe():
    here, there = make_link(), make_link()
    send(here, 1, now=0.0)
    assert probe(here, there, PROBE_S - 0.1) == []
    (again,) = probe(here, there, PROBE_S)
    assert numbers(there.receive(again, PROBE_S)) == [1]


def test_nothing_is_sent_again_to_a_peer_that_does_not_answer():
    """The peer is stopped or busy: the transport still holds all frames."""
    here = make_link()
    send(here, *range(100))
    sent = []
    for tenths in range(1, 1000):
        here.tick(tenths / 10)
        sent += send(here, now=tenths / 10)
    assert not any(frame.seq for frame in sent)
    assert sum(len(frame.body) + 26 for frame in sent) < 10_000, "100 s of probes and pings"


def test_frames_behind_a_probe_are_not_sent_again():
    here, there = make_link(), make_link()
    (slow,) = send(here, 1)
    here.tick(PROBE_S)
    (question,) = send(here, now=PROBE_S)
    (later,) = send(here, 2, now=PROBE_S)
    there.receive(slow, PROBE_S)  # frames of a connection come in order
    there.receive(question, PROBE_S)
    for answer in send(there, now=PROBE_S):
        here.receive(answer, PROBE_S)
    assert send(here, now=PROBE_S) == []
    assert numbers(there.receive(later, PROBE_S)) == [2]


def test_lost_frames_are_sent_again_in_order_and_once():
    here, there = make_link(), make_link()
    send(here, 1, 2)
    send(here, 3)
    send(here, 4)
    frames = probe(here, there, PROBE_S)
    assert [frame.seq for frame in frames] == [1, 2, 3]
    assert [token for frame in frames for token in numbers(there.receive(frame, 4.0))] == [1, 2, 3, 4]
    assert send(here, now=PROBE_S) == []


def test_an_answer_that_comes_twice_counts_once():
    here, there = make_link(), make_link()
    send(here, 1)
    here.tick(PROBE_S)
    there.receive(send(here, now=PROBE_S)[0], PROBE_S)
    (answer,) = send(there, now=PROBE_S)
    here.receive(answer, PROBE_S)
    here.receive(answer, PROBE_S)
    assert [frame.seq for frame in send(here, now=PROBE_S)] == [1]


def test_acknowledged_frames_are_not_sent_again():
    here, there = make_link(), make_link()
    (first,) = send(here, 1)
    send(here, 2)
    there.receive(first, 0.0)
    here.receive(send(there, 9)[0], 0.0)
    assert [frame.seq for frame in probe(here, there, PROBE_S)] == [2]


def test_a_lost_probe_is_repeated():
    here, there = make_link(), make_link()
    send(here, 1)
    here.tick(PROBE_S)
    send(here, now=PROBE_S)  # lost
    assert [frame.seq for frame in probe(here, there, 2 * PROBE_S)] == [1]


def test_duplicates_are_dropped_and_acknowledged_again():
    here, there = make_link(), make_link()
    (frame,) = send(here, 1)
    assert numbers(there.receive(frame, 0.0)) == [1]
    there.tick(0.0)
    send(there)  # this acknowledgement is lost
    assert there.receive(frame, 1.0) == []
    (ack,) = send(there)
    assert (ack.seq, ack.ack) == (0, 1)


def test_early_frames_wait_for_those_before_them():
    here, there = make_link(), make_link()
    one, two, three = (send(here, token)[0] for token in (1, 2, 3))
    assert there.receive(three, 0.0) == []
    assert there.receive(two, 0.0) == []
    assert there.receive(two, 0.0) == []
    assert numbers(there.receive(one, 0.0)) == [1, 2, 3]
    assert there.receive(three, 0.0) == []


def test_early_frames_are_not_acknowledged():
    there = make_link()
    there.receive(data_frame(2, 2), 0.0)
    (frame,) = send(there, 9)
    assert frame.ack == 0


def test_there_is_a_limit_to_early_frames():
    there = make_link()
    for seq in range(2, MAX_EARLY_FRAMES + 100):
        there.receive(data_frame(seq, seq), 0.0)
    assert len(numbers(there.receive(data_frame(1, 1), 0.0))) == MAX_EARLY_FRAMES + 1


def test_early_frames_have_a_limit_in_bytes(monkeypatch):
    """Frames without room are sent again, duplicates count once, and freed room is used again."""
    monkeypatch.setattr(link_module, "MAX_EARLY_BYTES", 3000)
    there = make_link()

    def large(seq: int) -> Frame:
        return read_frame(pack_frame(KIND_DATA, INCARNATION, seq, 0, pack_body([Forward(b"p" * 16, bytes(900))])))

    for round_ in range(3):
        first = 1 + 4 * round_
        for _ in range(3):
            for seq in range(first + 1, first + 100):
                assert there.receive(large(seq), 0.0) == []
        assert len(there.receive(large(first), 0.0)) == 4


def test_an_acknowledgement_of_frames_that_were_never_sent():
    here = make_link()
    send(here, 1)
    here.receive(data_frame(0, ack=2**60), 0.0)
    assert here.idle
    assert [frame.seq for frame in send(here, 2)] == [2]


# ------------------------------------------------------------------ malformed frames


def test_a_malformed_frame_is_counted_and_dropped():
    there = make_link()
    assert there.receive(malformed_frame(1), 0.0) == []
    assert there.malformed == 1
    assert numbers(there.receive(data_frame(2, 2), 0.0)) == [2]


def test_a_malformed_early_frame_does_not_affect_the_one_before_it():
    there = make_link()
    there.receive(malformed_frame(2), 0.0)
    there.receive(data_frame(3, 3), 0.0)
    assert there.malformed == 0  # it is not parsed before its turn
    assert numbers(there.receive(data_frame(1, 1), 0.0)) == [1, 3]
    assert there.malformed == 1


def test_early_frames_are_delivered_after_a_malformed_one():
    there = make_link()
    there.receive(data_frame(2, 2), 0.0)
    assert numbers(there.receive(malformed_frame(1), 0.0)) == [2]


def test_messages_that_the_peer_may_not_send():
    link = Link(INCARNATION, frozenset((Forward,)), 0.0)
    assert link.receive(data_frame(1, 1), 0.0) == []
    assert link.malformed == 1


# ------------------------------------------------------------------ sizes


def test_the_messages_of_a_frame_are_limited():
    here, there = make_link(), make_link()
    total = 2 * MAX_BODY_MESSAGES + 10
    frames = send(here, *range(total))
    assert [frame.seq for frame in frames] == [1, 2, 3]
    assert [token for frame in frames for token in numbers(there.receive(frame, 0.0))] == list(range(total))


def test_the_bytes_of_a_frame_are_limited():
    here, there = make_link(), make_link()
    part = MAX_BODY_BYTES // 4
    messages = [Forward(bytes([n]) * 16, bytes(part)) for n in range(10)]
    for message in messages:
        here.send(message)
    frames = send(here)
    assert [frame.seq for frame in frames] == [1, 2, 3]
    assert max(len(frame.body) for frame in frames) < MAX_BODY_BYTES + part
    assert [message for frame in frames for message in there.receive(frame, 0.0)] == messages


def test_one_message_may_be_larger_than_a_frame():
    here, there = make_link(), make_link()
    here.send(BorrowAck(1))
    here.send(Forward(b"p" * 16, bytes(3 * MAX_BODY_BYTES)))
    here.send(BorrowAck(2))
    frames = send(here)
    assert len(frames) == 2
    assert sum(len(there.receive(frame, 0.0)) for frame in frames) == 3


# ------------------------------------------------------------------ messages that cannot be sent


NAME = NamedActorsQuery(1, "a")


@pytest.mark.parametrize(
    "content", [{1 << 70: 0}, {"a": object()}, {"a": [[[]]] * 3 + [1 << 64]}], ids=["key", "type", "size"]
)
def test_a_message_that_cannot_be_packed_is_rejected_and_the_others_are_sent(content):
    here, there = make_link(), make_link()
    here.send(BorrowAck(1))
    here.send(NAME._replace(namespace=content))
    here.send(BorrowAck(2))
    received = [message for frame in send(here) for message in there.receive(frame, 0.0)]
    assert numbers(received) == [1, 2]
    ((message, reason),) = here.rejected
    assert message.namespace is content and "cannot be packed" in reason
    assert there.malformed == 0


def test_a_message_above_the_limit_is_rejected_and_the_others_are_sent():
    here = Link(INCARNATION, ALLOWED, 0.0, max_message_bytes=10_000)
    there = make_link()
    here.send(BorrowAck(1))
    here.send(Forward(b"p" * 16, bytes(10_000)))
    here.send(BorrowAck(2))
    received = [message for frame in send(here) for message in there.receive(frame, 0.0)]
    assert numbers(received) == [1, 2]
    ((message, reason),) = here.rejected
    assert type(message) is Forward and "max_message_bytes" in reason


def test_messages_that_are_too_large_together_are_sent_separately():
    """Only the real size of a body counts, not the estimate of its parts."""
    here = Link(INCARNATION, frozenset((NamedActorsQuery,)), 0.0, max_message_bytes=10_000)
    there = Link(INCARNATION, frozenset((NamedActorsQuery,)), 0.0)
    for _ in range(20):
        here.send(NAME._replace(namespace="x" * 3000))
    frames = here.outgoing(0.0)
    assert max(map(len, frames)) < 10_000
    assert sum(len(there.receive(read_frame(frame), 0.0)) for frame in frames) == 20
    assert not here.rejected


def test_names_of_files_that_are_not_utf8_arrive_unchanged():
    here, there = make_link(), Link(INCARNATION, frozenset((NamedActorsQuery,)), 0.0)
    here.send(NAME._replace(namespace="/tmp/\udcff"))
    ((message,),) = [there.receive(frame, 0.0) for frame in send(here)]
    assert message.namespace == "/tmp/\udcff"


# ------------------------------------------------------------------ the backlog


def test_the_backlog_is_what_is_not_acknowledged():
    here, there = make_link(), make_link()
    assert not here.congested
    while not here.congested:
        here.send(Forward(b"p" * 16, bytes(1 << 20)))
        frames = send(here)
        assert here.backlog_bytes <= MAX_BACKLOG_BYTES + (1 << 20) + 100
    for frame in frames:
        there.receive(frame, 0.0)
    here.receive(data_frame(0, ack=1000), 0.0)
    assert here.backlog_bytes == 0 and not here.congested


# ------------------------------------------------------------------ random histories


class Transport:
    """Two links and the frames between them. A test loses, repeats and delivers these in any order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.links = [make_link(), make_link()]
        self.in_flight: list[deque[bytes]] = [deque(), deque()]  # frames to each of the two
        self.sent = [0, 0]
        self.received: list[list[int]] = [[], []]

    def say(self, side: int, messages: int) -> None:
        for _ in range(messages):
            self.sent[side] += 1
            self.links[side].send(BorrowAck(self.sent[side]))
        self.in_flight[1 - side].extend(self.links[side].outgoing(self.now))

    def deliver(self, side: int, position: int, *, keep: bool) -> None:
        in_flight = self.in_flight[side]
        if in_flight:
            in_flight.rotate(-(position % len(in_flight)))
            data = in_flight[0] if keep else in_flight.popleft()
            self.received[side].extend(numbers(self.links[side].receive(read_frame(data), self.now)))

    def lose(self, side: int, position: int) -> None:
        if self.in_flight[side]:
            del self.in_flight[side][position % len(self.in_flight[side])]

    def tick(self, seconds: float) -> None:
        self.now += seconds
        for side, link in enumerate(self.links):
            link.tick(self.now)
            self.in_flight[1 - side].extend(link.outgoing(self.now))

    def check(self) -> None:
        for side in (0, 1):
            assert self.received[side] == list(range(1, len(self.received[side]) + 1))
            assert len(self.received[side]) <= self.sent[1 - side]

    def settle(self) -> None:
        """Runs both links without faults until they are idle."""
        for _ in range(200):
            for side in (0, 1):
                while self.in_flight[side]:
                    self.deliver(side, 0, keep=False)
            self.tick(0.5)
            if all(link.idle for link in self.links):
                return
        raise AssertionError("the links never become idle")


side_and_position = (st.integers(0, 1), st.integers(0, 20))
events = st.one_of(
    st.tuples(st.just("say"), st.integers(0, 1), st.integers(0, 3)),
    st.tuples(st.just("deliver"), *side_and_position),
    st.tuples(st.just("repeat"), *side_and_position),
    st.tuples(st.just("lose"), *side_and_position),
    st.tuples(st.just("tick"), st.integers(1, 8), st.just(0)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(events, max_size=80))
def test_each_message_arrives_once_and_in_order(history):
    transport = Transport()
    for what, one, two in history:
        if what == "say":
            transport.say(one, two)
        elif what == "tick":
            transport.tick(one / 2)
        elif what == "lose":
            transport.lose(one, two)
        else:
            transport.deliver(one, two, keep=what == "repeat")
        transport.check()
    transport.settle()
    assert [len(received) for received in transport.received] == transport.sent[::-1]


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_a_small_limit_of_early_frames_costs_time_only(rng, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link_module, "MAX_EARLY_FRAMES", limit)
        transport = Transport()
        for _ in range(30):
            transport.say(0, 1)
        rng.shuffle(transport.in_flight[1])
        while transport.in_flight[1]:
            transport.deliver(1, 0, keep=False)
            transport.check()
        transport.settle()
        assert len(transport.received[1]) == 30


def test_a_slow_transport_is_not_flooded():
    """A backlog that takes longer than the probe interval is not sent again while acknowledgements come."""
    here, there = make_link(), make_link()
    backlog = deque(frame for token in range(100) for frame in send(here, token))
    transmitted = len(backlog)
    now = 0.0
    while backlog:  # ten frames a second get through
        for _ in range(min(5, len(backlog))):
            there.receive(backlog.popleft(), now)
        now += 0.5
        there.tick(now)
        for ack in send(there, now=now):
            here.receive(ack, now)
        here.tick(now)
        again = [frame for frame in send(here, now=now) if frame.seq]
        transmitted += len(again)
        backlog.extend(again)
    assert transmitted == 100
