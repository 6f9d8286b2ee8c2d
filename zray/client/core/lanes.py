"""Lanes: direct ways between a process and a worker on the same machine: of an actor that it calls, or of its tasks.

A lane carries what the broker would have delivered: ``ActorRun`` and ``CancelTask`` to the worker, ``Result`` to the
caller. The lane of an owner of tasks carries ``LeaseRun`` and ``LeaseReturned`` (see ``zray.client.core.leases``). Each
end has a ``Link``, as for the broker. Its frames travel by a Unix socket that the shells own. A frame that the socket
does not take, because the socket is full or broken, travels through the broker in a ``LaneFrame``. The link puts frames
into their order and drops those that arrive twice. So a lane that breaks between two living processes loses nothing and
runs no call twice. The death of a peer is reported by the broker, as without lanes.

How a lane to an actor is opened (for tasks, which have no order, without the steps 4 and 5):

1. The caller has had ``after`` answers of an actor by the broker. It sends ``LaneWanted`` to the worker that answered.
2. The worker's shell listens (``OfferLane``, ``offered``). The worker sends ``LaneOffer``: an address, and a token that
   admits this caller once. A worker on another machine, or one with too many lanes, offers none.
3. The caller's shell connects and shows the token (``DialLane``, ``dialled``). The worker's shell accepts it
   (``accepted``), and the worker sends an empty frame.
4. When that frame has come, the caller sends ``LaneSwitched`` through the broker, behind the calls that it has sent
   that way. From now on it sends every call of this actor by the lane.
5. The worker holds what comes by the lane until ``LaneSwitched`` arrives, so calls run in the caller's order. After
   that, it answers this caller by the lane. Items and outcomes of streams travel through the broker, in one order.

Two ways have two orders. One rule restores the order that all else relies on: *a process reads its lanes before it
handles what the broker has sent*. What a peer has sent by a lane, and before a message that has come here through the
broker, is then handled first: answers before the actor's death, calls before the release of the actor. The reverse does
not hold: a call by a lane may overtake what its caller has told the broker (``Questions.tell`` waits for that).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from zray.client.core.actors import ActorTable
from zray.client.core.effects import CloseLane, DialLane, OfferLane
from zray.client.core.execution import Execution
from zray.client.core.leases import LeaseTable
from zray.client.core.references import ReferenceTable
from zray.client.core.states import BROKEN, DEAD, LANE, OFFERED, OPEN
from zray.client.core.tasks import Task, TaskTable
from zray.client.core.views import ActorView
from zray.protocol.codec import read_frame
from zray.protocol.contract import event
from zray.protocol.link import Link, Rejected
from zray.protocol.messages import (
    ActorRun,
    CancelTask,
    LaneFrame,
    LaneOffer,
    LaneSwitched,
    LaneWanted,
    LeaseReturned,
    LeaseRun,
    ProtocolError,
    Reply,
    Result,
)
from zray.protocol.peer_messages import TOKEN_BYTES

LANE_AFTER = 8
"""The number of answers by the broker after which a caller asks for a lane: a few calls are not worth a socket."""
ASKED = -(1 << 62)
"""The number of answers of an actor that was asked for a lane: it is not asked again in this incarnation."""
MAX_REFUSED = 1000
"""The number of workers of which it is remembered that they offer no lane."""
MAX_LANES = 256
"""The most lanes of a process. Each takes a descriptor at both ends. Other calls travel through the broker."""
ENVELOPE_BYTES = 1024
"""A frame of a lane is at least so many bytes smaller than a message, because it may travel inside one."""
FROM_CALLER = frozenset((ActorRun, CancelTask, LeaseRun))
FROM_WORKER = frozenset((Result, LeaseReturned))


Wish = tuple["ActorView | None", int]
"""What a lane is wanted for: an actor, by its view, with its incarnation; or plain tasks (None)."""


class Flushed(Protocol):
    """What a lane needs of the table of all lanes."""

    process_id: bytes
    due: list[Lane]
    is_urgent: bool


class Lane:
    """One end of a lane.

    ``name``: the token, by which both ends name the lane; ``held``: what came before the caller had switched.
    ``state``: see ``zray.client.core.states``.
    """

    __slots__ = ("_diverted", "_is_due", "_table", "actor_id", "held", "link", "name", "peer", "state", "switched")

    def __init__(self, name: bytes, peer: bytes, actor_id: bytes, link: Link, table: Flushed) -> None:
        self.name = name
        self.peer = peer
        self.actor_id = actor_id
        self.link = link
        self.state = OFFERED
        self.switched = False
        self.held: list[Any] = []
        self._table = table
        self._is_due = False
        self._diverted = 0  # the last frame that has travelled through the broker

    def enter(self, state: int) -> None:
        """Changes the state. Raises IllegalTransition if ``state`` may not follow."""
        self.state = LANE.after[self.state][state]

    def send(self, message: Any) -> None:
        """Sends a message with the next output."""
        self.link.send(message)
        self.will_send()

    def will_send(self) -> None:
        """Has the next output contain the frames of this lane."""
        if not self._is_due:
            self._is_due = True
            self._table.due.append(self)

    def call(self, seq: int, task_id: bytes, attempt: int, payload: bytes) -> None:
        """Sends a call."""
        self.send(ActorRun(self._table.process_id, seq, task_id, attempt, payload))

    def call_alone(self, seq: int, task_id: bytes, attempt: int, payload: bytes) -> None:
        """Sends a call, at once: no other call to the actor is under way."""
        self.call(seq, task_id, attempt, payload)
        self._table.is_urgent = True

    def cancel(self, task_id: bytes, mode: int) -> None:
        """Cancels a call that was sent by this lane."""
        self.send(CancelTask(task_id, mode))

    def run(self, lease: int, task: Task, payload: bytes) -> None:
        """Sends a task to a leased worker, at once: it has no other."""
        self.send(LeaseRun(lease, task.task_id, task.attempt, task.function_id, payload))
        self._table.is_urgent = True

    def take_frames(self, now: float) -> list[bytes]:
        """Takes the frames to transmit."""
        self._is_due = False
        return self.link.outgoing(now)

    def divert(self) -> None:
        """The socket has not taken everything: what was sent, and what follows, travels through the broker, until all
        that was sent by now is acknowledged. Frames would overtake each other, and probes the frames that they ask for.
        """
        self._diverted = self.link.last_number

    @property
    def takes_frames(self) -> bool:
        """Whether frames are to be given to the socket."""
        return self.state is OPEN and self.link.has_acknowledged(self._diverted)


class LaneTable:
    """All lanes of one process, those to actors that it calls and those to callers of its actor.

    ``to_peer(dest, message)`` sends through the broker; ``transmit(name, frame)`` sends a frame by a lane's socket.
    ``rejected(message, reason)`` is called for a message that a lane does not take. ``machine``: the machine of this
    process, as ``zray.system.machine`` names it; empty: it has no lanes. ``after``: see ``LANE_AFTER``.
    """

    def __init__(
        self,
        process_id: bytes,
        actors: ActorTable,
        tasks: TaskTable,
        execution: Execution,
        references: ReferenceTable,
        to_peer: Callable[[bytes, Any], None],
        transmit: Callable[[bytes, Any], None],
        perform: Callable[[OfferLane | DialLane | CloseLane], None],
        rejected: Callable[[Rejected], None],
        max_message_bytes: int,
        leases: LeaseTable,
    ) -> None:
        self.machine = ""
        self.after = LANE_AFTER
        self.due: list[Lane] = []  # those with frames to transmit
        self.is_urgent = False
        """Whether one of these frames has a call that is the only one under way to its actor, or an answer after which
        this process has no work: nothing that could go with it will follow soon."""
        self.faults = 0  # number of malformed messages
        self.process_id = process_id
        self._actors = actors
        self._tasks = tasks
        self._execution = execution
        self._references = references
        self._to_peer = to_peer
        self._transmit = transmit
        self._perform = perform
        self._rejected = rejected
        self._max_message_bytes = max_message_bytes
        self._lanes: dict[bytes, Lane] = {}  # by name
        self._busy: dict[bytes, Lane] = {}  # those of them for which something may be due
        self._served: dict[bytes, Lane] = {}  # by caller: the lanes to this process's actor
        self._owners: dict[bytes, Lane] = {}  # by owner: the lanes of those who may lease this process
        self._asked: dict[bytes, Wish] = {}  # by worker: what a lane is wanted for
        self._dialling: dict[bytes, Wish] = {}  # by name: the same, of lanes that are not open yet
        self._refused: set[bytes] = set()  # workers that offer no lanes for tasks
        self._connected: set[bytes] = set()  # those of them whose connection is made, and not accepted yet
        self._offering: dict[bytes, tuple[bytes, int]] = {}  # offers that the shell makes: by caller, for what, limit
        actors.release_lane = self._release
        self._leases = leases
        leases.ask_for_lane = self._ask_worker

    def __contains__(self, name: bytes) -> bool:
        """Whether ``name`` is that of a lane, and not of a process."""
        return name in self._lanes

    @property
    def is_used(self) -> bool:
        """Whether there is a lane, or one is about to be opened."""
        return bool(self._lanes or self._asked)

    @property
    def _is_full(self) -> bool:
        return len(self._lanes) + len(self._asked) + len(self._offering) >= MAX_LANES

    def takes_frames(self, name: bytes) -> bool:
        """Whether the frames of a lane are to be given to its socket. Otherwise they count as not taken."""
        lane = self._lanes.get(name)
        return lane is not None and lane.takes_frames

    @property
    def is_at_rest(self) -> bool:
        """Whether no acknowledgement is due, or waited for."""
        return not self._busy

    def _new(
        self, name: bytes, peer: bytes, actor_id: bytes, allowed: frozenset[Any], max_message_bytes: int, now: float
    ) -> Lane:
        """``max_message_bytes``: the peer's limit."""
        limit = min(self._max_message_bytes, max_message_bytes) - ENVELOPE_BYTES
        link = Link(name[:8], allowed, now, math.inf, math.inf, max_message_bytes=limit)
        lane = self._lanes[name] = Lane(name, peer, actor_id, link, self)
        return lane

    def _drop(self, lane: Lane) -> None:
        del self._lanes[lane.name]
        self._busy.pop(lane.name, None)
        self._perform(CloseLane(lane.name))

    # ------------------------------------------------------------------ the caller

    def answered(self, message: Result) -> None:
        """Counts an answer of an actor that has come through the broker. Asks for a lane if there were enough."""
        view = self._actors.views.get(message.actor)
        if view is None or view.lane is not None or message.source == self.process_id:
            return
        view.answered += 1
        if view.answered >= self.after and self.machine and not self._is_full and message.source not in self._asked:
            view.answered = ASKED
            self._asked[message.source] = view, view.incarnation
            self._to_peer(message.source, LaneWanted(message.actor, self.machine, self._max_message_bytes))

    def _ask_worker(self, worker_id: bytes) -> None:
        """Asks a worker of plain tasks for a lane, unless it was asked before."""
        is_known = worker_id in self._leases.lanes or worker_id in self._asked or worker_id in self._refused
        is_own = worker_id == self.process_id
        if not (is_known or is_own or self._is_full) and self.machine and worker_id not in self._peers_dialled():
            self._asked[worker_id] = None, 0
            self._references.watch_once(worker_id)
            self._to_peer(worker_id, LaneWanted(b"", self.machine, self._max_message_bytes))

    def _peers_dialled(self) -> set[bytes]:
        return {self._lanes[name].peer for name, (view, _) in self._dialling.items() if view is None}

    def on_offer(self, source: bytes, message: LaneOffer, now: float) -> None:
        """Has the shell connect to a worker that offers a lane."""
        if source not in self._asked:
            raise ProtocolError("the offer of a lane that was not asked for")
        view, incarnation = self._asked.pop(source)
        if not message.address and view is None:
            self._refuse(source)
        if not message.address or not self._is_current(view, incarnation):
            return
        if len(message.token) != TOKEN_BYTES or message.token in self._lanes:
            raise ProtocolError("a lane whose token does not have its exact size, or is in use")
        self._dialling[message.token] = view, incarnation
        actor_id = view.actor_id if view is not None else b""
        self._new(message.token, source, actor_id, FROM_WORKER, message.max_message_bytes, now)
        self._perform(DialLane(message.address, message.token))

    def _refuse(self, worker_id: bytes) -> None:
        if len(self._refused) >= MAX_REFUSED:
            self._refused.clear()
        self._refused.add(worker_id)

    @staticmethod
    def _is_current(view: ActorView | None, incarnation: int) -> bool:
        if view is None:
            return True
        return view.state is not DEAD and view.incarnation == incarnation and view.lane is None

    @event
    def dialled(self, name: bytes, is_connected: bool, now: float) -> None:
        """The shell has connected, or could not."""
        if name in self._dialling:
            if is_connected:
                self._connected.add(name)
            else:
                self._give_up(self._lanes[name])

    def _give_up(self, lane: Lane) -> None:
        """Does without a lane that this caller has not switched to."""
        del self._dialling[lane.name]
        self._connected.discard(lane.name)
        self._drop(lane)

    def _switch(self, lane: Lane) -> None:
        """Sends the calls of an actor by a lane that its worker has accepted."""
        view, incarnation = self._dialling[lane.name]
        if not self._is_current(view, incarnation):
            self._give_up(lane)
            return
        del self._dialling[lane.name]
        self._connected.discard(lane.name)
        lane.enter(OPEN)
        lane.switched = True
        if view is None:
            self._leases.lanes[lane.peer] = lane
        else:
            view.switch_to(lane)
            self._to_peer(lane.peer, LaneSwitched(lane.name))

    def _release(self, view: ActorView) -> None:
        """The incarnation of an actor is over."""
        if view.lane is not None and view.lane.name in self._lanes:
            self._drop(self._lanes[view.lane.name])
        for worker in [worker for worker, (wanting, _) in self._asked.items() if wanting is view]:
            del self._asked[worker]
        for name in [name for name, (wanting, _) in self._dialling.items() if wanting is view]:
            self._give_up(self._lanes[name])

    # ------------------------------------------------------------------ the worker

    def on_wanted(self, source: bytes, message: LaneWanted) -> None:
        """Answers a caller of this process's actor, or an owner of its tasks, that asks for a lane."""
        own = self._execution.actor_id
        serves = message.actor == own and not self._execution.leaving
        is_known = source in (self._served if own else self._owners) or source in self._offering
        if serves and not is_known and message.machine == self.machine != "" and not self._is_full:
            self._offering[source] = own, message.max_message_bytes
            self._perform(OfferLane(source))
        else:
            self._to_peer(source, LaneOffer("", b"", 0))

    @event
    def offered(self, caller: bytes, address: str, name: bytes, now: float) -> None:
        """The shell listens at ``address`` for the caller. It is empty if it cannot."""
        actor_id, limit = self._offering.pop(caller)
        if address:
            lane = self._new(name, caller, actor_id, FROM_CALLER, limit, now)
            lane.switched = not actor_id  # tasks have no order
            (self._served if actor_id else self._owners)[caller] = lane
            self._references.watch_once(caller)
        self._to_peer(caller, LaneOffer(address, name, self._max_message_bytes))

    @event
    def accepted(self, name: bytes, now: float) -> None:
        """A caller has connected and shown its token."""
        lane = self._lanes.get(name)
        if lane is not None and lane.state is OFFERED:
            lane.enter(OPEN)
            lane.link.acknowledge()
            lane.will_send()

    @event
    def expired(self, name: bytes, now: float) -> None:
        """No caller has connected with a token in time."""
        lane = self._lanes.get(name)
        if lane is not None and lane.state is OFFERED:
            del (self._served if lane.actor_id else self._owners)[lane.peer]
            self._drop(lane)

    def on_switched(self, source: bytes, message: LaneSwitched) -> None:
        """All calls that a caller has sent through the broker are here: those of the lane may follow."""
        lane = self._served.get(source)
        if lane is None or lane.name != message.lane:
            raise ProtocolError("a caller switched to a lane that it was not offered")
        lane.switched = True
        held, lane.held = lane.held, []
        self._handle(lane, held)

    def reply(self, reply: Reply) -> None:
        """Answers a caller that has switched to its lane."""
        lane = self._served[reply.owner]
        if not (self._execution.running or self._execution.queued):
            self.is_urgent = True
        lane.send(Result(reply.task_id, reply.attempt, self.process_id, lane.actor_id, reply.payload))

    def answer_owner(self, owner: bytes, message: Result | LeaseReturned) -> None:
        """Answers an owner that has leased this process. If it has no lane any more, it is dead."""
        lane = self._owners.get(owner)
        if lane is not None:
            if not (self._execution.running or self._execution.queued):
                self.is_urgent = True
            lane.send(message)

    def serves(self, caller: bytes) -> bool:
        """Whether a caller is answered by a lane."""
        lane = self._served.get(caller)
        return lane is not None and lane.switched

    def on_process_died(self, process_id: bytes) -> None:
        """Forgets the lane of a caller that is dead, and what was asked of a worker that is dead."""
        self._asked.pop(process_id, None)
        self._refused.discard(process_id)
        self._leases.lanes.pop(process_id, None)
        for lane in [lane for lane in self._lanes.values() if lane.peer == process_id]:
            if lane.name in self._dialling:
                self._give_up(lane)
            elif not lane.actor_id or self._served.get(process_id) is lane:
                self._drop(lane)
        self._served.pop(process_id, None)
        self._owners.pop(process_id, None)

    # ------------------------------------------------------------------ both

    @event
    def frame(self, name: bytes, data: bytes | memoryview, now: float) -> None:
        """A frame has come by a lane's socket. Raises ProtocolError if it is none."""
        lane = self._lanes.get(name)
        if lane is not None:
            self._receive(lane, data, now)

    def on_frame(self, source: bytes, message: LaneFrame, now: float) -> None:
        """A frame of a lane has come through the broker."""
        incarnation = read_frame(message.frame).incarnation
        for lane in self._lanes.values():  # rare, and there are few
            if lane.peer == source and lane.name[:8] == incarnation:
                self._receive(lane, message.frame, now)
                return

    def _receive(self, lane: Lane, data: bytes | memoryview, now: float) -> None:
        link = lane.link
        messages = link.receive(read_frame(data), now)
        if lane.name in self._dialling:
            if lane.name not in self._connected:
                return  # no socket can have brought it
            self._switch(lane)
            if lane.name not in self._lanes:
                return
        self._busy[lane.name] = lane
        if link.pending:
            lane.will_send()
        if lane.switched:
            self._handle(lane, messages)
        else:
            lane.held.extend(messages)

    def _handle(self, lane: Lane, messages: list[Any]) -> None:
        for message in messages:
            try:
                if type(message) is Result:
                    self._on_result(lane, message)
                elif type(message) is ActorRun:
                    self._on_call(lane, message)
                elif type(message) is LeaseRun:
                    self._on_task(lane, message)
                elif type(message) is LeaseReturned:
                    self._leases.on_returned(lane.peer, message)
                else:
                    self._on_cancel(lane, message)
            except ProtocolError:  # the messages that came with it are valid
                self.faults += 1

    def _on_result(self, lane: Lane, message: Result) -> None:
        if message.source != lane.peer or message.actor != lane.actor_id:
            raise ProtocolError("an answer in the name of another process or actor")
        if not lane.actor_id:
            self._leases.check_answer(lane.peer, message.task_id)
        self._tasks.on_result(message)

    def _on_call(self, lane: Lane, message: ActorRun) -> None:
        if message.caller != lane.peer or not message.task_id.startswith(lane.peer) or not lane.actor_id:
            raise ProtocolError("a call in the name of another process, or by the lane of an owner of tasks")
        self._execution.on_actor_run(message)

    def _on_task(self, lane: Lane, message: LeaseRun) -> None:
        if not message.task_id.startswith(lane.peer) or lane.actor_id:
            raise ProtocolError("a task in the name of another process, or for an actor")
        self._execution.on_lease_run(lane.peer, message)

    def _on_cancel(self, lane: Lane, message: CancelTask) -> None:
        if not message.task_id.startswith(lane.peer):
            raise ProtocolError("the cancellation of another process's call")
        self._execution.on_cancel(message)

    @event
    def broke(self, name: bytes, now: float) -> None:
        """The socket of a lane is broken. What was not acknowledged is sent through the broker, and all that follows.

        If the peer is dead, the broker says so.
        """
        lane = self._lanes.get(name)
        if lane is None or lane.state is BROKEN:
            return
        if name in self._dialling:
            self._give_up(lane)
        else:
            lane.enter(BROKEN)
            if not lane.actor_id:
                self._leases.lane_broke(lane.peer, lane)
            lane.link.resend()
            if lane.link.pending:
                lane.will_send()

    def flush(self, now: float) -> None:
        """Sends the frames that are due."""
        self.is_urgent = False
        while self.due:
            due, self.due[:] = self.due[:], []
            for lane in due:
                if self._lanes.get(lane.name) is lane:
                    self._flush_lane(lane, now)

    def _flush_lane(self, lane: Lane, now: float) -> None:
        self._busy[lane.name] = lane
        for frame in lane.take_frames(now):
            self._transmit(lane.name, frame)
        if lane.link.rejected:
            rejected, lane.link.rejected = lane.link.rejected, []
            for each in rejected:
                self._rejected(each)

    @event
    def overflowed(self, name: bytes, frames: list[bytes], now: float) -> None:
        """The socket of a lane did not take frames: they travel through the broker."""
        lane = self._lanes.get(name)
        if lane is not None:
            lane.divert()
            for frame in frames:
                self._to_peer(lane.peer, LaneFrame(frame))

    def tick(self, now: float) -> None:
        """Sends acknowledgements and probes that are due."""
        for lane in list(self._busy.values()):
            lane.link.tick(now)
            if lane.link.pending:
                lane.will_send()
            elif lane.link.is_at_rest:
                del self._busy[lane.name]

    def check(self) -> None:
        """Raises AssertionError if an index is not what the lanes say. For tests."""
        served = [*self._served.values(), *self._owners.values()]
        assert all(self._lanes.get(lane.name) is lane for lane in served), "a lane that is served"
        leased: dict[bytes, Any] = {**self._leases.lanes}
        assert all(self._lanes.get(lane.name) is lane for lane in leased.values()), "a lane to a worker"
        assert set(self._busy) <= set(self._lanes), "a busy lane"
        for view in self._actors.views.values():
            assert view.lane is None or view.lane.name in self._lanes, "the lane of a view"
