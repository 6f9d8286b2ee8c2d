"""Two hosts' transfers, with real stores and channels. The test plays the broker between them, and the owner."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zray.config import Config
from zray.exceptions import ConfigError
from zray.protocol.codec import pack_body, unpack_messages
from zray.protocol.contract import BROKER
from zray.protocol.messages import (
    FROM_PEER,
    FROM_PEER_TO_HOST,
    CopyGone,
    CopyMade,
    KeepCopies,
    Locate,
    Located,
    ProcessDied,
    ProtocolError,
    PullFailed,
    Watch,
)
from zray.store import Store
from zray.transfer.chunks import CHUNK_BYTES
from zray.transfer.local_readers import Request, fetched
from zray.transfer.shell import Transfers, listening_address

OWNER = b"owner".ljust(16, b".")
OBJECT = OWNER + b"\0" * 12
MIB = 1 << 20


def over_the_wire(message: Any) -> Any:
    (back,) = unpack_messages(pack_body([message]), FROM_PEER | FROM_PEER_TO_HOST)
    return back


class Host:
    """One host's transfers."""

    def __init__(self, world: World, name: str, path: Path, listen: str, capacity: int) -> None:
        self.process_id = name.encode().ljust(16, b".")
        self.fetch_path = f"{path}/{name}.sock"
        self.store = Store.create(f"{path}/{name}", f"{path}/{name}-spill", capacity, 0.5)
        self.transfers = Transfers(self.process_id, self.store, self.fetch_path, listen, Config(), None)
        self.transfers.send = lambda dest, message: world.post.append((self.process_id, dest, message))


