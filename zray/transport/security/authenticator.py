"""The door of a socket that binds to TCP: lets in the keys that are allowed, and counts who was turned away.

libzmq does CURVE itself and asks, for every peer that has proved to hold its key, a ZAP handler whether that key may
come in. The handler is a socket which the owner of the authenticator polls along with its own: ``sockets`` are to be
polled for input, ``pump`` does what there is to do and never blocks. pyzmq's own authenticator would be a thread with
an asyncio loop, of which an exception would take the door, and its closing its time; an answer here is a look into a
table. Without an answer nobody comes in: the socket enforces its ZAP domain, also before and after the authenticator's
life.

Who fails earlier (no ZeroMQ, no CURVE, another server's key) never gets to ZAP; the monitor tells of these.  libzmq
reports no fault for bytes that are no ZMTP at all, it only hangs up.  So of the connections that were accepted, those
that neither came in, nor failed with a report, nor may still be shaking hands are counted as such: late by up to
twice the time that a handshake may take while others come in, and never too many.
"""

from __future__ import annotations

import collections
import itertools
import logging
import socket as sockets
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import zmq
from zmq.utils import z85

from zray.transport.security.keys import AllowedKey, ServerCredentials
from zray.transport.security.monitor import Monitor, receive_waiting

log = logging.getLogger(__name__)

MAX_RECENT_REFUSALS = 100
REPEAT_S = 10.0
"""Who is turned away and comes again within so many seconds, with the same key or for want of the broker's, is counted
once."""
MAX_TRACKED_ADDRESSES = 1000
LOG_INTERVAL_S = 10.0
"""Refusals for one reason are logged this often at most, in seconds."""
HANDSHAKE_MS = 5000
"""A peer that has not come in after so long is hung up on."""
MAX_HANDSHAKE_AGE = 2
"""After this many times as long, a loaded machine considered, no handshake is under way any more."""

MAX_EVENTS_PER_PUMP = 1000
"""So many questions, and events of each socket, are seen to at once: a flood of them must not hold up the owner."""

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
    """Somebody who was turned away."""

    reason: str
    address: str
    """IP address; "?" if it was gone before it could be asked for."""
    time_s: float
    """Seconds since the epoch."""


class Authenticator:
    """The authenticator of the sockets of one context. Belongs to the thread that calls ``pump``.

    ``find`` looks a public key (Z85) up, as ``AllowList.find`` does. Attributes: refused, the number of peers turned
    away by reason; recent, the last of them; sockets, to be polled for input.
    """

    def __init__(
        self, context: zmq.Context[Any], server: ServerCredentials, find: Callable[[bytes], AllowedKey | None]
    ):
        self.refused: collections.Counter[str] = collections.Counter()
        self.recent: collections.deque[Refusal] = collections.deque(maxlen=MAX_RECENT_REFUSALS)
        self._server = server
        self._find = find
        self._logged: dict[str, tuple[float, int]] = {}  # reason: when it was logged last, and its count then
        self._tried: dict[tuple[str, bytes], float] = {}  # when somebody was turned away last; the latest at the end
        self._wrong_server_key_at = -REPEAT_S  # the last of those that were turned away for it, whatever its address
        self._observers: list[_HandshakeObserver] = []
        self._zap: zmq.Socket[Any] = context.socket(zmq.ROUTER)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.setsockopt(zmq.SNDHWM, 0)  # however many dial at once, no question and no answer is lost
        self._zap.setsockopt(zmq.RCVHWM, 0)
        self._zap.bind(_ZAP_ENDPOINT)

    @property
    def sockets(self) -> list[zmq.Socket[Any]]:
        """What is to be polled for input, besides the guarded sockets."""
        return [self._zap, *(keeper.socket for keeper in self._observers)]

    def apply_server(self, socket: zmq.Socket[Any]) -> None:
        """Closes a socket that is about to bind to all but allowed keys."""
        socket.curve_server = True
        socket.curve_secretkey = self._server.secret
        socket.zap_domain = _DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._observers.append(_HandshakeObserver(socket, self._count_address))

    def pump(self) -> None:
        """Answers whoever asks to come in, and counts who was turned away; what is too much at once, next time."""
        for _ in range(MAX_EVENTS_PER_PUMP):
            question = receive_waiting(self._zap)
            if question is None:
                break
            self._zap.send_multipart(self._answer(question), zmq.NOBLOCK)
        for keeper in self._observers:
            keeper.drain(time.monotonic())

    def role_of(self, user_id: bytes | str) -> str | None:
        """The role of the key that a message came with (``Frame.get("User-Id")``); None if it is allowed no more."""
        key = self._find(user_id.encode() if isinstance(user_id, str) else user_id)
        return key.role if key is not None and not key.revoked else None

    def close(self) -> None:
        """Stops answering: nobody comes in from now on; who is in, stays."""
        for keeper in self._observers:
            keeper.close()
        self._observers.clear()
        self._zap.close(0)

    def _answer(self, question: list[bytes]) -> list[bytes]:
        """See ZeroMQ's RFC 27. Only libzmq asks, so a question that is not as expected is just a no."""
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
        """Whether somebody was turned away for the same reason a moment ago, and just does not give up."""
        now = time.monotonic()
        last = self._tried.pop((reason, who), -REPEAT_S)
        self._tried[reason, who] = now
        if len(self._tried) > MAX_TRACKED_ADDRESSES:
            del self._tried[next(iter(self._tried))]
        return bool(who) and now - last < REPEAT_S

    def _count_address(self, reason: str, address: str) -> None:
        """Counts a peer that has shown no key, and so is known by its address alone ("?" where a system call for it
        came too late). A peer that expects another broker's key tries again, and asks in the end what this listener
        wants, which looks like hanging up: it counts once."""
        who = address.encode()
        known = reason in (WRONG_SERVER_KEY, HUNG_UP) and self._expects_another_broker(who)
        if reason == WRONG_SERVER_KEY:
            self._tries_again(reason, who)
            self._wrong_server_key_at = time.monotonic()
        if not known:
            self._count(reason, address)

    def _expects_another_broker(self, who: bytes) -> bool:
        """Whether an address, or one that may be the same, has just been turned away for the key that it expected."""
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
        self._unfinished: dict[int, tuple[float, str]] = {}  # when accepted, by whom, per descriptor; the oldest first
        self._unexplained = 0  # accepted, and neither known to have come in nor to have failed
        self._fault = ""  # of the connection whose end is told next: each I/O thread tells of one after the other
        self._address = "?"

    def drain(self, now: float) -> None:
        """Takes note of what happened."""
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
            # What is refused after a question (AUTH) was counted when it was answered.


def _peer_of(fd: int) -> str:
    """The address at the other end of a connection of libzmq's, which may have been closed by now."""
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
