"""The messages of leases: workers that run one task after the other for one owner, see ``zray.broker.leases``.

``lease`` is the lease's number. The broker gives each another one, so that what is about one that is over changes
nothing.
"""

from __future__ import annotations

from zray.ids import FunctionId, ProcessId, TaskId
from zray.named_tuples import NamedTuple

# ---------------------------------------------------------------------------------- between owner and broker


class Leased(NamedTuple):
    """To an owner: a worker that has just run a task of this shape runs its further tasks of it, one at a time.

    ``grant_key``: the resources that the worker holds.
    """

    worker_id: ProcessId
    lease: int
    shape: bytes
    grant_key: bytes


class LeaseEnd(NamedTuple):
    """From the owner: it has nothing more for a worker."""

    worker_id: ProcessId
    lease: int


class LeaseCancel(NamedTuple):
    """From the owner: cancels, by force, the task that it has given to a worker. It gives it no other."""

    worker_id: ProcessId
    lease: int
    task_id: TaskId
    mode: int


class LeaseEnded(NamedTuple):
    """To the owner: the broker has taken a worker back. What the owner has given to it before is answered."""

    worker_id: ProcessId
    lease: int


class LeaseLost(NamedTuple):
    """To the owner: a leased worker is dead. ``kind``, ``message``: as in ``Failed``.

    ``culprit``: the task that has to pay with a retry; empty: none; None: any.
    """

    worker_id: ProcessId
    lease: int
    kind: str
    message: str
    culprit: bytes | None


# --------------------------------------------------------------------------------- between broker and worker


class LeaseOver(NamedTuple):
    """To a worker: it must take no more tasks of the owner. It answers ``LeaseLeft`` when it runs none.

    ``is_dead``: the owner is dead, so the worker answers at once.
    """

    lease: int
    is_dead: bool


class LeaseLeft(NamedTuple):
    """From a worker: its lease is over. ``runs``: it still runs a task of its owner, who is dead."""

    lease: int
    runs: bool


# ---------------------------------------------------------------------------- between owner and worker, by a lane


class LeaseRun(NamedTuple):
    """A task, to a worker that its owner has leased."""

    lease: int
    task_id: TaskId
    attempt: int
    function_id: FunctionId
    payload: bytes


class LeaseReturned(NamedTuple):
    """The answer to a ``LeaseRun`` that the worker has not begun: its lease is over."""

    task_id: TaskId
    attempt: int
