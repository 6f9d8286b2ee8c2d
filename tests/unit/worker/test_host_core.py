"""The host core: which workers there are, and what is reported of their ends."""

from __future__ import annotations

from typing import Any

import pytest

from zray.logs.line import LogLine
from zray.protocol.codec import pack_body, unpack_messages
from zray.protocol.contract import BROKER
from zray.protocol.messages import (
    FROM_PEER,
    Delivered,
    FreeObjects,
    KeepCopies,
    KillWorker,
    LeftBehind,
    ProcessDied,
    ProtocolError,
    StartWorker,
    Watch,
    WorkerDied,
    WorkerStarted,
)
from zray.protocol.routing import through_broker
from zray.worker.host.core import Death, Fork, FreeSegments, HostCore, HostEffect, Kill, PeerDied, PeerSaid, SweepOwner

ONE, TWO = b"1" * 16, b"2" * 16
TASK = b"t" * 24


class Host:
    """A host's core, and its output since the last look."""

    def __init__(self) -> None:
        self.core = HostCore("machine")
        self.workers = self.core.workers
        self.out: list[Any] = []
        self.effects: list[HostEffect] = []
        self.log: list[LogLine] = []

    def take(self) -> None:
        output = self.core.take_output()
        self.out.extend(through_broker(output.sends))
        self.effects.extend(effect for effect in output.effects if not isinstance(effect, LogLine))
        self.log.extend(effect for effect in output.effects if isinstance(effect, LogLine))
        self.core.check()

    def receive(self, message: Any) -> None:
        self.core.receive(BROKER, message, 0.0)
        self.take()

    def forked(self, worker_id: bytes, pid: int) -> None:
        self.core.forked(worker_id, pid, 0.0)
        self.take()

    def exited(self, worker_id: bytes, death: Death) -> None:
        self.core.exited(worker_id, death, 0.0)
        self.take()

    def stores_for(self, owners: set[bytes]) -> None:
        self.core.stores_for(owners, 0.0)
        self.take()


@pytest.fixture
def host() -> Host:
    return Host()


def death(how: str = "was killed by SIGSEGV", running: bytes = b"", last_lines: str = "") -> Death:
    return Death(how, 11, 50 * 2**20, running, last_lines, [])


def start(host: Host, worker_id: bytes = ONE, pid: int = 77) -> None:
    host.receive(StartWorker(worker_id))
    host.forked(worker_id, pid)
    host.out.clear()
    host.effects.clear()


def test_a_worker_is_forked(host):
    host.receive(StartWorker(ONE))
    assert host.effects == [Fork(ONE)]
    host.forked(ONE, 77)
    assert host.out == [WorkerStarted(ONE, 77)]


def test_a_worker_is_forked_once(host):
    host.receive(StartWorker(ONE))
    host.receive(StartWorker(ONE))
    assert host.effects == [Fork(ONE)]


def test_owners_are_told_the_stored_values_of_a_dead_worker(host):
    """After its death, since then no answer of it counts."""
    start(host)
    mine, others, other = b"a" * 28, b"b" * 28, b"a" * 27 + b"2"
    host.exited(ONE, death()._replace(stored=[mine, others, other]))
    died, *told = host.out
    assert isinstance(died, WorkerDied)
    assert [(peer.dest, unpack_messages(peer.rows, FROM_PEER)) for peer in told] == [
        (b"a" * 16, [LeftBehind([mine, other])]),
        (b"b" * 16, [LeftBehind([others])]),
    ]


def test_a_worker_is_killed(host):
    start(host)
    host.receive(KillWorker(ONE, "its job has ended"))
    host.receive(KillWorker(ONE, "again"))
    assert host.effects == [Kill(ONE)]
    host.exited(ONE, death("was killed by SIGKILL"))
    (died,) = host.out
    assert "its job has ended" in died.message
    assert "SIGKILL" not in died.message  # the reason is what counts


def test_killed_before_it_was_forked(host):
    host.receive(StartWorker(ONE))
    host.receive(KillWorker(ONE, "too late"))
    assert host.effects == [Fork(ONE)]
    host.forked(ONE, 77)
    assert host.effects == [Fork(ONE), Kill(ONE)]


def test_killing_an_unknown_worker(host):
    host.receive(KillWorker(ONE, "why not"))
    assert host.effects == []


def test_a_death_is_reported_with_all_that_is_known(host):
    start(host)
    host.exited(ONE, death(running=TASK, last_lines="Fatal: out of luck"))
    (died,) = host.out
    assert (died.worker_id, died.running, died.kind) == (ONE, TASK, "WorkerCrashedError")
    for detail in ("pid 77", "machine", "SIGSEGV", "50 MiB", "Fatal: out of luck"):
        assert detail in died.message
    assert host.workers == {}


def test_a_death_without_output(host):
    start(host)
    host.exited(ONE, death())
    assert "stderr" not in host.out[0].message


def test_a_death_is_reported_once(host):
    start(host)
    host.exited(ONE, death())
    host.exited(ONE, death())
    assert len(host.out) == 1


def test_a_worker_that_could_not_be_forked(host):
    host.receive(StartWorker(ONE))
    host.core.fork_failed(ONE, "no more processes", 0.0)
    host.take()
    (died,) = host.out
    assert isinstance(died, WorkerDied)
    assert "no more processes" in died.message
    assert host.workers == {}


def test_all_workers_die_with_the_zygote(host):
    start(host, ONE, 77)
    start(host, TWO, 78)
    host.core.zygote_gone("was killed by SIGKILL", 0.0)
    host.take()
    assert [died.worker_id for died in host.out] == [ONE, TWO]
    assert all("SIGKILL" in died.message for died in host.out)
    assert host.workers == {}


def test_dead_owners_are_swept(host):
    """The broker is asked once about each owner. An owner whose objects are gone is asked about again later."""
    host.stores_for({ONE})
    host.stores_for({ONE, TWO})
    assert host.out == [Watch(ONE), Watch(TWO)]
    died = ProcessDied(ONE, "gone")
    host.receive(died)
    assert host.effects == [PeerDied(died), SweepOwner(ONE)]
    host.receive(ProcessDied(b"3" * 16, "a source of objects"))
    assert len(host.effects) == 3
    host.stores_for({TWO})
    host.stores_for({ONE, TWO})
    assert host.out[2:] == [Watch(ONE)]


def said_by(source: bytes, *messages: Any) -> Delivered:
    return Delivered(source, pack_body(list(messages)))


OF_ONE, OF_TWO = ONE + bytes(12), TWO + bytes(12)


@pytest.mark.parametrize("kind", [FreeObjects, KeepCopies])
@pytest.mark.parametrize(
    "object_ids", [[OF_TWO], [OF_ONE, OF_TWO], [b""], [OF_ONE, OF_ONE[:-1]], [ONE], [OF_ONE + b"x"]]
)
def test_only_their_owner_frees_and_keeps_objects(host, kind, object_ids):
    with pytest.raises(ProtocolError):
        host.receive(said_by(ONE, kind(object_ids)))
    assert host.effects == []
    host.receive(said_by(ONE, kind([OF_ONE])))  # a message about its own objects still counts
    host.receive(said_by(TWO, kind([OF_TWO])))
    if kind is FreeObjects:
        assert host.effects == [FreeSegments([OF_ONE]), FreeSegments([OF_TWO])]
    else:
        assert host.effects == [PeerSaid(ONE, kind([OF_ONE])), PeerSaid(TWO, kind([OF_TWO]))]
