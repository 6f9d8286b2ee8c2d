"""Frames of unknown and faulty peers at the broker's socket: counted and dropped, and all others go on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from zray import version
from zray.broker.membership import MAX_FAULTS
from zray.broker.shell import BrokerShell
from zray.config import Config
from zray.protocol.codec import (
    HEADER,
    KIND_DATA,
    MAGIC,
    pack_body,
    pack_frame,
    pack_handshake,
    read_frame,
    unpack_handshake,
)
from zray.protocol.messages import (
    DRIVER,
    PROTOCOL_VERSION,
    ActorCall,
    FunctionPut,
    Hello,
    Refused,
    Result,
    Welcome,
)
from zray.protocol.questions import BrokerCounts, CountsQuery, NamedActorsQuery
from zray.protocol.records import ClusterInfo, JoinInfo
from zray.protocol.rows import TYPES
from zray.transport.connection import connect
from zray.version import python_version

from .helpers import by_hand, eventually, free_port


@contextlib.contextmanager
def raw_socket(address: str, identity: bytes = b"") -> Iterator[zmq.Socket]:
    """A bare socket to the broker."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 1000)
    dealer.setsockopt(zmq.RCVTIMEO, 5000)
    if identity:
        dealer.setsockopt(zmq.ROUTING_ID, identity)
    dealer.connect(address)
    try:
        yield dealer
    finally:
        dealer.close()
        context.term()


@pytest.fixture
def broker(sandbox) -> Iterator[BrokerShell]:
    """A broker in a thread of this process, whose counts can be read."""
    shell = BrokerShell(f"ipc://{sandbox.directory}/broker", Config(max_message_bytes=1 << 20))
    ready = threading.Event()
    thread = threading.Thread(target=shell.serve, args=(ready.set,))
    thread.start()
    ready.wait(5)
    yield shell
    shell.stop()
    thread.join(5)
    assert not thread.is_alive()
    (sandbox.directory / "broker").unlink(missing_ok=True)


def hello(me: bytes, **changes: Any) -> Hello:
    given = Hello(PROTOCOL_VERSION, python_version(), version.VERSION, DRIVER, me, JoinInfo(1))
    return given._replace(**changes)


def still_serves(broker: BrokerShell) -> bool:
    """Checks that a new driver can join, and gets an answer."""
    connection = connect(broker.address, DRIVER, os.urandom(16), JoinInfo(1), Config(connect_timeout_s=5))
    try:
        connection.flush([CountsQuery(1)])

        def answered() -> bool:
            return any(isinstance(message, BrokerCounts) for message in connection.receive())

        return bool(eventually(answered, 5))
    finally:
        connection.close(0)


def assert_counted(broker: BrokerShell, number: int) -> None:
    eventually(lambda: broker.dropped_frames >= number, 5)
    assert broker.dropped_frames == number
    assert still_serves(broker)


def garbage() -> list[bytes]:
    rng = random.Random(0)
    header = HEADER.pack(MAGIC, KIND_DATA, b"x" * 8, 1, 0)
    return [
        b"",
        b"\xa7",
        b"GET / HTTP/1.1\r\n\r\n",
        header[:-1],
        header,
        header + b"\xc1",
        header + b"\xdf\xff\xff\xff\xff",
        header + b"\x91" * 100_000,
        HEADER.pack(MAGIC, 7, b"x" * 8, 1, 0),
        HEADER.pack(0, 0, bytes(8), 0, 0),
        pack_frame(0, bytes(8), 0, 0, b""),
        pack_frame(0, bytes(8), 0, 0, msgpack.packb([])),
        pack_frame(0, bytes(8), 0, 0, msgpack.packb([[0]])),
        pack_frame(0, bytes(8), 0, 0, msgpack.packb([[999, 1]])),
        pack_frame(0, bytes(8), 0, 0, msgpack.packb({"op": "hello"})),
        *(rng.randbytes(rng.randrange(200)) for _ in range(300)),
        *(bytes([MAGIC, kind]) + rng.randbytes(rng.randrange(24, 200)) for _ in range(300) for kind in (0, 1)),
    ]


