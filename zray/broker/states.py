"""The states of the broker's workers, actors and placement groups. ``docs/states.md`` shows these tables."""

from __future__ import annotations

from zray.protocol.messages import ActorStatus
from zray.states import Machine, State


class WorkerState(State):
    """The state of a worker process."""

    STARTING = 0, "Its host was told to fork it. It may have a grant, for its actor or for tasks that reserved it."
    IDLE = 1, "It has joined and holds nothing."
    BUSY = 2, "It has a grant, and tasks that ask for these resources."
    LEASED = 3, "It has a grant, and runs tasks that its owner sends to it, one at a time."
    PROBED = 4, "It was idle for long and was asked to exit if it can. It gets no work until it answers."
    SERVING = 5, "It was given an actor, which it constructs and runs."
    RETIRED = 6, "It gets no more work and holds nothing. Its process ends, or stays while its objects are needed."
    DEAD = 7, "Its process is gone, and so is this record."


STARTING, IDLE, BUSY, LEASED, PROBED, SERVING, RETIRED, _ = WorkerState

_DIED = "Its host reports its death, or the host itself is gone."

WORKER = Machine(
    "worker (the broker's view)",
    (STARTING,),
    {
        STARTING: {
            IDLE: "It joins, and no line of tasks has reserved it, or that line no longer needs it.",
            BUSY: "It joins, and the line of tasks that reserved it still waits.",
            SERVING: "It joins, and is given the actor for which it was started.",
            RETIRED: "It joins after its end was decided.",
            WorkerState.DEAD: _DIED,
        },
        IDLE: {
            BUSY: "It is granted resources for tasks.",
            PROBED: "It was idle for `idle_timeout_s`.",
            SERVING: "It is given an actor.",
            RETIRED: "It leaves, or its host is told to kill it.",
            WorkerState.DEAD: _DIED,
        },
        BUSY: {
            IDLE: "It has no task left.",
            LEASED: "It has run a task whose owner asked for a lease, and nobody waits for its resources.",
            RETIRED: "It has no task left, and its end was decided before.",
            WorkerState.DEAD: _DIED,
        },
        LEASED: {
            IDLE: "The lease is over, and it runs nothing.",
            RETIRED: "The lease is over, and its end was decided before; or it leaves.",
            WorkerState.DEAD: _DIED,
        },
        PROBED: {
            IDLE: "It stays.",
            RETIRED: "It leaves, or its host is told to kill it.",
            WorkerState.DEAD: _DIED,
        },
        SERVING: {
            RETIRED: "Its actor ends in order, or has died and the worker leaves.",
            WorkerState.DEAD: _DIED,
        },
        RETIRED: {WorkerState.DEAD: _DIED},
    },
)

PENDING_CREATION, ALIVE, RESTARTING, DEAD = ActorStatus

ACTOR = Machine(
    "actor (the broker's view)",
    (PENDING_CREATION,),
    {
        PENDING_CREATION: {
            ALIVE: "Its constructor has returned.",
            RESTARTING: "Its worker died before the constructor had returned, and restarts are left.",
            DEAD: "Its constructor raised, it was killed or released, its creator is gone, or no restart is left.",
        },
        ALIVE: {
            RESTARTING: "Its worker died, and restarts are left.",
            DEAD: "It ended by itself, it was killed, its creator is gone, or its worker died and no restart is left.",
        },
        RESTARTING: {
            ALIVE: "Its constructor has returned.",
            RESTARTING: "The new worker also died before the constructor had returned, and restarts are left.",
            DEAD: "Its constructor raised, it was killed or released, its creator is gone, or no restart is left.",
        },
    },
)


class GroupState(State):
    """The state of a placement group."""

    PENDING = 0, "It waits until all of its bundles can be reserved at once. It holds nothing."
    CREATED = 1, "All of its bundles are reserved."
    RESCHEDULING = 2, "The host of some of its bundles is gone. These wait for another place. The others stay reserved."
    REMOVED = 3, "It has ended. The broker keeps its record for a while, for processes that ask."


PENDING, CREATED, RESCHEDULING, REMOVED = GroupState

_ENDED = "A process removes it, or the job or the detached actor that created it has ended."

GROUP = Machine(
    "placement group",
    (PENDING,),
    {
        PENDING: {CREATED: "There is room for all of its bundles.", REMOVED: _ENDED},
        CREATED: {RESCHEDULING: "A host with one of its bundles is gone.", REMOVED: _ENDED},
        RESCHEDULING: {CREATED: "There is room for the lost bundles.", REMOVED: _ENDED},
    },
)
