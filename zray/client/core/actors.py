"""The caller's side of actors: one ``ActorView`` per actor that this process creates or calls.

A view is the route of the actor's calls. Calls leave in the order in which they were made: one that waits for an
argument holds back those behind it. ``flying`` are the calls that have been sent and not answered, by sequence number
of the present incarnation. When the broker announces a new incarnation, each of them is sent again or fails,
by the rule in SPEC.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from zray.client.core.references import ReferenceTable
from zray.client.core.tasks import UNLIMITED, WAITING, Task, TaskTable
from zray.failures import encode_failure
from zray.protocol.messages import (
    ALIVE,
    DEAD,
    PENDING,
    RESTARTING,
    ActorCall,
    ActorCancel,
    ActorCreate,
    ActorReady,
    ActorRelease,
    ActorState,
)


class Creation:
    """What the creator has to keep: the constructor's arguments stay pinned, for restarts, until the actor is dead."""

    __slots__ = ("function_id", "spec", "task")

    def __init__(self, function_id: bytes, spec: dict[str, Any], task: Task) -> None:
        self.function_id = function_id
        self.spec = spec
        self.task = task


class ActorView:
    """What this process knows of one actor. ``queue``: calls not yet sent, oldest first."""

    __slots__ = ("_table", "actor_id", "creation", "death", "flying", "incarnation", "next_seq", "queue", "state")

    def __init__(self, actor_id: bytes, table: ActorTable) -> None:
        self.actor_id = actor_id
        self.incarnation = 0
        self.state = PENDING
        self.death = b""  # the error of calls to a dead actor
        self.queue: deque[Task] = deque()
        self.flying: dict[int, Task] = {}
        self.next_seq = 1
        self.creation: Creation | None = None
        self._table = table

    @property
    def pending_calls(self) -> int:
        """Calls without an outcome."""
        return len(self.queue) + len(self.flying)

    # ------------------------------------------------------------------ as a Route

    def ready(self, task: Task) -> None:
        if self.flying.get(task.seq) is task:  # to be tried again
            del self.flying[task.seq]
            task.seq = 0
            self.queue.appendleft(task)
        self._table.soon(task)

    def go(self, task: Task) -> None:
        self._table.flush(self)

    def send(self, task: Task, payload: bytes) -> None:
        self.queue.popleft()
        task.seq = self.next_seq
        self.next_seq += 1
        self.flying[task.seq] = task
        call = ActorCall(self.actor_id, self.incarnation, task.seq, task.task_id, task.attempt, payload)
        self._table.send(call)

    def cancel(self, task: Task, mode: int) -> None:
        self._table.send(ActorCancel(self.actor_id, task.task_id, mode))

    def done(self, task: Task, error: bytes) -> None:
        if self.flying.get(task.seq) is task:
            del self.flying[task.seq]
        elif task.state == WAITING and task in self.queue:
            self.queue.remove(task)
            self._table.soon(task)  # what stood behind it may go now


class _CreationRoute:
    """Sends an actor's constructor once its arguments exist."""

    __slots__ = ("_table", "_view", "actor_id")

    def __init__(self, view: ActorView, table: ActorTable) -> None:
        self.actor_id = b"nobody"  # of a constructor the broker tells, and no worker
        self._view = view
        self._table = table

    def ready(self, task: Task) -> None:
        self._table.soon(task)

    def go(self, task: Task) -> None:
        self._table.dispatch(task)

    def send(self, task: Task, payload: bytes) -> None:
        creation = self._view.creation
        assert creation is not None
        creation.spec["ready"] = True
        self._table.send(ActorCreate(self._view.actor_id, creation.function_id, creation.spec, payload))

    def cancel(self, task: Task, mode: int) -> None:
        return

    def done(self, task: Task, error: bytes) -> None:
        if self._view.state != DEAD:  # an argument of the constructor is an error: the actor will never be
            self._table.send(ActorReady(self._view.actor_id, error))
        self._view.creation = None