def test_garbage_is_counted_and_dropped(broker):
    frames = garbage()
    with raw_socket(broker.address) as dealer:
        for frame in frames:
            dealer.send(frame)
        assert_counted(broker, len(frames))


def test_wrong_number_of_parts(broker):
    with raw_socket(broker.address) as dealer:
        dealer.send_multipart([b"", pack_handshake(hello(os.urandom(16)))])
        dealer.send_multipart([b"a", b"b", b"c"])
        assert_counted(broker, 2)


def test_an_oversized_frame_ends_the_connection_that_sent_it(broker):
    with raw_socket(broker.address) as dealer:
        dealer.send(b"x" * (2 << 20))
        assert still_serves(broker)


def test_a_hello_under_another_name(broker):
    with raw_socket(broker.address, b"i" * 16) as dealer:
        dealer.send(pack_handshake(hello(b"j" * 16)))
        dealer.send(pack_handshake(hello(b"i" * 16, kind="emperor")))
        dealer.send(pack_handshake(hello(b"i" * 16, info=[1])))
        dealer.send(pack_handshake(hello(b"i" * 16, process_id=b"short")))
        dealer.send(pack_handshake(Welcome(bytes(8), 1 << 20, ClusterInfo())))
        assert_counted(broker, 5)


@pytest.mark.parametrize("kind", ["host", "driver"])
@pytest.mark.parametrize("changes", [{"python": "2.7"}, {"protocol": 99}, {"python": "3.99", "protocol": 0}])
def test_other_versions_are_refused_with_a_table(broker, kind, changes):
    me = os.urandom(16)
    with raw_socket(broker.address, me) as dealer:
        dealer.send(pack_handshake(hello(me, kind=kind, zray="0.0.7", **changes)))
        answer = unpack_handshake(read_frame(dealer.recv()))
        assert isinstance(answer, Refused) and "version" in answer.reason
        rows = {name: (theirs, ours) for name, theirs, ours in answer.versions}
        for name, value in changes.items():
            assert rows[name] == (str(value), {"python": python_version(), "protocol": str(PROTOCOL_VERSION)}[name])
        assert rows["zray"] == ("0.0.7", version.VERSION)
        assert still_serves(broker)


def test_the_table_reaches_the_user(sandbox):
    """The driver reports another Python version: what ``init`` raises."""
    from .helpers import driver

    with by_hand(hosts=0) as (address, _, _):
        source = f"""
    from zray import version
    version.python_version = lambda: "3.99"
    try:
        ray.init({address!r})
    except ray.exceptions.VersionMismatchError as error:
        print(error)
    """
        with driver(source) as process:
            output = process.succeed()
            assert "python" in output and "3.99" in output and python_version() in output


def joined(address: str):
    """A real connection of a driver."""
    me = os.urandom(16)
    return me, connect(address, DRIVER, me, JoinInfo(1), Config(connect_timeout_s=5))


def ask(connection, request: int) -> None:
    connection.flush([CountsQuery(request)])


def answers(connection, wanted: int, timeout_s: float = 5.0) -> list[int]:
    got: list[int] = []

    def enough() -> bool:
        got.extend(message.request for message in connection.receive() if isinstance(message, BrokerCounts))
        return len(got) >= wanted

    eventually(enough, timeout_s)
    return got


def test_replayed_frames_are_delivered_once(broker):
    _, connection = joined(broker.address)
    incarnation = connection._incarnation
    frame = pack_frame(KIND_DATA, incarnation, 1, 0, pack_body([CountsQuery(7)]))
    for _ in range(50):
        connection.socket.send(frame)
    ask_later = pack_frame(KIND_DATA, incarnation, 2, 0, pack_body([CountsQuery(8)]))
    connection.socket.send(ask_later)
    assert answers(connection, 2) == [7, 8]
    connection.close(0)
    assert still_serves(broker)


