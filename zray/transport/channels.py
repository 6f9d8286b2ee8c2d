"""Direct channels between two hosts, for large objects. The hosts agree on a channel through the broker.

The dialler sends its public key (``ChannelWanted``). The answer has the address to dial, a token to show there, and the
public key to expect (``ChannelOffer``). Both messages travel through the broker, which guarantees their senders. So a
host accepts channels only from members of its cluster, each under its own identifier. With keys a channel uses CURVE,
and its listener is guarded like the broker's socket (``zray/transport/security/authenticator.py``). Without keys
(``--insecure``) only the token protects it.

Requests go from the dialler to the listener, and chunks come back. If both hosts pull from each other, there are two
channels. A broken channel is not used again: the next one has another token. A ``Channels`` belongs to one thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgpack
import zmq

from zray.config import Config
from zray.exceptions import ConfigError
from zray.named_tuples import NamedTuple
from zray.protocol.codec import unpack_row
from zray.protocol.messages import (
    FROM_CHANNEL,
    ChannelHello,
    ChannelOffer,
    ChannelWanted,
    ChannelWelcome,
    Chunk,
    ProtocolError,
)
from zray.protocol.peer_messages import TOKEN_BYTES
from zray.protocol.rows import encode_row
from zray.transport.security.monitor import Monitor
from zray.transport.sockets import is_readable, make_socket, receive

if TYPE_CHECKING:
    from zray.transport.security.authenticator import Authenticator
    from zray.transport.security.keys import AllowedKey, ClientCredentials

log = logging.getLogger(__name__)

DIAL_TIMEOUT_S = 3.0
TOKEN_LIFE_S = 10.0
IDLE_S = 60.0
"""How long a channel may be without a request before it is closed: hundreds of hosts may have dialled each other."""
MAX_SOCKETS = 16384
"""The most ZeroMQ sockets. Each dialled channel takes three, so libzmq's default of 1,023 would be too few."""
HEARTBEAT_MS = 1000
HEARTBEAT_TIMEOUT_MS = 4000
MAX_MESSAGES_PER_TURN = 32
"""The most messages (mostly chunks) that one turn of the host's loop takes from one socket: it has other work, too."""


class Received(NamedTuple):
    """A message that came by a channel. ``channel``: the name to answer by; b"" if this host dialled the channel."""

    source: bytes
    channel: bytes
    message: Any


class _Dialled:
    """A channel that this host has dialled. ``is_up``: the peer has accepted it."""

    def __init__(self, peer: bytes, socket: zmq.Socket[Any], monitor: Monitor) -> None:
        self.peer = peer
        self.socket = socket
        self.monitor = monitor
        self.began = self.used = time.monotonic()
        self.is_up = False