class World:
    """The hosts, their messages to each other, and the owner. All in one thread, except readers."""

    def __init__(self, path: Path, listen: str, capacity: int = 64 * MIB) -> None:
        self.post: list[tuple[bytes, bytes, Any]] = []
        self.told_owner: list[tuple[bytes, Any]] = []
        self.relayed = 0
        self.direct = bool(listen)
        self.sizes: dict[bytes, int] = {}
        self.sources: list[bytes] = []
        self.owner_is_busy = False
        self.a, self.b = (Host(self, name, path, listen, capacity) for name in "ab")
        self.hosts = {host.process_id: host for host in (self.a, self.b)}

    def turn(self) -> None:
        post, self.post = self.post, []
        for source, dest, message in post:
            if dest == BROKER:
                assert isinstance(message, Watch)
            else:
                self._deliver(source, dest, over_the_wire(message))
        for host in self.hosts.values():
            host.transfers.tick(time.monotonic())
            host.transfers.turn()
        select.select([host.transfers.fileno() for host in self.hosts.values()], [], [], 0.002)

    def _deliver(self, source: bytes, dest: bytes, message: Any) -> None:
        if dest != OWNER:
            self.relayed += len(pack_body([message]))
            self.hosts[dest].transfers.receive(source, message)
            return
        self.told_owner.append((source, message))
        if isinstance(message, Locate) and not self.owner_is_busy:
            left = [each for each in self.sources if each not in message.lost]
            kind = "" if left else "ObjectLostError"
            size = self.sizes[message.object_id]
            answer = Located(message.object_id, message.question, size, left, kind, "no process has it")
            self.hosts[source].transfers.receive(OWNER, answer)

    def put(self, host: Host, size: int, object_id: bytes = OBJECT) -> bytes:
        data = os.urandom(size)
        host.store.write(object_id, size, lambda view: view.__setitem__(slice(None), data))
        self.sizes[object_id] = size
        self.sources = [host.process_id]
        return data

    def read(self, host: Host, object_id: bytes = OBJECT, **request: Any) -> tuple[str, str, bytes]:
        """Returns what a reader on a host gets."""
        (got,) = self.read_together(host, [object_id], **request)
        return got

    def read_together(self, host: Host, ids: list[bytes], hint: bytes = b"", size: int = 0) -> list[Any]:
        got: dict[int, Any] = {}

        def read(number: int, object_id: bytes) -> None:
            request = Request(object_id, hint or self.a.process_id, size or self.sizes[object_id])
            with fetched(host.fetch_path, request, lambda: 20.0) as (kind, message):
                got[number] = kind, message, b"" if kind else bytes(host.store.read(object_id))

        threads = [threading.Thread(target=read, args=row) for row in enumerate(ids)]
        for thread in threads:
            thread.start()
        self.until(lambda: len(got) == len(ids))
        for thread in threads:
            thread.join(5)
        self.turn()  # the last messages
        return [got[number] for number in range(len(ids))]

    def until(self, condition: Callable[[], object], timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.turn()

    def close(self) -> None:
        for host in self.hosts.values():
            host.transfers.close()
            host.store.destroy()


@pytest.fixture(params=["channels", "through the broker"])
def world(request, tmp_path) -> Iterator[World]:
    with contextlib.closing(World(tmp_path, "tcp://127.0.0.1:*" if request.param == "channels" else "")) as world:
        yield world


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, 3 * CHUNK_BYTES + 5, 20 * MIB])
def test_an_object_is_fetched(world, size):
    data = world.put(world.a, size)
    assert world.read(world.b) == ("", "", data)
    assert (world.b.process_id, CopyMade(OBJECT)) in world.told_owner
    assert world.b.store.usage().copies and not world.b.store.usage().live
    if size == 20 * MIB:
        assert (world.relayed < size // 4) == world.direct


def test_many_readers_one_pull(world):
    data = world.put(world.a, 6 * MIB)
    assert world.read_together(world.b, [OBJECT] * 10) == [("", "", data)] * 10
    assert [message for _, message in world.told_owner].count(CopyMade(OBJECT)) == 1


def test_many_objects_at_once(world):
    ids = [OWNER + bytes([n]) * 12 for n in range(6)]
    expected = [("", "", world.put(world.a, 3 * MIB + n, each)) for n, each in enumerate(ids)]
    assert world.read_together(world.b, ids) == expected


def test_an_object_without_sources(world):
    world.sizes[OBJECT] = 100
    world.sources = [world.a.process_id]
    kind, _, _ = world.read(world.b)
    assert kind == "ObjectLostError"
    assert (world.b.process_id, CopyGone(OBJECT)) in world.told_owner
    assert world.b.store.usage().used == world.b.store.usage().recyclable


def test_an_object_that_is_too_large(world):
    world.put(world.a, 40 * MIB)
    kind, _, _ = world.read(world.b, size=80 * MIB)
    assert kind in ("ObjectStoreFullError", "ObjectLostError")
    assert world.read(world.b)[0] == ""


def test_a_full_store(world):
    world.put(world.a, 40 * MIB)
    mine = OWNER + b"\1" * 12
    world.b.store.write(mine, 40 * MIB, lambda view: None)
    pinned = world.b.store.read(mine)
    notices: list[str] = []
    world.b.store.notices.tell = notices.append
    assert world.read(world.b)[0] == ""  # it is on disk
    assert world.b.store.usage().spilled
    assert "in use" in notices[0]
    del pinned


def test_a_reader_that_leaves_ends_the_pull(world):
    world.put(world.a, 20 * MIB)
    world.owner_is_busy = True
    left = [10.0]
    thread = threading.Thread(target=lambda: _give_up(world, left))
    thread.start()
    world.until(lambda: world.b.transfers.core.pulls)
    left[0] = 0.0
    world.until(lambda: not thread.is_alive())
    world.until(lambda: not world.b.transfers.core.pulls)
    assert not world.b.store.usage().writing


def _give_up(world: World, left: list[float], size: int = 20 * MIB) -> None:
    request = Request(OBJECT, world.a.process_id, size)
    with contextlib.suppress(TimeoutError), fetched(world.b.fetch_path, request, lambda: left[0]):
        raise AssertionError


def test_the_owner_dies_meanwhile(world):
    world.put(world.a, 20 * MIB)
    world.owner_is_busy = True
    world.b.transfers.core.fetch("test", OBJECT, world.a.process_id, 20 * MIB, 0.0)
    thread_result: list[Any] = []
    thread = threading.Thread(target=lambda: thread_result.append(_read(world)))
    thread.start()
    world.until(lambda: len(world.b.transfers.core.pulls[1].readers) == 2)
    world.b.transfers.core.withdraw("test", time.monotonic())
    world.b.transfers.process_died(ProcessDied(OWNER, "killed"))
    world.until(lambda: thread_result)
    assert thread_result[0][0] == "OwnerDiedError"
    thread.join(5)


def _read(world: World) -> tuple[str, str]:
    with fetched(world.b.fetch_path, Request(OBJECT, world.a.process_id, 20 * MIB), lambda: 10.0) as answer:
        return answer


def test_a_copy_becomes_the_original(world):
    world.put(world.a, 2 * MIB)
    world.read(world.b)
    world.b.transfers.receive(OWNER, KeepCopies([OBJECT]))
    usage = world.b.store.usage()
    assert usage.live and not usage.copies


def test_a_piece_behind_the_end_of_the_object(world):
    from zray.protocol.messages import Pull

    world.put(world.a, 100)
    for request in (Pull(OBJECT, 5, 1 << 40, 10, False), Pull(OWNER + b"\7" * 12, 6, 0, 10, False)):
        world.a.transfers.receive(world.b.process_id, request)
    failed = [message for source, _, message in world.post if source == world.a.process_id]
    assert [(type(each), each.pull) for each in failed] == [(PullFailed, 5), (PullFailed, 6)]


def test_sent_objects_are_released_after_a_moment(world):
    world.put(world.a, 2 * MIB)
    world.read(world.b)
    world.a.store.free([OBJECT])
    world.a.transfers.freed([OBJECT])
    world.until(lambda: (world.a.store.sweep(), not world.a.store.usage().doomed)[1])


def test_a_host_that_ends_tells_its_readers(world):
    world.put(world.a, 20 * MIB)
    world.owner_is_busy = True
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(_read(world)))
    thread.start()
    world.until(lambda: world.b.transfers.core.pulls)
    world.hosts.pop(world.b.process_id)
    world.b.transfers.close()
    thread.join(5)
    assert got[0][0] == "ClusterUnavailableError"
    world.b.store.destroy()


