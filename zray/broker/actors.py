"""The broker's actors: creation, names, calls that arrive before an actor runs, restarts and deaths. See SPEC.md."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from zray.broker.grants import Grants
from zray.broker.journal_records import KeptActor
from zray.broker.lines import Lines
from zray.broker.records import Actor, Job, Process, Worker
from zray.broker.resources import read_shape
from zray.broker.states import ALIVE, DEAD, PENDING_CREATION, RESTARTING, SERVING
from zray.broker.workers import Workers
from zray.failures import KILLED, NO_REFERENCES, NODE_DIED, WORKER_DIED, encode_failure, show_error
from zray.ids import counter_of, owner_of
from zray.protocol.messages import (
    DRIVER,
    WORKER,
    ActorCall,
    ActorCancel,
    ActorCreate,
    ActorFound,
    ActorKill,
    ActorLookup,
    ActorReady,
    ActorRelease,
    ActorRun,
    ActorState,
    ActorStop,
    CancelTask,
    NameTaken,
    NoSuchActor,
    ProtocolError,
    Result,
)
from zray.protocol.records import ActorSpec
from zray.repeated_deaths import RepeatedDeaths

MAX_FAILED_STARTS = 3
"""The number of workers in a row that may end before they could take an actor.

If one more ends, that counts as a death of the actor, with that worker's reason.
"""
MAX_DEATH_REASONS = 20_000
"""The number of dead actors whose reason of death the broker keeps."""


class ActorEvents:
    """What ``Actors`` reports about actors: for the log, the drivers and the journal. Here it is ignored."""

    def actor_created(self, actor: Actor) -> None:
        """An actor was announced, with the arguments of its constructor."""

    def actor_begins(self, actor: Actor) -> None:
        """A worker is told to construct an actor."""

    def actor_runs(self, actor: Actor, worker: Worker) -> None:
        """The constructor of an actor has returned."""

    def actor_restarts(self, actor: Actor, message: str, told: bool) -> None:
        """The worker of an actor has died, and the actor is restarted. ``told``: the user knows already."""

    def actor_dead(self, actor: Actor, message: str) -> None:
        """An actor has died and will not be restarted."""


class Actors:
    """All actors that are not dead, and the names of actors.

    As in Ray, an actor keeps its name while it lives, and after that until its last handle is gone (weak handles do not
    count). A process that then gets the actor by its name learns that it is dead, and why. ``_dead`` holds the
    specifications of such actors, by their creator. The name is free at once if the actor was killed, is detached, or
    died before its constructor began.
    """

    def __init__(
        self,
        lines: Lines,
        grants: Grants,
        workers: Workers,
        send: Callable[[bytes, Any], None],
        jobs: dict[bytes, Job],
        processes: dict[bytes, Process],
        events: ActorEvents,
        clock: Callable[[], float],
    ) -> None:
        self._events = events
        self._clock = clock
        self._pausing: list[tuple[float, bytes, int]] = []  # a heap: until when, the actor, its incarnation
        self.actors: dict[bytes, Actor] = {}
        self.names: dict[tuple[str, str], bytes] = {}
        self._dead: dict[bytes, dict[bytes, ActorSpec]] = {}
        self._by_creator: dict[bytes, dict[bytes, None]] = {}
        self._death_reasons: OrderedDict[bytes, tuple[str, bytes]] = OrderedDict()
        self._lines = lines
        self._grants = grants
        self._workers = workers
        self._send = send
        self._jobs = jobs
        self._processes = processes
        self.is_gone: Callable[[str], bool] = lambda group: False
        """Whether a placement group is removed."""
        self.on_dead: Callable[[Actor], None] = lambda actor: None
        """Called with each actor that has died."""

    # ------------------------------------------------------------------ creation and names

    def on_create(self, source: Process, message: ActorCreate) -> None:
        """Handles the announcement of an actor, or the constructor's arguments of an announced one."""
        spec = message.spec
        placement, running = read_shape(spec.placement), read_shape(spec.running)
        if owner_of(message.actor_id) != source.process_id:
            raise ProtocolError("announced an actor of another process")
        if source.job_id not in self._jobs:
            return  # its job has ended: the process is about to be killed
        self._workers.check_environment(source.job_id, placement)
        actor = self._find(source.process_id, message.actor_id)
        source.last_actor = max(source.last_actor, counter_of(message.actor_id))
        if actor is None:
            if spec.name:  # a handle killed it before this announcement came: it never had the name
                self._send(source.process_id, ActorFound(message.request, message.actor_id, spec))
            return
        if not actor.creator:
            if not self._take_name(source, message):
                self._forget(actor)
                return
            actor.spec = spec
            actor.creator = source.process_id
            actor.job_id = source.job_id
            actor.depth = source.depth
            actor.function_id = message.function_id
            actor.placement = placement
            actor.running = running
            actor.restarts_left = spec.max_restarts
            actor.subscribers[source.process_id] = None
        elif actor.payload:
            return
        if message.ready:
            actor.payload = message.payload
            actor.near = message.near
            self._events.actor_created(actor)
            self._wait_for_place(actor)

    def _take_name(self, source: Process, message: ActorCreate) -> bool:
        spec = message.spec
        if not spec.name:
            return True
        key = (spec.namespace, spec.name)
        holder = self.names.get(key)
        if holder is None:
            self.names[key] = message.actor_id
            self._send(source.process_id, ActorFound(message.request, message.actor_id, spec))
        elif message.get_if_exists:
            self._send(source.process_id, ActorFound(message.request, holder, self._spec_of(holder)))
        else:
            self._send(source.process_id, NameTaken(message.request, is_dead=holder not in self.actors))
        return holder is None

    def on_lookup(self, source: Process, message: ActorLookup) -> None:
        actor_id = self.names.get((message.namespace, message.name))
        if actor_id is None:
            self._send(source.process_id, NoSuchActor(message.request))
        else:
            self._send(source.process_id, ActorFound(message.request, actor_id, self._spec_of(actor_id)))

    def _spec_of(self, actor_id: bytes) -> ActorSpec:
        """The specification of a named actor, alive or dead."""
        actor = self.actors.get(actor_id)
        return self._dead[owner_of(actor_id)][actor_id] if actor is None else actor.spec

    def _free_name(self, spec: ActorSpec) -> None:
        self.names.pop((spec.namespace, spec.name), None)

    def _forget_dead(self, actor_id: bytes) -> None:
        """Frees the name of a dead actor."""
        dead = self._dead.get(owner_of(actor_id), {})
        spec = dead.pop(actor_id, None)
        if spec is not None:
            self._free_name(spec)
            if not dead:
                del self._dead[owner_of(actor_id)]

    def live_names(self) -> list[tuple[str, str]]:
        """The namespace and name of each named actor that is alive."""
        return [key for key, actor_id in self.names.items() if actor_id in self.actors]

    def restore(self, kept: KeptActor) -> Actor:
        """Makes the record of a detached actor of an earlier run of the broker. ``start_again`` is to follow."""
        actor = self.actors[kept.actor_id] = Actor(kept.actor_id)
        actor.creator, actor.job_id, actor.function_id = kept.creator, kept.job_id, kept.function_id
        actor.spec, actor.payload, actor.depth = kept.spec, kept.payload, kept.depth
        actor.placement, actor.running = read_shape(kept.spec.placement), read_shape(kept.spec.running)
        actor.incarnation, actor.restarts_left = kept.incarnation, kept.restarts_left
        actor.begun, actor.constructed = kept.begun, kept.constructed
        self._by_creator.setdefault(kept.creator, {})[kept.actor_id] = None
        if kept.spec.name:
            self.names[kept.spec.namespace, kept.spec.name] = kept.actor_id
        return actor

    def start_again(self, actor: Actor, why: str, pause_s: float) -> None:
        """Starts an actor of an earlier run after a pause. ``why``: the reason of the end of its process there.

        If it had not begun there, this is its first start still. Else it costs a restart.
        """
        if actor.begun:
            self._restart(actor, why, told=False, pause_s=pause_s)
        else:
            actor.paused_until = self._clock() + pause_s
            self._wait(actor)

    def begins(self, actor: Actor) -> None:
        """A worker is told to construct an actor."""
        actor.begun = True
        if actor.deaths is not None:
            actor.deaths.begins(self._clock())
        self._events.actor_begins(actor)

    # ------------------------------------------------------------------ calls

    def _find(self, caller: bytes, actor_id: bytes) -> Actor | None:
        """The record of an actor that is not dead. If there is none, tells the caller why and returns None.

        A call may arrive before the actor's announcement, which travels by another link. Then this makes a record that
        waits for the announcement. The announcement will come if the creator lives and has not announced a later actor.
        """
        actor = self.actors.get(actor_id)
        if actor is not None:
            return actor
        creator = self._processes.get(owner_of(actor_id))
        if actor_id in self._death_reasons:
            self._send(caller, ActorState(actor_id, 0, DEAD, 0, *self._death_reasons[actor_id]))
        elif creator is None or creator.kind not in (DRIVER, WORKER):  # others create none
            why = "the actor is unknown: it died with its creator, or it belongs to another cluster"
            self._send(caller, ActorState(actor_id, 0, DEAD, 0, why, b""))
        elif counter_of(actor_id) <= creator.last_actor:
            why = "the actor is dead; the broker no longer has the reason"
            self._send(caller, ActorState(actor_id, 0, DEAD, 0, why, b""))
        else:
            actor = self.actors[actor_id] = Actor(actor_id)
            self._by_creator.setdefault(creator.process_id, {})[actor_id] = None
        return actor

    def on_call(self, source: Process, call: ActorCall) -> None:
        if not call.task_id.startswith(source.process_id):
            raise ProtocolError("a call in the name of another process")
        actor = self.actors.get(call.actor_id) or self._find(source.process_id, call.actor_id)
        if actor is None:
            return
        caller = source.process_id
        if call.incarnation != actor.incarnation:
            actor.subscribers[caller] = None
            self._send(caller, self._state_for(actor, caller))
        elif actor.state is ALIVE:
            if caller not in actor.last_seq:
                actor.subscribers[caller] = None
            self._forward(actor, caller, call)
        else:
            actor.subscribers[caller] = None
            actor.queue.append((caller, call))

    def _forward(self, actor: Actor, caller: bytes, call: ActorCall) -> None:
        assert actor.worker is not None
        actor.last_seq[caller] = call.seq
        run = ActorRun(caller, call.seq, call.task_id, call.attempt, call.payload)
        self._send(actor.worker.worker_id, run)

    def on_cancel(self, source: Process, message: ActorCancel) -> None:
        actor = self.actors.get(message.actor_id)
        if actor is None:
            return
        for item in actor.queue:
            if item[1].task_id == message.task_id:
                actor.queue.remove(item)
                call = item[1]
                self._send(item[0], Result(call.task_id, call.attempt, source.process_id, actor.actor_id, b""))
                return
        if actor.worker is not None and actor.state is ALIVE:
            self._send(actor.worker.worker_id, CancelTask(message.task_id, message.mode))

    # ------------------------------------------------------------------ starts and ends

    def on_ready(self, source: Process, message: ActorReady) -> None:
        """The constructor returned or raised, or could not be called."""
        actor = self.actors.get(message.actor_id)
        if actor is None:
            return
        worker = actor.worker
        from_worker = worker is not None and worker.worker_id == source.process_id
        if not from_worker and source.process_id != actor.creator:
            raise ProtocolError("ActorReady from a process that is neither the actor's worker nor its creator")
        if message.error:
            raised = show_error(message.error).rpartition("\n")[2]  # the last line names the exception
            text = f"the constructor of {actor.label} raised: {raised}"
            self.end(actor, text, message.error, keeps_name=from_worker)
        elif from_worker and actor.state is not ALIVE:
            assert worker is not None
            if worker.state is not SERVING:
                raise ProtocolError("ActorReady for an actor that was not started")
            self._grants.shrink(worker, actor.running)
            actor.enter(ALIVE)
            actor.constructed = True
            self._events.actor_runs(actor, worker)
            while actor.queue:
                self._forward(actor, *actor.queue.popleft())
            if actor.released:
                self._send(worker.worker_id, ActorStop(actor.actor_id))

    def on_release(self, source: Process, message: ActorRelease) -> None:
        """The last handle is gone: the actor ends after its outstanding calls."""
        actor = self.actors.get(message.actor_id)
        if actor is None and owner_of(message.actor_id) == source.process_id:
            self._forget_dead(message.actor_id)
        if actor is None or actor.released or actor.detached or actor.creator != source.process_id:
            return
        actor.released = True
        if actor.state is ALIVE:
            assert actor.worker is not None
            self._send(actor.worker.worker_id, ActorStop(actor.actor_id))
        elif not actor.queue and actor.worker is None:
            self.end(actor, NO_REFERENCES)

    def on_exiting(self, source: Process, actor_id: bytes, reason: str) -> None:
        actor = self.actors.get(actor_id)
        if actor is None or actor.worker is None or actor.worker.worker_id != source.process_id:
            return
        worker = actor.worker
        actor.leave_worker()
        self._workers.part(worker)
        self._workers.retire(worker)
        self.end(actor, reason, keeps_name=True)

    def on_kill(self, source: Process, message: ActorKill) -> None:
        actor = self._find(source.process_id, message.actor_id)
        if actor is None:
            if message.no_restart:
                self._forget_dead(message.actor_id)
            return
        worker = actor.worker
        if message.no_restart:
            self.end(actor, KILLED)
        elif worker is not None:
            self._workers.kill(worker, f"{actor.label} was killed by `ray.kill`")

    def worker_died(
        self, actor: Actor, message: str, never_joined: bool, told: bool, by_itself: bool, error: bytes = b""
    ) -> None:
        """The worker of an actor is dead: restarts the actor or ends it.

        ``never_joined``: the worker ended by itself before it could take the actor; ``told``: the user knows already;
        ``by_itself``: nobody has killed it, and its host lives; ``error``: what its calls raise if it is not restarted,
        default: ActorDiedError.
        """
        actor.leave_worker()
        if never_joined and actor.failed_starts < MAX_FAILED_STARTS and (actor.queue or not actor.released):
            actor.failed_starts += 1  # the actor has not begun, so it is not the cause: try another worker
            self._wait_for_place(actor)
            return
        pause_s = 0.0
        if by_itself:
            actor.deaths = actor.deaths or RepeatedDeaths()
            pause_s = actor.deaths.add(message, self._clock())
        self._restart(actor, message, told, error, pause_s)

    def _restart(self, actor: Actor, message: str, told: bool, error: bytes = b"", pause_s: float = 0.0) -> None:
        """An incarnation has died: restarts the actor after a pause, or ends it."""
        message = f"incarnation {actor.incarnation + 1} of {actor.label}: {message}"
        hopeless = actor.deaths is not None and actor.deaths.are_too_many
        if actor.restarts_left == 0 or actor.released or hopeless:
            if actor.deaths is not None and hopeless:
                message = f"{message}\n{actor.deaths.history()}"
            self.end(actor, message, error, keeps_name=True, why=NODE_DIED if told else WORKER_DIED)
            return
        if actor.restarts_left > 0:
            actor.restarts_left -= 1
        actor.enter(RESTARTING)
        actor.incarnation += 1
        actor.begun = False
        actor.paused_until = self._clock() + pause_s
        self._events.actor_restarts(actor, message, told)
        actor.queue.clear()  # the callers send these calls again, in order, when they learn of the restart
        for subscriber in actor.subscribers:
            state = ActorState(actor.actor_id, actor.incarnation, RESTARTING, actor.last_seq.get(subscriber, 0),
                               message, b"")  # fmt: skip
            self._send(subscriber, state)
        actor.last_seq.clear()
        self._wait(actor)

    def _wait(self, actor: Actor) -> None:
        """Has an actor wait for a place, once its pause is over."""
        if self.pause_s(actor):
            heapq.heappush(self._pausing, (actor.paused_until, actor.actor_id, actor.incarnation))
        else:
            self._wait_for_place(actor)

    def pausing(self) -> list[Actor]:
        """The actors that pause before their next start."""
        found = [(self.actors.get(actor_id), incarnation) for _, actor_id, incarnation in self._pausing]
        return [actor for actor, incarnation in found if actor is not None and actor.incarnation == incarnation]

    def pause_s(self, actor: Actor) -> float:
        """In how many seconds an actor that has no worker is started again; 0 if it only waits for a place."""
        return max(0.0, actor.paused_until - self._clock())

    def due_s(self, now: float) -> float:
        """In how many seconds the next pause is over; infinite if no actor pauses."""
        return max(0.0, self._pausing[0][0] - now) if self._pausing else math.inf

    def look(self, now: float) -> None:
        """Starts the actors whose pause is over."""
        while self._pausing and self._pausing[0][0] <= now:
            _, actor_id, incarnation = heapq.heappop(self._pausing)
            actor = self.actors.get(actor_id)
            if actor is not None and actor.incarnation == incarnation:
                self._wait_for_place(actor)

    def _wait_for_place(self, actor: Actor) -> None:
        group = actor.placement.group
        if group and self.is_gone(group):
            self.end_without_group(actor)
        else:
            self._lines.add_actor(actor)

    def end_without_group(self, actor: Actor) -> None:
        """Ends an actor that waits for a place in a placement group that is removed."""
        text = f"the placement group of {actor.label} was removed (placement group id: {actor.placement.group})"
        self.end(actor, text, encode_failure("ActorPlacementGroupRemoved", text), keeps_name=True)

    def refuse(self, actor: Actor, why: str) -> None:
        """Ends an actor that can never be placed."""
        if self.actors.get(actor.actor_id) is actor:
            self.end(actor, why, encode_failure("ActorUnschedulableError", why, actor.actor_id))

    def end(self, actor: Actor, message: str, error: bytes = b"", keeps_name: bool = False, why: str = "") -> None:
        """Ends an actor that is not restarted: tells its subscribers and kills its worker.

        ``keeps_name``: the actor keeps its name until its last handle is gone, see ``Actors``. Else the name is free.
        ``why``: a sentence in Ray's words, which callers read before ``message``, if the message has none.
        """
        if actor.actor_id not in self.actors:
            return
        text = (f"{why}: {message}" if why else message) + actor.facts
        self._forget(actor)
        self._lines.remove_actor(actor)
        actor.death_message = message
        self._events.actor_dead(actor, message)
        if actor.spec.name:
            if keeps_name and not actor.released and not actor.detached and actor.creator in self._processes:
                self._dead.setdefault(actor.creator, {})[actor.actor_id] = actor.spec
            else:
                self._free_name(actor.spec)
        self._death_reasons[actor.actor_id] = (text, error)
        if len(self._death_reasons) > MAX_DEATH_REASONS:
            self._death_reasons.popitem(last=False)
        for subscriber in actor.subscribers:
            self._send(subscriber, ActorState(actor.actor_id, actor.incarnation, DEAD,
                                              actor.last_seq.get(subscriber, 0), text, error))  # fmt: skip
        worker, actor.worker = actor.worker, None
        if worker is not None:
            self._workers.part(worker)
            self._workers.kill(worker, message)
        self.on_dead(actor)

    def _forget(self, actor: Actor) -> None:
        actor.enter(DEAD)
        del self.actors[actor.actor_id]
        creator = owner_of(actor.actor_id)
        created = self._by_creator[creator]
        del created[actor.actor_id]
        if not created:
            del self._by_creator[creator]

    def _state_for(self, actor: Actor, caller: bytes) -> ActorState:
        state = PENDING_CREATION if actor.state is ALIVE else actor.state
        return ActorState(actor.actor_id, actor.incarnation, state, actor.last_seq.get(caller, 0), "", b"")

    def owner_died(self, process_id: bytes) -> None:
        """Ends the actors of a dead creator, also those that it had not announced yet.

        A detached actor stays if the arguments of its constructor have arrived.
        """
        for actor_id in list(self._by_creator.get(process_id, ())):
            actor = self.actors.get(actor_id)
            if actor is not None and not (actor.detached and actor.payload):
                self.end(actor, f"The actor died because its owner has died: it had created {actor.label}")
        for actor_id in list(self._dead.get(process_id, ())):
            self._forget_dead(actor_id)
