"""Joining a cluster: how long and how often a process says Hello to a broker that answers slowly."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from typing import Any, cast

import pytest
import zmq

from zray.config import Config
from zray.exceptions import ClusterUnavailableError
from zray.protocol.codec import pack_handshake, read_frame, unpack_handshake
from zray.protocol.link import Link
from zray.protocol.messages import MAY_SEND, WORKER, Hello, Leaving, Refused, Welcome
from zray.protocol.records import ClusterInfo, JoinInfo
from zray.transport.connection import Connection, connect

ME = b"w" * 16


class SlowBroker:
    """A broker that answers only the Hello of a given number. ``hellos``: all that have arrived."""

    def __init__(self, address: str, answers: int) -> None:
        self.hellos: list[Hello] = []
        self._answers = answers
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(address)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            if self._socket.poll(20):
                name, data = self._socket.recv_multipart()
                self.hellos.append(unpack_handshake(read_frame(data)))
                if len(self.hellos) == self._answers:
                    self._socket.send_multipart([name, pack_handshake(Welcome(b"incarnat", 1 << 20, ClusterInfo()))])

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close(0)
        self._context.term()


@pytest.fixture
def slow_broker(tmp_path):
    address = f"ipc://{tmp_path}/broker"
    broker = SlowBroker(address, 3)
    yield broker, address
    broker.close()
    (tmp_path / "broker").unlink(missing_ok=True)  # libzmq leaves it behind


def test_without_a_timeout_hello_is_repeated_until_it_is_answered(slow_broker):
    """Workers join this way, since they end with their host. The usual time limit of a handshake does not apply."""
    broker, address = slow_broker
    connection = connect(address, WORKER, ME, JoinInfo(), Config(connect_timeout_s=math.inf))
    connection.close(0)
    assert len(broker.hellos) == 3
    assert {hello.process_id for hello in broker.hellos} == {ME}


def test_with_a_timeout_joining_gives_up(slow_broker):
    broker, address = slow_broker
    with pytest.raises(ClusterUnavailableError, match="ZRAY_CONNECT_TIMEOUT_S"):
        connect(address, WORKER, ME, JoinInfo(), Config(connect_timeout_s=0.1))
    assert len(broker.hellos) <= 1


class DeafBroker:
    """A broker at the other end of a connection's socket. It loses the first ``loses`` frames with messages."""

    def __init__(self, loses: int = 0, refuses: bool = False) -> None:
        self.link = Link(b"incarnat", MAY_SEND[WORKER], time.monotonic())
        self.heard: list[Any] = []
        self._loses = loses
        self._refuses = refuses
        self._frames: deque[bytes] = deque()

    def send(self, data: bytes, *_: Any, **__: Any) -> None:
        frame = read_frame(data)
        if frame.seq and self._loses:
            self._loses -= 1
            return
        if self._refuses:
            self._frames.append(pack_handshake(Refused("it was declared dead", [])))
            return
        self.heard += self.link.receive(frame, time.monotonic())
        self._frames.extend(self.link.outgoing(time.monotonic()))

    def recv(self, flags: int = 0, copy: bool = False) -> Any:
        if not self._frames:
            raise zmq.Again
        return zmq.Frame(self._frames.popleft())

    def poll(self, timeout_ms: int) -> int:
        return len(self._frames)

    def get(self, option: int) -> int:
        return zmq.POLLIN if self._frames else 0

    getsockopt = get


def connection_to(broker: DeafBroker) -> Connection:
    welcome = Welcome(b"incarnat", 1 << 20, ClusterInfo())
    made = Connection(cast("Any", None), cast("Any", broker), welcome, "ipc://x", Config())
    made.link = Link(b"incarnat", frozenset(), time.monotonic(), probe_s=0.01)
    return made


@pytest.mark.parametrize("loses", [0, 1])
def test_what_was_sent_is_confirmed_even_if_a_frame_is_lost(loses):
    broker = DeafBroker(loses)
    connection = connection_to(broker)
    connection.flush([Leaving("it ends")])
    assert not connection.link.idle
    assert connection.confirm(30.0)
    assert broker.heard == [Leaving("it ends")]


def test_a_broker_that_does_not_answer_is_not_waited_for_without_end():
    connection = connection_to(DeafBroker(loses=sys.maxsize))
    connection.flush([Leaving("it ends")])
    assert not connection.confirm(0.05)


def test_a_process_that_was_declared_dead_waits_for_nothing():
    connection = connection_to(DeafBroker(refuses=True))
    connection.flush([Leaving("it ends")])
    assert not connection.confirm(math.inf)


def test_nothing_is_waited_for_if_everything_is_acknowledged():
    assert connection_to(DeafBroker(loses=sys.maxsize)).confirm(math.inf)