class ActorTable:
    """All actors that this process has to do with."""

    def __init__(self, references: ReferenceTable, tasks: TaskTable, send: Callable[[Any], None]) -> None:
        self.views: dict[bytes, ActorView] = {}
        self.send = send
        self.soon = tasks.soon
        self._references = references
        self._tasks = tasks
        self._handle_of: dict[bytes, bytes] = {}  # handle object -> actor, for the actors created here

    def view(self, actor_id: bytes) -> ActorView:
        """The view of an actor, made at its first use."""
        view = self.views.get(actor_id)
        if view is None:
            view = self.views[actor_id] = ActorView(actor_id, self)
        return view

    # ------------------------------------------------------------------ creation

    def create(self, actor_id: bytes, handle_id: bytes, spec: dict[str, Any], task: Task) -> None:
        """Announces an actor at once (its name is taken from now on), and sends its constructor when it can run."""
        view = self.view(actor_id)
        view.creation = Creation(task.function_id, spec, task)
        if handle_id:
            self._handle_of[handle_id] = actor_id
        task.route = _CreationRoute(view, self)
        spec["ready"] = False
        if any(self._references.pending(object_id) for _, object_id in task.arguments.refs):
            self.send(ActorCreate(actor_id, task.function_id, dict(spec), b""))
        self._tasks.submit(task)

    def dispatch(self, task: Task) -> None:
        """Sends a creation whose arguments exist."""
        if self._tasks.waits(task):
            self._tasks.dispatch(task)

    def abandon(self, actor_id: bytes) -> None:
        """The broker did not take the actor, since its name is another's."""
        view = self.views.pop(actor_id)
        view.state = DEAD
        creation = view.creation
        if creation is not None:
            self._handle_of.pop(creation.spec["handle"], None)
            self._tasks.fail(creation.task, encode_failure("ActorDiedError", "its name was taken"))

    def handle_freed(self, object_id: bytes) -> bool:
        """The handle object of an actor that was created here can no longer be reached; False: it is none."""
        actor_id = self._handle_of.pop(object_id, None)
        if actor_id is None:
            return False
        view = self.views.get(actor_id)
        if view is not None and view.state != DEAD:
            self.send(ActorRelease(actor_id))
        elif view is not None:
            del self.views[actor_id]
        return True

    # ------------------------------------------------------------------ calls

    def submit(self, view: ActorView, task: Task) -> None:
        """Takes charge of a call."""
        if view.state == DEAD:
            self._tasks.tasks[task.task_id] = task
            for object_id in task.arguments.held:
                self._references.pin(object_id)
            self._tasks.fail(task, view.death)
            return
        view.queue.append(task)
        self._tasks.submit(task)

    def flush(self, view: ActorView) -> None:
        """Sends every call at the head of the queue whose arguments exist."""
        while view.queue and not view.queue[0].missing and view.state != DEAD:
            self._tasks.dispatch(view.queue[0])

    def on_state(self, message: ActorState) -> None:
        """The broker tells of a new incarnation, or of the end."""
        view = self.view(message.actor_id)
        if view.state == DEAD:
            return
        if message.state == ALIVE:
            view.state = ALIVE
            return
        if message.state == DEAD:
            self._died(view, message)
        elif message.state in (RESTARTING, PENDING) and message.incarnation > view.incarnation:
            self._restarted(view, message)

    def _died(self, view: ActorView, message: ActorState) -> None:
        view.state = DEAD
        view.death = message.error or encode_failure("ActorDiedError", message.message)
        for task in [*view.flying.values(), *view.queue]:
            if task.task_id in self._tasks.tasks:
                self._tasks.fail(task, view.death)
        if view.creation is not None:
            creation, view.creation = view.creation, None
            if creation.task.task_id in self._tasks.tasks:
                self._tasks.fail(creation.task, view.death)
        if view.actor_id not in self._handle_of.values():
            self.views.pop(view.actor_id, None)  # should a handle still be used, the broker answers for the dead

    def _restarted(self, view: ActorView, message: ActorState) -> None:
        view.state = message.state
        view.incarnation = message.incarnation
        view.next_seq = 1
        flying, view.flying = view.flying, {}
        again, lost = [], []
        for seq, task in sorted(flying.items()):
            may_have_run = seq <= message.last_seq
            if task.cancelled or (may_have_run and not task.retries_left):
                lost.append(task)
                continue
            if may_have_run and task.retries_left != UNLIMITED:
                task.retries_left -= 1
            task.attempt += may_have_run
            task.seq = 0
            task.state = WAITING
            again.append(task)
        view.queue.extendleft(reversed(again))
        text = f"the actor died while the call was with it, and it may have run: {message.message}"
        for task in lost:
            cancelled = encode_failure("TaskCancelledError", "the call was cancelled")
            self._tasks.fail(task, cancelled if task.cancelled else encode_failure("ActorUnavailableError", text))
        self.flush(view)
