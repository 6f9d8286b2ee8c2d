"""The client core as a whole: the order of its messages, requests and answers, small services."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from tests.unit.client.wiring import FUNCTION, Process, Wire, actor_spec
from zray.client.core.client_core import ClientCore
from zray.client.core.effects import FreeSegment, ShowLogs, Warn
from zray.client.core.states import INLINE, STORED
from zray.ids import put_id, return_id
from zray.protocol import messages as m
from zray.protocol.codec import unpack_messages
from zray.protocol.contract import BROKER
from zray.protocol.messages import ProtocolError
from zray.protocol.questions import CountsQuery, HostList, HostsQuery, MemberQuery, Membership
from zray.protocol.records import PrintedLines
from zray.protocol.routing import through_broker
from zray.protocol.rows import encode_row

OTHER = b"other".ljust(16, b"\0")


@pytest.fixture
def process() -> Process:
    return Process(Wire(), "process")


def sent(process: Process) -> list[Any]:
    process.flush()
    messages = list(process.up)
    process.up.clear()
    return messages


def test_nothing_to_send(process):
    assert not process.core.has_output
    assert sent(process) == []
    assert process.take_effects() == []


def test_rows_for_peers_go_last(process):
    process.core.send(OTHER, m.BorrowAck(1))
    process.core.to_broker(m.Goodbye("first"))
    process.core.send(OTHER, m.BorrowAck(2))
    assert process.core.has_output
    first, second = sent(process)
    assert first == m.Goodbye("first")
    assert unpack_messages(second.rows, m.FROM_PEER) == [m.BorrowAck(1), m.BorrowAck(2)]
    assert not process.core.has_output


def test_rows_for_peers_are_cut_into_messages(process):
    """The size of a message is limited; thousands of values may be requested in one turn."""
    states = [m.ObjectState(bytes([n]) * 28, 1, bytes(100_000), b"", 0, b"") for n in range(100)]
    for state in states:
        process.core.send(OTHER, state)
    peers = sent(process)
    assert max(len(peer.rows) for peer in peers) < 2 << 20
    assert [state for peer in peers for state in unpack_messages(peer.rows, m.FROM_PEER)] == states


def test_a_row_for_oneself_is_handled_at_once(process):
    process.core.send(process.id, m.BorrowAck(77))
    assert sent(process) == []


def test_only_peer_messages_come_from_peers(process):
    rows = msgpack.packb([encode_row(m.Goodbye("I am you"))])
    with pytest.raises(ProtocolError):
        process.core.receive(BROKER, m.Delivered(OTHER, rows), 0.0)
    with pytest.raises(ProtocolError):
        process.core.receive(BROKER, m.Delivered(OTHER, b"\xc1"), 0.0)


def test_functions_are_shipped_once(process):
    for _ in range(2):
        process.core.export(FUNCTION, "f", b"code")
    assert sent(process) == [m.FunctionPut(FUNCTION, "f", b"code")]


def test_questions_and_answers(process):
    answers: list[object] = []
    process.core.query(lambda request: MemberQuery(request, OTHER[:16]), answers.append)
    process.core.query(HostsQuery, answers.append)
    assert sent(process) == [MemberQuery(1, OTHER[:16]), HostsQuery(2)]
    hosts, membership = HostList(2, []), Membership(1, True)
    for answer in (hosts, membership, Membership(1, False)):
        process.core.receive(BROKER, answer, 0.0)
    assert answers == [hosts, membership]


@pytest.mark.parametrize("question", [HostsQuery(1), m.ActorLookup(1, "n", "")])
def test_a_question_that_cannot_be_sent_has_no_answer(process, question):
    answers: list[object] = []
    process.core.new_request(answers.append)
    process.core.rejected(question, "it is too large", 0.0)
    assert answers == [None]


def test_an_actor_is_looked_up(process):
    answers: list[object] = []
    request = process.core.new_request(answers.append)
    found = m.ActorFound(request, OTHER, actor_spec(class_name="A"))
    missing = m.NoSuchActor(process.core.new_request(answers.append))
    taken = m.NameTaken(process.core.new_request(answers.append), is_dead=True)
    for answer in (found, missing, taken):
        process.core.receive(BROKER, answer, 0.0)
    assert answers == [found, missing, taken]


def test_effects(process):
    process.core.receive(BROKER, m.Notice("careful"), 0.0)
    lines = [PrintedLines("f", 1, "stdout", ["line"])]
    process.core.receive(BROKER, m.Logs(lines, 2), 0.0)
    process.core.perform("mine")
    assert process.take_effects() == [Warn("careful"), ShowLogs(lines, 2), "mine"]


def test_the_cluster_is_lost(process):
    answers: list[object] = []
    process.core.query(CountsQuery, answers.append)
    borrowed = OTHER + bytes(12)
    process.core.references.load(borrowed)
    process.core.lose_cluster("the broker is gone", 0.0)
    assert answers == [None]
    assert b"ClusterUnavailableError" in process.entry(borrowed).data


# ------------------------------------------------------------------ the places of stored objects


@pytest.fixture
def core(process) -> ClientCore:
    return process.core


def stored(core: ClientCore, keeper: bytes) -> bytes:
    """An object of this process in the store of a host."""
    object_id = put_id(core.new_task_id())
    core.references.own(object_id)
    core.references.resolve(object_id, STORED, b"", keeper, 100)
    return object_id


def said(core: ClientCore, dest: bytes) -> list[Any]:
    """The messages that it sends to a process."""
    rows = [message.rows for message in _sends(core) if isinstance(message, m.Forward) and message.dest == dest]
    return [inner for each in rows for inner in unpack_messages(each, m.FROM_PEER | m.FROM_PEER_TO_HOST)]


def tell(core: ClientCore, source: bytes, message: Any) -> None:
    core.receive(BROKER, m.Delivered(source, msgpack.packb([encode_row(message)])), 0.0)


KEEPER, ONE, TWO = b"keeper".ljust(16, b"."), b"one".ljust(16, b"."), b"two".ljust(16, b".")


def test_an_owner_says_who_has_an_object(core):
    object_id = stored(core, KEEPER)
    tell(core, ONE, m.Locate(object_id, 7, True, []))
    assert said(core, ONE) == [m.Located(object_id, 7, 100, [KEEPER], "", "")]
    tell(core, TWO, m.Locate(object_id, 8, True, []))
    assert said(core, TWO) == [m.Located(object_id, 8, 100, [ONE], "", "")]
    tell(core, TWO, m.Locate(object_id, 9, True, [KEEPER, ONE]))
    assert said(core, TWO)[0].kind == "ObjectReconstructionFailedError"
    tell(core, TWO, m.Locate(put_id(core.new_task_id()), 10, True, []))
    assert said(core, TWO)[0].kind == "ObjectFreedError"


@pytest.mark.parametrize("order", ["copies first", "death first"])
def test_copies_become_the_object_when_its_keeper_dies(core, order):
    object_id = stored(core, KEEPER)
    died = m.ProcessDied(KEEPER, "killed")
    copies = [(host, m.CopyMade(object_id)) for host in (ONE, TWO)]
    if order == "copies first":
        for host, message in copies:
            tell(core, host, message)
        core.receive(BROKER, died, 0.0)
        assert core.references.entries[object_id].host == ONE
        # Both hosts are told: one of them may have evicted its copy.
        assert {m.KeepCopies} == {type(each) for host in (ONE,) for each in said(core, host)}
    else:
        core.receive(BROKER, died, 0.0)
        tell(core, ONE, copies[0][1])
        assert core.references.entries[object_id].host == ONE
        assert said(core, ONE) == [m.KeepCopies([object_id])]


def test_a_copy_of_what_is_freed_is_freed(core):
    tell(core, ONE, m.CopyMade(put_id(core.new_task_id())))
    assert [type(each) for each in said(core, ONE)] == [m.FreeObjects]


def test_a_copy_of_what_is_not_stored_is_freed(core):
    object_id = put_id(core.new_task_id())
    core.references.own(object_id)
    core.references.resolve(object_id, INLINE, b"small", b"", 0)
    tell(core, ONE, m.CopyMade(object_id))
    assert said(core, ONE) == [m.FreeObjects([object_id])]
    assert core.locations.complete(object_id) == []


def _sends(core: ClientCore) -> list[Any]:
    return through_broker(core.take_output().sends)


def freed(core: ClientCore) -> list[FreeSegment]:
    return [effect for effect in core.take_output().effects if isinstance(effect, FreeSegment)]


def test_what_a_dead_worker_has_stored_and_is_not_needed_is_freed_there(core):
    unknown, resolved, kept = return_id(core.new_task_id(), 1), return_id(core.new_task_id(), 1), stored(core, KEEPER)
    core.references.own(resolved)
    core.references.resolve(resolved, INLINE, b"", b"", 0)
    tell(core, KEEPER, m.LeftBehind([unknown, resolved, kept]))
    assert freed(core) == [FreeSegment(KEEPER, unknown), FreeSegment(KEEPER, resolved)]


def test_what_an_earlier_attempt_has_stored_is_freed_with_the_object(core):
    """It is not freed before: until then that host may have a copy of the object, under the same identifier."""
    object_id = stored(core, KEEPER)
    tell(core, ONE, m.LeftBehind([object_id]))
    assert freed(core) == [] and core.locations.complete(object_id) == []
    core.dropped.append(object_id)
    core.collect(0.0)
    assert freed(core) == [FreeSegment(KEEPER, object_id), FreeSegment(ONE, object_id)]


@pytest.mark.parametrize(
    "message",
    [lambda i: m.Locate(i, 1, True, []), m.CopyMade, m.CopyGone, lambda i: m.LeftBehind([i])],
    ids=["Locate", "CopyMade", "CopyGone", "LeftBehind"],
)
def test_messages_about_objects_of_another_process_are_refused(core, message):
    """Also if this process has borrowed the object: only the owner knows where it is."""
    object_id = OTHER + bytes(12)
    core.references.load(object_id)
    core.references.resolve(object_id, STORED, b"", KEEPER, 100)
    core.take_output()
    tell(core, ONE, message(object_id))
    assert core.faults == 1
    assert said(core, ONE) == []
    assert core.locations.forget(object_id) == []


def test_no_process_dials_or_pulls_from_a_client(core):
    tell(core, ONE, m.ChannelWanted(b"key"))
    tell(core, ONE, m.Pull(b"o" * 28, 3, 0, 10, False))
    answers = said(core, ONE)
    assert answers[0] == m.ChannelOffer("", b"", b"") and type(answers[1]) is m.PullFailed
