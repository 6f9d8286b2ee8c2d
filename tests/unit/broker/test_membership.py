"""The membership core alone: admission, the connections that count as a member's, and deaths."""

from __future__ import annotations

from typing import Any

import pytest

from zray import version
from zray.broker.membership import (
    FAULT_BYTES,
    MAX_FAULTS,
    PAUSE_S,
    REDIAL_SHARE,
    VANISHED_TIMES,
    Congested,
    Dead,
    Follow,
    Heard,
    Joining,
    Membership,
    Misbehaving,
    NotSent,
    Reply,
    Rules,
    Unfollow,
)
from zray.protocol.codec import KIND_DATA, pack_body, pack_frame, pack_handshake, read_frame, unpack_handshake
from zray.protocol.link import MAX_BACKLOG_BYTES
from zray.protocol.messages import (
    DRIVER,
    HOST,
    OBSERVER,
    PROTOCOL_VERSION,
    WORKER,
    FunctionBlob,
    Hello,
    Notice,
    Refused,
    Watch,
    Welcome,
)
from zray.protocol.records import ClusterInfo, JoinInfo
from zray.protocol.routing import Arrival

INCARNATION = b"incarnat"
SILENCE_S = 6.0
HOST_KEY, DRIVER_KEY = b"a host's key", b"a driver's key"
ROLES = {HOST_KEY: "host", DRIVER_KEY: "driver"}


class MembershipHarness:
    """The core and its clock, with the keys and processes that the rest of a broker would know."""

    def __init__(self, tcp: bool = True) -> None:
        self.now = 100.0
        self.roles: dict[bytes, str] = dict(ROLES)
        self.unknown: dict[bytes, str] = {}  # processes that may not join, and why
        self.relays: dict[bytes, bytes] = {}  # by worker: the host that started it
        self.unanswered: dict[bytes, float] = {}
        self.effects: list[Any] = []
        self.frames: dict[bytes, list[bytes]] = {}
        rules = Rules(1.0, SILENCE_S, 1 << 20, tcp)
        self.core = Membership(
            INCARNATION, rules, self.roles.get if tcp else None, self._objection,
            lambda through: self.unanswered.get(through, 0.0),
        )  # fmt: skip

    def _objection(self, process_id: bytes, kind: str, relay: bytes) -> str:
        if kind == WORKER and self.relays.get(process_id, relay) != relay:
            return "another host's worker"
        return self.unknown.get(process_id, "")

    def turn(self) -> list[Any]:
        """Takes the core's output until it is empty. Returns the effects."""
        found: list[Any] = []
        while True:
            output = self.core.take_output()
            found += output.effects
            for process_id, frames in output.sends.items():
                self.frames.setdefault(process_id, []).extend(frames)
            self.core.check()
            if not output.effects:
                return found

    def say(self, process_id: bytes, data: bytes, through: bytes = b"", key: bytes = b"") -> list[Any]:
        arrival = Arrival(process_id, through or b"c" + process_id, key or DRIVER_KEY, data)
        self.core.receive(arrival.through, arrival, self.now)
        return self.turn()

    def hello(
        self, process_id: bytes, kind: str = DRIVER, through: bytes = b"", key: bytes = b"", **changes: Any
    ) -> list[Any]:
        hello = Hello(PROTOCOL_VERSION, version.python_version(), version.VERSION, kind, process_id, JoinInfo())
        key = key or (DRIVER_KEY if kind in (DRIVER, OBSERVER) else HOST_KEY)
        return self.say(process_id, pack_handshake(hello._replace(**changes)), through, key)

    def join(self, process_id: bytes, kind: str = DRIVER, through: bytes = b"", key: bytes = b"") -> list[Any]:
        """Joins a process, which the broker's core accepts."""
        assert self.hello(process_id, kind, through, key) == [Joining(process_id, kind, JoinInfo())]
        self.core.admit(process_id, ClusterInfo(b"j"), self.now)
        return self.turn()

    def tick(self, seconds: float) -> list[Any]:
        self.now += seconds
        self.core.tick(self.now)
        return self.turn()


def refusal(effects: list[Any]) -> str:
    """The reason for which a process was refused."""
    (reply,) = (effect for effect in effects if isinstance(effect, Reply))
    assert isinstance(reply, Reply)
    answer = unpack_handshake(read_frame(reply.data))
    assert isinstance(answer, Refused)
    return answer.reason


