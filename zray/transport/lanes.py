"""The sockets of lanes: Unix sockets between two processes of a machine, see ``zray.client.core.lanes``.

The worker of an actor listens while an offer is open, and only then. The socket is in the session's directory, for its
user only. Who connects must be this user or root, as the kernel says, and must send a token first. Each token admits
one caller, once. After that, frames travel both ways, each behind its length (4 bytes).

There is no thread. Whoever waits for a process's sockets waits for ``Lanes.fileno``, too, and then calls ``receive``.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
from collections.abc import Sequence
from socket import AF_UNIX, MSG_NOSIGNAL, SO_SNDBUF, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET
from socket import socket as UnixSocket

from zray.named_tuples import NamedTuple
from zray.protocol.codec import HEADER
from zray.protocol.peer_messages import TOKEN_BYTES
from zray.transport.sockets import peer_user

OFFER_S = 10.0
"""How long a caller may take to connect, in seconds."""
MAX_STRANGERS = 16
"""The most connections that have not sent their token. Further ones are closed."""
BUFFER_BYTES = 1 << 20
"""How much the kernel is asked to hold for a socket. It may grant less (net.core.wmem_max)."""
RECEIVE_BYTES = 1 << 16
ROOT = 0
_LENGTH = struct.Struct("<I")


class Accepted(NamedTuple):
    """A caller has connected and shown its token."""

    name: bytes


class Expired(NamedTuple):
    """No caller has connected with a token in time."""

    name: bytes


class Arrived(NamedTuple):
    """A frame has come by a lane."""

    name: bytes
    frame: bytes | memoryview


class Broken(NamedTuple):
    """The connection of a lane has ended. Its socket is closed."""

    name: bytes


LaneEvent = Accepted | Expired | Arrived | Broken


class _Connection:
    """One connection. ``name``: its token; empty until that has come. ``rest``: the end of a frame that the kernel took
    in part."""

    __slots__ = ("buffer", "name", "rest", "socket")

    def __init__(self, socket: UnixSocket, name: bytes) -> None:
        self.socket = socket
        self.name = name
        self.buffer = bytearray()
        self.rest = b""


def socket_path(directory: str, process_id: bytes) -> str:
    """Where a worker listens. ``directory``: of its host's session."""
    return f"{directory}/lane-{process_id.hex()[:24]}.sock"  # see zray.sessions.directories for the longest name