def test_bad_frames_of_a_peer_that_has_joined(broker):
    """What came before and after is not affected, nor are its own later messages."""
    _, connection = joined(broker.address)
    incarnation = connection._incarnation
    ask(connection, 1)
    assert answers(connection, 1) == [1]
    no_frames = [b"", b"\xa7", pack_frame(KIND_DATA, b"y" * 8, 2, 0, pack_body([CountsQuery(9)]))]
    good_body = pack_body([CountsQuery(9)])
    bad_bodies = [
        good_body[:-1],
        b"\xc1",
        msgpack.packb([[250, b"from the future"]]),
        msgpack.packb([[0], []]),
        pack_body([NamedActorsQuery(9, 5)]),  # type: ignore[arg-type]
        pack_body([CountsQuery("x")]),  # type: ignore[arg-type]
        pack_body([Welcome(bytes(8), 1 << 20, ClusterInfo())]),
        good_body + good_body,
    ]
    for frame in no_frames:
        connection.socket.send(frame)
    for seq, body in enumerate(bad_bodies, start=2):  # a body that is dropped keeps its number
        connection.socket.send(pack_frame(KIND_DATA, incarnation, seq, 0, body))
    last = pack_frame(KIND_DATA, incarnation, len(bad_bodies) + 2, 0, pack_body([CountsQuery(2)]))
    connection.socket.send(last)
    assert answers(connection, 1) == [2]
    connection.close(0)
    assert still_serves(broker)


def test_far_future_sequence_numbers_take_no_memory_and_affect_no_peer(broker):
    _, connection = joined(broker.address)
    for seq in (1 << 40, (1 << 64) - 1, *range(1000, 200_000, 1000)):
        connection.socket.send(pack_frame(KIND_DATA, connection._incarnation, seq, 0, pack_body([CountsQuery(9)])))
    ask(connection, 1)
    assert answers(connection, 1) == [1]
    connection.close(0)
    assert still_serves(broker)


def test_random_messages_with_valid_frames(broker):
    """Every type of message with random fields, in order and well numbered: fuzzing behind the framing checks."""
    _, connection = joined(broker.address)
    rng = random.Random(1)
    values = [0, -1, 1, 2**63, b"", b"x" * 16, b"y" * 28, "", "text", None, True, [], {}, [[b"x"]], {"CPU": -1}, 1.5]
    for seq in range(1, 3000):
        row = [rng.randrange(len(TYPES)), *(rng.choice(values) for _ in range(rng.randrange(8)))]
        connection.socket.send(pack_frame(KIND_DATA, connection._incarnation, seq, 0, msgpack.packb([row])))
    assert still_serves(broker)
    connection.close(0)


def test_stolen_identity_does_not_cut_off_its_owner(broker):
    me, connection = joined(broker.address)
    ask(connection, 1)
    assert answers(connection, 1) == [1]
    with raw_socket(broker.address, me) as impostor:
        impostor.send(b"garbage")
        ask(connection, 2)
        assert answers(connection, 1) == [2]
    ask(connection, 3)
    assert answers(connection, 1) == [3]
    connection.close(0)


def test_bytes_that_are_not_zeromq(monkeypatch):
    """An HTTP client, a port scanner, half a handshake and a length of 2**63 at the TCP port of a working cluster."""
    import zray as ray

    port = free_port()
    with by_hand("--bind", f"tcp://127.0.0.1:{port}", "--insecure") as (address, _, _):
        ray.init(address, insecure=True)
        square = ray.remote(lambda n: n * n)
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
        attacks = [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 1000, greeting[:20], greeting, os.urandom(5000),
                   greeting + b"\x02" + struct.pack(">Q", 2**63)]  # fmt: skip
        open_sockets = []
        for attack in attacks * 5:
            attacker = socket.create_connection(("127.0.0.1", port))
            open_sockets.append(attacker)
            with contextlib.suppress(OSError):
                attacker.sendall(attack)
            assert ray.get(square.remote(3), timeout=5) == 9
        for attacker in open_sockets:
            attacker.close()
        assert ray.get([square.remote(n) for n in range(100)], timeout=5) == [n * n for n in range(100)]
        ray.shutdown()


def test_a_cluster_at_work_under_garbage(sandbox):
    import zray as ray

    with by_hand() as (address, _, _):
        ray.init(address)
        square = ray.remote(lambda n: n * n)
        with raw_socket(address) as dealer:
            for frame in garbage():
                dealer.send(frame)
            refs = [square.remote(n) for n in range(500)]
            for frame in garbage():
                dealer.send(frame)
            assert ray.get(refs, timeout=8) == [n * n for n in range(500)]
        ray.shutdown()