def frame(*messages: Any, seq: int = 1, incarnation: bytes = INCARNATION) -> bytes:
    return pack_frame(KIND_DATA, incarnation, seq, 0, pack_body(messages))


@pytest.fixture
def harness() -> MembershipHarness:
    return MembershipHarness()


ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))


# ------------------------------------------------------------------ joining


def test_a_process_is_welcomed_and_heard(harness: MembershipHarness) -> None:
    follow, reply = harness.join(ONE)
    assert follow == Follow(b"c" + ONE) and (reply.through, reply.process_id) == (b"c" + ONE, ONE)
    welcome = unpack_handshake(read_frame(reply.data))
    assert welcome == Welcome(INCARNATION, 1 << 20, ClusterInfo(b"j"))
    assert harness.say(ONE, frame(Watch(TWO))) == [Heard(ONE, [Watch(TWO)])]


def test_hello_again_is_answered_again_by_the_same_link(harness: MembershipHarness) -> None:
    harness.join(ONE)
    link = harness.core.members[ONE].link
    assert [type(effect) for effect in harness.join(ONE)] == [Reply]
    assert harness.core.members[ONE].link is link


def test_two_hellos_in_one_turn_are_one_member(harness: MembershipHarness) -> None:
    hello = pack_handshake(Hello(PROTOCOL_VERSION, version.python_version(), version.VERSION, DRIVER, ONE, JoinInfo()))
    for _ in range(2):
        harness.core.receive(b"c", Arrival(ONE, b"c", DRIVER_KEY, hello), harness.now)
    assert harness.turn() == [Joining(ONE, DRIVER, JoinInfo())] * 2
    for _ in range(2):
        harness.core.admit(ONE, ClusterInfo(), harness.now)
    assert [type(effect) for effect in harness.turn()] == [Follow, Reply]


@pytest.mark.parametrize(("name", "value"), [("protocol", PROTOCOL_VERSION + 1), ("python", "2.7")])
def test_another_version_is_refused(harness: MembershipHarness, name: str, value: Any) -> None:
    assert refusal(harness.hello(ONE, **{name: value})) == "versions differ"
    assert harness.core.refused == {"versions differ": 1} and not harness.core.members


@pytest.mark.parametrize(
    ("kind", "key", "why"),
    [
        (DRIVER, HOST_KEY, "a host's key does not admit a driver"),
        (OBSERVER, HOST_KEY, "a host's key does not admit an observer"),
        (HOST, DRIVER_KEY, "a driver's key does not admit a host"),
        (DRIVER, b"unknown", "its key has been revoked"),
        (WORKER, HOST_KEY, "a worker must join through its host"),
    ],
)
def test_keys_admit_their_role_only(harness: MembershipHarness, kind: str, key: bytes, why: str) -> None:
    assert refusal(harness.hello(ONE, kind, key=key)) == why


def test_workers_join_through_their_own_host_only(harness: MembershipHarness) -> None:
    harness.join(ONE, HOST, b"way")
    harness.join(TWO, HOST, b"other way")
    harness.relays[THREE] = ONE
    assert refusal(harness.hello(THREE, WORKER, b"other way")) == "another host's worker"
    harness.join(THREE, WORKER, b"way")
    assert refusal(harness.hello(b"4" * 16, DRIVER, b"way", DRIVER_KEY)) == "a driver must join by its own connection"
    assert harness.core.route(THREE) == b"way"


def test_unknown_and_dead_processes_are_refused(harness: MembershipHarness) -> None:
    harness.unknown[ONE] = "this process was declared dead: it was silent"
    assert refusal(harness.hello(ONE)) == harness.unknown[ONE]
    assert harness.core.refused == {"this process was declared dead": 1}
    assert refusal(harness.say(ONE, frame(Watch(TWO)))) == harness.unknown[ONE]


def test_a_declined_process_is_not_answered(harness: MembershipHarness) -> None:
    harness.hello(ONE)
    harness.core.decline(ONE, harness.now)
    assert harness.turn() == [] and not harness.core.members and harness.core.dropped_frames == 1


def test_over_ipc_workers_join_by_their_own_connection() -> None:
    harness = MembershipHarness(tcp=False)
    harness.join(ONE, HOST, ONE)
    assert [type(effect) for effect in harness.join(TWO, WORKER, TWO)] == [Reply]


