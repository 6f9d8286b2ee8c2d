"""What a worker was given to run, from the message that brought it until it is answered."""

from __future__ import annotations

from typing import Any

from zray.client.core.payloads import read_payload
from zray.client.core.producers import Producer
from zray.ids import owner_of
from zray.protocol.messages import ActorRun, ActorStart, LeaseRun, Run

TASK, CONSTRUCTOR, CALL = range(3)


class Assignment:
    """A task, call or constructor that was taken and is not finished. ``covered``: references in its arguments.
    ``stored``: return values in the store, complete or being written. ``fault``: why its payload cannot be read; empty
    if it can. ``untold_bytes``: the size of its payload; -1 once its start has been reported. ``producer``: set if its
    values are a stream. ``lease``: the number of the lease that follows it, or 0; ``by_lane``: its owner has leased
    this worker, and has sent the task itself."""

    __slots__ = (
        "actor_start",
        "attempt",
        "by_lane",
        "covered",
        "fault",
        "function_id",
        "gpus",
        "keep",
        "kind",
        "lease",
        "owner",
        "payload",
        "producer",
        "shape",
        "stored",
        "task_id",
        "untold_bytes",
    )  # fmt: skip

    def __init__(
        self, kind: int, owner: bytes, task_id: bytes, attempt: int, function_id: bytes, payload: bytes
    ) -> None:
        self.kind = kind
        self.owner = owner
        self.task_id = task_id
        self.attempt = attempt
        self.function_id = function_id
        self.payload, self.fault = read_payload(payload)
        self.producer = Producer(*self.payload.stream) if self.payload.stream else None
        self.untold_bytes = len(payload)
        self.covered: list[bytes] = []
        self.keep: list[Any] = []  # what its return values refer to, until they are answered
        self.stored: list[bytes] = []
        self.shape = b""
        self.gpus: list[int] = []
        self.lease = 0
        self.by_lane = False
        self.actor_start: ActorStart | None = None


def of_run(run: Run) -> Assignment:
    """A task that the broker sent."""
    task = Assignment(TASK, owner_of(run.task_id), run.task_id, run.attempt, run.function_id, run.payload)
    task.shape = run.shape
    task.gpus = run.gpus
    task.lease = run.lease
    return task


def of_lease(run: LeaseRun, shape: bytes) -> Assignment:
    """A task that its owner, who has leased the worker, sent by a lane. ``shape``: of the lease."""
    task = Assignment(TASK, owner_of(run.task_id), run.task_id, run.attempt, run.function_id, run.payload)
    task.shape = shape
    task.by_lane = True
    if task.producer is not None:
        task.fault = task.fault or "a stream cannot travel by a lane"
        task.producer = None
    return task


def of_call(run: ActorRun) -> Assignment:
    """A call of an actor's method."""
    return Assignment(CALL, run.caller, run.task_id, run.attempt, b"", run.payload)


def of_start(start: ActorStart) -> Assignment:
    """A call of an actor's constructor."""
    task = Assignment(CONSTRUCTOR, start.creator, start.actor_id, start.incarnation, start.function_id, start.payload)
    task.gpus = start.gpus
    task.actor_start = start
    return task
