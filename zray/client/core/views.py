"""What a process knows of one actor, and the calls that it has not sent yet: ``ActorView``.

A view is the route of the actor's calls. If an actor runs one call at a time, its calls are sent in the order in which
they were made: a call that waits for an argument holds back the calls after it (``OrderedView``). If an actor runs
several calls at once, a call is sent when its arguments exist, because an argument may depend on a later call
(``UnorderedView``). Both hold back calls that exceed the caller's window (``zray.client.core.windows``). Actors with
concurrency groups have a view of their own (``zray.client.core.grouped_view``).

``in_flight`` are the calls that were sent and not answered, by their sequence number in the present incarnation. When
the broker announces a new incarnation, each of them is sent again or fails, by the rule in SPEC.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from typing import Any, Protocol

from zray.client.core.states import DEAD, LIVE, SENT, VIEW
from zray.client.core.tasks import Task
from zray.client.core.windows import Windows
from zray.named_tuples import NamedTuple
from zray.protocol.messages import ActorCall, ActorCancel, ActorCreate
from zray.protocol.records import ActorSpec

OVER = -1
"""The sequence number of a call that was cancelled and is still in a queue."""


class Creation(NamedTuple):
    """The record that an actor's creator keeps. It pins the constructor's arguments for restarts, until the actor dies.
    ``request``, ``get_if_exists``: see ``ActorCreate``.
    """

    spec: ActorSpec
    task: Task
    request: int
    get_if_exists: bool

    def announcement(self, ready: bool, payload: bytes, near: bytes = b"") -> ActorCreate:
        """Returns the message that announces the actor to the broker."""
        return ActorCreate(self.task.task_id, self.task.function_id, self.spec, self.request, self.get_if_exists, ready,
                           near, payload)  # fmt: skip


class Calls(Protocol):
    """What a view needs of the table of all actors. ``n_bytes``: the size of all calls in flight."""

    windows: Windows
    max_bytes: int
    n_bytes: int

    @property
    def send(self) -> Callable[[Any], None]:
        """Sends a message to the broker."""

    def soon(self, task: Task) -> None:
        """See ``TaskTable.soon``."""

    def dispatch(self, task: Task) -> None:
        """See ``TaskTable.dispatch``."""

    def will_fail(self, task: Task) -> bool:
        """See ``TaskTable.will_fail``."""


class Direct(Protocol):
    """A lane to the actor's worker, see ``zray.client.core.lanes``."""

    name: bytes

    def call(self, seq: int, task_id: bytes, attempt: int, payload: bytes) -> None:
        """Sends a call."""

    def call_alone(self, seq: int, task_id: bytes, attempt: int, payload: bytes) -> None:
        """Sends a call, at once: no other call to the actor is under way."""

    def cancel(self, task_id: bytes, mode: int) -> None:
        """Cancels a call that was sent by this lane."""


