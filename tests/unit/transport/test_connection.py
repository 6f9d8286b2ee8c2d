"""Joining a cluster: how long and how often a process says Hello to a broker that answers slowly."""

from __future__ import annotations

import math
import threading

import pytest
import zmq

from zray.config import Config
from zray.exceptions import ClusterUnavailableError
from zray.protocol.codec import pack_handshake, read_frame, unpack_handshake
from zray.protocol.messages import WORKER, Hello, Welcome
from zray.protocol.records import ClusterInfo, JoinInfo
from zray.transport.connection import connect

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