# ------------------------------------------------------------------ frames in another name


def test_frames_of_another_connection_or_key_are_dropped(harness: MembershipHarness) -> None:
    harness.join(ONE)
    harness.roles[b"another key"] = "driver"
    assert harness.say(ONE, frame(Watch(TWO)), through=b"elsewhere") == []
    assert harness.say(ONE, frame(Watch(TWO)), key=b"another key") == []
    assert refusal(harness.hello(ONE, through=b"elsewhere")) == "another process has joined under its name"
    assert harness.core.dropped_frames == 2 and harness.core.members[ONE].faults == 0, "the member is not blamed"
    assert harness.say(ONE, frame(Watch(TWO))) == [Heard(ONE, [Watch(TWO)])]


def test_frames_of_non_members_and_earlier_incarnations_are_dropped(harness: MembershipHarness) -> None:
    assert harness.say(ONE, frame(Watch(TWO))) == []
    assert harness.say(ONE, b"no frame") == []
    harness.join(ONE)
    assert harness.say(ONE, frame(Watch(TWO), incarnation=b"earlier!")) == []
    assert harness.core.dropped_frames == 3


def test_a_hello_in_another_name_is_dropped(harness: MembershipHarness) -> None:
    hello = Hello(PROTOCOL_VERSION, version.python_version(), version.VERSION, DRIVER, TWO, JoinInfo())
    assert harness.say(ONE, pack_handshake(hello)) == [] and harness.core.dropped_frames == 1


def test_too_many_malformed_frames_are_reported_once(harness: MembershipHarness) -> None:
    harness.join(ONE)
    for _ in range(MAX_FAULTS - 1):
        assert harness.say(ONE, b"no frame") == []
    (harmful,) = harness.say(ONE, b"no frame")
    assert isinstance(harmful, Misbehaving) and "too many malformed messages" in harmful.reason
    assert harness.say(ONE, frame(Watch(TWO))) == [], "it is being expelled"


def test_a_large_malformed_frame_counts_more(harness: MembershipHarness) -> None:
    harness.join(ONE)
    found = [effect for _ in range(10) for effect in harness.say(ONE, bytes(10 * FAULT_BYTES))]
    assert [type(effect) for effect in found] == [Misbehaving]


def test_messages_that_the_core_refuses_count_too(harness: MembershipHarness) -> None:
    harness.join(ONE)
    for _ in range(MAX_FAULTS):
        harness.core.blame(ONE, "not its own", harness.now)
    assert harness.turn() == [Misbehaving(ONE, "it has sent too many malformed messages, the last: not its own")]
    harness.core.blame(THREE, "unknown", harness.now)
    assert harness.turn() == []


# ------------------------------------------------------------------ sending


def test_messages_go_to_members_by_their_connections(harness: MembershipHarness) -> None:
    harness.join(ONE, HOST, b"way")
    harness.join(TWO, WORKER, b"way")
    harness.core.send(TWO, [Notice("a"), Notice("b")], harness.now)
    harness.core.send(THREE, [Notice("nobody there")], harness.now)
    harness.turn()
    assert list(harness.frames) == [TWO] and len(harness.frames[TWO]) == 1
    assert (harness.core.route(TWO), harness.core.route(THREE)) == (b"way", THREE)


def test_frames_leave_after_all_input_was_handled(harness: MembershipHarness) -> None:
    harness.join(ONE)
    harness.core.send(ONE, [Notice("an answer")], harness.now)
    harness.core.receive(b"c" + ONE, Arrival(ONE, b"c" + ONE, DRIVER_KEY, frame(Watch(TWO))), harness.now)
    first, second = harness.core.take_output(), harness.core.take_output()
    assert (list(first.sends), first.effects) == ([], [Heard(ONE, [Watch(TWO)])])
    assert (list(second.sends), second.effects) == ([ONE], [])


