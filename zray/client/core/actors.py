"""The caller's side of actors: one ``ActorView`` for each actor that this process creates or calls.

A view is the route of the actor's calls. If an actor runs one call at a time, its calls are sent in the order in which
they were made: a call that waits for an argument holds back the calls after it (``OrderedView``). If an actor runs
several calls at once, a call is sent when its arguments exist, because an argument may depend on a later call
(``UnorderedView``). Both hold back calls that exceed the caller's window (``zray.client.core.windows``).

``in_flight`` are the calls that were sent and not answered, by their sequence number in the present incarnation. When
the broker announces a new incarnation, each of them is sent again or fails, by the rule in SPEC.md.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from zray.client.core.references import ReferenceTable
from zray.client.core.states import DEAD, LIVE, READY, SENT, VIEW
from zray.client.core.tasks import UNLIMITED, Task, TaskTable
from zray.client.core.windows import Windows
from zray.failures import encode_failure
from zray.protocol.messages import (
    ActorCall,
    ActorCancel,
    ActorCreate,
    ActorReady,
    ActorRelease,
    ActorState,
    ActorStatus,
)
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


class ActorView(ABC):
    """What this process knows of one actor. The subclass holds the calls that were not sent yet.

    ``state``: see ``zray.client.core.states``. ``n_bytes``: the size of the calls in flight. ``always``: the number of
    calls that may be in flight whatever their size, because the actor runs as many at once.
    """

    __slots__ = ("_max_bytes", "_max_calls", "actor_id", "always", "class_name", "creation", "death", "death_message",
                 "in_flight", "incarnation", "n_bytes", "next_seq", "state", "table")  # fmt: skip

    def __init__(self, actor_id: bytes, table: ActorTable, concurrency: int, class_name: str = "") -> None:
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
            del self.in_flight[task.seq]
            self.n_bytes -= task.counted
            self.table.n_bytes -= task.counted
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
        self.table.send(ActorCall(self.actor_id, self.incarnation, task.seq, task.task_id, task.attempt, payload))

    def forget_in_flight(self) -> dict[int, Task]:
        """Removes and returns all calls in flight: the actor that had them is gone."""
        in_flight, self.in_flight = self.in_flight, {}
        self.table.n_bytes -= self.n_bytes
        self.n_bytes = 0
        return in_flight

    def cancel(self, task: Task, mode: int) -> None:
        self.table.send(ActorCancel(self.actor_id, task.task_id, mode))

    def started(self, task: Task) -> None:
        return

    def done(self, task: Task, error: bytes) -> None:
        if self.in_flight.get(task.seq) is task:
            del self.in_flight[task.seq]
            self.n_bytes -= task.counted
            self.table.n_bytes -= task.counted
            self.go_on()
        elif task.state is not SENT:
            self.remove(task)


class OrderedView(ActorView):
    """The view of an actor that runs one call at a time. ``_queue``: the calls not sent yet, oldest first.

    Searching for a call among a million takes long. So a cancelled call stays in the queue, with the sequence number
    ``OVER``, until it is at the head, or until more than half of the queue are such calls. ``_n_over`` counts them.
    """

    __slots__ = ("_n_over", "_queue")

    def __init__(self, actor_id: bytes, table: ActorTable, concurrency: int, class_name: str = "") -> None:
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

    def __init__(self, actor_id: bytes, table: ActorTable, concurrency: int, class_name: str = "") -> None:
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


class _CreationRoute:
    """Sends an actor's constructor once its arguments exist."""

    __slots__ = ("_table", "_view", "actor_id")

    def __init__(self, view: ActorView, table: ActorTable) -> None:
        self.actor_id = b"nobody"  # no worker answers for a constructor: the broker does
        self._view = view
        self._table = table

    @property
    def class_name(self) -> str:
        """See ``Route``."""
        return self._view.class_name

    def ready(self, task: Task) -> None:
        self._table.soon(task)

    def go(self, task: Task) -> None:
        self._table.dispatch_creation(task)

    def send(self, task: Task, payload: bytes) -> None:
        creation = self._view.creation
        assert creation is not None
        self._table.send(creation.announcement(ready=True, payload=payload, near=self._table.nearest(task.arguments)))

    def cancel(self, task: Task, mode: int) -> None:
        return

    def started(self, task: Task) -> None:
        return

    def done(self, task: Task, error: bytes) -> None:
        if self._view.state is not DEAD:  # an argument of the constructor is an error: the actor never starts
            self._table.send(ActorReady(self._view.actor_id, error))
        self._view.creation = None