class ActorView(ABC):
    """What this process knows of one actor. The subclass holds the calls that were not sent yet.

    ``state``: see ``zray.client.core.states``. ``n_bytes``: the size of the calls in flight. ``always``: the number of
    calls that may be in flight whatever their size, because the actor runs as many at once.

    ``answered``: how many answers of the present incarnation have come through the broker, while there is no ``lane``.
    ``first_by_lane``: the sequence number of the first call that is sent by the lane; 0 if there is none.
    """

    __slots__ = ("_max_bytes", "_max_calls", "actor_id", "always", "answered", "class_name", "creation", "death",
                 "death_message", "first_by_lane", "in_flight", "incarnation", "lane", "n_bytes", "next_seq", "state",
                 "table")  # fmt: skip

    def __init__(self, actor_id: bytes, table: Calls, concurrency: int, class_name: str = "") -> None:
        self.actor_id = actor_id
        self.class_name = class_name
        self.always = max(1, concurrency)
        self._max_calls = max(table.windows.calls, 2 * concurrency)
        self._max_bytes = table.windows.call_bytes
        self.n_bytes = 0
        self.incarnation = 0
        self.state = LIVE
        self.death = b""  # the error of calls to a dead actor
        self.death_message = ""  # its text, to which each call's name is added; empty for a constructor's error
        self.in_flight: dict[int, Task] = {}
        self.next_seq = 1
        self.creation: Creation | None = None
        self.table = table
        self.answered = 0
        self.lane: Direct | None = None
        self.first_by_lane = 0

    def enter(self, state: int) -> None:
        """Changes the state. Raises IllegalTransition if ``state`` may not follow."""
        self.state = VIEW.after[self.state][state]

    @property
    def pending_calls(self) -> int:
        """The number of calls without an outcome."""
        return self.n_unsent + len(self.in_flight)

    def is_full(self) -> bool:
        """Whether no further call may be sent now."""
        n_calls = len(self.in_flight)
        return n_calls >= self.always and (
            n_calls >= self._max_calls or self.n_bytes >= self._max_bytes or self.table.n_bytes >= self.table.max_bytes
        )

    @property
    @abstractmethod
    def n_unsent(self) -> int:
        """The number of calls that were not sent yet."""

    @abstractmethod
    def take_unsent(self) -> list[Task]:
        """Removes and returns the calls that were not sent yet, oldest first."""

    @abstractmethod
    def add(self, task: Task) -> None:
        """Adds a new call, to be sent when it is ready."""

    @abstractmethod
    def put_back(self, tasks: list[Task]) -> None:
        """Puts calls that were sent, oldest first, before those that were not, to be sent again."""

    @abstractmethod
    def remove(self, task: Task) -> None:
        """Removes a call that was not sent and has an outcome."""

    @abstractmethod
    def held(self) -> Collection[Task]:
        """The calls that may be sent as soon as there is room, in order."""

    @abstractmethod
    def go_on(self) -> None:
        """Sends held calls, because there may be room now."""

    # ------------------------------------------------------------------ as a Route

    def ready(self, task: Task) -> None:
        if self.in_flight.get(task.seq) is task:  # it is tried again
            self.landed(task)
            task.seq = 0
            self.put_back([task])
        self.table.soon(task)

    @abstractmethod
    def go(self, task: Task) -> None: ...

    @abstractmethod
    def send(self, task: Task, payload: bytes) -> None: ...

    def send_call(self, task: Task, payload: bytes) -> None:
        """Sends a call under the next sequence number."""
        task.counted = size = len(payload)
        self.n_bytes += size
        self.table.n_bytes += size
        task.seq = self.next_seq
        self.next_seq += 1
        self.in_flight[task.seq] = task
        if self.lane is None:
            self.table.send(ActorCall(self.actor_id, self.incarnation, task.seq, task.task_id, task.attempt, payload))
        elif len(self.in_flight) == 1:
            self.lane.call_alone(task.seq, task.task_id, task.attempt, payload)
        else:
            self.lane.call(task.seq, task.task_id, task.attempt, payload)

    def switch_to(self, lane: Direct) -> None:
        """Sends all further calls by a lane."""
        self.lane = lane
        self.first_by_lane = self.next_seq

    def is_by_lane(self, seq: int) -> bool:
        """Whether the call with this sequence number was sent by the lane."""
        return 0 < self.first_by_lane <= seq

    def forget_lane(self) -> None:
        """Sends further calls through the broker: the actor's worker is gone."""
        self.lane = None
        self.first_by_lane = self.answered = 0

    def landed(self, task: Task) -> None:
        """Removes a call from those in flight."""
        del self.in_flight[task.seq]
        self.n_bytes -= task.counted
        self.table.n_bytes -= task.counted

    def forget_in_flight(self) -> dict[int, Task]:
        """Removes and returns all calls in flight: the actor that had them is gone."""
        in_flight, self.in_flight = self.in_flight, {}
        self.table.n_bytes -= self.n_bytes
        self.n_bytes = 0
        return in_flight

    def cancel(self, task: Task, mode: int) -> None:
        if self.lane is not None and self.is_by_lane(task.seq):
            self.lane.cancel(task.task_id, mode)
        else:
            self.table.send(ActorCancel(self.actor_id, task.task_id, mode))

    def started(self, task: Task) -> None:
        return

    def done(self, task: Task, error: bytes) -> None:
        if self.in_flight.get(task.seq) is task:
            self.landed(task)
            self.go_on()
        elif task.state is not SENT:
            self.remove(task)


