"""The broker's door: the one socket that everybody comes in by, and who may use which name.

On TCP every frame has the ID of the process that it is from or for in front, since hosts pass on what their workers
send: a connection is its host's and its workers'. The connections' own names, the identities of the ROUTER, are
known to nobody but their ends. Which connection a process has come in by, and with which key, is written down when
it joins (``admit``); frames that say they are its, and come otherwise, are nobody's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

import zmq

from zray.config import Config
from zray.exceptions import ConfigError
from zray.protocol.messages import DRIVER, HOST, OBSERVER, WORKER
from zray.protocol.sockets import (
    Entrance,
    bind_socket,
    check_address,
    is_readable,
    make_socket,
    receive,
    send,
    somebody_listens,
    stranger_at,
    unanswered_s,
)

if TYPE_CHECKING:
    from zray.security.guard import Guard
    from zray.security.keys import KeyDirectory


class Arrival(NamedTuple):
    """A frame that came in. ``through``: the name of its connection; ``key``: with which key, b"" without any."""

    process_id: bytes
    through: bytes
    key: bytes
    data: bytes


class Door:
    """A bound ROUTER socket. ``keys``: closes it to strangers; None for ``ipc``, or when insecurity was asked for.

    Raises ConfigError when it cannot be bound. Attributes: address, as bound; malformed, messages of no known form.
    """

    def __init__(self, address: str, config: Config, keys: KeyDirectory | None) -> None:
        check_address(address)
        if obstacle := _obstacle(address):
            raise ConfigError(f"the broker cannot listen at {address!r}: {obstacle}")
        self.address = ""
        self._entrance: Entrance | None = None
        self.malformed = 0
        self._tcp = address.startswith("tcp://")
        self._admitted: dict[bytes, tuple[bytes, bytes]] = {}
        self._owners: dict[bytes, bytes] = {}  # whose a connection on TCP is
        self._descriptors: dict[bytes, int] = {}  # of drivers' connections on TCP
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)
        try:
            self._guard = _guard(self._context, keys) if keys is not None else None
        except BaseException:
            self._context.term()
            raise
        self._socket = make_socket(self._context, zmq.ROUTER, address, config)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # A connection over TCP may be dead for a minute before this side knows, and its process be back long before.
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, self._tcp)
        if self._guard is not None:
            self._guard.apply_server(self._socket)
        try:
            bind_socket(self._socket, address)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"the broker cannot listen at {address!r}: {_reason(error)}") from None
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._entrance = Entrance(self._socket, self.address)
        self._polled = [self._socket, *(self._guard.sockets if self._guard is not None else ())]
        self._poll = select.poll()  # of the descriptors: zmq.Poller looks at each socket anew, twice
        for polled in self._polled:
            self._poll.register(polled.fileno(), select.POLLIN)

    @property
    def refusals(self) -> dict[str, int]:
        """How many strangers were turned away, by reason."""
        return dict(self._guard.refused) if self._guard is not None else {}

    def wait(self, timeout_s: float) -> None:
        """Waits until something has arrived, and sees to whoever asks to come in."""
        if not any(map(is_readable, self._polled)):
            self._poll.poll(int(timeout_s * 1000))
        if self._guard is not None:
            self._guard.pump()

    def receive(self) -> Arrival | None:
        """The next frame that is there; None if there is none."""
        while True:
            message = receive(self._socket, copy=not self._tcp)
            if message is None:
                return None
            key = b""
            if self._tcp:
                last = message[-1]
                if self._guard is not None:
                    key = str(last.get("User-Id")).encode()
                message = [frame.bytes for frame in message]
                if message[0] in self._descriptors:  # another one since it was dialled anew
                    self._descriptors[message[0]] = last.get(zmq.SRCFD)
            identity, *parts = message
            if len(parts) == 1 and not self._tcp:
                return Arrival(identity, identity, key, parts[0])
            if len(parts) == 2 and self._tcp:
                return Arrival(parts[0], identity, key, parts[1])
            self.malformed += 1

    def send(self, process_id: bytes, data: bytes, through: bytes = b"") -> bool:
        """Sends a frame; False when the peer is not connected (any more). ``through``: for one not admitted yet."""
        through = through or self._admitted.get(process_id, (process_id, b""))[0]
        try:
            if self._tcp:
                send(self._socket, through, process_id, data)
            else:
                send(self._socket, through, data)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        return True

    def unanswered_s(self, process_id: bytes) -> float:
        """For how long a driver's machine has acknowledged nothing; 0.0 for whoever is no driver on TCP."""
        descriptor = self._descriptors.get(self._admitted.get(process_id, (b"", b""))[0])
        return 0.0 if descriptor is None else unanswered_s(descriptor)

    # ------------------------------------------------------------------ who may be who

    def objection(self, arrival: Arrival, kind: str) -> str:
        """Why the sender may not join as a ``kind``; empty if it may."""
        if self._tcp and (kind == WORKER) != (self.relay_of(arrival) != b""):
            return "a worker comes in through its host" if kind == WORKER else f"a {kind} comes in by itself"
        if self._guard is None:
            return ""
        role = self._guard.role_of(arrival.key)
        if role is None:
            return "its key has been revoked"
        allowed = (HOST, WORKER) if role == "host" else (DRIVER, OBSERVER)
        return "" if kind in allowed else f"a {role}'s key does not admit a {kind}"

    def admit(self, arrival: Arrival, kind: str) -> None:
        """The sender has joined: from now on its ID goes with this connection and key."""
        self._admitted[arrival.process_id] = arrival.through, arrival.key
        if self._tcp:
            self._owners.setdefault(arrival.through, arrival.process_id)
            if kind == DRIVER:
                self._descriptors[arrival.through] = -1  # until its next frame

    def relay_of(self, arrival: Arrival) -> bytes:
        """The process that has passed the frame on; b"" if it came by a connection of its sender's own."""
        owner = self._owners.get(arrival.through, b"")
        return owner if owner != arrival.process_id else b""

    def knows(self, arrival: Arrival) -> bool:
        """Whether a frame comes from whom it says."""
        return self._admitted.get(arrival.process_id) == (arrival.through, arrival.key)

    def forget(self, process_id: bytes) -> None:
        """A process is gone."""
        through, _ = self._admitted.pop(process_id, (b"", b""))
        if self._owners.get(through) == process_id:
            del self._owners[through]
            self._descriptors.pop(through, None)

    def outcasts(self) -> list[bytes]:
        """Processes whose keys have been revoked since they joined."""
        if self._guard is None:
            return []
        revoked = {key for _, key in self._admitted.values() if not self._guard.is_allowed(key)}
        return [process_id for process_id, (_, key) in self._admitted.items() if key in revoked] if revoked else []

    def keep(self) -> None:
        """Keeps the socket's file, see ``Entrance``; to be called at least once a second."""
        if self._entrance is not None:
            self._entrance.keep()

    def close(self) -> None:
        """Closes the socket, and removes its file."""
        if self._guard is not None:
            self._guard.close()
        self._socket.close(0)
        self._context.term()
        if self._entrance is not None:
            self._entrance.remove()


def _guard(context: zmq.Context[Any], keys: KeyDirectory) -> Guard:
    from zray.security.dialer import require_curve  # local clusters, whose workers are forked from here, do without
    from zray.security.guard import Guard
    from zray.security.keys import AllowList

    require_curve()
    return Guard(context, keys.server(), AllowList(keys).find)


def _obstacle(address: str) -> str:
    """What is in the place of a Unix socket that is to be made, if anything. libzmq would remove it: a socket that is
    in use, so that its broker goes deaf, or a file of the user's."""
    if not address.startswith("ipc://"):
        return ""
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(os.stat(address.removeprefix("ipc://")).st_mode):
            return "there is a file of that name, which is no socket"
    return stranger_at(address) or ("another broker is running there" if somebody_listens(address) else "")


def _reason(error: zmq.ZMQError) -> str:
    if error.errno == zmq.EADDRINUSE:
        return "the address is in use. Is another broker running there?"
    if error.errno in (zmq.EADDRNOTAVAIL, errno.ENODEV):
        return "it is no address of this machine (tcp://0.0.0.0:PORT listens at all that it has)"
    return str(error.strerror)
