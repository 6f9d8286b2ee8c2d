"""The states of transfers: of pulls, and of the ways to the processes that are pulled from.

``docs/states.md`` shows these tables.
"""

from __future__ import annotations

from zray.states import Machine, State


class PullState(State):
    """The states of an object that is being pulled to this machine."""

    LOCATING = 0, "It has no source. Its owner has been asked for sources."
    RESERVING = 1, "It has sources, and the shell makes room for the whole object."
    RUNNING = 2, "It has room and sources. Chunks are asked for, a bounded number ahead from each source."
    SEALING = 3, "All chunks are here, and the shell publishes the object."
    DONE = 4, "The object can be read here."
    FAILED = 5, "The readers were told why the pull failed."


LOCATING, RESERVING, RUNNING, SEALING, DONE, FAILED = PullState

_GIVEN_UP = "No reader waits any more, the owner is dead or says that the object is gone, or the process ends."

PULL = Machine(
    "pull (of one object to one machine)",
    (LOCATING,),
    {
        LOCATING: {
            RESERVING: "Sources are known, and there is no room yet.",
            RUNNING: "Sources are known again, and the room is there from before.",
            FAILED: f"No process has the object. {_GIVEN_UP}",
        },
        RESERVING: {
            RUNNING: "There is room, and there are sources.",
            FAILED: f"There is no room. {_GIVEN_UP}",
        },
        RUNNING: {
            LOCATING: "The last source is lost. The owner is asked again, and the pull goes on where it was.",
            SEALING: "The last chunk has arrived.",
            FAILED: _GIVEN_UP,
        },
        SEALING: {
            DONE: "The object is published.",
            FAILED: "The object could not be published.",
        },
    },
)


class ChannelState(State):
    """The states of the way to a process that is pulled from."""

    RELAYED = 0, "Requests go through the broker."
    DIALLING = 1, "A channel is being made. Until then one request at a time goes through the broker."
    DIRECT = 2, "Requests go by a channel."
    GONE = 3, "The process is dead."


RELAYED, DIALLING, DIRECT, GONE = ChannelState

_DEATH = "The broker reports the death of the process."

CHANNEL = Machine(
    "channel (to a process that is pulled from)",
    (RELAYED,),
    {
        RELAYED: {
            DIALLING: "A pull needs the process, and no attempt has failed lately. Hosts only.",
            DIRECT: "The channel is made after the attempt was given up.",
            GONE: _DEATH,
        },
        DIALLING: {
            DIRECT: "The channel is made.",
            RELAYED: "The process cannot be dialled, or has not answered for 5 s.",
            GONE: _DEATH,
        },
        DIRECT: {
            RELAYED: "The channel has broken, or was closed because it was not used for long.",
            GONE: _DEATH,
        },
    },
)
