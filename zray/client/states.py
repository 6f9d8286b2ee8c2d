"""The states of a client's connection. ``docs/states.md`` shows this table."""

from __future__ import annotations

from zray.states import Machine, State


class ConnectionState(State):
    """The states of the connection of a driver or worker to its broker."""

    OPEN = 0, "The broker has welcomed this process. The link sends and receives."
    LOST = (
        1,
        "The broker is gone, or has declared this process dead. Every wait has ended with an error.",
    )
    CLOSED = 2, "The session has ended. The socket is closed."


OPEN, LOST, CLOSED = ConnectionState

CONNECTION = Machine(
    "connection (a driver's or worker's, to the broker)",
    (OPEN,),
    {
        OPEN: {
            LOST: "The broker is silent for `silence_s` or refuses a frame, or the local cluster has died.",
            CLOSED: "The session ends.",
        },
        LOST: {CLOSED: "The session ends."},
    },
)
