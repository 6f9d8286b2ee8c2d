"""Which processes are members of the cluster, and which frames count as theirs. See ``zray/protocol/contract.py``.

A process sends Hello until it gets Welcome or Refused. It must speak this version of the protocol, have a key for its
role, and use the right connection: on TCP, a worker uses its host's connection and every other process its own. From
then on its identifier is bound to that connection and that key. A frame in its name that comes by another connection or
with another key is dropped.

A member has a link, which loses nothing. It is declared dead when it has been silent for too long, when its key has
been revoked, or when it sends too many malformed messages. The identifier of a dead process is never admitted again.

``source`` in ``receive`` is the name of a connection: the identity at the ROUTER, which only the two ends know.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from zray import version
from zray.logs.digest import Digest
from zray.logs.line import WARNING, LogLine
from zray.named_tuples import NamedTuple
from zray.protocol.codec import KIND_HANDSHAKE, Frame, pack_handshake, read_frame, unpack_handshake
from zray.protocol.contract import Output, event
from zray.protocol.link import Link
from zray.protocol.messages import (
    DRIVER,
    HOST,
    MAY_SEND,
    OBSERVER,
    PROTOCOL_VERSION,
    WORKER,
    Hello,
    ProtocolError,
    Refused,
    Welcome,
)
from zray.protocol.records import ClusterInfo, JoinInfo, VersionPair
from zray.protocol.routing import Arrival

PAUSE_S = 1.0
"""If this much time passed between two ticks, the broker or its machine was stopped."""
REDIAL_SHARE = 1 / 3
"""The time that a driver may take to connect again, as a part of ``silence_s``."""
VANISHED_TIMES = 10
"""How long the network of a driver's machine may be down, as a multiple of ``silence_s`` (a minute by default)."""
MAX_FAULTS = 100
"""The number of malformed messages after which a process is declared dead: reading them takes the broker's time."""
FAULT_BYTES = 1 << 16
"""A malformed frame counts as one fault, and one more for each full ``FAULT_BYTES`` of its size."""
HOST_ROLE = "host"
STARTED_AGAIN = "the broker was started again since this process has joined"
REVOKED = "its key has been revoked"


class Rules(NamedTuple):
    """The settings of a ``Membership``. Times are in seconds.

    ``is_tcp``: each connection belongs to a host or a driver, and has a name of its own.
    """

    heartbeat_s: float
    silence_s: float
    max_message_bytes: int
    is_tcp: bool


# The effects, which the shell performs in order.


class Joining(NamedTuple):
    """A process may join: tell the broker's core, then call ``admit`` or ``decline``."""

    process_id: bytes
    kind: str
    info: JoinInfo


class Heard(NamedTuple):
    """A member has sent messages."""

    process_id: bytes
    messages: list[Any]


class Dead(NamedTuple):
    """A member is dead: it was silent for too long, or its key was revoked."""

    process_id: bytes
    reason: str


class Misbehaving(NamedTuple):
    """A member has sent too many malformed messages: expel it."""

    process_id: bytes
    reason: str


class Congested(NamedTuple):
    """The link to a member has become congested, or is no longer."""

    process_id: bytes
    congested: bool


class NotSent(NamedTuple):
    """The link to a member did not take a message."""

    process_id: bytes
    message: Any
    reason: str


class Reply(NamedTuple):
    """Send a frame to a process that has not joined, by the connection that it came through."""

    through: bytes
    process_id: bytes
    data: bytes


class Follow(NamedTuple):
    """A driver has a connection: ``unanswered_s`` will be called for it from now on."""

    through: bytes


class Unfollow(NamedTuple):
    """The process that a connection belongs to is gone."""

    through: bytes


MembershipEffect = Joining | Heard | Dead | Misbehaving | Congested | NotSent | Reply | Follow | Unfollow | LogLine


def _versions_of(hello: Hello) -> list[VersionPair]:
    """The versions of a process that wants to join, each beside the broker's."""
    return [
        VersionPair("protocol", str(hello.protocol), str(PROTOCOL_VERSION)),
        VersionPair("python", hello.python, version.python_version()),
        VersionPair("zray", hello.zray, version.VERSION),
    ]


class Member:
    """A process that has joined."""

    __slots__ = ("congested", "faults", "key", "kind", "link", "process_id", "through")

    def __init__(self, arrival: Arrival, kind: str, link: Link) -> None:
        self.process_id = arrival.process_id
        self.through = arrival.through
        self.key = arrival.key
        self.kind = kind
        self.link = link
        self.congested = False
        self.faults = 0


