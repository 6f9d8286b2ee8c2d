"""Authenticates the peers of a socket that binds to TCP: accepts allowed keys, and counts the refused connections.

libzmq does CURVE itself. For each peer that has proved to have its key, it asks a ZAP handler whether that key is
allowed. The handler is a socket that the owner of the authenticator polls with its own: poll ``sockets`` for input, and
call ``pump``, which never blocks. pyzmq's own authenticator would be a thread with an asyncio loop: an exception in it
would end authentication, and closing it takes time. Here an answer is a lookup in a table. Without an answer no peer is
accepted: the socket enforces its ZAP domain, also before the authenticator exists and after it was closed.

A peer that fails earlier (no ZeroMQ, no CURVE, the key of another server) never reaches ZAP; the monitor reports it.
For bytes that are not ZMTP at all, libzmq reports no fault and only hangs up. So an accepted TCP connection counts as
``NO_ZEROMQ`` if it was neither admitted nor reported as failed, and cannot be in its handshake any more. While other
peers come in, it is counted up to twice the time of a handshake late. The count is never too high.
"""

from __future__ import annotations

import collections
import itertools
import logging
import socket as sockets
import time
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils import z85

from zray.named_tuples import NamedTuple
from zray.transport.security.keys import AllowedKey, ServerCredentials
from zray.transport.security.monitor import Monitor, receive_waiting

log = logging.getLogger(__name__)

MAX_RECENT_REFUSALS = 100
REPEAT_S = 10.0
"""A refused peer that tries again within this time, with the same key or without the broker's key, is counted once."""
MAX_TRACKED_ADDRESSES = 1000
LOG_INTERVAL_S = 10.0
"""The least time between two log lines about refusals for the same reason."""
HANDSHAKE_MS = 5000
"""The most time for a handshake. A peer that takes longer is disconnected."""
MAX_HANDSHAKE_AGE = 2
"""After this many times ``HANDSHAKE_MS`` a handshake is certainly over, even on a loaded machine."""

MAX_EVENTS_PER_PUMP = 1000
"""How many questions, and events of each socket, one ``pump`` handles: a flood of them must not hold up the owner."""

UNKNOWN_KEY = "unknown key"
REVOKED_KEY = "revoked key"
NO_KEY = "no key"
WRONG_SERVER_KEY = "key of another broker"
HUNG_UP = "hung up or silent"
MALFORMED = "malformed handshake"
NO_ZEROMQ = "no ZeroMQ"

_UNKNOWN_ADDRESS = b"?"

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_DOMAIN = b"zray"
_PROTOCOL_FAULTS: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: NO_KEY,
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: WRONG_SERVER_KEY,
}
_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Refusal(NamedTuple):
    """A connection that was refused."""

    reason: str
    address: str
    """The peer's IP address; "?" if the connection was closed before it could be read."""
    time_s: float
    """Seconds since the epoch."""