class Channels:
    """The channels of one host.

    ``listen``: the address to listen at. With ``tcp://IP:*`` the host listens only from the first ``ChannelWanted`` on,
    so that it has no needless open port. With a port it listens at once, and raises ConfigError if the port is in use.
    If it is empty, other hosts cannot dial this one.

    ``place_for(source, chunk)`` returns the memory for the data of a chunk, or None; ``arrived(source, chunk,
    wire_bytes)`` is called when the data are there. ``up(peer)`` and ``down(peer)`` are called when a channel that this
    host dials is accepted, or has failed or ended.
    """

    def __init__(
        self,
        process_id: bytes,
        listen: str,
        config: Config,
        credentials: ClientCredentials | None,
        place_for: Callable[[bytes, Chunk], memoryview | None],
        arrived: Callable[[bytes, Chunk, int], None],
        up: Callable[[bytes], None],
        down: Callable[[bytes], None],
    ) -> None:
        self.process_id = process_id
        self.address = ""
        self.malformed = 0
        self.opened = 0
        """A number that changes whenever the set of descriptors changes."""
        self._config = config
        self._credentials = credentials
        self._place_for = place_for
        self._arrived = arrived
        self._up = up
        self._down = down
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._authenticator: Authenticator | None = None
        self._listener: zmq.Socket[Any] | None = None
        self._offered: dict[bytes, tuple[bytes, bytes, float]] = {}  # by token: peer, its key, time of the offer
        self._keys: dict[bytes, bytes] = {}  # public keys of the peers that may dial, by process
        self._asked: set[bytes] = set()  # peers that were asked for an offer and have not made one
        self._accepted: dict[bytes, bytes] = {}  # by connection: the peer that has dialled it
        self._dialled: dict[bytes, _Dialled] = {}
        self._listen_at = listen
        if listen and not listen.endswith(":*"):
            try:
                self._listen()
            except ConfigError:
                self.close()
                raise

    # ------------------------------------------------------------------ sockets

    def _listen(self) -> None:
        address = self._listen_at
        try:
            socket = make_socket(self._context, zmq.ROUTER, address, self._config)
        except zmq.ZMQError as error:
            raise ConfigError(f"this host cannot listen for channels: {error.strerror}") from None
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        _keep_alive(socket)
        if self._credentials is not None:
            from zray.transport.security.authenticator import Authenticator
            from zray.transport.security.keys import ServerCredentials

            pair = ServerCredentials(self._credentials.public, self._credentials.secret)
            self._authenticator = Authenticator(self._context, pair, self._find)
            self._authenticator.apply_server(socket)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            socket.close(0)
            if self._authenticator is not None:
                self._authenticator.close()
                self._authenticator = None
            raise ConfigError(
                f"this host cannot listen for channels at {address!r}: {error.strerror}. Set ZRAY_TRANSFER_ADDRESS to "
                'the address to listen at, or to "off": objects then go through the broker'
            ) from None
        self._listener = socket
        self.address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.opened += 1

    def _find(self, public: bytes) -> AllowedKey | None:
        from zray.transport.security.keys import AllowedKey

        return AllowedKey("host", "", public, "", "") if public in self._keys.values() else None

    @property
    def refusals(self) -> dict[str, int]:
        """How many connections were refused, by reason."""
        return dict(self._authenticator.refused) if self._authenticator is not None else {}

    @property
    def filenos(self) -> set[int]:
        """The descriptors to poll for input."""
        sockets = [dialled.socket for dialled in self._dialled.values()]
        if self._listener is not None:
            sockets.append(self._listener)
        if self._authenticator is not None:
            sockets += self._authenticator.sockets
        return {int(socket.fileno()) for socket in sockets}

    @property
    def readable(self) -> bool:
        """Whether something has arrived. Check this before polling: descriptors signal it only once."""
        sockets = [dialled.socket for dialled in self._dialled.values()]
        if self._listener is not None:
            sockets.append(self._listener)
        return any(map(is_readable, sockets))

    # ------------------------------------------------------------------ making channels

    @property
    def public_key(self) -> bytes:
        """The public key of this host (Z85); empty if the cluster has no keys."""
        return self._credentials.public if self._credentials is not None else b""

    def offer(self, peer: bytes, wanted: ChannelWanted) -> ChannelOffer:
        """Returns the answer to a host that asks for a channel."""
        if not self._listen_at or len(wanted.key) != len(self.public_key):
            return ChannelOffer("", b"", b"")
        if self._listener is None:
            try:
                self._listen()
            except ConfigError as error:  # the machine's network has changed: objects go through the broker
                log.warning("%s", error)
                self._listen_at = ""
                return ChannelOffer("", b"", b"")
        now = time.monotonic()
        for token, (whose, _, offered_at) in list(self._offered.items()):
            if whose == peer or now - offered_at > TOKEN_LIFE_S:  # only the last offer to a peer counts
                del self._offered[token]
        token = os.urandom(TOKEN_BYTES)
        self._offered[token] = peer, wanted.key, now
        self._keys[peer] = wanted.key
        return ChannelOffer(self.address, token, self.public_key)

    def ask_for_offer(self, peer: bytes) -> ChannelWanted:
        """Returns the message that asks a peer for an offer. One offer of that peer will be accepted."""
        self._asked.add(peer)
        return ChannelWanted(self.public_key)

    def dial(self, peer: bytes, offer: ChannelOffer) -> None:
        """Dials a peer that has made an offer. ``up`` or ``down`` will be called.

        An offer that was not asked for is dropped: a peer must not make this host connect to arbitrary addresses.
        """
        if peer not in self._asked:
            self.malformed += 1
            return
        self._asked.discard(peer)
        self.hang_up(peer)
        elsewhere = _is_loopback(offer.address) and self._listen_at and not _is_loopback(self._listen_at)
        if not offer.address.startswith("tcp://") or elsewhere or bool(offer.key) != bool(self.public_key):
            self._down(peer)
            return
        socket: zmq.Socket[Any] | None = None
        monitor: Monitor | None = None
        try:
            socket = make_socket(self._context, zmq.DEALER, offer.address, self._config)
            _keep_alive(socket)
            if self._credentials is not None:
                from zray.transport.security.dialer import apply_client

                apply_client(socket, self._credentials._replace(server=offer.key))
            monitor = Monitor(socket, zmq.EVENT_DISCONNECTED)
            socket.connect(offer.address)
            socket.send(_pack(ChannelHello(self.process_id, offer.token)), zmq.NOBLOCK)
        except (zmq.ZMQError, ValueError):  # a malformed address or key, or no descriptors left
            if monitor is not None:
                monitor.close()
            if socket is not None:
                socket.close(0)
            self._down(peer)
            return
        self._dialled[peer] = _Dialled(peer, socket, monitor)
        self.opened += 1

    def idle(self, now: float) -> list[bytes]:
        """The peers whose dialled channel has had no request for ``IDLE_S``."""
        return [d.peer for d in self._dialled.values() if d.is_up and now - d.used > IDLE_S]

    def hang_up(self, peer: bytes) -> None:
        """Closes the channel that was dialled to a peer, if there is one. Does not call ``down``."""
        dialled = self._dialled.pop(peer, None)
        if dialled is not None:
            dialled.monitor.close()
            dialled.socket.close(0)
            self.opened += 1

    def forget(self, peer: bytes) -> None:
        """Forgets a peer that is gone: closes its channels, and refuses it from now on."""
        self.hang_up(peer)
        self._asked.discard(peer)
        self._keys.pop(peer, None)
        for name in [name for name, process_id in self._accepted.items() if process_id == peer]:
            del self._accepted[name]
        for token in [token for token, offer in self._offered.items() if offer[0] == peer]:
            del self._offered[token]

    def _broken(self, peer: bytes) -> None:
        self.hang_up(peer)
        self._down(peer)

    def tick(self, now: float) -> None:
        """Closes dialled channels whose peer does not answer or has hung up. Called several times a second."""
        for dialled in list(self._dialled.values()):
            hung_up = any(event == zmq.EVENT_DISCONNECTED for event, _ in dialled.monitor.events())
            if hung_up or (not dialled.is_up and now - dialled.began > DIAL_TIMEOUT_S):
                self._broken(dialled.peer)

    # ------------------------------------------------------------------ sending

    def ask(self, peer: bytes, message: Any) -> bool:
        """Sends a request by the channel that was dialled to a peer. Returns False if there is none."""
        dialled = self._dialled.get(peer)
        if dialled is None:
            return False
        dialled.used = time.monotonic()
        try:
            dialled.socket.send(_pack(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def answer(self, channel: bytes, message: Any, data: bytes | memoryview | None, copy: bool) -> None:
        """Answers by the channel that a request came by. Does nothing if that is gone.

        ``copy``: copy the data, since they may change before they have been sent.
        """
        if self._listener is None or channel not in self._accepted:
            return
        try:
            self._listener.send_multipart(
                [channel, _pack(message)], zmq.NOBLOCK | (zmq.SNDMORE if data is not None else 0)
            )
            if data is not None:
                self._listener.send(data, zmq.NOBLOCK, copy=copy)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self._accepted.pop(channel, None)  # the peer will dial again, or is dead

    # ------------------------------------------------------------------ receiving

    def receive(self) -> Iterator[Received]:
        """Yields messages that have arrived, a bounded number. Chunks are not yielded: they go to their places."""
        if self._authenticator is not None:
            self._authenticator.pump()
        if self._listener is not None:
            yield from self._from_listener(self._listener)
        for dialled in list(self._dialled.values()):
            yield from self._from_dialled(dialled)

    def _from_listener(self, socket: zmq.Socket[Any]) -> Iterator[Received]:
        for _ in range(MAX_MESSAGES_PER_TURN):
            received = receive(socket, copy=False)
            if received is None:
                return
            name, *frames = received
            channel = name.bytes
            try:
                if len(frames) != 1:
                    raise ProtocolError("a request that does not have one part")
                message = unpack_row(frames[0].bytes, FROM_CHANNEL)
                if isinstance(message, ChannelHello):
                    self._accept(
                        channel, message, str(frames[0].get("User-Id")) if self._authenticator is not None else ""
                    )
                elif channel not in self._accepted or isinstance(message, (Chunk, ChannelWelcome)):
                    raise ProtocolError("a message before ChannelHello, or in the wrong direction")
                else:
                    yield Received(self._accepted[channel], channel, message)
            except ProtocolError:
                self.malformed += 1

    def _accept(self, channel: bytes, hello: ChannelHello, key: str) -> None:
        peer, expected, offered_at = self._offered.pop(hello.token, (b"", b"", 0.0))
        if peer != hello.process_id or key.encode() != expected or time.monotonic() - offered_at > TOKEN_LIFE_S:
            raise ProtocolError("a token that was not offered to this peer")
        for name in [name for name, process_id in self._accepted.items() if process_id == peer]:
            del self._accepted[name]  # the peer has dialled again
        self._accepted[channel] = peer
        self.answer(channel, ChannelWelcome(self.process_id), None, copy=True)

    def _from_dialled(self, dialled: _Dialled) -> Iterator[Received]:
        socket, peer = dialled.socket, dialled.peer
        for _ in range(MAX_MESSAGES_PER_TURN):
            try:
                head = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                message = unpack_row(head, FROM_CHANNEL)
                if isinstance(message, Chunk):
                    if dialled.is_up:
                        self._take_chunk(socket, peer, message)
                elif isinstance(message, ChannelWelcome):
                    if message.process_id != peer:
                        raise ProtocolError("the listener is not the peer that made the offer")
                    dialled.is_up = True
                    self._up(peer)
                elif dialled.is_up:
                    yield Received(peer, b"", message)
            except ProtocolError:
                self.malformed += 1
                self._broken(peer)
                return
            while not socket.closed and socket.getsockopt(zmq.RCVMORE):
                socket.recv(zmq.NOBLOCK)  # parts that were not taken above
            if self._dialled.get(peer) is not dialled:
                return

    def _take_chunk(self, socket: zmq.Socket[Any], peer: bytes, head: Chunk) -> None:
        if not socket.getsockopt(zmq.RCVMORE):
            raise ProtocolError("a chunk without data")
        place = None if head.packed else self._place_for(peer, head)
        if place is None:
            data = socket.recv(zmq.NOBLOCK)
            self._arrived(peer, head._replace(data=data), len(data))
            return
        n_bytes = socket.recv_into(place, flags=zmq.NOBLOCK)
        self._arrived(peer, head, n_bytes)

    def close(self) -> None:
        """Closes all channels and the listener."""
        for peer in list(self._dialled):
            self.hang_up(peer)
        if self._authenticator is not None:
            self._authenticator.close()
        if self._listener is not None:
            self._listener.close(0)
        self._context.term()


def _pack(message: Any) -> bytes:
    packed: bytes = msgpack.packb(encode_row(message))
    return packed


def _is_loopback(address: str) -> bool:
    """Whether an address is loopback. A host that reaches its broker by loopback can only be dialled on its machine."""
    return address.startswith("tcp://127.")


def _keep_alive(socket: zmq.Socket[Any]) -> None:
    """Sets heartbeats, so that a peer whose process or machine is stopped is given up soon.

    Requests then go through the broker.
    """
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
