"""Makes the ZeroMQ sockets of both sides of the protocol, with all options that matter set explicitly."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from socket import AF_UNIX, SO_PEERCRED, SOL_SOCKET
from socket import socket as UnixSocket
from typing import Any

import zmq

from zray.config import Config
from zray.exceptions import ConfigError
from zray.sessions.lock import protect
from zray.system.processes import descriptors_left

EVENTS = zmq.EVENTS
Again = zmq.Again
POLLIN, NOBLOCK, NOBLOCK_MORE = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
"""Plain numbers, since the operators of enumerations are slow."""
MAX_SOCKET_PATH_BYTES = 107
KEEPALIVE_S, KEEPALIVE_PROBES = 15, 4
"""The TCP keepalive: if the peer's kernel has acknowledged nothing for a minute, this kernel gives the connection up.

A machine may vanish without closing its connections. ZeroMQ's own heartbeats are no help: they are answered by the
peer's threads, which Ctrl-Z also stops.
"""
_TCP_INFO = struct.Struct("=8B13I")
_CREDENTIALS = struct.Struct("iIi")


PROBE_S = 1.0
SHUT = ".full"
"""The suffix of an ``ipc`` socket's file while the socket accepts no connections."""
RESERVED_DESCRIPTORS = 32
"""How many connections may be made between two checks of the descriptors that are left."""


def make_socket(context: zmq.Context[Any], kind: int, address: str, config: Config) -> zmq.Socket[Any]:
    """Returns a socket that never blocks when it is closed, has unlimited queues, and refuses oversized messages."""
    socket: zmq.Socket[Any] = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)  # flow control is by credit; a full queue would drop messages or block
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, config.max_message_bytes)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.BACKLOG, 1024)
    if address.startswith("tcp://"):
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_S)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_PROBES)
    return socket


def bind_socket(socket: zmq.Socket[Any], address: str) -> None:
    """Binds a socket. Raises ZMQError.

    Only this user and root can connect to a Unix socket. Its mode makes sure of that, whatever the umask and the
    directory, and so does the user that the kernel reports for each peer.
    """
    if not address.startswith("ipc://"):
        socket.bind(address)
        return
    with contextlib.suppress(zmq.ZMQError):  # this libzmq cannot ask the kernel: then only the mode protects
        for user in {os.geteuid(), 0}:
            socket.setsockopt(zmq.IPC_FILTER_UID, user if user < 1 << 31 else user - (1 << 32))
    umask = os.umask(0o177)
    try:
        socket.bind(address)
    finally:
        os.umask(umask)
    with contextlib.suppress(FileNotFoundError):  # another process has removed it already
        os.chmod(address.removeprefix("ipc://"), 0o600)  # a default ACL of the directory overrides the umask


def foreign_listener_at(address: str) -> str:
    """Why the listener at an address must not be joined: it belongs to another user, who could run code here.

    Empty if it belongs to this user or to root, if nothing listens, and over TCP, where keys protect.
    """
    if not address.startswith("ipc://"):
        return ""
    path = address.removeprefix("ipc://")
    try:
        owner = _listener(path)
    except OSError:  # nothing listens, or this user may not connect
        try:
            owner = os.stat(path).st_uid
        except OSError:
            return ""
    if owner in (os.geteuid(), 0):
        return ""
    return f"{path} belongs to user {owner}, not to you ({os.geteuid()}): users share a cluster over TCP, with keys"


def _kernel_name(path: str) -> str:
    """The path of a socket as the kernel knows it. ZeroMQ writes abstract names with an ``@``."""
    return "\0" + path[1:] if path.startswith("@") else path


def _listener(path: str) -> int:
    """The user of the process that listens at a Unix socket. Raises OSError."""
    with UnixSocket(AF_UNIX) as probe:
        probe.setblocking(False)
        probe.connect(_kernel_name(path))
        return peer_user(probe)


def peer_user(connection: UnixSocket) -> int:
    """The user of the process at the other end of a Unix socket's connection, as the kernel reports it."""
    credentials = connection.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


def check_address(address: str) -> None:
    """Raises ConfigError unless ``address`` is ``ipc://PATH`` or ``tcp://HOST:PORT``."""
    if address.startswith("ipc://"):
        path = address.removeprefix("ipc://")
        if path and len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return
        fault = f"a path has 1 to {MAX_SOCKET_PATH_BYTES} bytes"
    elif address.startswith("tcp://"):
        if address.startswith("tcp://["):
            raise ConfigError(f"address {address!r} is an IPv6 address, which zray does not use yet: give an IPv4 one")
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        if host and port.isdecimal() and int(port) <= 65535:
            return
        fault = "a port is a number from 0 to 65535"
    else:
        fault = "it has neither form"
    raise ConfigError(f"address {address!r} is not of the form ipc://PATH or tcp://HOST:PORT: {fault}")


