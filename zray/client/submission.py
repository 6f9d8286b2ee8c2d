"""Submits work: plain tasks, actors and calls of their methods. Cancels it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from zray.client.context import current_task
from zray.client.core.client_core import FORCE_IS_FOR_TASKS
from zray.client.core.payloads import Arguments
from zray.client.core.states import HANDLE, PENDING
from zray.client.core.streams import StreamSpec
from zray.client.core.tasks import Task
from zray.client.object_refs import ObjectRefs
from zray.client.questions import Questions
from zray.client.shell import ClientShell
from zray.exceptions import MessageRefusedError
from zray.ids import owner_of, put_id, return_id, task_of
from zray.object_ref import ObjectRef
from zray.protocol.messages import CANCEL_FORCE, FLAG_RETRYABLE, FLAG_SPREAD, ActorFound, NameTaken
from zray.protocol.records import ActorSpec


class Submission:
    """Submits work for one process. ``check_usable``: raises if the cluster is gone or this is a forked child."""

    def __init__(
        self, shell: ClientShell, refs: ObjectRefs, questions: Questions, check_usable: Callable[[], None]
    ) -> None:
        self._shell = shell
        self._core = shell.core
        self._link = shell.connection.link
        self._refs = refs
        self._entries = shell.core.references.entries
        self._questions = questions
        self._check_usable = check_usable

    # ------------------------------------------------------------------ tasks

    def submit(
        self,
        function_id: bytes,
        shape: bytes,
        options: bytes,
        arguments: Arguments,
        n_returns: int,
        max_retries: int,
        spread: bool = False,
        stream: StreamSpec | None = None,
    ) -> list[ObjectRef]:
        """Submits a plain task. Returns the references to its return values.

        ``stream``: the one return value is the completion of a stream. The references to the stream's handle and first
        item follow it, if it is not collected.
        """
        if self._shell.lost:
            self._check_usable()
        flags = (FLAG_RETRYABLE if max_retries else 0) | (FLAG_SPREAD if spread else 0)
        core = self._core
        parent = current_task.get().task_id
        with self._shell.lock:
            task_id = core.new_task_id()
            task = Task(task_id, core.queue_route, function_id, shape, flags, options, arguments, n_returns,
                        max_retries, parent)  # fmt: skip
            refs = self._own_returns(task_id, n_returns)
            if stream is not None:
                refs += self._open_stream(task_id, stream)
            core.tasks.now = now = time.monotonic()
            core.tasks.submit(task)
            self._shell.submitted(now)
        if self._link.congested:
            self._shell.wait_for_room()
        return refs

    def _own_returns(self, task_id: bytes, n_returns: int) -> list[ObjectRef]:
        own = self._core.references.own
        if n_returns == 1:  # by far the most common
            object_id = return_id(task_id, 1)
            return [self._refs.make(object_id, own(object_id))]
        refs = []
        for index in range(1, n_returns + 1):
            object_id = return_id(task_id, index)
            refs.append(self._refs.make(object_id, own(object_id)))
        return refs

    def _open_stream(self, task_id: bytes, spec: StreamSpec) -> list[ObjectRef]:
        opened = self._core.streams.open(task_id, spec)
        return [self._refs.make(object_id, self._entries[object_id]) for object_id in opened]

    # ------------------------------------------------------------------ actors

    def create_actor(
        self, function_id: bytes, spec: ActorSpec, options: bytes, arguments: Arguments, counted: bool
    ) -> tuple[bytes, ObjectRef | None]:
        """Announces an actor. Returns its identifier, and the reference to its handle object if ``counted``.

        ``spec``: complete except for the handle object. ``counted``: the actor ends when its last handle is gone.
        """
        self._check_usable()
        with self._shell.lock:
            made = self._announce(function_id, spec, options, arguments, counted)
            self._shell.submitted()
        return made

    def create_named_actor(
        self,
        function_id: bytes,
        spec: ActorSpec,
        options: bytes,
        arguments: Arguments,
        counted: bool,
        get_if_exists: bool,
    ) -> tuple[ActorFound | NameTaken, bytes, ObjectRef | None]:
        """As ``create_actor``, and waits until the broker has decided which actor has the name.

        Raises ClusterUnavailableError, and MessageRefusedError if the actor cannot be announced.
        """
        made: list[tuple[bytes, ObjectRef | None]] = []

        def send(on_answer: Callable[[Any], None]) -> None:
            request = self._core.new_request(on_answer)
            made.append(self._announce(function_id, spec, options, arguments, counted, request, get_if_exists))

        found = self._questions.ask(send)
        if found is None:
            raise MessageRefusedError(f"the actor {spec.name!r} cannot be announced: its arguments are too large")
        return found, *made[0]

    def _announce(
        self,
        function_id: bytes,
        spec: ActorSpec,
        options: bytes,
        arguments: Arguments,
        counted: bool,
        request: int = 0,
        get_if_exists: bool = False,
    ) -> tuple[bytes, ObjectRef | None]:
        core = self._core
        actor_id = core.new_task_id()
        handle: ObjectRef | None = None
        if counted:
            handle_id = put_id(actor_id)
            spec = spec._replace(handle=handle_id)
            entry = core.references.own(handle_id)
            core.references.resolve(handle_id, HANDLE, b"", b"", 0)
            handle = self._refs.make(handle_id, entry)
        task = Task(actor_id, core.queue_route, function_id, b"", 0, options, arguments, 0, 0, b"")
        core.actors.create(spec, task, request, get_if_exists)
        return actor_id, handle

    def call_actor(
        self, actor_id: bytes, ordered: bool, concurrency: int, options: bytes, arguments: Arguments, n_returns: int,
        retries: int, class_name: str, groups: Mapping[str, int], stream: StreamSpec | None = None,
    ) -> list[ObjectRef]:  # fmt: skip
        """Submits a method call, as ``submit``. ``ordered``: the actor runs calls in each caller's order.
        ``concurrency``: the number of calls that it runs at once. ``class_name``: for errors. ``groups``: its
        concurrency groups."""
        if self._shell.lost:
            self._check_usable()
        core = self._core
        parent = current_task.get().task_id
        with self._shell.lock:
            view = core.actors.view(actor_id, ordered, concurrency, class_name, groups)
            task_id = core.new_task_id()
            task = Task(task_id, view, b"", b"", 0, options, arguments, n_returns, retries, parent)
            refs = self._own_returns(task_id, n_returns)
            if stream is not None:
                refs += self._open_stream(task_id, stream)
            core.tasks.now = now = time.monotonic()
            core.actors.submit(view, task)
            self._shell.submitted(now)
        if self._link.congested:
            self._shell.wait_for_room()
        return refs

    def pending_calls(self, actor_id: bytes) -> int:
        """The number of calls of this process that the actor has not answered."""
        with self._shell.lock:
            view = self._core.actors.views.get(actor_id)
            return view.pending_calls if view is not None else 0

    # ------------------------------------------------------------------ cancellation

    def cancel(self, ref: ObjectRef, mode: int) -> None:
        """Cancels the task or call that makes ``ref``, also of another owner. Nothing happens if it has ended.

        Raises ValueError for ``force`` and an actor call of this process, TypeError if no process of the cluster owns
        ``ref``.
        """
        self._check_usable()
        core = self._core
        object_id = ref._id
        entry = self._entries.get(object_id)
        if entry is None or not self._questions.is_member(owner_of(object_id)):
            raise TypeError(f"zray.cancel(): no process of this cluster owns {ref!r}, so there is no task to cancel")
        task = core.tasks.tasks.get(task_of(object_id))
        if mode & CANCEL_FORCE and task is not None and core.actors.is_call(task):
            raise ValueError(FORCE_IS_FOR_TASKS)
        if entry.status is PENDING:
            with self._shell.lock:
                core.cancel(object_id, mode)
                if core.has_output:  # a task that was not sent ends here: no thread has to wake for it
                    self._shell.submitted()
            self._shell.settle()
