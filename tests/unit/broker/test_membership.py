"""Who is let in, who may speak in whose name, and who counts as dead: the core alone."""

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


class BrokerSocket:
    """The core, its clock, and the keys and processes that the rest of a broker would know."""

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
        """What the core wants done, until it wants nothing more."""
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
        """It comes, and the broker's core knows it."""
        assert self.hello(process_id, kind, through, key) == [Joining(process_id, kind, JoinInfo())]
        self.core.admit(process_id, ClusterInfo(b"j"), self.now)
        return self.turn()

    def tick(self, seconds: float) -> list[Any]:
        self.now += seconds
        self.core.tick(self.now)
        return self.turn()


def refusal(effects: list[Any]) -> str:
    """Why a process was turned away."""
    (reply,) = (effect for effect in effects if isinstance(effect, Reply))
    assert isinstance(reply, Reply)
    answer = unpack_handshake(read_frame(reply.data))
    assert isinstance(answer, Refused)
    return answer.reason


def frame(*messages: Any, seq: int = 1, incarnation: bytes = INCARNATION) -> bytes:
    return pack_frame(KIND_DATA, incarnation, seq, 0, pack_body(messages))


@pytest.fixture
def door() -> BrokerSocket:
    return BrokerSocket()


ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))


# ------------------------------------------------------------------ joining


def test_a_process_is_welcomed_and_heard(door: BrokerSocket) -> None:
    follow, reply = door.join(ONE)
    assert follow == Follow(b"c" + ONE) and (reply.through, reply.process_id) == (b"c" + ONE, ONE)
    welcome = unpack_handshake(read_frame(reply.data))
    assert welcome == Welcome(INCARNATION, 1 << 20, ClusterInfo(b"j"))
    assert door.say(ONE, frame(Watch(TWO))) == [Heard(ONE, [Watch(TWO)])]


def test_hello_again_is_answered_again_by_the_same_link(door: BrokerSocket) -> None:
    door.join(ONE)
    link = door.core.members[ONE].link
    assert [type(effect) for effect in door.join(ONE)] == [Reply]
    assert door.core.members[ONE].link is link


def test_two_hellos_in_one_turn_are_one_member(door: BrokerSocket) -> None:
    hello = pack_handshake(Hello(PROTOCOL_VERSION, version.python_version(), version.VERSION, DRIVER, ONE, JoinInfo()))
    for _ in range(2):
        door.core.receive(b"c", Arrival(ONE, b"c", DRIVER_KEY, hello), door.now)
    assert door.turn() == [Joining(ONE, DRIVER, JoinInfo())] * 2
    for _ in range(2):
        door.core.admit(ONE, ClusterInfo(), door.now)
    assert [type(effect) for effect in door.turn()] == [Follow, Reply]


@pytest.mark.parametrize(("name", "value"), [("protocol", PROTOCOL_VERSION + 1), ("python", "2.7")])
def test_another_version_is_refused(door: BrokerSocket, name: str, value: Any) -> None:
    assert refusal(door.hello(ONE, **{name: value})) == "versions differ"
    assert door.core.refused == {"versions differ": 1} and not door.core.members


@pytest.mark.parametrize(
    ("kind", "key", "why"),
    [
        (DRIVER, HOST_KEY, "a host's key does not admit a driver"),
        (OBSERVER, HOST_KEY, "a host's key does not admit a observer"),
        (HOST, DRIVER_KEY, "a driver's key does not admit a host"),
        (DRIVER, b"unknown", "its key has been revoked"),
        (WORKER, HOST_KEY, "a worker must join through its host"),
    ],
)
def test_keys_admit_their_role_only(door: BrokerSocket, kind: str, key: bytes, why: str) -> None:
    assert refusal(door.hello(ONE, kind, key=key)) == why


def test_workers_come_through_their_own_host_only(door: BrokerSocket) -> None:
    door.join(ONE, HOST, b"way")
    door.join(TWO, HOST, b"other way")
    door.relays[THREE] = ONE
    assert refusal(door.hello(THREE, WORKER, b"other way")) == "another host's worker"
    door.join(THREE, WORKER, b"way")
    assert refusal(door.hello(b"4" * 16, DRIVER, b"way", DRIVER_KEY)) == "a driver must join by its own connection"
    assert door.core.route(THREE) == b"way"