class ActorTable:
    """All actors that this process has created or calls. ``n_bytes``: the size of all calls in flight."""

    def __init__(
        self, references: ReferenceTable, tasks: TaskTable, send: Callable[[Any], None], windows: Windows
    ) -> None:
        self.windows = windows
        self.max_bytes = windows.all_call_bytes
        self.n_bytes = 0
        self.views: dict[bytes, ActorView] = {}
        self.send = send
        self.soon = tasks.soon
        self.dispatch = tasks.dispatch
        self.nearest = tasks.nearest
        self.will_fail = tasks.will_fail
        self._references = references
        self._tasks = tasks
        self._handle_of: dict[bytes, bytes] = {}  # handle object -> actor, for the actors created here
        self._named: set[bytes] = set()  # those of them with a name; a dead actor keeps its name until its release

    def view(self, actor_id: bytes, ordered: bool, concurrency: int = 1, class_name: str = "") -> ActorView:
        """Returns the view of an actor, which is made at its first use. ``ordered``: it runs its calls in order, one at
        a time. ``concurrency``: the number of calls that it runs at once."""
        view = self.views.get(actor_id)
        if view is None:
            kind = OrderedView if ordered else UnorderedView
            view = self.views[actor_id] = kind(actor_id, self, concurrency, class_name)
        return view

    # ------------------------------------------------------------------ creation

    def create(self, spec: ActorSpec, task: Task, request: int = 0, get_if_exists: bool = False) -> None:
        """Announces an actor at once, which takes its name, and sends its constructor when that can run.

        ``task``: its constructor; its identifier is the actor's. Actors must be created in the order of their
        identifiers. ``request``, ``get_if_exists``: see ``ActorCreate``.
        """
        actor_id = task.task_id
        view = self.view(actor_id, spec.ordered, spec.max_concurrency, spec.class_name)
        view.creation = Creation(spec, task, request, get_if_exists)
        if spec.handle:
            self._handle_of[spec.handle] = actor_id
            if spec.name:
                self._named.add(actor_id)
        task.route = _CreationRoute(view, self)
        if not all(self._references.has_value(object_id) for _, object_id in task.arguments.refs):
            self.send(view.creation.announcement(ready=False, payload=b""))
        self._tasks.submit(task)

    def dispatch_creation(self, task: Task) -> None:
        """Sends a creation whose arguments exist."""
        if task.state is READY:
            self._tasks.dispatch(task)

    def abandon(self, actor_id: bytes) -> None:
        """Removes an actor that the broker did not accept, because another actor has its name."""
        view = self.views.pop(actor_id)
        view.enter(DEAD)
        self._named.discard(actor_id)
        creation = view.creation
        if creation is not None:
            self._handle_of.pop(creation.spec.handle, None)
            self._tasks.fail(creation.task, encode_failure("ActorDiedError", "its name was taken", actor_id))

    def handle_freed(self, object_id: bytes) -> bool:
        """Releases an actor created here, because its handle object can no longer be reached.

        Returns False if ``object_id`` is not a handle object.
        """
        actor_id = self._handle_of.pop(object_id, None)
        if actor_id is None:
            return False
        view = self.views.get(actor_id)
        if view is not None and (view.state is not DEAD or actor_id in self._named):
            self.send(ActorRelease(actor_id))
        if view is not None and view.state is DEAD:
            del self.views[actor_id]
        self._named.discard(actor_id)
        return True

    # ------------------------------------------------------------------ calls

    @staticmethod
    def is_call(task: Task) -> bool:
        """Whether a task is the call of an actor's method."""
        return isinstance(task.route, ActorView)

    def submit(self, view: ActorView, task: Task) -> None:
        """Adds a call."""
        if view.state is DEAD:
            self._tasks.tasks[task.task_id] = task
            for object_id in task.arguments.held:
                self._references.pin(object_id)
            self._fail_dead(task, view)
            return
        view.add(task)
        self._tasks.submit(task)

    def on_state(self, message: ActorState) -> None:
        """Handles the broker's report of a new incarnation, or of the actor's death."""
        view = self.views.get(message.actor_id)
        if view is None or view.state is DEAD:
            return
        if message.state == ActorStatus.DEAD:
            self._died(view, message)
        elif message.incarnation > view.incarnation:
            self._restarted(view, message)

    def _died(self, view: ActorView, message: ActorState) -> None:
        view.enter(DEAD)
        view.death = message.error or encode_failure("ActorDiedError", message.message, view.actor_id)
        view.death_message = "" if message.error else message.message
        for task in [*view.in_flight.values(), *view.take_unsent()]:
            if task.task_id in self._tasks.tasks:
                self._fail_dead(task, view)
        if view.creation is not None:
            creation, view.creation = view.creation, None
            if creation.task.task_id in self._tasks.tasks:
                self._tasks.fail(creation.task, view.death)
        if view.actor_id not in self._handle_of.values():
            self.views.pop(view.actor_id, None)  # if a handle is still used, the broker answers for the dead actor

    def _fail_dead(self, task: Task, view: ActorView) -> None:
        """Fails a call with an error that names the call. Equal errors share their bytes: there may be a million."""
        if view.death_message:
            self._tasks.fail(task, _death_of(task.attempt_text, view.death_message, view.actor_id))
        else:
            self._tasks.fail(task, view.death)

    def _restarted(self, view: ActorView, message: ActorState) -> None:
        view.enter(LIVE)
        view.incarnation = message.incarnation
        view.next_seq = 1
        in_flight = view.forget_in_flight()
        again, lost = [], []
        for seq, task in sorted(in_flight.items()):
            may_have_run = seq <= message.last_seq
            if task.cancelled or (may_have_run and not task.retries_left):
                lost.append(task)
                continue
            if may_have_run and task.retries_left != UNLIMITED:
                task.retries_left -= 1
            task.attempt += may_have_run
            task.seq = 0
            task.enter(READY)
            again.append(task)
        view.put_back(again)
        for task in lost:
            if task.cancelled:
                self._tasks.fail_cancelled(task)
                continue
            text = f"{task.attempt_text} was with the actor when it died, and may have run: {message.message}"
            self._tasks.fail(task, encode_failure("ActorUnavailableError", text, view.actor_id))
        view.go_on()

    def check(self) -> None:
        """Raises AssertionError if the counts are wrong, or a call is held without a reason. For tests."""
        for view in self.views.values():
            assert view.n_bytes == sum(task.counted for task in view.in_flight.values()), "bytes of calls under way"
            assert all(view.in_flight[seq].seq == seq for seq in view.in_flight), (
                "a call in flight under another number"
            )
            held = next(iter(view.held()), None)
            could_go = held is not None and held.state is READY and view.state is LIVE
            # Room that calls of other actors make is noticed at this actor's next outcome. So a call must be in flight.
            assert not could_go or len(view.in_flight) >= view.always, "a call is held that could start"
        assert self.n_bytes == sum(view.n_bytes for view in self.views.values()), "bytes of all calls under way"


@functools.lru_cache(maxsize=64)
def _death_of(attempt: str, message: str, actor_id: bytes) -> bytes:
    return encode_failure("ActorDiedError", f"{attempt}: {message}", actor_id)
