"""A link delivers messages exactly once and in order over a transport that may lose and reorder frames.

It connects one incarnation of a process with one of a peer. Pure: the caller passes the time. Contract: after ``send``,
``receive`` or ``tick``, take the frames to transmit with ``outgoing()``. Messages given to ``send`` wait until then, so
that one turn of a loop makes one frame, however many messages it has. Messages that cannot be sent (too large, or not
packable) are left out and put into ``rejected``.

A real connection loses nothing until it breaks, but the peer may be slow, or stopped for hours. So frames are not sent
again just because they are not acknowledged: that would only add to what the transport already holds. The link asks
first. A *probe* tells the peer the number of the last frame sent, and the answer acknowledges what the peer has
received. Frames of one connection arrive in order. So a frame that was sent before the probe and is not acknowledged by
the answer is lost, and is sent again, once.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from typing import Any

from zray.named_tuples import NamedTuple
from zray.protocol.codec import KIND_DATA, PACK_ERRORS, Frame, pack_body, pack_frame, unpack_messages
from zray.protocol.messages import ProtocolError

MAX_BODY_MESSAGES = 4096
MAX_BODY_BYTES = 1 << 20
"""A frame is closed when the payloads of its messages exceed this. A single message may be larger."""
ACK_EVERY_FRAMES = 64
ACK_EVERY_BYTES = 1 << 20
MAX_EARLY_FRAMES = 4096
ENVELOPE_BYTES = 1024
"""The most that is added to a body: the frame's header, identifiers of processes, and what CURVE adds."""
MAX_MESSAGE_BYTES = 512 << 20
MAX_BACKLOG_BYTES = 64 << 20
"""A link with more bytes than this under way is congested: what produces messages for it must wait."""

_CONTROL = struct.Struct("<BQ")
_PROBE, _ANSWER = 1, 2


class Rejected(NamedTuple):
    """A message that was not sent, and the reason."""

    message: Any
    reason: str


MAX_EARLY_BYTES = 16 << 20
"""The most bytes in frames that wait for an earlier one.

Further frames are dropped. The peer sends them again with the lost one.
"""