def test_who_is_unknown_or_dead_is_refused(door: BrokerSocket) -> None:
    door.unknown[ONE] = "this process was declared dead: it was silent"
    assert refusal(door.hello(ONE)) == door.unknown[ONE]
    assert door.core.refused == {"this process was declared dead": 1}
    assert refusal(door.say(ONE, frame(Watch(TWO)))) == door.unknown[ONE]


def test_what_a_process_says_of_itself_is_no_good(door: BrokerSocket) -> None:
    door.hello(ONE)
    door.core.decline(ONE, door.now)
    assert door.turn() == [] and not door.core.members and door.core.dropped_frames == 1


def test_without_keys_and_connections_of_their_own_everybody_comes_by_itself() -> None:
    door = BrokerSocket(tcp=False)
    door.join(ONE, HOST, ONE)
    assert [type(effect) for effect in door.join(TWO, WORKER, TWO)] == [Reply]


# ------------------------------------------------------------------ in whose name


def test_another_connection_or_key_does_not_speak_in_its_name(door: BrokerSocket) -> None:
    door.join(ONE)
    door.roles[b"another key"] = "driver"
    assert door.say(ONE, frame(Watch(TWO)), through=b"elsewhere") == []
    assert door.say(ONE, frame(Watch(TWO)), key=b"another key") == []
    assert refusal(door.hello(ONE, through=b"elsewhere")) == "another process has joined under its name"
    assert door.core.dropped_frames == 2 and door.core.members[ONE].faults == 0, "it is not blamed for it"
    assert door.say(ONE, frame(Watch(TWO))) == [Heard(ONE, [Watch(TWO)])]


def test_strangers_and_earlier_brokers_members_are_not_heard(door: BrokerSocket) -> None:
    assert door.say(ONE, frame(Watch(TWO))) == []
    assert door.say(ONE, b"no frame") == []
    door.join(ONE)
    assert door.say(ONE, frame(Watch(TWO), incarnation=b"earlier!")) == []
    assert door.core.dropped_frames == 3


def test_hello_in_anothers_name_is_no_hello(door: BrokerSocket) -> None:
    hello = Hello(PROTOCOL_VERSION, version.python_version(), version.VERSION, DRIVER, TWO, JoinInfo())
    assert door.say(ONE, pack_handshake(hello)) == [] and door.core.dropped_frames == 1


def test_too_much_that_is_no_good_is_harmful_once(door: BrokerSocket) -> None:
    door.join(ONE)
    for _ in range(MAX_FAULTS - 1):
        assert door.say(ONE, b"no frame") == []
    (harmful,) = door.say(ONE, b"no frame")
    assert isinstance(harmful, Misbehaving) and "too many malformed messages" in harmful.reason
    assert door.say(ONE, frame(Watch(TWO))) == [], "its end is under way"


def test_large_nonsense_weighs_more(door: BrokerSocket) -> None:
    door.join(ONE)
    found = [effect for _ in range(10) for effect in door.say(ONE, bytes(10 * FAULT_BYTES))]
    assert [type(effect) for effect in found] == [Misbehaving]


def test_what_the_brokers_core_finds_no_good_counts_too(door: BrokerSocket) -> None:
    door.join(ONE)
    for _ in range(MAX_FAULTS):
        door.core.blame(ONE, "not its own", door.now)
    assert door.turn() == [Misbehaving(ONE, "it has sent too many malformed messages, the last: not its own")]
    door.core.blame(THREE, "unknown", door.now)
    assert door.turn() == []


# ------------------------------------------------------------------ sending


def test_what_is_for_a_member_goes_its_way(door: BrokerSocket) -> None:
    door.join(ONE, HOST, b"way")
    door.join(TWO, WORKER, b"way")
    door.core.send(TWO, [Notice("a"), Notice("b")], door.now)
    door.core.send(THREE, [Notice("nobody there")], door.now)
    door.turn()
    assert list(door.frames) == [TWO] and len(door.frames[TWO]) == 1
    assert (door.core.route(TWO), door.core.route(THREE)) == (b"way", THREE)


def test_frames_leave_when_what_came_in_has_been_dealt_with(door: BrokerSocket) -> None:
    door.join(ONE)
    door.core.send(ONE, [Notice("an answer")], door.now)
    door.core.receive(b"c" + ONE, Arrival(ONE, b"c" + ONE, DRIVER_KEY, frame(Watch(TWO))), door.now)
    first, second = door.core.take_output(), door.core.take_output()
    assert (list(first.sends), first.effects) == ([], [Heard(ONE, [Watch(TWO)])])
    assert (list(second.sends), second.effects) == ([ONE], [])


