"""The ZeroMQ sockets of both sides of the protocol, with every option that matters set deliberately."""

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
"""As plain numbers: the operators of enumerations are slow."""
MAX_SOCKET_PATH_BYTES = 107
KEEPALIVE_S, KEEPALIVE_PROBES = 15, 4
"""A machine can vanish without a word: when its kernel has acknowledged nothing for a minute, the kernel here gives the
connection up. ZeroMQ's own heartbeats would be answered by the peer's threads, which Ctrl-Z stops as well."""
_TCP_INFO = struct.Struct("=8B13I")


PROBE_S = 1.0
SHUT = ".full"
"""Added to the name of an ``ipc`` socket while nobody can come in."""
RESERVED_DESCRIPTORS = 32
"""Connections that may be made between two looks at how many are left."""


def make_socket(context: zmq.Context[Any], kind: int, address: str, config: Config) -> zmq.Socket[Any]:
    """A socket that never blocks at its end, drops no message for want of room, and refuses oversized ones."""
    socket: zmq.Socket[Any] = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)  # flow control is by credit; a full pipe would drop or block
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
    """Binds. A Unix socket is for its user, and root, alone: by its mode, whatever the umask and the directory, and by
    the user that the kernel says a peer has. Raises ZMQError."""
    if not address.startswith("ipc://"):
        socket.bind(address)
        return
    with contextlib.suppress(zmq.ZMQError):  # of a libzmq that cannot ask the kernel: the mode remains
        for user in {os.geteuid(), 0}:
            socket.setsockopt(zmq.IPC_FILTER_UID, user if user < 1 << 31 else user - (1 << 32))
    umask = os.umask(0o177)
    try:
        socket.bind(address)
    finally:
        os.umask(umask)
    with contextlib.suppress(FileNotFoundError):  # somebody has removed it already
        os.chmod(address.removeprefix("ipc://"), 0o600)  # a directory's default ACL goes before the umask


def foreign_listener_at(address: str) -> str:
    """Why what listens at an address must not be joined: it is another user's, who could run code here.

    Empty if it is this user's or root's, if there is nothing, and over TCP, where keys tell.
    """
    if not address.startswith("ipc://"):
        return ""
    path = address.removeprefix("ipc://")
    try:
        owner = _listener(path)
    except OSError:  # nobody listens, or it is not open to us
        try:
            owner = os.stat(path).st_uid
        except OSError:
            return ""
    if owner in (os.geteuid(), 0):
        return ""
    return f"{path} belongs to user {owner}, not to you ({os.geteuid()}): users share a cluster over TCP, with keys"


def _kernel_name(path: str) -> str:
    """ZeroMQ writes abstract names with an ``@``."""
    return "\0" + path[1:] if path.startswith("@") else path


def _listener(path: str) -> int:
    """The user of the process that listens at a Unix socket. Raises OSError."""
    with UnixSocket(AF_UNIX) as probe:
        probe.setblocking(False)
        probe.connect(_kernel_name(path))
        credentials = probe.getsockopt(SOL_SOCKET, SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("iIi", credentials)[1])


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
        except BlockingIOError:  # as many wait to be let in as may
            return True
        except OSError:
            return False
        return True


def obstacle_on_the_way(address: str) -> str:
    """Why nobody can be reached at an address, as far as it can be found out in a second."""
    if address.startswith("ipc://"):
        return _obstacle_at_path(address.removeprefix("ipc://"))
    import socket  # only who was not answered asks

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
        return f"{path} is in a directory that is closed to you"
    except OSError:
        missing = (
            "there is no such file" if os.path.isdir(os.path.dirname(path) or ".") else "there is no such directory"
        )
        return f"{missing}: {path}"
    if not is_socket:
        return f"{path} is a file, and no socket"
    return f"the socket {path} is left over: nothing listens there any more"


class SocketFile:
    """The file of a bound ``ipc`` socket, by which processes come in. Of a socket on TCP it is nothing.

    It is made again when somebody has removed it, and taken away while descriptors are scarce: libzmq (4.3.5) aborts
    the process when it has none for a connection to a Unix socket. Who is in stays.
    """

    def __init__(self, socket: zmq.Socket[Any], address: str) -> None:
        """``address``: as bound."""
        self._socket = socket
        is_file = address.startswith("ipc://") and not address.startswith("ipc://@")
        self._path = address.removeprefix("ipc://") if is_file else ""
        self._shut = False

    def keep(self) -> None:
        """Sees to it; to be called at least once a second."""
        if not self._path:
            return
        scarce = descriptors_left() < RESERVED_DESCRIPTORS
        with contextlib.suppress(OSError):  # its directory has been removed: it is looked for again
            if scarce and not self._shut:
                os.rename(self._path, self._path + SHUT)
                self._shut = True
            elif not scarce and self._shut:
                self._shut = False
                os.rename(self._path + SHUT, self._path)
        if not self._shut and not os.path.exists(self._path):
            with contextlib.suppress(zmq.ZMQError):  # as above
                bind_socket(self._socket, f"ipc://{self._path}")
                protect(self._path)

    def remove(self) -> None:
        """The socket is closed: libzmq leaves the file behind."""
        for path in (self._path, self._path + SHUT) if self._path else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def is_readable(socket: zmq.Socket[Any]) -> bool:
    """Whether a message can be received. To be asked before the socket's descriptor is polled, since each use of the
    socket, a send as well, may have consumed the descriptor's signal."""
    return bool(socket.getsockopt(EVENTS) & POLLIN)  # type: ignore[operator]  # of these options it is an int


def receive(socket: zmq.Socket[Any], copy: bool = True, expected: bool = False) -> list[Any] | None:
    """The parts of the next message that is there; None if there is none. Without ``copy`` they are frames, which know
    something of the sender. ``expected``: the socket's descriptor was ready, so a message is probably there.

    To ask first (1.5 us) costs half of an exception. A frame knows whether another follows: ``recv_multipart`` asks the
    socket after each part (0.75 us). Measured with pyzmq 27.3 and CPython 3.11.
    """
    if not expected and not is_readable(socket):
        return None
    try:
        frame: Any = socket.recv(NOBLOCK, False)
    except zmq.Again:  # it went with its connection just now, or the descriptor was ready for something else
        return None
    parts = [frame.bytes if copy else frame]
    while frame.more:
        frame = socket.recv(NOBLOCK, False)
        parts.append(frame.bytes if copy else frame)
    return parts


def send(socket: zmq.Socket[Any], *parts: bytes) -> None:
    """Sends a message of some parts, without waiting. Raises ZMQError when there is nobody to send it to."""
    *first, last = parts
    for part in first:
        socket.send(part, NOBLOCK_MORE)
    socket.send(last, NOBLOCK)


def unanswered_s(descriptor: int) -> float:
    """For how long the kernel at the other end of a TCP connection has acknowledged nothing, though it was asked to.

    0.0 while it does: also for a process that is stopped, and does not read what arrives. And where that cannot be
    told: ``descriptor`` is libzmq's, whose thread may have closed the connection just now.
    """
    import socket  # only brokers on TCP ask

    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        fields = _TCP_INFO.unpack(info)
    except (OSError, struct.error):
        return 0.0
    retransmissions, probes, last_ack_ms = fields[2], fields[3], fields[20]
    return last_ack_ms / 1000 if retransmissions or probes > 1 else 0.0
