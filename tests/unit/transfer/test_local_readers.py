"""Readers on a machine and their host: one connection is one request."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time

import pytest

from zray.transfer.local_readers import LocalReaders, Request, fetched

REQUEST = Request(b"o" * 28, b"h" * 16, 123)


@pytest.fixture
def readers(tmp_path):
    readers = LocalReaders(str(tmp_path / "fetch.sock"))
    yield readers
    readers.close()
    assert not (tmp_path / "fetch.sock").exists()


def next_event(readers: LocalReaders, timeout_s: float = 5.0) -> tuple[int, Request | None]:
    """Returns the host's next event."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for fd in select.select(list(readers.filenos), [], [], 0.1)[0]:
            if (event := readers.ready(fd)) is not None:
                return event
    raise AssertionError("nothing was heard")


def reading(readers: LocalReaders, left_s=lambda: 10.0) -> tuple[threading.Thread, list[object]]:
    """Runs a reader in a thread; returns the thread and its results."""
    got: list[object] = []

    def read() -> None:
        try:
            with fetched(readers.path, REQUEST, left_s) as answer:
                got.append(answer)
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, got


@pytest.mark.parametrize("answer", [("", ""), ("ObjectLostError", "it is gone")])
def test_an_answer(readers, answer):
    thread, got = reading(readers)
    reader, request = next_event(readers)
    assert request == REQUEST
    readers.answer(reader, *answer)
    thread.join(5)
    assert got == [answer]
    assert next_event(readers) == (reader, None)  # it has hung up
    readers.answer(reader, "", "")  # too late, without effect


def test_a_reader_that_times_out(readers):
    deadline = time.monotonic() + 0.3
    thread, got = reading(readers, lambda: deadline - time.monotonic())
    reader, _ = next_event(readers)
    assert next_event(readers) == (reader, None)
    thread.join(5)
    assert isinstance(got[0], TimeoutError)


def test_a_wait_that_is_ended_from_elsewhere(readers):
    def stop() -> float:
        raise RuntimeError("shutdown")

    thread, got = reading(readers, stop)
    thread.join(5)
    assert isinstance(got[0], RuntimeError)


def test_a_host_that_ends(readers):
    thread, got = reading(readers)
    next_event(readers)
    readers.close()
    thread.join(5)
    assert isinstance(got[0], ConnectionError)
    with pytest.raises(OSError), fetched(readers.path, REQUEST, lambda: 1.0):
        raise AssertionError


@pytest.mark.parametrize(
    "nonsense", [b"", b"garbage", b"\xc1", b"\x93\x01\x02\x03", b"\x93\xc4\x01o\xc4\x01h\x01", b"\x90", b"x" * 9000]
)
def test_malformed_requests(readers, nonsense):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(readers.path)
        connection.send(nonsense)
        _, request = next_event(readers)
        assert request is None
        connection.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    assert readers.malformed == (nonsense != b"")


def test_a_second_request_on_a_connection(readers):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(readers.path)
        import msgpack

        connection.send(msgpack.packb(REQUEST))
        reader, _ = next_event(readers)
        connection.send(msgpack.packb(REQUEST))
        assert next_event(readers) == (reader, None)


def test_many_at_once(readers):
    connections = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(200)]
    with contextlib.ExitStack() as stack:
        for connection in connections:
            stack.enter_context(connection)
            connection.connect(readers.path)
        for fd in select.select(list(readers.filenos), [], [], 1)[0]:
            readers.ready(fd)
        assert len(readers.filenos) == 201
