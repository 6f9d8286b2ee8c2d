"""The two cores of a broker together: several frames in one turn, in any order."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from zray import version
from zray.broker.broker import Broker
from zray.broker.core import BrokerCore
from zray.broker.membership import MAX_FAULTS, Membership, Rules
from zray.broker.resources import UNIT
from zray.logs.line import ERROR, LogLine
from zray.protocol.codec import KIND_DATA, pack_body, pack_frame, pack_handshake, read_frame, unpack_handshake
from zray.protocol.messages import (
    DRIVER,
    HOST,
    PROTOCOL_VERSION,
    WORKER,
    Goodbye,
    Hello,
    HostReady,
    Refused,
    Welcome,
    WorkerDied,
)
from zray.protocol.records import HostInfo, JoinInfo
from zray.protocol.routing import Arrival

INCARNATION = b"incarnat"
HOST_ID, DRIVER_ID, OTHER = b"h" * 16, b"d" * 16, b"o" * 16


class Scene:
    """A broker without keys, and the connections to it. ``answers``: to handshakes, by process."""

    def __init__(self, is_tcp: bool) -> None:
        self.is_tcp = is_tcp
        self.now = 100.0
        self.answers: dict[bytes, list[Any]] = {}
        self.log: list[LogLine] = []
        numbers = itertools.count(1)
        core = BrokerCore(lambda: next(numbers).to_bytes(16, "big"))
        members = Membership(INCARNATION, Rules(1.0, 6.0, 1 << 20, is_tcp), None, core.may_join)
        self.broker = Broker(core, members, self, self.log.append)
        self._seqs: dict[bytes, Any] = {}

    @property
    def reports(self) -> list[str]:
        """The log lines of level ERROR."""
        return [line.text for line in self.log if line.level >= ERROR]

    def send(self, through: bytes, process_id: bytes, data: bytes) -> bool:
        frame = read_frame(data)
        if frame.kind != KIND_DATA:
            self.answers.setdefault(process_id, []).append(unpack_handshake(frame))
        return True

    def follow(self, through: bytes) -> None:
        return

    def unfollow(self, through: bytes) -> None:
        return

    def receives(self, process_id: bytes, data: bytes, through: bytes = b"") -> None:
        through = (through or b"c" + process_id) if self.is_tcp else process_id
        self.broker.receive(Arrival(process_id, through, b"", data), self.now)

    def hello(self, process_id: bytes, kind: str, through: bytes = b"") -> None:
        hello = Hello(PROTOCOL_VERSION, version.python_version(), version.VERSION, kind, process_id, JoinInfo(1))
        self.receives(process_id, pack_handshake(hello), through)

    def says(self, process_id: bytes, *messages: Any) -> None:
        seq = next(self._seqs.setdefault(process_id, itertools.count(1)))
        self.receives(process_id, pack_frame(KIND_DATA, INCARNATION, seq, 0, pack_body(messages)))

    def turn(self) -> None:
        self.broker.schedule(self.now)
        self.broker.send(self.now)
        self.broker.core.check()
        self.broker.members.check()
        assert not self.reports

    def host(self) -> bytes:
        """Joins a host with one CPU. Returns the worker that it was told to start."""
        self.hello(HOST_ID, HOST)
        self.says(HOST_ID, HostReady({"CPU": UNIT}, HostInfo("host")))
        self.turn()
        (worker_id,) = self.broker.core.workers.workers
        return worker_id

    def told(self, process_id: bytes) -> list[type]:
        return [type(answer) for answer in self.answers.get(process_id, [])]


@pytest.fixture(params=["ipc", "tcp"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(request.param == "tcp")


@pytest.mark.parametrize("how", ["it dies", "its host ends"])
@pytest.mark.parametrize("first", ["the death", "the hello"])
def test_a_worker_that_dies_as_it_joins(scene: Scene, how: str, first: str) -> None:
    """The host's message and the worker's Hello may come in any order, and in one turn."""
    worker_id = scene.host()

    def dies() -> None:
        if how == "it dies":
            scene.says(HOST_ID, WorkerDied(worker_id, b"", "WorkerCrashedError", "killed"))
        else:
            scene.says(HOST_ID, Goodbye("the host ends"))

    if first == "the death":
        dies()
    scene.hello(worker_id, WORKER, b"c" + HOST_ID)
    if first == "the hello":
        dies()
    scene.turn()
    assert scene.told(worker_id) == ([Refused] if first == "the death" else [Welcome])
    assert worker_id not in scene.broker.core.workers.workers
    scene.turn()
    assert worker_id not in scene.broker.core.processes and worker_id not in scene.broker.members.members


def test_a_driver_that_says_goodbye_and_hello_in_one_turn_is_gone(scene: Scene) -> None:
    scene.hello(DRIVER_ID, DRIVER)
    scene.turn()
    scene.says(DRIVER_ID, Goodbye("done"))
    scene.hello(DRIVER_ID, DRIVER)
    scene.turn()
    assert scene.told(DRIVER_ID) == [Welcome, Refused]
    assert not scene.broker.core.processes and not scene.broker.core.jobs and not scene.broker.members.members


def test_the_first_of_two_processes_with_one_identifier_is_the_member() -> None:
    scene = Scene(is_tcp=True)
    scene.hello(DRIVER_ID, DRIVER, b"good")
    scene.hello(DRIVER_ID, DRIVER, b"evil")
    scene.turn()
    assert scene.told(DRIVER_ID) == [Welcome, Refused]
    assert scene.broker.members.members[DRIVER_ID].through == b"good"


def test_one_of_two_drivers_on_one_connection_is_admitted() -> None:
    scene = Scene(is_tcp=True)
    scene.hello(DRIVER_ID, DRIVER, b"way")
    scene.hello(OTHER, DRIVER, b"way")
    scene.turn()
    assert (scene.told(DRIVER_ID), scene.told(OTHER)) == ([Welcome], [Refused])


def test_a_misbehaving_process_is_expelled_within_the_turn(scene: Scene) -> None:
    scene.hello(DRIVER_ID, DRIVER)
    scene.turn()
    for _ in range(MAX_FAULTS):
        scene.receives(DRIVER_ID, b"no frame")
    assert DRIVER_ID not in scene.broker.core.processes
    with pytest.raises(AssertionError):
        scene.turn()  # the expulsion was logged as an error
    assert "too many malformed messages" in scene.reports[0]


def test_a_fault_of_zray_affects_only_the_process_that_joins(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(scene.broker.core, "joined", fails)
    scene.hello(DRIVER_ID, DRIVER)
    assert "cannot let a driver join" in scene.reports[0] and not scene.broker.members.members
