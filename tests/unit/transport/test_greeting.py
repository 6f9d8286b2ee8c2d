"""Asking a listener for its mechanism: one with another mechanism seldom reports it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import zmq

from zray.config import Config
from zray.exceptions import ClusterUnavailableError
from zray.protocol.messages import DRIVER
from zray.protocol.records import JoinInfo
from zray.transport.connection import connect
from zray.transport.security.greeting import CURVE, NULL, mechanism_at
from zray.transport.security.keys import ClientCredentials

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
HALF_A_GREETING = len(SIGNATURE) + 1


def greeting(mechanism: bytes) -> bytes:
    return SIGNATURE + b"\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)


@contextlib.contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A listener that passes each connection to ``answer`` and then closes it. Yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer, contextlib.suppress(OSError):
                    answer(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def received(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := peer.recv(count - len(data))):
        data += piece
    return data


def mute_at_a_mismatch(mechanism: bytes) -> Callable[[socket.socket], None]:
    """Hangs up on a greeting with another mechanism before its own greeting has left, as libzmq may do."""

    def answer(peer: socket.socket) -> None:
        peer.sendall(SIGNATURE)
        received(peer, HALF_A_GREETING)
        peer.sendall(b"\x03")
        peer.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            rest = received(peer, 1 + 20)
            if rest[1:].rstrip(b"\0") != mechanism:
                return
        peer.sendall(greeting(mechanism)[HALF_A_GREETING:])

    return answer


@pytest.mark.parametrize("secure", [False, True])
def test_mechanisms_of_real_sockets(secure: bool) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.ROUTER) as router:
        if secure:
            router.curve_secretkey = zmq.curve_keypair()[1]
            router.curve_server = True
        port = router.bind_to_random_port("tcp://127.0.0.1")
        assert mechanism_at(f"tcp://127.0.0.1:{port}", 5) == (CURVE if secure else NULL)


@pytest.mark.parametrize(
    "answer",
    [
        lambda peer: None,
        lambda peer: peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4),
        lambda peer: peer.sendall(greeting(b"NULL")[:-1]),
    ],
    ids=["hangs up", "a web server", "half a greeting"],
)
def test_other_listeners_have_no_mechanism(answer: Callable[[socket.socket], None]) -> None:
    with listener(answer) as address:
        assert mechanism_at(address, 5) == ""


def test_a_silent_listener_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert mechanism_at(f"tcp://127.0.0.1:{silent.getsockname()[1]}", 0.05) == ""
    assert mechanism_at("tcp://127.0.0.1:1", 5) == ""


@pytest.mark.parametrize("ours", ["keys", "no keys"])
def test_a_mismatch_is_reported_although_the_listener_only_hung_up(ours: str) -> None:
    keys = ClientCredentials(*zmq.curve_keypair(), zmq.curve_keypair()[0]) if ours == "keys" else None
    theirs = b"NULL" if ours == "keys" else b"CURVE"
    told = pytest.raises(ClusterUnavailableError, match="--insecure has to be given to both or neither")
    with listener(mute_at_a_mismatch(theirs)) as address, told:
        connect(address, DRIVER, b"d" * 16, JoinInfo(), Config(connect_timeout_s=0.5), keys)
