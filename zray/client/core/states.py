"""The states of tasks, objects and actors in a driver or worker. ``docs/states.md`` shows these tables."""

from __future__ import annotations

from zray.states import Machine, State


class TaskState(State):
    """The states of a task or call, as its owner sees it."""

    WAITING = 0, "A reference among its arguments may have no value yet, or it pauses before another attempt."
    READY = 1, "It has its arguments, and waits for its turn: for a call before it, or for room in a window."
    SENT = 2, "An attempt is with the broker, a worker or an actor."
    ENDED = 3, "Its outcome is known. Only its return values are kept."


WAITING, READY, SENT, ENDED = TaskState

TASK = Machine(
    "task (the owner's view)",
    (READY, WAITING),
    {
        WAITING: {
            READY: "Each of its arguments has a value or is an error, and its pause is over.",
            ENDED: "It is cancelled, its actor is dead, or the cluster is gone.",
        },
        READY: {
            SENT: "It is its turn, and its window has room.",
            ENDED: "An argument is an error, it is cancelled, its actor is dead, or the cluster is gone.",
        },
        SENT: {
            READY: "It is tried again: its worker died, its error is retried, its actor restarts, or it was sent back.",
            WAITING: "It was stopped for lack of memory, and is tried again after a pause.",
            ENDED: "It has a result, it has failed for good, or it was cancelled.",
        },
        ENDED: {
            WAITING: "A value of it is lost, and is needed: it is run again.",
        },
    },
)


class ObjectStatus(State):
    """The states of an object, as its owner or a borrower sees it. Messages carry the numbers."""

    PENDING = 0, "It has no value yet."
    INLINE = 1, "Its value is in memory here."
    STORED = 2, "Its value is in the store of a host."
    ERROR = 3, "It is an error: in memory here, or in the store of a host if it is large."
    HANDLE = 4, "It has no value: it stands for the handles of an actor, or for the generator object of a stream."


PENDING, INLINE, STORED, ERROR, HANDLE = ObjectStatus

OBJECT = Machine(
    "object (an owner's or borrower's entry)",
    (PENDING, INLINE),
    {
        PENDING: {
            INLINE: "Its task returned it, it was put, or its owner has answered: it is small.",
            STORED: "Its task returned it, it was put, or its owner has answered: it is large.",
            ERROR: "Its task has failed, its owner is dead or answered so, or the object was freed before.",
            HANDLE: "An actor was created, a stream was opened, or its owner has answered.",
        },
        STORED: {
            PENDING: "It is lost. Its owner has it made again. A borrower asks its owner again.",
        },
    },
)


class ViewState(State):
    """The states of an actor, as a process that calls it sees it."""

    LIVE = 0, "Calls are sent. The broker keeps them while the actor is being constructed or restarted."
    DEAD = 1, "Calls fail at once."


LIVE, DEAD = ViewState

VIEW = Machine(
    "actor (the view of a process that calls it)",
    (LIVE,),
    {
        LIVE: {
            LIVE: "The broker reports a new incarnation. Calls to the previous one are sent again, or fail.",
            DEAD: "The broker reports that the actor is dead, or does not accept it.",
        },
    },
)


class LaneState(State):
    """The states of a lane, at either end."""

    OFFERED = 0, "The worker listens for the caller, which has the token. They are not connected."
    OPEN = 1, "Frames travel by a socket between the two. The broker takes those for which the socket has no room."
    BROKEN = 2, "The socket is closed. Frames travel through the broker, until one end is dead."


OFFERED, OPEN, BROKEN = LaneState

LANE = Machine(
    "lane (of a caller and the worker of an actor)",
    (OFFERED,),
    {
        OFFERED: {
            OPEN: "The worker has accepted the caller, or the worker's first frame has come.",
        },
        OPEN: {
            BROKEN: "The connection has ended.",
        },
    },
)
