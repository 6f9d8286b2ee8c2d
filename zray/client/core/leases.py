"""The owner's side of leases: workers that run its tasks of one shape, one at a time, without the broker between.

See ``zray.broker.leases``. An owner asks for a lease when it has submitted ``after`` tasks of a shape in a row, each of
them after the outcome of the one before. Before that, it opens a lane (``zray.client.core.lanes``) to the worker that
answers: as long as a lane is being opened, a leased worker would be of no use.

A task is sent by a lane if the worker has no other, it can be tried again (so that the broker knows what it stops for
lack of memory), its function has been run through the broker (so that the worker can ask for it), it is no stream, and
it does not use up its worker. All others go through the broker. The outcome of a task is one of these:

- ``Result`` by the lane.
- ``LeaseReturned`` by the lane: the lease is over, and the task has not begun. It goes through the broker.
- ``LeaseLost``: the worker died while it was leased. The task fails by the same rules as with ``Failed``.
- The worker's death without a ``LeaseLost``: the lease was over before the task came. As the second.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from zray.client.core.states import OPEN
from zray.client.core.tasks import Task, TaskTable
from zray.protocol.codec import unpack
from zray.protocol.messages import (
    CANCEL_FORCE,
    FLAG_RETRYABLE,
    FLAG_SPREAD,
    Failed,
    LeaseCancel,
    Leased,
    LeaseEnd,
    LeaseEnded,
    LeaseLost,
    LeaseReturned,
    ProtocolError,
)

LEASE_AFTER = 8
"""The number of tasks of a shape, one after the other, after which an owner asks for a lease."""
MAX_BYTES = 65_536
"""The size of the largest task that is sent by a lane. A socket may not take a larger one at once."""
MAX_FUNCTIONS = 10_000
"""The number of functions of which it is remembered that they were run."""


class DirectWay(Protocol):
    """A lane to a worker, see ``zray.client.core.lanes``."""

    @property
    def state(self) -> int:
        """See ``zray.client.core.states``."""

    def run(self, lease: int, task: Task, payload: bytes) -> None:
        """Sends a task under a lease, at once."""

    def cancel(self, task_id: bytes, mode: int) -> None:
        """Cancels a task that was sent by this lane."""


class Lease:
    """A leased worker.

    ``number``: see ``zray.protocol.lease_messages``; ``task``: what it runs; ``is_used``: since the last tick;
    ``is_over``: it gets no more tasks; ``forced``: its task is cancelled by force.
    """

    __slots__ = ("forced", "is_over", "is_used", "lane", "number", "shape", "task", "worker_id")

    def __init__(self, worker_id: bytes, number: int, shape: bytes, lane: DirectWay) -> None:
        self.worker_id = worker_id
        self.number = number
        self.shape = shape
        self.lane = lane
        self.task: Task | None = None
        self.is_used = True
        self.is_over = False
        self.forced = False


class LeaseTable:
    """The leases of one process, one for each shape.

    ``to_broker(message)`` sends. ``after``: see ``LEASE_AFTER``; infinite if there are no lanes. ``wants_lane``: a lane
    to the next worker that answers would be of use.
    """

    def __init__(
        self,
        tasks: TaskTable,
        host_id: bytes,
        to_broker: Callable[[Any], None],
    ) -> None:
        self.after: float = LEASE_AFTER
        self.wants_lane = False
        self.lanes: dict[bytes, DirectWay] = {}  # by worker: the lanes that have been opened
        self.ask_for_lane: Callable[[bytes], None] = lambda worker_id: None
        self.by_shape: dict[bytes, Lease] = {}  # those that are not over
        self.running: dict[bytes, Lease] = {}  # by the task that its worker runs
        self.host_id = host_id
        self._tasks = tasks
        self._to_broker = to_broker
        self._functions: set[bytes] = set()

    @property
    def is_at_rest(self) -> bool:
        """Whether there is no lease that might have to be given back."""
        return all(lease.task is not None for lease in self.by_shape.values())

    # ------------------------------------------------------------------ the beginning

    def may_take(self, task: Task, payload: bytes) -> bool:
        """Whether a task may be sent by a lane, if a worker is leased."""
        return (
            task.flags & (FLAG_RETRYABLE | FLAG_SPREAD) == FLAG_RETRYABLE
            and task.function_id in self._functions
            and len(payload) <= MAX_BYTES
            and not self._tasks.is_stream(task.task_id)
            and _may_be_leased(task.options)
            and self._tasks.nearest(task.arguments) in (b"", self.host_id)
        )

    def lane_broke(self, worker_id: bytes, lane: DirectWay) -> None:
        """The socket of a lane is broken. A task that was sent by it ends as usual, by the broker's way."""
        if self.lanes.get(worker_id) is lane:
            del self.lanes[worker_id]

    def answered(self, worker_id: bytes) -> None:
        """A worker has answered through the broker."""
        self.wants_lane = False
        self.ask_for_lane(worker_id)

    def note_function(self, function_id: bytes) -> None:
        """A function has been run through the broker, which has it: a worker can ask for it."""
        if len(self._functions) >= MAX_FUNCTIONS:
            self._functions.clear()
        self._functions.add(function_id)

    def on_leased(self, message: Leased) -> None:
        """A worker was leased to this process."""
        lane = self.lanes.get(message.worker_id)
        if lane is None or lane.state is not OPEN or message.shape in self.by_shape:
            self._to_broker(LeaseEnd(message.worker_id, message.lease))
            if lane is None:
                self.ask_for_lane(message.worker_id)
        else:
            self.by_shape[message.shape] = Lease(message.worker_id, message.lease, message.shape, lane)

    def send(self, lease: Lease, task: Task, payload: bytes) -> None:
        """Has a leased worker that is free run a task."""
        lease.task = task
        lease.is_used = True
        self.running[task.task_id] = lease
        lease.lane.run(lease.number, task, payload)

    @staticmethod
    def is_free(lease: Lease) -> bool:
        """Whether a leased worker may be given a task."""
        return lease.task is None and lease.lane.state is OPEN

    # ------------------------------------------------------------------ the end

    def release(self, task_id: bytes) -> bool:
        """A task has an outcome, or will be tried again. Returns whether a leased worker had it."""
        lease = self.running.pop(task_id, None)
        if lease is None:
            return False
        lease.task = None
        if lease.forced:  # it has ended in order: the worker need not be killed
            self._to_broker(LeaseEnd(lease.worker_id, lease.number))
        return True

    def _over(self, lease: Lease) -> None:
        lease.is_over = True
        if self.by_shape.get(lease.shape) is lease:
            del self.by_shape[lease.shape]

    def on_ended(self, message: LeaseEnded) -> None:
        """The broker has taken a worker back. A task that it still runs ends as usual."""
        for lease in list(self.by_shape.values()):
            if lease.number == message.lease:
                self._over(lease)

    def on_lost(self, message: LeaseLost, now: float) -> None:
        """A leased worker is dead."""
        for lease in [lease for lease in self._with(message.worker_id) if lease.number == message.lease]:
            self._over(lease)
            lease.forced = False
            if (task := lease.task) is not None:
                pays = message.culprit is None or message.culprit == task.task_id
                self._tasks.on_failed(Failed(task.task_id, task.attempt, message.kind, message.message, pays), now)

    def on_process_died(self, worker_id: bytes) -> None:
        """A worker is dead. What it had was not begun: it was not leased any more."""
        for lease in self._with(worker_id):
            self._over(lease)
            lease.forced = False
            if lease.task is not None:
                self._tasks.sent_back(lease.task)

    def _with(self, worker_id: bytes) -> list[Lease]:
        idle = [lease for lease in self.by_shape.values() if lease.task is None]
        return [lease for lease in (*idle, *self.running.values()) if lease.worker_id == worker_id]

    def on_returned(self, worker_id: bytes, message: LeaseReturned) -> None:
        """A worker has sent a task back: its lease is over, or a thread of an earlier task waits in ``get`` there."""
        lease = self.running.get(message.task_id)
        if lease is None or lease.task is None or lease.task.attempt != message.attempt:
            return
        if lease.worker_id != worker_id:
            raise ProtocolError("a task sent back by a worker that does not have it")
        if not lease.is_over:
            self._over(lease)
            self._to_broker(LeaseEnd(worker_id, lease.number))
        self._tasks.sent_back(lease.task)

    def on_timed_out(self, task_id: bytes) -> None:
        """A task has run too long, and its worker was killed."""
        lease = self.running.get(task_id)
        if lease is not None:
            self._over(lease)
            lease.forced = False

    def check_answer(self, worker_id: bytes, task_id: bytes) -> None:
        """Raises ProtocolError if a worker answers for a task that was not sent to it."""
        lease = self.running.get(task_id)
        if task_id in self._tasks.tasks and (lease is None or lease.worker_id != worker_id):
            raise ProtocolError("an outcome from a worker that was not given the task")

    def cancel(self, task_id: bytes, mode: int) -> bool:
        """Cancels a task. Returns False if no leased worker has it."""
        lease = self.running.get(task_id)
        if lease is None:
            return False
        if mode & CANCEL_FORCE:
            self._over(lease)
            lease.forced = True
            self._to_broker(LeaseCancel(lease.worker_id, lease.number, task_id, mode))
        else:
            lease.lane.cancel(task_id, mode)
        return True

    def tick(self) -> None:
        """Gives back the workers that had nothing to do since the last tick."""
        for lease in list(self.by_shape.values()):
            if lease.task is None and not lease.is_used:
                self._over(lease)
                self._to_broker(LeaseEnd(lease.worker_id, lease.number))
            lease.is_used = False

    def lose_everything(self) -> None:
        """The cluster is gone."""
        self.by_shape.clear()
        self.running.clear()

    def check(self) -> None:
        """Raises AssertionError if an index is not what the leases say. For tests."""
        for shape, lease in self.by_shape.items():
            assert lease.shape == shape and not lease.is_over, "the lease of a shape"
            assert lease.task is None or self.running.get(lease.task.task_id) is lease, "what a lease runs"
        for task_id, lease in self.running.items():
            assert lease.task is not None and lease.task.task_id == task_id, "a task that a lease runs"
            assert self._tasks.tasks.get(task_id) is lease.task, "a task that has ended"


@functools.lru_cache(maxsize=256)
def _may_be_leased(options: bytes) -> bool:
    """Whether a call's options allow a lease: it does not use up its worker."""
    fields = unpack(options) if options else {}
    return not (type(fields) is dict and fields.get("max_calls"))
