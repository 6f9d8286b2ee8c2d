"""The broker's socket, the only one: all processes connect to it.

On TCP each frame begins with the ID of the process that it is from or for, since a host passes on the frames of its
workers: they share its connection. The names of the connections, their identities at the ROUTER, are secrets of their
two ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import zmq

from zray.config import Config
from zray.exceptions import ConfigError
from zray.protocol.routing import Arrival
from zray.transport.sockets import (
    SocketFile,
    bind_socket,
    check_address,
    foreign_listener_at,
    is_listened_at,
    is_readable,
    make_socket,
    receive,
    send,
    unanswered_s,
)

if TYPE_CHECKING:
    from zray.transport.security.authenticator import Authenticator
    from zray.transport.security.keys import KeyDirectory


class BrokerSocket:
    """A bound ROUTER socket. Raises ConfigError if it cannot be bound.

    ``keys``: only processes with one of these keys may connect; None for ``ipc``, and for a cluster without keys
    (``--insecure``). ``more``: further addresses on TCP where it listens, if the first one is on TCP. ``if_free``: such
    addresses that are left out if they are in use. Attributes: ``address``: the first one, as bound; ``is_tcp``;
    ``malformed``: the number of messages with a wrong number of parts.
    """

    def __init__(self, address: str, config: Config, keys: KeyDirectory | None, more: Sequence[str] = (),
                 if_free: Sequence[str] = ()) -> None:  # fmt: skip
        for each in (address, *more, *if_free):
            check_address(each)
            if obstacle := _obstacle(each):
                raise ConfigError(f"the broker cannot listen at {each!r}: {obstacle}")
        if not all(each.startswith("tcp://") for each in (address, *more, *if_free) if more or if_free):
            raise ConfigError(f"the broker cannot listen at {address!r} and at others: several have all to be tcp://")
        self.address = ""
        self._file: SocketFile | None = None
        self.malformed = 0
        self.is_tcp = address.startswith("tcp://")
        self._descriptors: dict[bytes, int] = {}  # by connection: the descriptors of drivers' TCP connections
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)
        try:
            self._authenticator = _authenticator(self._context, keys) if keys is not None else None
        except BaseException:
            self._context.term()
            raise
        self._socket = make_socket(self._context, zmq.ROUTER, address, config)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # A TCP connection may be dead for a minute before this side knows. Its process may reconnect much sooner.
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, self.is_tcp)
        if self._authenticator is not None:
            self._authenticator.apply_server(self._socket)
        for each in (address, *more, *if_free):
            try:
                bind_socket(self._socket, each)
            except zmq.ZMQError as error:
                if each in if_free and error.errno == zmq.EADDRINUSE:
                    continue
                self.close()
                raise ConfigError(f"the broker cannot listen at {each!r}: {_reason(error)}") from None
            self.address = self.address or self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._file = SocketFile(self._socket, self.address)
        self._polled = [self._socket, *(self._authenticator.sockets if self._authenticator is not None else ())]
        self._fd = self._socket.fileno()
        self._expected = False  # the descriptor was ready, so a message has probably arrived
        self._poll = select.poll()  # polls the descriptors: zmq.Poller would look at each socket twice per poll
        for polled in self._polled:
            self._poll.register(polled.fileno(), select.POLLIN)

    @property
    def refusals(self) -> dict[str, int]:
        """How many connections were refused, by reason."""
        return dict(self._authenticator.refused) if self._authenticator is not None else {}

    def wait(self, timeout_s: float) -> None:
        """Waits until something has arrived, and answers the handshakes of new connections."""
        self._expected = False
        if not any(map(is_readable, self._polled)):
            ready = self._poll.poll(int(timeout_s * 1000))
            self._expected = any(fd == self._fd for fd, _ in ready)
        if self._authenticator is not None:
            self._authenticator.pump()

    def receive(self) -> Arrival | None:
        """Returns the next frame that has arrived; None if there is none. Does not wait."""
        while True:
            message = receive(self._socket, copy=not self.is_tcp, expected=self._expected)
            self._expected = False
            if message is None:
                return None
            key = b""
            if self.is_tcp:
                last = message[-1]
                if self._authenticator is not None:
                    key = str(last.get("User-Id")).encode()
                message = [frame.bytes for frame in message]
                if message[0] in self._descriptors:  # it changes when the process connects again
                    self._descriptors[message[0]] = last.get(zmq.SRCFD)
            identity, *parts = message
            if len(parts) == 1 and not self.is_tcp:
                return Arrival(identity, identity, key, parts[0])
            if len(parts) == 2 and self.is_tcp:
                return Arrival(parts[0], identity, key, parts[1])
            self.malformed += 1

    def send(self, through: bytes, process_id: bytes, data: bytes) -> bool:
        """Sends a frame by the connection ``through``. Returns False if there is no connection of that name."""
        try:
            if self.is_tcp:
                send(self._socket, through, process_id, data)
            else:
                send(self._socket, through, data)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        return True

    @property
    def role_of(self) -> Callable[[bytes], str | None] | None:
        """A function that finds the role of an allowed key; None if the cluster has no keys."""
        return self._authenticator.role_of if self._authenticator is not None else None

    def follow(self, through: bytes) -> None:
        """Remembers the descriptor of a TCP connection, for ``unanswered_s``."""
        self._descriptors.setdefault(through, -1)  # its next frame tells the descriptor

    def unfollow(self, through: bytes) -> None:
        """Ends ``follow`` for a connection."""
        self._descriptors.pop(through, None)

    def unanswered_s(self, through: bytes) -> float:
        """For how many seconds the peer of a followed connection has acknowledged nothing; 0.0 for any other."""
        descriptor = self._descriptors.get(through)
        return 0.0 if descriptor is None else unanswered_s(descriptor)

    def keep(self) -> None:
        """Maintains the socket's file, see ``SocketFile``. Must be called at least once a second."""
        if self._file is not None:
            self._file.keep()

    def close(self) -> None:
        """Closes the socket and removes its file."""
        if self._authenticator is not None:
            self._authenticator.close()
        self._socket.close(0)
        self._context.term()
        if self._file is not None:
            self._file.remove()


def _authenticator(context: zmq.Context[Any], keys: KeyDirectory) -> Authenticator:
    from zray.transport.security.authenticator import Authenticator
    from zray.transport.security.dialer import (
        require_curve,  # imported here: a local cluster's workers are forked from this process and do not need it
    )
    from zray.transport.security.keys import AllowList

    require_curve()
    return Authenticator(context, keys.server(), AllowList(keys).find)


def _obstacle(address: str) -> str:
    """What is at the path of a Unix socket that is about to be made; empty if the path is free.

    libzmq would remove it: a file of the user, or a socket in use, whose broker would then receive no connections.
    """
    if not address.startswith("ipc://"):
        return ""
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(os.stat(address.removeprefix("ipc://")).st_mode):
            return "a file of that name exists, and it is not a socket"
    return foreign_listener_at(address) or ("another broker is running there" if is_listened_at(address) else "")


def _reason(error: zmq.ZMQError) -> str:
    if error.errno == zmq.EADDRINUSE:
        return "the address is in use. Is another broker running there?"
    if error.errno in (zmq.EADDRNOTAVAIL, errno.ENODEV):
        return "it is not an address of this machine (tcp://0.0.0.0:PORT listens at all of its addresses)"
    return str(error.strerror)
