"""Readers on the host's own machine: each asks the host for an object by a Unix socket, and waits for its answer.

One connection is one request. The end of the connection withdraws the request, however the reader ends. If the answer
is a success, the object is in the host's store. The host pins it there until the reader hangs up: by then the reader
has pinned it itself.

    reader                               host
      [object, host that has it, size] ->
                                      <-   ["", ""]   or   [name of an exception, message]
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from zray.ids import OBJECT_ID_BYTES, PROCESS_ID_BYTES
from zray.named_tuples import NamedTuple
from zray.sessions.lock import protect

BACKLOG = 1024
MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 1 << 16
LOOK_AROUND_MS = 250


class Request(NamedTuple):
    """A reader's request."""

    object_id: bytes
    hint: bytes
    size: int


@contextlib.contextmanager
def fetched(path: str, request: Request, left_s: Callable[[], float]) -> Iterator[tuple[str, str]]:
    """Asks the host that listens at ``path``. Yields its answer, and hangs up at the end of the ``with`` block.

    ``left_s()`` returns how long to wait yet. It may raise to end the wait, and is called several times a second.
    Raises TimeoutError when the time is over, OSError when the host is gone.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path)
        connection.send(msgpack.packb(request))
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        while not poll.poll(max(0.0, min(LOOK_AROUND_MS, left_s() * 1000))):
            if left_s() <= 0:
                raise TimeoutError
        answer = connection.recv(MAX_ANSWER_BYTES)
        if not answer:
            raise ConnectionError("the host has hung up")
        kind, message = msgpack.unpackb(answer)
        yield kind, message


class LocalReaders:
    """The host's side. A reader is known by the number of its connection's descriptor."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.malformed = 0
        self._listener = _listen(path)
        self._connections: dict[int, socket.socket] = {}
        self._asked: set[int] = set()
        self.opened = 0
        """Changes with the set of descriptors."""

    def listen_again(self) -> None:
        """Listens again if the socket's file has been removed; connections stay."""
        if not os.path.exists(self.path):
            with contextlib.suppress(OSError):  # the directory is missing, for now
                listener, self._listener = self._listener, _listen(self.path)
                listener.close()
                self.opened += 1

    @property
    def filenos(self) -> set[int]:
        """The descriptors to poll for input."""
        return {self._listener.fileno(), *self._connections}

    def ready(self, fd: int) -> tuple[int, Request | None] | None:
        """Handles a ready descriptor. Returns a reader with its request, or with None when it has hung up."""
        if fd == self._listener.fileno():
            self._accept()
            return None
        connection = self._connections.get(fd)
        if connection is None:
            return None
        try:
            data = connection.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        request = _read_request(data) if data and fd not in self._asked else None
        if data and request is None:
            self.malformed += 1
        if request is None:
            self._close(fd)
        else:
            self._asked.add(fd)
        return fd, request

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # none is left, it has gone again, or there are no descriptors: it waits
            while True:
                connection, _ = self._listener.accept()
                self.opened += 1
                connection.setblocking(False)
                self._connections[connection.fileno()] = connection

    def answer(self, reader: int, kind: str, message: str) -> None:
        """Answers a request; does nothing if the reader is gone."""
        connection = self._connections.get(reader)
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.send(msgpack.packb([kind, message[: MAX_ANSWER_BYTES // 8]]))

    def _close(self, fd: int) -> None:
        self._asked.discard(fd)
        self.opened += 1
        self._connections.pop(fd).close()

    def close(self) -> None:
        """Closes all connections and the listener."""
        for fd in list(self._connections):
            self._close(fd)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    protect(path)
    return listener


def _read_request(data: bytes) -> Request | None:
    try:
        fields: Any = msgpack.unpackb(data)
        request = Request._make(fields)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    sizes = (OBJECT_ID_BYTES, PROCESS_ID_BYTES)
    if any(type(field) is not bytes or len(field) != size for field, size in zip(request[:2], sizes, strict=True)):
        return None
    return request if type(request.size) is int and request.size > 0 else None