def test_congestion_is_told_once_and_taken_back(door: BrokerSocket) -> None:
    door.join(ONE)
    blob = FunctionBlob(bytes(16), True, "f", bytes(1 << 19))
    door.core.send(ONE, [blob] * (2 + MAX_BACKLOG_BYTES // len(blob.blob)), door.now)
    assert door.turn() == [Congested(ONE, True)]
    door.core.send(ONE, [Notice("more")], door.now)
    assert door.turn() == []
    acknowledged = pack_frame(KIND_DATA, INCARNATION, 0, len(door.frames[ONE]), b"")
    assert door.say(ONE, acknowledged) == [Congested(ONE, False)]


def test_what_cannot_travel_is_told(door: BrokerSocket) -> None:
    door.join(ONE)
    door.core.send(ONE, [Notice("x" * (2 << 20))], door.now)
    (not_sent,) = door.turn()
    assert isinstance(not_sent, NotSent) and "max_message_bytes" in not_sent.reason


# ------------------------------------------------------------------ leaving


def test_who_departs_is_still_sent_what_the_turn_has_for_it(door: BrokerSocket) -> None:
    door.join(ONE)
    door.core.send(ONE, [Notice("farewell")], door.now)
    door.core.departed(ONE, door.now)
    assert door.turn() == [] and door.frames[ONE] and door.core.route(ONE) == b"c" + ONE
    door.core.turn_over(door.now)
    assert door.turn() == [Unfollow(b"c" + ONE)]
    assert not door.core.members and door.say(ONE, frame(Watch(TWO))) == []


def silent(door: BrokerSocket, seconds: float) -> list[Any]:
    """Ticks for so long, in which nothing is heard of anybody; what came of it."""
    found = []
    for _ in range(round(seconds / 0.25)):
        found += door.tick(0.25)
    return found


@pytest.mark.parametrize("kind", [HOST, WORKER, DRIVER, OBSERVER])
def test_silence_is_death_for_hosts(door: BrokerSocket, kind: str) -> None:
    """A driver's user code may hold its interpreter, and whether a worker lives is known to its host."""
    door.join(TWO, HOST, b"way")
    door.join(ONE, kind, b"way" if kind == WORKER else b"")
    dead = {effect.process_id for effect in silent(door, SILENCE_S + 1) if isinstance(effect, Dead)}
    assert dead == ({ONE, TWO} if kind == HOST else {TWO})


def test_a_silent_driver_whose_connection_is_gone_is_dead(door: BrokerSocket) -> None:
    door.join(ONE)
    silent(door, SILENCE_S + 1)
    door.core.transmitted(ONE, False, door.now)
    assert silent(door, SILENCE_S * REDIAL_SHARE - 0.5) == []
    assert Dead(ONE, "the driver was not heard for 6 s") in silent(door, 1.0)


def test_a_silent_driver_that_dials_anew_lives(door: BrokerSocket) -> None:
    door.join(ONE)
    silent(door, SILENCE_S + 1)
    for _ in range(10):
        door.core.transmitted(ONE, False, door.now)
        assert silent(door, SILENCE_S * REDIAL_SHARE - 0.5) == []
        door.core.transmitted(ONE, True, door.now)
        assert silent(door, 1.0) == []


def test_a_silent_driver_whose_machine_vanished_is_dead_in_the_end(door: BrokerSocket) -> None:
    door.join(ONE)
    silent(door, SILENCE_S + 1)
    door.unanswered[b"c" + ONE] = SILENCE_S * VANISHED_TIMES - 1
    assert silent(door, 1.0) == []
    door.unanswered[b"c" + ONE] += 2
    assert Dead(ONE, "the driver was not heard for 6 s") in silent(door, 0.25)


def test_silence_is_forgiven_when_the_broker_itself_stood_still(door: BrokerSocket) -> None:
    door.join(ONE, HOST)
    door.tick(0.25)
    assert door.tick(SILENCE_S + PAUSE_S) == []
    assert door.core.silent_s(ONE, door.now) < SILENCE_S
    assert [effect.process_id for effect in silent(door, SILENCE_S)][:1] == [ONE]


def test_a_revoked_key_ends_whoever_came_with_it(door: BrokerSocket) -> None:
    door.join(ONE, HOST, b"way")
    door.join(TWO, WORKER, b"way")
    door.join(THREE)
    assert silent(door, 0.25) == []
    del door.roles[HOST_KEY]
    assert silent(door, 0.25) == [Dead(ONE, "its key has been revoked"), Dead(TWO, "its key has been revoked")]
