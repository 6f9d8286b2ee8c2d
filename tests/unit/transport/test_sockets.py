"""The options of the sockets, and what they report about the peer."""

from __future__ import annotations

import os
import socket

import pytest
import zmq

from zray.config import Config
from zray.transport.sockets import make_socket, unanswered_s


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.mark.parametrize("kind", [zmq.ROUTER, zmq.DEALER])
def test_a_connection_lives_as_long_as_the_peers_kernel_acknowledges(context, kind):
    """The peer's process need not answer, since it may be stopped: ZeroMQ's own pings are not used."""
    with make_socket(context, kind, "tcp://127.0.0.1:1", Config()) as made:
        assert made.getsockopt(zmq.HEARTBEAT_IVL) == 0
        assert made.getsockopt(zmq.TCP_KEEPALIVE) == 1


def test_a_stopped_reader_still_acknowledges():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        with theirs:
            ours.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:  # until the buffers of both sides are full
                    ours.send(bytes(1 << 20))
            assert unanswered_s(ours.fileno()) == 0.0


def test_a_descriptor_that_is_not_a_connection():
    read, write = os.pipe()
    assert unanswered_s(read) == 0.0
    os.close(read)
    os.close(write)
    assert unanswered_s(read) == 0.0
    assert unanswered_s(-1) == 0.0