class Link:
    """This process's end of a link, for both directions.

    ``incarnation``: the broker's; ``allowed``: the message classes that the peer may send; ``max_message_bytes``: the
    largest ZeroMQ message that the peer accepts. Times are in seconds.

    Attributes: ``rejected``: messages that could not be sent; the owner of the link empties it. ``backlog_bytes``: the
    size of the bodies that were sent and are not acknowledged. ``congested``: whether that is more than
    ``MAX_BACKLOG_BYTES``, so that what produces messages must wait.
    """

    __slots__ = (
        "_acked",
        "_allowed",
        "_asked",
        "_bytes_since_ack",
        "_early",
        "_early_bytes",
        "_frames_since_ack",
        "_heartbeat_s",
        "_incarnation",
        "_max_body_bytes",
        "_outbox",
        "_probe_s",
        "_progress",
        "_received",
        "_seq",
        "_silence_s",
        "_transmit",
        "_unacked",
        "backlog_bytes",
        "congested",
        "fault",
        "last_heard",
        "last_sent",
        "malformed",
        "rejected",
    )

    def __init__(
        self,
        incarnation: bytes,
        allowed: frozenset[Any],
        now: float,
        heartbeat_s: float = 1.0,
        silence_s: float = 6.0,
        probe_s: float = 1.0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._incarnation = incarnation
        self._allowed = allowed
        self._heartbeat_s = heartbeat_s
        self._silence_s = silence_s
        self._probe_s = probe_s
        self._max_body_bytes = max_message_bytes - ENVELOPE_BYTES
        self._seq = 0
        self._received = 0
        self._acked = 0  # the last number that this end has acknowledged
        self._frames_since_ack = 0
        self._bytes_since_ack = 0
        self._outbox: list[Any] = []
        self._unacked: deque[tuple[int, bytes, float]] = deque()  # seq, body, time sent
        self._early: dict[int, memoryview] = {}
        self._early_bytes = 0
        self._transmit: list[tuple[int, bytes]] = []  # seq, body: to transmit, or to transmit again
        self._progress = now  # when the last acknowledgement came or the last probe was sent
        self._asked = 0  # the number in the last probe, until it is answered
        self.backlog_bytes = 0
        self.congested = False
        self.rejected: list[Rejected] = []
        self.last_heard = now
        self.last_sent = now
        self.malformed = 0  # number of malformed bodies, which were dropped
        self.fault = ""  # what was wrong with the last of them

    @property
    def idle(self) -> bool:
        """Whether everything sent has been acknowledged and nothing waits to be sent."""
        return not self._outbox and not self._unacked

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is due before the peer sends something: no acknowledgement, no heartbeat, no probe."""
        return self.idle and self._received == self._acked and self._heartbeat_s == math.inf

    @property
    def pending(self) -> bool:
        """Whether ``outgoing`` would return something."""
        return bool(self._outbox or self._transmit)

    def send(self, message: Any) -> None:
        """Queues a message for ``outgoing``."""
        self._outbox.append(message)

    def receive(self, frame: Frame, now: float) -> list[Any]:
        """Returns the messages that a frame makes deliverable. A malformed body is counted and dropped on its own."""
        self.last_heard = now
        unacked = self._unacked
        if unacked and unacked[0][0] <= frame.ack:
            self._progress = now
            while unacked and unacked[0][0] <= frame.ack:
                self.backlog_bytes -= len(unacked.popleft()[1])
            self.congested = self.backlog_bytes > MAX_BACKLOG_BYTES
        if frame.seq == 0:
            if len(frame.body) == _CONTROL.size:
                kind, number = _CONTROL.unpack(frame.body)
                self._on_control(kind, number, now)
            return []
        self._frames_since_ack += 1
        self._bytes_since_ack += len(frame.body)
        if frame.seq != self._received + 1:
            if frame.seq <= self._received:
                self._frames_since_ack = ACK_EVERY_FRAMES  # a duplicate: the peer missed our ack
            else:
                self._keep_early(frame)
            return []
        # Counted before it is parsed: a malformed frame is dropped, and does not hold up the frames behind it.
        self._received += 1
        messages = self._unpack(frame.body)
        while self._early and (body := self._early.pop(self._received + 1, None)) is not None:
            self._received += 1
            self._early_bytes -= len(body)
            messages.extend(self._unpack(body))
        return messages

    def _on_control(self, kind: int, number: int, now: float) -> None:
        if kind == _PROBE:
            self._transmit.append((0, _CONTROL.pack(_ANSWER, number)))
        elif kind == _ANSWER and number == self._asked:
            self._asked = 0
            self._progress = now
            self._transmit.extend((seq, body) for seq, body, _ in self._unacked if seq <= number)

    def _keep_early(self, frame: Frame) -> None:
        early, size = self._early, len(frame.body)
        if frame.seq in early or len(early) >= MAX_EARLY_FRAMES or self._early_bytes + size > MAX_EARLY_BYTES:
            return
        early[frame.seq] = frame.body
        self._early_bytes += size

    def _unpack(self, body: memoryview) -> list[Any]:
        try:
            return unpack_messages(body, self._allowed)
        except ProtocolError as error:
            self.malformed += 1
            self.fault = str(error)
            return []

    def tick(self, now: float) -> bool:
        """Queues pings, acknowledgements and probes that are due. Returns False if the peer was silent for too long."""
        if self._unacked and now - max(self._unacked[0][2], self._progress) >= self._probe_s:
            self.probe(now)
        ack_due = self._received > self._acked
        if (ack_due or now - self.last_sent >= self._heartbeat_s) and not self.pending:
            self._transmit.append((0, b""))
        return now - self.last_heard < self._silence_s

    def probe(self, now: float) -> None:
        """Asks the peer what it has received, if something is not acknowledged. It answers at once."""
        if self._unacked:
            self._progress = now
            self._asked = self._unacked[-1][0]
            self._transmit.append((0, _CONTROL.pack(_PROBE, self._asked)))

    @property
    def last_number(self) -> int:
        """The number of the last frame with messages."""
        return self._seq

    def has_acknowledged(self, number: int) -> bool:
        """Whether the peer has acknowledged all frames up to this number."""
        return not self._unacked or self._unacked[0][0] > number

    def acknowledge(self) -> None:
        """Queues an empty frame, which acknowledges what has come."""
        self._transmit.append((0, b""))

    def resend(self) -> None:
        """Queues everything that is not acknowledged: the transport has lost an unknown part of it."""
        self._transmit = [(seq, body) for seq, body, _ in self._unacked]

    def restart_silence(self, now: float) -> None:
        """Gives the peer new time to send something, after this process was stopped or the machine slept."""
        self.last_heard = max(self.last_heard, now - self._silence_s / 3)

    def outgoing(self, now: float) -> list[bytes]:
        """Takes the frames to transmit now."""
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            for body in self._bodies(outbox):
                self._seq += 1
                self.backlog_bytes += len(body)
                self._unacked.append((self._seq, body, now))
                self._transmit.append((self._seq, body))
            self.congested = self.backlog_bytes > MAX_BACKLOG_BYTES
        elif not self._transmit:
            if self._frames_since_ack < ACK_EVERY_FRAMES and self._bytes_since_ack < ACK_EVERY_BYTES:
                return []
            self._transmit.append((0, b""))
        ack = self._acked = self._received
        self._frames_since_ack = self._bytes_since_ack = 0
        self.last_sent = now
        incarnation = self._incarnation
        frames = [pack_frame(KIND_DATA, incarnation, seq, ack, body) for seq, body in self._transmit]
        self._transmit.clear()
        return frames

    def _bodies(self, messages: list[Any]) -> list[bytes]:
        """Packs messages into bodies of bounded size."""
        bodies: list[bytes] = []
        for chunk in _chunks(messages) if len(messages) > 1 else (messages,):
            try:
                body = pack_body(chunk)
            except PACK_ERRORS:
                body = None
            if body is not None and len(body) <= self._max_body_bytes:
                bodies.append(body)
            else:
                bodies.extend(self._one_by_one(chunk))
        return bodies

    def _one_by_one(self, messages: list[Any]) -> list[bytes]:
        """Packs each message into a body of its own. Those that cannot be sent go to ``rejected``."""
        bodies = []
        for message in messages:
            try:
                body = pack_body([message])
            except PACK_ERRORS as error:
                self.rejected.append(Rejected(message, f"it cannot be packed: {error}"))
                continue
            if len(body) > self._max_body_bytes:
                reason = (
                    f"it has {len(body):,} bytes, and a message may have at most {self._max_body_bytes:,} "
                    "(the setting max_message_bytes)"
                )
                self.rejected.append(Rejected(message, reason))
            else:
                bodies.append(body)
        return bodies


def _chunks(messages: list[Any]) -> list[list[Any]]:
    """Splits messages into chunks whose bodies are not much larger than ``MAX_BODY_BYTES``."""
    chunks = []
    chunk: list[Any] = []
    size = 0
    for message in messages:
        last = message[-1]
        size += len(last) if type(last) is bytes else 0
        chunk.append(message)
        if size >= MAX_BODY_BYTES or len(chunk) >= MAX_BODY_MESSAGES:
            chunks.append(chunk)
            chunk = []
            size = 0
    if chunk:
        chunks.append(chunk)
    return chunks