def test_congestion_and_its_end_are_reported_once(harness: MembershipHarness) -> None:
    harness.join(ONE)
    blob = FunctionBlob(bytes(16), True, "f", bytes(1 << 19))
    harness.core.send(ONE, [blob] * (2 + MAX_BACKLOG_BYTES // len(blob.blob)), harness.now)
    assert harness.turn() == [Congested(ONE, True)]
    harness.core.send(ONE, [Notice("more")], harness.now)
    assert harness.turn() == []
    acknowledged = pack_frame(KIND_DATA, INCARNATION, 0, len(harness.frames[ONE]), b"")
    assert harness.say(ONE, acknowledged) == [Congested(ONE, False)]


def test_a_message_that_cannot_be_sent_is_reported(harness: MembershipHarness) -> None:
    harness.join(ONE)
    harness.core.send(ONE, [Notice("x" * (2 << 20))], harness.now)
    (not_sent,) = harness.turn()
    assert isinstance(not_sent, NotSent) and "max_message_bytes" in not_sent.reason


# ------------------------------------------------------------------ leaving


def test_a_departed_process_still_gets_the_messages_of_the_turn(harness: MembershipHarness) -> None:
    harness.join(ONE)
    harness.core.send(ONE, [Notice("farewell")], harness.now)
    harness.core.departed(ONE, harness.now)
    assert harness.turn() == [] and harness.frames[ONE] and harness.core.route(ONE) == b"c" + ONE
    harness.core.turn_over(harness.now)
    assert harness.turn() == [Unfollow(b"c" + ONE)]
    assert not harness.core.members and harness.say(ONE, frame(Watch(TWO))) == []


def silent(harness: MembershipHarness, seconds: float) -> list[Any]:
    """Ticks for some seconds, in which no process sends anything. Returns the effects."""
    found = []
    for _ in range(round(seconds / 0.25)):
        found += harness.tick(0.25)
    return found


@pytest.mark.parametrize("kind", [HOST, WORKER, DRIVER, OBSERVER])
def test_a_silent_host_is_dead(harness: MembershipHarness, kind: str) -> None:
    """A driver's user code may hold the GIL, and a worker's death is reported by its host."""
    harness.join(TWO, HOST, b"way")
    harness.join(ONE, kind, b"way" if kind == WORKER else b"")
    dead = {effect.process_id for effect in silent(harness, SILENCE_S + 1) if isinstance(effect, Dead)}
    assert dead == ({ONE, TWO} if kind == HOST else {TWO})


def test_a_silent_driver_whose_connection_is_gone_is_dead(harness: MembershipHarness) -> None:
    harness.join(ONE)
    silent(harness, SILENCE_S + 1)
    harness.core.transmitted(ONE, False, harness.now)
    assert silent(harness, SILENCE_S * REDIAL_SHARE - 0.5) == []
    assert Dead(ONE, "the driver was not heard for 6 s") in silent(harness, 1.0)


def test_a_silent_driver_that_connects_again_lives(harness: MembershipHarness) -> None:
    harness.join(ONE)
    silent(harness, SILENCE_S + 1)
    for _ in range(10):
        harness.core.transmitted(ONE, False, harness.now)
        assert silent(harness, SILENCE_S * REDIAL_SHARE - 0.5) == []
        harness.core.transmitted(ONE, True, harness.now)
        assert silent(harness, 1.0) == []


def test_a_silent_driver_whose_machine_vanished_is_dead_in_the_end(harness: MembershipHarness) -> None:
    harness.join(ONE)
    silent(harness, SILENCE_S + 1)
    harness.unanswered[b"c" + ONE] = SILENCE_S * VANISHED_TIMES - 1
    assert silent(harness, 1.0) == []
    harness.unanswered[b"c" + ONE] += 2
    assert Dead(ONE, "the driver was not heard for 6 s") in silent(harness, 0.25)


def test_silence_while_the_broker_was_stopped_does_not_count(harness: MembershipHarness) -> None:
    harness.join(ONE, HOST)
    harness.tick(0.25)
    assert harness.tick(SILENCE_S + PAUSE_S) == []
    assert harness.core.silent_s(ONE, harness.now) < SILENCE_S
    assert [effect.process_id for effect in silent(harness, SILENCE_S)][:1] == [ONE]


def test_a_revoked_key_ends_all_processes_that_joined_with_it(harness: MembershipHarness) -> None:
    harness.join(ONE, HOST, b"way")
    harness.join(TWO, WORKER, b"way")
    harness.join(THREE)
    assert silent(harness, 0.25) == []
    del harness.roles[HOST_KEY]
    assert silent(harness, 0.25) == [Dead(ONE, "its key has been revoked"), Dead(TWO, "its key has been revoked")]