def is_listened_at(address: str) -> bool:
    """Whether an ``ipc`` address is in use: there is a socket, and a process that listens at it."""
    if not address.startswith("ipc://"):
        return False
    path = address.removeprefix("ipc://")
    if os.path.exists(path + SHUT):
        return True
    with UnixSocket(AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(_kernel_name(path))
        except BlockingIOError:  # its backlog is full
            return True
        except OSError:
            return False
        return True


def obstacle_on_the_way(address: str) -> str:
    """Why no broker can be reached at an address. Takes at most about a second."""
    if address.startswith("ipc://"):
        return _obstacle_at_path(address.removeprefix("ipc://"))
    import socket  # imported here: it is needed only after a failure

    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)[0]
    except OSError as error:
        return f"the name {host!r} cannot be resolved ({error.strerror})"
    resolved = "" if target[0] == host else f" ({target[0]})"
    with socket.socket(family, kind) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(target)
        except ConnectionRefusedError:
            return f"nothing listens at port {port} of {host}{resolved}, which refuses the connection"
        except TimeoutError:
            return f"{host}{resolved} does not answer at port {port}: it is off, or a firewall is between"
        except OSError as error:
            return f"{host}{resolved} cannot be reached: {error.strerror}"
    return f"port {port} of {host}{resolved} takes connections now"


def _obstacle_at_path(path: str) -> str:
    if path.startswith("@"):
        return f"nothing listens at the abstract socket {path}"
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except PermissionError:
        return f"{path} is in a directory that you cannot access"
    except OSError:
        missing = (
            "there is no such file" if os.path.isdir(os.path.dirname(path) or ".") else "there is no such directory"
        )
        return f"{missing}: {path}"
    if not is_socket:
        return f"{path} is a file, not a socket"
    return f"the socket {path} is left over: nothing listens there any more"


class SocketFile:
    """The file of a bound ``ipc`` socket, by which processes connect. Does nothing for a socket on TCP.

    The file is made again if another process has removed it. It is renamed while descriptors are scarce: libzmq (4.3.5)
    aborts the process if it has no descriptor for a connection to a Unix socket. Existing connections stay.
    """

    def __init__(self, socket: zmq.Socket[Any], address: str) -> None:
        """``address``: the address as bound."""
        self._socket = socket
        is_file = address.startswith("ipc://") and not address.startswith("ipc://@")
        self._path = address.removeprefix("ipc://") if is_file else ""
        self._shut = False

    def keep(self) -> None:
        """Makes, renames or restores the file as needed. Must be called at least once a second."""
        if not self._path:
            return
        scarce = descriptors_left() < RESERVED_DESCRIPTORS
        with contextlib.suppress(OSError):  # its directory has been removed: the next call tries again
            if scarce and not self._shut:
                os.rename(self._path, self._path + SHUT)
                self._shut = True
            elif not scarce and self._shut:
                self._shut = False
                os.rename(self._path + SHUT, self._path)
        if not self._shut and not os.path.exists(self._path):
            with contextlib.suppress(zmq.ZMQError):  # the same
                bind_socket(self._socket, f"ipc://{self._path}")
                protect(self._path)

    def remove(self) -> None:
        """Removes the file after the socket was closed: libzmq leaves it behind."""
        for path in (self._path, self._path + SHUT) if self._path else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def is_readable(socket: zmq.Socket[Any]) -> bool:
    """Whether a message can be received.

    Check this before polling the socket's descriptor: each use of the socket, also a send, may consume its signal.
    """
    return bool(socket.getsockopt(EVENTS) & POLLIN)  # type: ignore[operator]  # of these options it is an int


def receive(socket: zmq.Socket[Any], copy: bool = True, expected: bool = False) -> list[Any] | None:
    """Returns the parts of the next message that has arrived; None if there is none. Does not wait.

    Without ``copy`` the parts are ``zmq.Frame`` objects, which have information about the sender. ``expected``: the
    socket's descriptor was ready, so a message has probably arrived, and the socket is not asked first.

    To ask costs 1.5 us, and an exception 3.5 us. A frame knows whether another one follows; ``recv_multipart`` asks the
    socket after each part, which costs 0.75 us (pyzmq 27.3, CPython 3.11).
    """
    if not expected and not is_readable(socket):
        return None
    try:
        frame: Any = socket.recv(NOBLOCK, False)
    except zmq.Again:  # its connection has just ended, or the descriptor was ready for something else
        return None
    parts = [frame.bytes if copy else frame]
    while frame.more:
        frame = socket.recv(NOBLOCK, False)
        parts.append(frame.bytes if copy else frame)
    return parts


def send(socket: zmq.Socket[Any], *parts: bytes) -> None:
    """Sends a message of one or more parts, without waiting. Raises ZMQError if there is no peer to send it to."""
    *first, last = parts
    for part in first:
        socket.send(part, NOBLOCK_MORE)
    socket.send(last, NOBLOCK)


def unanswered_s(descriptor: int) -> float:
    """For how many seconds the peer's kernel has acknowledged nothing on a TCP connection, although it should have.

    0.0 while it acknowledges, also if the peer's process is stopped and reads nothing. 0.0 too if that cannot be found
    out: ``descriptor`` belongs to libzmq, whose thread may have just closed the connection.
    """
    import socket  # imported here: only brokers on TCP need it

    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        fields = _TCP_INFO.unpack(info)
    except (OSError, struct.error):
        return 0.0
    retransmissions, probes, last_ack_ms = fields[2], fields[3], fields[20]
    return last_ack_ms / 1000 if retransmissions or probes > 1 else 0.0