class Membership:
    """The members, by process. The ``sends`` of its output are frames.

    ``incarnation``: of the broker. ``role_of(key)``: the role of an allowed key, or None for any other key;
    ``role_of`` is None if the cluster has no keys. ``objection(process, kind, relay)``: why the core refuses a process
    (it is unknown, or dead), or empty; ``relay`` is the host whose connection it came through, or empty.
    ``unanswered_s(through)``: for how many seconds the peer of a connection has acknowledged nothing.
    """

    def __init__(
        self,
        incarnation: bytes,
        rules: Rules,
        role_of: Callable[[bytes], str | None] | None,
        objection: Callable[[bytes, str, bytes], str],
        unanswered_s: Callable[[bytes], float] = lambda through: 0.0,
    ) -> None:
        self.members: dict[bytes, Member] = {}
        self.refused: Counter[str] = Counter()
        """How many processes were refused, by reason."""
        self.dropped_frames = 0
        """The number of malformed or refused frames and messages."""
        self._incarnation = incarnation
        self._rules = rules
        self._role_of = role_of
        self._objection = objection
        self._unanswered_s = unanswered_s
        self._joining: dict[bytes, tuple[Arrival, Hello]] = {}
        self._owners: dict[bytes, bytes] = {}  # on TCP: the process that each connection belongs to
        self._active: dict[bytes, Member] = {}  # members whose links may have something to send
        self._departed: list[bytes] = []
        self.unreachable: dict[bytes, float] = {}
        """The members to whom nothing can be sent, and since when."""
        self.pending: list[MembershipEffect] = []
        """The effects of the next output. While there are any, ``take_output`` returns them, and no frames."""
        self._perform = self.pending.append
        self._refusals = Digest("processes were refused")
        self._now = 0.0
        self._last_tick = 0.0

    def take_output(self) -> Output[MembershipEffect]:
        """Takes the effects, if there are any, and else the frames: these leave after all input has been handled."""
        return Output({}, self._take_effects()) if self.pending else self._transmit()

    def _take_effects(self) -> list[MembershipEffect]:
        effects = self.pending[:]
        self.pending.clear()
        return effects

    def silent_s(self, process_id: bytes, now: float) -> float:
        """For how many seconds a member has been silent; 0 for any other process."""
        member = self.members.get(process_id)
        return max(0.0, now - member.link.last_heard) if member is not None else 0.0

    # ------------------------------------------------------------------ frames come in

    def receive(self, source: bytes, message: Arrival, now: float) -> None:
        """Handles a frame from the connection ``source``. A malformed one is dropped and counted against its member."""
        self._now = now
        arrival = message
        member = self.members.get(arrival.process_id)
        if member is not None and member.faults >= MAX_FAULTS:
            self.dropped_frames += 1  # it is being expelled
            return
        is_its = member is not None and member.through == source and member.key == arrival.key
        try:
            frame = read_frame(arrival.data)
            if frame.kind == KIND_HANDSHAKE:
                self._handshake(arrival, frame, is_its)
            elif member is None or frame.incarnation != self._incarnation:
                self._refuse_if_dead(arrival, is_unknown=member is None and frame.incarnation != self._incarnation)
            elif not is_its:
                raise ProtocolError("a frame in another process's name")
            else:
                self._hear(member, frame, len(arrival.data))
        except ProtocolError as error:
            if member is not None and is_its:
                self._blame(member, 1, 1 + len(arrival.data) // FAULT_BYTES, str(error))
            else:
                self.dropped_frames += 1

    def _hear(self, member: Member, frame: Frame, size: int) -> None:
        link = member.link
        self._active[member.process_id] = member
        malformed = link.malformed
        messages = link.receive(frame, self._now)
        if link.malformed != malformed:
            self._blame(member, link.malformed - malformed, 1 + size // FAULT_BYTES, link.fault)
        if messages:
            self._perform(Heard(member.process_id, messages))

    def _refuse_if_dead(self, arrival: Arrival, is_unknown: bool) -> None:
        """Refuses a process that was declared dead.

        ``is_unknown``: it has joined an earlier run of the broker, and is refused, too.
        """
        self.dropped_frames += 1
        reason = self._objection(arrival.process_id, DRIVER, b"") or (STARTED_AGAIN if is_unknown else "")
        if reason:
            self._reply(arrival, Refused(reason, []))

    @event
    def blame(self, process_id: bytes, fault: str, now: float) -> None:
        """Counts a message of a member whose content was not allowed."""
        self._now = now
        member = self.members.get(process_id)
        if member is not None:
            self._blame(member, 1, 1, fault)

    def _blame(self, member: Member, count: int, weight: int, fault: str) -> None:
        """Counts malformed messages against a member, which is expelled after ``MAX_FAULTS``."""
        self.dropped_frames += count
        before, member.faults = member.faults, member.faults + count * weight
        if before < MAX_FAULTS <= member.faults:
            reason = f"it has sent too many malformed messages, the last: {fault}"
            self._perform(Misbehaving(member.process_id, reason))

    # ------------------------------------------------------------------ joining

    def _handshake(self, arrival: Arrival, frame: Frame, is_its: bool) -> None:
        hello, process_id = unpack_handshake(frame), arrival.process_id
        if not isinstance(hello, Hello) or hello.process_id != process_id or hello.kind not in MAY_SEND:
            raise ProtocolError("a handshake that is not a Hello of its sender")
        if (hello.protocol, hello.python) != (PROTOCOL_VERSION, version.python_version()):
            self._turn_away(arrival, hello, "versions differ", _versions_of(hello))
            return
        reason = self._no_admission(arrival, hello.kind)
        reason = reason or self._objection(process_id, hello.kind, self._relay_of(arrival))
        if not reason and process_id in self.members and not is_its:
            reason = "another process has joined under its name"
        if reason:
            self._turn_away(arrival, hello, reason, [])
            return
        self._joining[process_id] = arrival, hello
        self._perform(Joining(process_id, hello.kind, hello.info))

    def _no_admission(self, arrival: Arrival, kind: str) -> str:
        """Why the sender's connection and key do not admit it as a ``kind``; empty if they do."""
        if self._rules.is_tcp and (kind == WORKER) != (self._relay_of(arrival) != b""):
            return (
                "a worker must join through its host" if kind == WORKER else f"a {kind} must join by its own connection"
            )
        if self._role_of is None:
            return ""
        role = self._role_of(arrival.key)
        if role is None:
            return REVOKED
        allowed = (HOST, WORKER) if role == HOST_ROLE else (DRIVER, OBSERVER)
        return "" if kind in allowed else f"a {role}'s key does not admit {'an' if kind == OBSERVER else 'a'} {kind}"

    def _relay_of(self, arrival: Arrival) -> bytes:
        """The process that passed a frame on; b"" if it came by its sender's own connection."""
        owner = self._owners.get(arrival.through, b"")
        return owner if owner != arrival.process_id else b""

    def _turn_away(self, arrival: Arrival, hello: Hello, reason: str, versions: list[VersionPair]) -> None:
        self.refused[reason.partition(":")[0]] += 1  # what follows the colon differs for each process
        differ = [
            f"{pair.name} {pair.joiner} there, {pair.cluster} here" for pair in versions if pair.joiner != pair.cluster
        ]
        details = f": {'; '.join(differ)}" if differ else ""
        text = f"refused {hello.kind} {arrival.process_id.hex()} (pid {hello.info.pid}): {reason}{details}"
        self._log_refusal(self._refusals.add(self._now, hello.kind, text))
        self._reply(arrival, Refused(reason, versions))

    def _log_refusal(self, text: str) -> None:
        if text:
            self._perform(LogLine(WARNING, "broker.membership", text))

    def _reply(self, arrival: Arrival, message: Any) -> None:
        self._perform(Reply(arrival.through, arrival.process_id, pack_handshake(message)))

    @event
    def admit(self, process_id: bytes, cluster: ClusterInfo, now: float) -> None:
        """The broker's core has accepted a process that was joining. ``cluster``: the content of its Welcome."""
        self._now = now
        if process_id not in self._joining:  # it has sent Hello twice, and was answered
            return
        arrival, hello = self._joining.pop(process_id)
        if process_id not in self.members:
            self.members[process_id] = Member(arrival, hello.kind, self._new_link(arrival, hello))
            if self._rules.is_tcp:
                self._owners.setdefault(arrival.through, process_id)
                if hello.kind == DRIVER:
                    self._perform(Follow(arrival.through))
        self._reply(arrival, Welcome(self._incarnation, self._rules.max_message_bytes, cluster))

    @event
    def decline(self, process_id: bytes, now: float) -> None:
        """The broker's core has not accepted a process that was joining. It gets no answer."""
        self._now = now
        self._joining.pop(process_id, None)
        self.dropped_frames += 1

    def _new_link(self, arrival: Arrival, hello: Hello) -> Link:
        # A relayed process can be reached if its host can: one heartbeat serves all that the host relays for.
        rules = self._rules
        heartbeat_s = math.inf if self._relay_of(arrival) else rules.heartbeat_s
        limit = min(rules.max_message_bytes, hello.info.max_message_bytes)
        return Link(
            self._incarnation, MAY_SEND[hello.kind], self._now, heartbeat_s, rules.silence_s, max_message_bytes=limit
        )

    # ------------------------------------------------------------------ leaving

    @event
    def departed(self, process_id: bytes, now: float) -> None:
        """A process is gone for good. It still gets the messages of this turn."""
        self._now = now
        self._departed.append(process_id)

    @event
    def turn_over(self, now: float) -> None:
        """Forgets the processes that have departed: everything has been sent."""
        self._now = now
        departed, self._departed = self._departed, []
        for process_id in departed:
            self._forget(process_id)

    def _forget(self, process_id: bytes) -> None:
        member = self.members.pop(process_id, None)
        self._active.pop(process_id, None)
        self.unreachable.pop(process_id, None)
        if member is not None and self._owners.get(member.through) == process_id:
            del self._owners[member.through]
            self._perform(Unfollow(member.through))

    # ------------------------------------------------------------------ frames go out

    @event
    def send(self, process_id: bytes, messages: list[Any], now: float) -> None:
        """Sends messages to a member. Those to any other process are dropped."""
        self._now = now
        member = self.members.get(process_id)
        if member is not None:
            self._active[process_id] = member
            for message in messages:
                member.link.send(message)

    @event
    def transmitted(self, process_id: bytes, arrived: bool, now: float) -> None:
        """Notes whether a member's connection took a frame, or was missing (``arrived`` false)."""
        self._now = now
        if arrived:
            self.unreachable.pop(process_id, None)
        elif process_id in self.members:
            self.unreachable.setdefault(process_id, now)

    def route(self, process_id: bytes) -> bytes:
        """The name of a member's connection; of any other process, its own name."""
        member = self.members.get(process_id)
        return member.through if member is not None else process_id

    def _transmit(self) -> Output[MembershipEffect]:
        active, self._active = self._active, {}
        sends: dict[bytes, list[Any]] = {}
        for process_id, member in active.items():
            link = member.link
            frames = link.outgoing(self._now)
            if frames:
                sends[process_id] = frames
            if link.congested != member.congested:
                member.congested = link.congested
                self._perform(Congested(process_id, link.congested))
            if link.rejected:
                for message, reason in link.rejected:
                    self._perform(NotSent(process_id, message, reason))
                link.rejected.clear()
        return Output(sends, self._take_effects() if self.pending else [])

    # ------------------------------------------------------------------ time

    def due_s(self, now: float) -> float:
        """Infinite: nothing here is more urgent than a regular tick."""
        return math.inf

    def tick(self, now: float) -> None:
        """Ticks the links, and finds the members that are dead."""
        self._now = now
        paused_s = now - self._last_tick if self._last_tick else 0.0
        self._last_tick = now
        self._active.update(self.members)
        for member in list(self.members.values()):
            if paused_s > PAUSE_S:
                member.link.restart_silence(now)
            if not member.link.tick(now) and self._is_dead(member):
                silent = f"the {member.kind} was not heard for {self._rules.silence_s:g} s"
                self._perform(Dead(member.process_id, silent))
        for process_id in self._with_revoked_keys():
            self._perform(Dead(process_id, REVOKED))
        self._log_refusal(self._refusals.flush(now))

    def _with_revoked_keys(self) -> list[bytes]:
        role_of = self._role_of
        if role_of is None:
            return []
        revoked = {key for key in {member.key for member in self.members.values()} if role_of(key) is None}
        return [member.process_id for member in self.members.values() if member.key in revoked] if revoked else []

    def _is_dead(self, member: Member) -> bool:
        """Whether a member that has been silent for too long is dead.

        User code may hold the GIL for hours, and Ctrl-Z may stop a driver for hours. So a driver is dead only if its
        connection is gone too, or if its machine's kernel no longer acknowledges what it is sent. A driver that was
        stopped may have to connect again, which takes a moment. A worker is never declared dead here: its host reports
        its death.
        """
        if member.kind in (WORKER, HOST):
            return member.kind == HOST
        silence_s = self._rules.silence_s
        since = self.unreachable.get(member.process_id)
        if since is not None:
            return self._now - since >= silence_s * REDIAL_SHARE
        return self._unanswered_s(member.through) >= silence_s * VANISHED_TIMES

    # ------------------------------------------------------------------ tests

    def check(self) -> None:
        """Raises AssertionError if an invariant does not hold; for tests and the simulation."""
        for process_id, member in self.members.items():
            assert process_id == member.process_id, "members by process"
            if self._rules.is_tcp and member.kind != WORKER:
                assert self._owners.get(member.through) == process_id, "a connection belongs to its owner"
            if not self._rules.is_tcp:
                assert not self._owners, "connections without names of their own"
