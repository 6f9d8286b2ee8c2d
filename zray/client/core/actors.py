"""The caller's side of actors: one ``ActorView`` for each actor that this process creates or calls.

Views hold the calls, and are the routes by which these are sent: see ``zray.client.core.views``. The table creates and
releases actors, and tells the views what the broker reports.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from zray.client.core.grouped_view import GroupedView
from zray.client.core.references import ReferenceTable
from zray.client.core.states import DEAD, LIVE, READY
from zray.client.core.tasks import ANSWERED_BY_BROKER, UNLIMITED, Task, TaskTable
from zray.client.core.views import ActorView, Creation, OrderedView, UnorderedView
from zray.client.core.windows import Windows
from zray.failures import encode_failure
from zray.protocol.messages import ActorReady, ActorRelease, ActorState, ActorStatus
from zray.protocol.records import ActorSpec

NO_GROUPS: Mapping[str, int] = {}


class _CreationRoute:
    """Sends an actor's constructor once its arguments exist."""

    __slots__ = ("_table", "_view", "actor_id")

    def __init__(self, view: ActorView, table: ActorTable) -> None:
        self.actor_id = ANSWERED_BY_BROKER
        self._view = view
        self._table = table

    @property
    def class_name(self) -> str:
        """See ``Route``."""
        return self._view.class_name

    @property
    def may_run_again(self) -> bool:
        return False  # the broker runs constructors again

    def admit_again(self, task: Task) -> None:
        raise AssertionError("a constructor has no values that could be lost")

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
        self.release_lane: Callable[[ActorView], None] = lambda view: None
        """Called when the incarnation of an actor is over."""
        self._named: set[bytes] = set()  # those of them with a name; a dead actor keeps its name until its release

    def view(
        self,
        actor_id: bytes,
        ordered: bool,
        concurrency: int = 1,
        class_name: str = "",
        groups: Mapping[str, int] = NO_GROUPS,
    ) -> ActorView:
        """Returns the view of an actor, which is made at its first use. ``ordered``: it runs its calls in the order in
        which they were made. ``concurrency``: the number of calls that it runs at once. ``groups``: the same number for
        each of its concurrency groups; ``concurrency`` is that of the calls in none of them."""
        view = self.views.get(actor_id)
        if view is None:
            if groups:
                view = GroupedView(actor_id, self, ordered, concurrency, groups, class_name)
            else:
                view = (OrderedView if ordered else UnorderedView)(actor_id, self, concurrency, class_name)
            self.views[actor_id] = view
        return view

    # ------------------------------------------------------------------ creation

    def create(self, spec: ActorSpec, task: Task, request: int = 0, get_if_exists: bool = False) -> None:
        """Announces an actor at once, which takes its name, and sends its constructor when that can run.

        ``task``: its constructor; its identifier is the actor's. Actors must be created in the order of their
        identifiers. ``request``, ``get_if_exists``: see ``ActorCreate``.
        """
        actor_id = task.task_id
        view = self.view(actor_id, spec.ordered, spec.max_concurrency, spec.short_name, spec.groups)
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
        self._forget_lane(view)
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
            may_have_run = seq <= message.last_seq or view.is_by_lane(seq)
            if task.cancelled or (may_have_run and not task.retries_left):
                lost.append(task)
                continue
            if may_have_run and task.retries_left != UNLIMITED:
                task.retries_left -= 1
            task.attempt += may_have_run
            task.seq = 0
            task.enter(READY)
            again.append(task)
        self._forget_lane(view)
        view.put_back(again)
        for task in lost:
            if task.cancelled:
                self._tasks.fail_cancelled(task)
                continue
            text = f"{task.attempt_text} was with the actor when it died, and may have run: {message.message}"
            self._tasks.fail(task, encode_failure("ActorUnavailableError", text, view.actor_id))
        view.go_on()

    def _forget_lane(self, view: ActorView) -> None:
        self.release_lane(view)
        view.forget_lane()

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