# ------------------------------------------------------------------ one peer's bad messages affect only that peer


@pytest.mark.parametrize("bad", [
    b"\xc1", msgpack.packb([[250, b"from the future"]]), pack_body([FunctionPut(b"x" * 16, "f", b"not its hash")]),
    pack_body([ActorCall(b"a" * 16, 0, 1, b"not mine".ljust(24), 0, b"")]), b"\x91" * 100_000,
])  # fmt: skip
def test_a_peer_that_keeps_sending_malformed_messages_is_declared_dead(broker, bad):
    """With the reason; others are not affected."""
    _, good = joined(broker.address)
    me, connection = joined(broker.address)
    for seq in range(1, 3 * MAX_FAULTS):
        connection.socket.send(pack_frame(KIND_DATA, connection._incarnation, seq, 0, bad))

    def refused() -> bool:
        connection.socket.send(pack_frame(KIND_DATA, connection._incarnation, 0, 0, b""))  # a heartbeat
        connection.receive()
        return connection.refused is not None

    assert eventually(refused, 5)
    assert "malformed" in connection.refused.reason
    ask(good, 1)
    assert answers(good, 1) == [1]
    assert me not in broker._broker.core.processes
    for end in (good, connection):
        end.close(0)


def test_a_few_bad_messages_are_forgiven(broker):
    _, connection = joined(broker.address)
    for seq in range(1, MAX_FAULTS):
        connection.socket.send(pack_frame(KIND_DATA, connection._incarnation, seq, 0, b"\xc1"))
    last = pack_frame(KIND_DATA, connection._incarnation, MAX_FAULTS, 0, pack_body([CountsQuery(7)]))
    connection.socket.send(last)
    assert answers(connection, 1) == [7]
    connection.close(0)


def test_large_ones_count_for_more(broker):
    """Reading them takes longer."""
    _, connection = joined(broker.address)
    body = b"\xdd" + (1 << 19).to_bytes(4, "big") + b"\x90" * (1 << 19)
    for seq in range(1, 20):
        connection.socket.send(pack_frame(KIND_DATA, connection._incarnation, seq, 0, body))
    assert eventually(lambda: broker.dropped_frames >= 19, 10)
    assert connection.link.idle and still_serves(broker)

    def refused() -> bool:
        connection.socket.send(pack_frame(KIND_DATA, connection._incarnation, 0, 0, b""))
        connection.receive()
        return connection.refused is not None

    assert eventually(refused, 5)
    connection.close(0)


def test_calls_that_cannot_be_read_cost_an_actor_nothing(sandbox):
    """Any process that knows the actor may call it; its worker answers, and goes on for others."""
    import zray as ray

    @ray.remote
    class Counter:
        def __init__(self):
            self.count = 0

        def add(self):
            self.count += 1
            return self.count

    with by_hand() as (address, _, _):
        ray.init(address)
        counter = Counter.remote()
        assert ray.get(counter.add.remote(), timeout=8) == 1
        me, connection = joined(address)
        options = msgpack.packb({"name": "add", "num_returns": -1})
        payloads = [b"", b"\xc1", msgpack.packb([5]), msgpack.packb([options, 1, b"", b"", b"", 0, []]),
                    msgpack.packb([b"\xc1", 1, b"", b"", b"", 0, []])]  # fmt: skip
        calls = [
            ActorCall(counter._actor_id, 0, seq, me + seq.to_bytes(8, "big"), 0, payload)
            for seq, payload in enumerate(payloads, start=1)
        ]
        connection.flush(calls)
        results: list[Result] = []

        def answered() -> bool:
            results.extend(message for message in connection.receive() if isinstance(message, Result))
            return len(results) == len(calls)

        assert eventually(answered, 8)
        assert all(b"cannot be read" in result.payload for result in results)
        assert ray.get(counter.add.remote(), timeout=8) == 2
        connection.close(0)
        ray.shutdown()
