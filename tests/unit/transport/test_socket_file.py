"""The file of a Unix socket: it is kept, made again, and renamed while no connection can be accepted."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from zray.transport import sockets
from zray.transport.sockets import RESERVED_DESCRIPTORS, SHUT, SocketFile, is_listened_at


@pytest.fixture
def address() -> Iterator[str]:
    """pytest's directories are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="z") as directory:
        yield f"ipc://{directory}/socket"


Make = Callable[[int], "zmq.Socket[Any]"]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes sockets, and closes them at the end."""
    with contextlib.ExitStack() as stack:
        context: zmq.Context[Any] = stack.enter_context(zmq.Context())

        def make(kind: int) -> zmq.Socket[Any]:
            socket = stack.enter_context(context.socket(kind))
            socket.linger = 0
            return socket

        yield make


def path_of(address: str) -> Path:
    return Path(address.removeprefix("ipc://"))


def talk(make: Make, bound: zmq.Socket[Any], address: str) -> None:
    """Asserts that a message on a new connection arrives."""
    peer = make(zmq.DEALER)
    peer.connect(address)
    peer.send(b"hello")
    assert bound.recv_multipart()[1] == b"hello"


def test_a_removed_file_is_made_again_and_connections_stay(make: Make, address: str) -> None:
    bound = make(zmq.ROUTER)
    bound.bind(address)
    entrance = SocketFile(bound, address)
    early = make(zmq.DEALER)
    early.connect(address)
    early.send(b"one")
    assert bound.recv_multipart()[1] == b"one"
    path_of(address).unlink()
    entrance.keep()
    talk(make, bound, address)
    early.send(b"two")
    assert bound.recv_multipart()[1] == b"two"
    entrance.remove()
    assert not os.listdir(path_of(address).parent)


def test_a_missing_directory_is_waited_for(make: Make, address: str) -> None:
    bound = make(zmq.ROUTER)
    bound.bind(address)
    entrance = SocketFile(bound, address)
    directory = path_of(address).parent
    os.rename(directory, f"{directory}-away")
    entrance.keep()
    os.rename(f"{directory}-away", directory)
    path_of(address).unlink()
    entrance.keep()
    talk(make, bound, address)


def test_no_connection_is_accepted_while_descriptors_are_scarce(
    make: Make, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = RESERVED_DESCRIPTORS
    monkeypatch.setattr(sockets, "descriptors_left", lambda: left)
    bound = make(zmq.ROUTER)
    bound.bind(address)
    entrance = SocketFile(bound, address)
    entrance.keep()
    assert path_of(address).exists()
    left = RESERVED_DESCRIPTORS - 1
    for _ in range(2):
        entrance.keep()
        assert not path_of(address).exists()
        assert is_listened_at(address)  # so new processes get the right error, and no other broker takes the address
    left = RESERVED_DESCRIPTORS
    entrance.keep()
    assert path_of(address).exists()
    talk(make, bound, address)
    left = 0
    entrance.keep()
    path_of(address + SHUT).unlink()  # a cleaner removes this file, too
    left = RESERVED_DESCRIPTORS
    entrance.keep()
    entrance.keep()
    talk(make, bound, address)


def test_a_tcp_socket_has_no_file(make: Make) -> None:
    entrance = SocketFile(make(zmq.ROUTER), "tcp://127.0.0.1:1")
    entrance.keep()
    entrance.remove()


def test_whether_an_address_is_in_use(make: Make, address: str) -> None:
    assert not is_listened_at(address)
    assert not is_listened_at("tcp://127.0.0.1:1")
    path_of(address).touch()
    assert not is_listened_at(address)
    make(zmq.ROUTER).bind(address)
    assert is_listened_at(address)