@pytest.mark.parametrize(
    ("broker", "wanted", "expected"),
    [
        ("ipc:///tmp/x", "", ""),
        ("tcp://127.0.0.1:6380", "", "tcp://127.0.0.1:*"),
        ("tcp://127.0.0.1:6380", "off", ""),
        ("tcp://127.0.0.1:6380", "tcp://127.0.0.2:99", "tcp://127.0.0.2:99"),
        ("tcp://no-such-machine.invalid:1", "", ""),
    ],
)
def test_where_a_host_listens(broker, wanted, expected):
    assert listening_address(broker, wanted) == expected


@pytest.mark.parametrize(
    "wrong", ["x", "tcp://1.2.3.4", "tcp://*:5", "tcp://0.0.0.0:5", "ipc:///tmp/x", "tcp://1.2.3.4:x"]
)
def test_malformed_listening_addresses(wrong):
    with pytest.raises(ConfigError, match=r"transfer_address .* cannot be used"):
        listening_address("tcp://127.0.0.1:6380", wrong)


def test_what_is_here_is_not_fetched_again(world):
    """Nor reported as lost when this host keeps it now."""
    data = world.put(world.a, 3 * MIB)
    assert world.read(world.b) == ("", "", data)
    relayed, asked = world.relayed, len(world.told_owner)
    assert world.read(world.b) == ("", "", data)
    world.b.transfers.receive(OWNER, KeepCopies([OBJECT]))
    world.sources = []
    assert world.read(world.b) == ("", "", data)
    assert (world.relayed, len(world.told_owner)) == (relayed, asked)


def test_nonsense_from_others_does_not_end_a_host(world):
    for object_ids in ([b"x", b"", b"y" * 28], [OBJECT, b"y" * 28]):
        with pytest.raises(ProtocolError, match="does not own"):
            world.b.transfers.receive(OWNER, KeepCopies(object_ids))
    Path(world.b.store.spill_dir, ".nfs0001").write_bytes(b"")
    Path(world.b.store.path, "live", "README").write_bytes(b"")
    assert world.b.store.owners() == set()
    os.unlink(f"{world.b.store.path}/live/README")


def test_a_wait_for_memory_does_not_hold_up_the_loop(world, monkeypatch):
    """The file system is full, and the reader leaves: the thread that waits for room releases the segment."""
    import errno

    def full(*args: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    world.put(world.a, 6 * MIB)
    monkeypatch.setattr(os, "posix_fallocate", full)
    left = [10.0]
    thread = threading.Thread(target=lambda: _give_up(world, left, 6 * MIB))
    thread.start()
    world.until(lambda: world.b.transfers._rooms)
    left[0] = 0.0
    world.until(lambda: not world.b.transfers.core.pulls)
    thread.join(5)
    world.until(lambda: not world.b.store.usage().writing)


def test_unused_channels_are_closed(world, monkeypatch):
    data = world.put(world.a, 6 * MIB)
    world.read(world.b)
    monkeypatch.setattr("zray.transport.channels.IDLE_S", 0.0)
    world.until(lambda: not world.b.transfers._channels._dialled)
    monkeypatch.undo()
    other = OWNER + b"\5" * 12
    data = world.put(world.a, 6 * MIB, other)
    assert world.read(world.b, other) == ("", "", data)
    assert bool(world.b.transfers._channels._dialled) == world.direct