class Lanes:
    """The sockets of one process's lanes. It belongs to the thread that holds the client's lock.

    ``path``: where it listens; empty: it makes no offers. ``max_frame_bytes``: a longer frame ends its lane.

    Raises OSError if there are no descriptors.
    """

    def __init__(self, path: str, max_frame_bytes: int) -> None:
        self._path = path
        self._max_frame_bytes = max_frame_bytes + HEADER.size
        self._epoll = select.epoll()
        self._listener: UnixSocket | None = None
        self._offers: dict[bytes, float] = {}  # by token: when it expires
        self._by_fd: dict[int, _Connection] = {}
        self._by_name: dict[bytes, _Connection] = {}

    def fileno(self) -> int:
        """A descriptor that is readable while something has arrived."""
        return self._epoll.fileno()

    # ------------------------------------------------------------------ making lanes

    def offer(self, now: float) -> bytes:
        """Listens for one more caller. Returns its token; empty if this process cannot listen."""
        if not self._path or not (self._listener or self._listen()):
            return b""
        token = os.urandom(TOKEN_BYTES)
        self._offers[token] = now + OFFER_S
        return token

    def _listen(self) -> bool:
        listener: UnixSocket | None = None
        try:
            listener = UnixSocket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
            with contextlib.suppress(FileNotFoundError):  # left by a listener that could not be closed in order
                os.unlink(self._path)
            listener.bind(self._path)
            os.chmod(self._path, 0o600)  # its directory is private, too
            listener.listen(MAX_STRANGERS)
            self._epoll.register(listener.fileno(), select.EPOLLIN)
        except OSError:  # no room, no descriptor, or the directory is gone: the broker's way is used
            if listener is not None:
                listener.close()
            return False
        self._listener = listener
        return True

    def _listen_no_more(self) -> None:
        if self._listener is not None:
            self._epoll.unregister(self._listener.fileno())
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):  # the session's directory has been removed
                os.unlink(self._path)
        for connection in [each for each in self._by_fd.values() if not each.name]:
            self._close(connection)

    def dial(self, address: str, name: bytes) -> bool:
        """Connects to a listener, and shows a token. Returns whether that was possible."""
        socket: UnixSocket | None = None
        try:
            socket = UnixSocket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
            socket.connect(address)
            if not _is_mine(socket) or socket.send(name, MSG_NOSIGNAL) != len(name):
                raise OSError("the listener belongs to another user")
        except OSError:  # it is gone, in another file system, or another user's; or there are no descriptors
            if socket is not None:
                socket.close()
            return False
        self._add(_Connection(socket, name))
        return True

    def _add(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):  # the default will do
            connection.socket.setsockopt(SOL_SOCKET, SO_SNDBUF, BUFFER_BYTES)
        self._by_fd[connection.socket.fileno()] = connection
        if connection.name:
            self._by_name[connection.name] = connection
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)

    def _accept(self, listener: UnixSocket) -> tuple[list[_Connection], bool]:
        """Returns the new connections, and whether one could not be accepted: there are no descriptors left."""
        accepted: list[_Connection] = []
        while True:
            try:
                socket, _ = listener.accept()
            except BlockingIOError:
                return accepted, False
            except OSError:
                return accepted, True
            strangers = sum(not each.name for each in self._by_fd.values())
            if strangers >= MAX_STRANGERS or not _is_mine(socket):
                socket.close()
                continue
            socket.setblocking(False)
            connection = _Connection(socket, b"")
            self._add(connection)
            accepted.append(connection)

    def tick(self, now: float) -> list[Expired]:
        """Ends offers that were not taken. Called several times a second."""
        if self._listener is None:
            return []
        expired = [Expired(token) for token, until in self._offers.items() if until <= now]
        for event in expired:
            del self._offers[event.name]
        if not self._offers:
            self._listen_no_more()
        return expired

    def _take_back_offers(self) -> list[Expired]:
        """Ends all offers. A listener whose connections cannot be accepted would be readable all the time."""
        expired = [Expired(token) for token in self._offers]
        self._offers.clear()
        self._listen_no_more()
        return expired

    # ------------------------------------------------------------------ frames

    def send(self, name: bytes, frames: Sequence[bytes]) -> Sequence[bytes]:
        """Sends frames by a lane, without waiting. Returns those that the kernel did not take whole, in order."""
        connection = self._by_name.get(name)
        if connection is None or (connection.rest and not self._send_rest(connection)):
            return frames
        for position, frame in enumerate(frames):
            data = _LENGTH.pack(len(frame)) + frame
            try:
                sent = connection.socket.send(data, MSG_NOSIGNAL)
            except OSError:  # it is full, or broken, which ``receive`` reports
                return frames[position:]
            if sent < len(data):
                connection.rest = data[sent:]  # so that the peer finds the next frame; this one is to go another way
                return frames[position:]
        return ()

    @staticmethod
    def _send_rest(connection: _Connection) -> bool:
        try:
            sent = connection.socket.send(connection.rest, MSG_NOSIGNAL)
        except OSError:
            return False
        connection.rest = connection.rest[sent:]
        return not connection.rest

    def receive(self) -> list[LaneEvent]:
        """Takes what has arrived."""
        events: list[LaneEvent] = []
        for fd, _ in self._epoll.poll(0):
            connection = self._by_fd.get(fd)
            if connection is not None:
                self._receive(connection, events)
            elif self._listener is not None:
                accepted, fault = self._accept(self._listener)
                for each in accepted:
                    if each.socket.fileno() in self._by_fd:  # else it was closed with the last offer, just now
                        self._receive(each, events)  # its caller may have sent already
                if fault:
                    events += self._take_back_offers()
        return events

    def _receive(self, connection: _Connection, events: list[LaneEvent]) -> None:
        while True:
            try:
                data = connection.socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data or not self._take(connection, data, events):
                self._close(connection)
                if connection.name:
                    events.append(Broken(connection.name))
                return
            if len(data) < RECEIVE_BYTES:
                return

    def _take(self, connection: _Connection, data: bytes, events: list[LaneEvent]) -> bool:
        """Splits what has come into frames. Returns False if it is malformed."""
        buffer = connection.buffer
        if not buffer and connection.name:  # by far the most common: one whole frame
            size = len(data) - _LENGTH.size
            if size > 0 and _LENGTH.unpack_from(data)[0] == size:
                events.append(Arrived(connection.name, memoryview(data)[_LENGTH.size :]))
                return True
        buffer += data
        start = 0
        if not connection.name:
            if len(buffer) < TOKEN_BYTES:
                return True
            if not self._admit(connection, bytes(buffer[:TOKEN_BYTES])):
                return False
            events.append(Accepted(connection.name))
            start = TOKEN_BYTES
        while len(buffer) - start >= _LENGTH.size:
            size = _LENGTH.unpack_from(buffer, start)[0]
            if size > self._max_frame_bytes:
                return False
            end = start + _LENGTH.size + size
            if len(buffer) < end:
                break
            events.append(Arrived(connection.name, bytes(buffer[start + _LENGTH.size : end])))
            start = end
        del buffer[:start]
        return True

    def _admit(self, connection: _Connection, token: bytes) -> bool:
        if self._offers.pop(token, None) is None:
            return False
        connection.name = token
        self._by_name[token] = connection
        if not self._offers:
            self._listen_no_more()
        return True

    # ------------------------------------------------------------------ the end

    def hang_up(self, name: bytes) -> None:
        """Closes a lane's socket, and takes back its offer."""
        self._offers.pop(name, None)
        connection = self._by_name.get(name)
        if connection is not None:
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        fd = connection.socket.fileno()
        del self._by_fd[fd]
        self._by_name.pop(connection.name, None)
        self._epoll.unregister(fd)  # a forked child may have it open, so closing it here is not enough
        connection.socket.close()

    def close(self) -> None:
        """Closes all sockets."""
        self._listen_no_more()
        for connection in list(self._by_fd.values()):
            self._close(connection)
        self._epoll.close()


def _is_mine(socket: UnixSocket) -> bool:
    """Whether the peer of a connection is this user or root, as the kernel says."""
    return peer_user(socket) in (os.geteuid(), ROOT)
