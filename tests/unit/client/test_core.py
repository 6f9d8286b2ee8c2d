"""The client core as a whole: what goes out in which order, requests and answers, small services."""

from __future__ import annotations

import msgpack
import pytest

from tests.unit.client.wiring import FUNCTION, Process, Wire
from zray.client.core.effects import ShowLogs, Warn
from zray.protocol import messages as m
from zray.protocol.codec import unpack_messages
from zray.protocol.messages import ProtocolError, encode_row

OTHER = b"other".ljust(16, b"\0")


@pytest.fixture
def process() -> Process:
    return Process(Wire(), "process")


def sent(process: Process) -> list[object]:
    return process.core.drain()


def test_nothing_to_send(process):
    assert not process.core.has_output
    assert sent(process) == []
    assert process.core.take_effects() == []


def test_rows_for_peers_go_last(process):
    process.core.to_peer(OTHER, m.BorrowAck(1))
    process.core.send(m.Goodbye("first"))
    process.core.to_peer(OTHER, m.BorrowAck(2))
    assert process.core.has_output
    first, second = sent(process)
    assert first == m.Goodbye("first")
    assert unpack_messages(second.rows, m.FROM_PEER) == [m.BorrowAck(1), m.BorrowAck(2)]
    assert not process.core.has_output


def test_rows_for_peers_are_cut_into_messages(process):
    """A socket has a largest message; thousands of values may be asked for in one turn."""
    states = [m.ObjectState(bytes([n]) * 28, 1, bytes(100_000), b"", 0) for n in range(100)]
    for state in states:
        process.core.to_peer(OTHER, state)
    peers = sent(process)
    assert max(len(peer.rows) for peer in peers) < 2 << 20
    assert [state for peer in peers for state in unpack_messages(peer.rows, m.FROM_PEER)] == states


def test_a_row_for_oneself_is_handled_at_once(process):
    process.core.to_peer(process.id, m.BorrowAck(77))
    assert sent(process) == []


def test_only_peer_messages_come_from_peers(process):
    rows = msgpack.packb([encode_row(m.Goodbye("I am you"))])
    with pytest.raises(ProtocolError):
        process.core.receive(m.Delivered(OTHER, rows))
    with pytest.raises(ProtocolError):
        process.core.receive(m.Delivered(OTHER, b"\xc1"))


def test_functions_are_shipped_once(process):
    for _ in range(2):
        process.core.export(FUNCTION, "f", b"code")
    assert sent(process) == [m.FunctionPut(FUNCTION, "f", b"code")]


def test_questions_and_answers(process):
    answers: list[object] = []
    process.core.query("stats", {"a": 1}, answers.append)
    process.core.query("hosts", {}, answers.append)
    assert sent(process) == [m.Query(1, "stats", {"a": 1}), m.Query(2, "hosts", {})]
    process.core.receive(m.Answer(2, ["host"]))
    process.core.receive(m.Answer(1, None))
    process.core.receive(m.Answer(1, "again"))
    assert answers == [["host"], None]


def test_an_actor_is_looked_up(process):
    answers: list[object] = []
    request = process.core.new_request(answers.append)
    found = m.ActorFound(request, True, OTHER, {"class_name": "A"})
    process.core.receive(found)
    assert answers == [found]


def test_effects(process):
    process.core.receive(m.Notice("careful"))
    process.core.receive(m.Logs([["f", 1, "out", ["line"]]]))
    process.core.add_effect("mine")
    assert process.core.take_effects() == [Warn("careful"), ShowLogs([["f", 1, "out", ["line"]]]), "mine"]


def test_the_cluster_is_lost(process):
    answers: list[object] = []
    process.core.query("stats", {}, answers.append)
    borrowed = OTHER + bytes(12)
    process.core.references.load(borrowed)
    process.core.lose_cluster("the broker is gone")
    assert answers == [None]
    assert b"ClusterUnavailableError" in process.entry(borrowed).data