class OrderedView(ActorView):
    """The view of an actor that runs one call at a time. ``_queue``: the calls not sent yet, oldest first.

    Searching for a call among a million takes long. So a cancelled call stays in the queue, with the sequence number
    ``OVER``, until it is at the head, or until more than half of the queue are such calls. ``_n_over`` counts them.
    """

    __slots__ = ("_n_over", "_queue")

    def __init__(self, actor_id: bytes, table: Calls, concurrency: int, class_name: str = "") -> None:
        super().__init__(actor_id, table, concurrency, class_name)
        self._queue: deque[Task] = deque()
        self._n_over = 0

    @property
    def n_unsent(self) -> int:
        return len(self._queue) - self._n_over

    def take_unsent(self) -> list[Task]:
        tasks = [task for task in self._queue if task.seq != OVER]
        self._queue.clear()
        self._n_over = 0
        return tasks

    def held(self) -> Collection[Task]:
        return self._queue

    def go_on(self) -> None:
        if self._queue:
            self.table.soon(self._queue[0])

    def add(self, task: Task) -> None:
        self._queue.append(task)

    def put_back(self, tasks: list[Task]) -> None:
        self._queue.extendleft(reversed(tasks))

    def remove(self, task: Task) -> None:
        queue = self._queue
        if queue and queue[0] is task:
            queue.popleft()
            self.table.soon(task)  # the call behind it may be sent now
        elif self.state is not DEAD:
            task.seq = OVER
            self._n_over += 1
            if self._n_over > len(queue) // 2:
                left = self.take_unsent()
                queue.extend(left)

    def go(self, task: Task) -> None:
        queue = self._queue
        while queue:
            head = queue[0]
            if head.seq == OVER:
                queue.popleft()
                self._n_over -= 1
            elif head.missing or self.state is DEAD or self.is_full():
                break
            else:
                self.table.dispatch(head)

    def send(self, task: Task, payload: bytes) -> None:
        self._queue.popleft()
        self.send_call(task, payload)


class UnorderedView(ActorView):
    """The view of an actor that runs several calls at once. ``_waiting``: the calls not sent yet, by task. ``_held``:
    those of them whose arguments exist, in the order in which they will be sent."""

    __slots__ = ("_held", "_waiting")

    def __init__(self, actor_id: bytes, table: Calls, concurrency: int, class_name: str = "") -> None:
        super().__init__(actor_id, table, concurrency, class_name)
        self._waiting: dict[bytes, Task] = {}
        self._held: OrderedDict[bytes, Task] = OrderedDict()

    def held(self) -> Collection[Task]:
        return self._held.values()

    def go_on(self) -> None:
        if self._held:
            self.table.soon(next(iter(self._held.values())))

    @property
    def n_unsent(self) -> int:
        return len(self._waiting)

    def take_unsent(self) -> list[Task]:
        tasks = list(self._waiting.values())
        self._waiting.clear()
        self._held.clear()
        return tasks

    def add(self, task: Task) -> None:
        self._waiting[task.task_id] = task

    def put_back(self, tasks: list[Task]) -> None:
        for task in reversed(tasks):
            self._waiting[task.task_id] = self._held[task.task_id] = task
            self._held.move_to_end(task.task_id, last=False)

    def remove(self, task: Task) -> None:
        self._waiting.pop(task.task_id, None)
        self._held.pop(task.task_id, None)

    def go(self, task: Task) -> None:
        held = self._held
        if not task.missing and task.task_id in self._waiting and self.state is not DEAD:
            if not (held or self.is_full()) or self.table.will_fail(task):
                self.table.dispatch(task)
                return
            held[task.task_id] = task
        while held and not self.is_full() and self.state is not DEAD:
            self.table.dispatch(next(iter(held.values())))

    def send(self, task: Task, payload: bytes) -> None:
        del self._waiting[task.task_id]
        if self._held:
            self._held.pop(task.task_id, None)
        self.send_call(task, payload)