class Authenticator:
    """The authenticator of the sockets of one context. Belongs to the thread that calls ``pump``.

    ``find`` looks up a public key (Z85), as ``AllowList.find`` does. Attributes: ``refused``: the number of refused
    peers, by reason; ``recent``: the last refusals; ``sockets``: the sockets to poll for input.
    """

    def __init__(
        self, context: zmq.Context[Any], server: ServerCredentials, find: Callable[[bytes], AllowedKey | None]
    ):
        self.refused: collections.Counter[str] = collections.Counter()
        self.recent: collections.deque[Refusal] = collections.deque(maxlen=MAX_RECENT_REFUSALS)
        self._server = server
        self._find = find
        self._logged: dict[str, tuple[float, int]] = {}  # by reason: when it was logged last, and its count then
        self._tried: dict[tuple[str, bytes], float] = {}  # by reason and peer: the time of its last refusal, in order
        self._wrong_server_key_at = -REPEAT_S  # the last refusal for WRONG_SERVER_KEY, of any address
        self._observers: list[_HandshakeObserver] = []
        self._zap: zmq.Socket[Any] = context.socket(zmq.ROUTER)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.setsockopt(zmq.SNDHWM, 0)  # no question and no answer is lost, however many peers dial at once
        self._zap.setsockopt(zmq.RCVHWM, 0)
        self._zap.bind(_ZAP_ENDPOINT)

    @property
    def sockets(self) -> list[zmq.Socket[Any]]:
        """The sockets to poll for input, besides the guarded ones."""
        return [self._zap, *(observer.socket for observer in self._observers)]

    def apply_server(self, socket: zmq.Socket[Any]) -> None:
        """Sets up a socket, before it binds, so that it accepts only allowed keys."""
        socket.curve_server = True
        socket.curve_secretkey = self._server.secret
        socket.zap_domain = _DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._observers.append(_HandshakeObserver(socket, self._count_address))

    def pump(self) -> None:
        """Answers the questions of libzmq, and counts refusals: up to ``MAX_EVENTS_PER_PUMP`` of each."""
        for _ in range(MAX_EVENTS_PER_PUMP):
            question = receive_waiting(self._zap)
            if question is None:
                break
            self._zap.send_multipart(self._answer(question), zmq.NOBLOCK)
        for observer in self._observers:
            observer.drain(time.monotonic())

    def role_of(self, user_id: bytes | str) -> str | None:
        """The role of the key of a message (``Frame.get("User-Id")``); None if the key is no longer allowed."""
        key = self._find(user_id.encode() if isinstance(user_id, str) else user_id)
        return key.role if key is not None and not key.revoked else None

    def close(self) -> None:
        """Stops answering: no peer is accepted from now on. Existing connections stay."""
        for observer in self._observers:
            observer.close()
        self._observers.clear()
        self._zap.close(0)

    def _answer(self, question: list[bytes]) -> list[bytes]:
        """Returns the answer to a question (ZeroMQ's RFC 27). A malformed one is refused: only libzmq asks."""
        envelope, rest = question[:2], question[2:]
        version, request = (*rest, b"", b"")[:2]
        reason, public = MALFORMED, b""
        if len(rest) == 7 and rest[5] == b"CURVE" and len(rest[6]) == 32:
            public = z85.encode(rest[6])
            key = self._find(public)
            reason = UNKNOWN_KEY if key is None else REVOKED_KEY if key.revoked else ""
        if not reason:
            return [*envelope, version, request, b"200", b"OK", public, b""]
        address = rest[3].decode("ascii", "replace") if len(rest) > 3 else "?"
        if not self._tries_again(reason, public):
            self._count(reason, address)
        return [*envelope, version, request, b"400", reason.encode(), b"", b""]

    def _tries_again(self, reason: str, who: bytes) -> bool:
        """Whether the same peer was refused for the same reason less than ``REPEAT_S`` ago: it only tries again."""
        now = time.monotonic()
        last = self._tried.pop((reason, who), -REPEAT_S)
        self._tried[reason, who] = now
        if len(self._tried) > MAX_TRACKED_ADDRESSES:
            del self._tried[next(iter(self._tried))]
        return bool(who) and now - last < REPEAT_S

    def _count_address(self, reason: str, address: str) -> None:
        """Counts a peer that has shown no key, so that only its address is known ("?" if it could not be read).

        A peer that expects another broker's key counts once. It tries again, and in the end asks for this listener's
        mechanism, which looks as if it hung up.
        """
        who = address.encode()
        known = reason in (WRONG_SERVER_KEY, HUNG_UP) and self._expects_another_broker(who)
        if reason == WRONG_SERVER_KEY:
            self._tries_again(reason, who)
            self._wrong_server_key_at = time.monotonic()
        if not known:
            self._count(reason, address)

    def _expects_another_broker(self, who: bytes) -> bool:
        """Whether this address, or one that may be the same, was refused for ``WRONG_SERVER_KEY`` a moment ago."""
        last = self._wrong_server_key_at
        if who != _UNKNOWN_ADDRESS:
            last = max(self._tried.get((WRONG_SERVER_KEY, other), -REPEAT_S) for other in (who, _UNKNOWN_ADDRESS))
        return time.monotonic() - last < REPEAT_S

    def _count(self, reason: str, address: str) -> None:
        self.refused[reason] += 1
        self.recent.append(Refusal(reason, address, time.time()))
        now, count = time.monotonic(), self.refused[reason]
        last, logged = self._logged.get(reason, (-LOG_INTERVAL_S, 0))
        if now - last >= LOG_INTERVAL_S:
            self._logged[reason] = now, count
            more = f" (and {count - logged - 1} others since)" if count - logged > 1 else ""
            log.warning("refused %s: %s%s", address, reason, more)


class _HandshakeObserver:
    """Follows the handshakes at one socket."""

    def __init__(self, socket: zmq.Socket[Any], count: Callable[[str, str], None]) -> None:
        self._monitor = Monitor(socket, _EVENTS)
        self.socket, self.close = self._monitor.socket, self._monitor.close
        self._count = count
        self._unfinished: dict[int, tuple[float, str]] = {}  # by descriptor: time of accept, address; the oldest first
        self._unexplained = 0  # connections accepted by the kernel, with neither success nor failure reported
        self._fault = ""  # of the connection whose end is reported next: an I/O thread reports one after the other
        self._address = "?"

    def drain(self, now: float) -> None:
        """Handles the events that the monitor has reported."""
        for event, value in itertools.islice(self._monitor.events(), MAX_EVENTS_PER_PUMP):
            self._follow(event, value, now)
        while (
            self._unfinished
            and now - next(iter(self._unfinished.values()))[0] > MAX_HANDSHAKE_AGE * HANDSHAKE_MS / 1000
        ):
            del self._unfinished[next(iter(self._unfinished))]
        while self._unexplained > len(self._unfinished):
            self._unexplained -= 1
            self._count(NO_ZEROMQ, self._address)

    def _follow(self, event: int, value: int, now: float) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._unfinished.pop(value, None)
            self._unfinished[value] = now, _peer_of(value)
            self._unexplained += 1
        elif event == zmq.EVENT_DISCONNECTED:
            _, address = self._unfinished.pop(value, (now, "?"))
            if self._fault:
                self._count(self._fault, address)
            self._fault, self._address = "", address
        else:
            self._unexplained = max(0, self._unexplained - 1)
            if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._fault = HUNG_UP
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._fault = _PROTOCOL_FAULTS.get(value, MALFORMED)
            # A peer that ZAP refused (AUTH) was counted with the answer.


def _peer_of(fd: int) -> str:
    """The peer's IP address of a connection of libzmq; "?" if libzmq has closed the connection."""
    try:
        peer = sockets.socket(fileno=fd)
    except OSError:
        return "?"
    try:
        return str(peer.getpeername()[0])
    except OSError:
        return "?"
    finally:
        peer.detach()
