"""Runs one workflow: the shell around ``Progress``.

A step is submitted when all of its inputs are on disk. Its result is written to disk before the steps that need it are
submitted. They get it as an object that this process has put, so no lost host makes zray run a finished step again.

When a step fails, no other step is submitted. Those that run end, and their results are kept.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any, Protocol

from zray.exceptions import (
    ActorError,
    NodeDiedError,
    ObjectError,
    SystemFailure,
    TaskError,
    WorkerCrashedError,
    ZrayError,
)
from zray.named_tuples import NamedTuple
from zray.serialization import serialize
from zray.workflow.exceptions import WorkflowCancellationError, WorkflowExecutionError, WorkflowStorageError
from zray.workflow.graphs import Call, Constant, Continuation, Graph, Names, filled, graph_of
from zray.workflow.progress import Progress, Shape
from zray.workflow.storage import (
    CANCELED,
    FAILED,
    GRAPH,
    ROOT,
    RUNNING,
    SUCCESSFUL,
    VALUE,
    Content,
    Storage,
)

CANCEL_POLL_S = 0.2
"""How often a workflow that waits for its steps looks whether another process has cancelled it."""
MACHINE_FAILURES = (SystemFailure, WorkerCrashedError, NodeDiedError, ObjectError, ActorError)
"""After these errors of a step a workflow is RESUMABLE; after all others it is FAILED."""


class Outcome(NamedTuple):
    """The end of a step. Times are seconds since the epoch."""

    step: str
    value: Any
    error: BaseException | None
    started: float
    ended: float


class Tasks(Protocol):
    """What runs the steps."""

    def hold(self, value: Any) -> Any:
        """Returns what stands for a value in the arguments of steps."""

    def start(self, step: str, call: Call, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Submits a step. Raises what submitting raises."""

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        """Waits for ends of steps, and returns all that are there; none after ``timeout_s`` seconds."""

    def cancel(self) -> None:
        """Cancels all steps that have not ended."""


class Execution:
    """One run of a workflow that is in ``storage``, and whose lock the caller has.

    Args:
        graph: the workflow's graph; None: it is loaded.

    Raises:
        WorkflowDamagedError: the stored graph is damaged.
    """

    def __init__(self, storage: Storage, workflow_id: str, tasks: Tasks, graph: Graph | None = None) -> None:
        self._storage = storage
        self._id = workflow_id
        self._tasks = tasks
        root: Graph = graph or storage.load(workflow_id, ROOT, GRAPH)
        self._calls = dict(root.calls)
        self._names = Names()
        self._progress = self._load(root.shape)
        for name in self._calls:
            self._names.use(name)
        self._held: dict[str, Any] = {}
        self._constants: dict[int, Any] = {}
        self._local: list[Outcome] = []
        self._failed: Outcome | None = None

    def _load(self, root: Shape) -> Progress:
        """Returns the progress so far. A step whose value is needed and damaged counts as not finished."""
        storage, workflow_id = self._storage, self._id
        kept: set[str] = set()
        continuations: dict[str, Shape] = {}
        for content in storage.kept(workflow_id):
            self._names.use(content.step)
            if content.kind == VALUE:
                kept.add(content.step)
            elif content.kind == GRAPH and content.step != ROOT and storage.is_whole(workflow_id, content.step, GRAPH):
                graph: Graph = storage.load(workflow_id, content.step, GRAPH)
                continuations[content.step] = graph.shape
                self._calls.update(graph.calls)
        whole: set[str] = set()
        while True:
            progress = Progress(root, continuations, kept)
            unread = progress.needed() - whole
            damaged = {step for step in unread if not storage.is_whole(workflow_id, step)}
            if not damaged:
                return progress
            whole |= unread - damaged
            kept -= damaged

    def run(self) -> Any:
        """Runs the steps that are not finished. Returns the value of the workflow.

        Raises:
            WorkflowExecutionError: a step failed.
            WorkflowCancellationError: the workflow was cancelled.
            WorkflowStorageError: a result cannot be stored.
        """
        progress = self._progress
        try:
            while not progress.is_done:
                if self._failed is None:
                    for step in progress.take_ready():
                        self._start(step)
                if not progress.running:
                    break
                outcomes, self._local = self._local, []
                outcomes += self._tasks.outcomes(0.0 if outcomes else CANCEL_POLL_S)
                self._check_cancelled()
                self._settle(outcomes)
        except BaseException:
            self._tasks.cancel()
            raise
        if not progress.is_done:
            raise self._failure()
        self._check_cancelled()
        if not self._storage.change(self._id, SUCCESSFUL, (RUNNING, SUCCESSFUL)):
            self._check_cancelled()
        return self._storage.load(self._id, progress.source_of(progress.output))

    # ------------------------------------------------------------------ steps

    def _start(self, step: str) -> None:
        call = self._calls[step]
        started = time.time()
        try:
            if call.function is None:
                args, _ = filled(call, self._read, lambda constant: constant.value)
                self._local.append(Outcome(step, args[0], None, started, time.time()))
            else:
                args, kwargs = filled(call, self._hold, self._hold_constant)
                self._tasks.start(step, call, args, kwargs)
        except WorkflowStorageError:
            raise
        except Exception as error:
            self._local.append(Outcome(step, None, error, started, time.time()))

    def _read(self, step: str) -> Any:
        return self._storage.load(self._id, self._progress.source_of(step))

    def _hold(self, step: str) -> Any:
        source = self._progress.source_of(step)
        if source not in self._held:
            self._held[source] = self._tasks.hold(self._storage.load(self._id, source))
        return self._held[source]

    def _hold_constant(self, constant: Constant) -> Any:
        if id(constant) not in self._constants:  # graphs stay, so their constants keep their id
            self._constants[id(constant)] = self._tasks.hold(constant.value)
        return self._constants[id(constant)]

    def _settle(self, outcomes: list[Outcome]) -> None:
        """Keeps the results of steps that have ended, and tells the core."""
        packed: list[tuple[Outcome, Content, Graph | None]] = []
        for outcome in outcomes:
            catches = self._calls[outcome.step].catches
            if outcome.error is not None and (not catches or _is_of_machine(outcome.error)):
                self._fail(outcome)
                continue
            try:
                packed.append((outcome, *self._pack(outcome)))
            except WorkflowStorageError:
                raise
            except Exception as error:  # the value cannot be pickled, or its graph cannot be run
                self._fail(outcome._replace(error=error))
        if packed:
            self._storage.keep(self._id, [content for _, content, _ in packed])
        for outcome, _, graph in packed:
            if graph is None:
                released = self._progress.keep(outcome.step)
                self._offer(outcome)
            else:
                self._calls.update(graph.calls)
                released = self._progress.go_on(outcome.step, graph.shape)
            for source in released:
                self._held.pop(source, None)

    def _pack(self, outcome: Outcome) -> tuple[Content, Graph | None]:
        call, value, graph, kind = self._calls[outcome.step], outcome.value, None, VALUE
        if isinstance(value, Continuation):
            if call.catches:
                raise TypeError("a step with catch_exceptions cannot return a continuation")
            value = graph = graph_of(value.node, self._names)
            kind = GRAPH
        elif call.catches:
            value = (value, outcome.error)
        metadata = json.dumps(dict(call.metadata))
        content = self._storage.pack(self._id, outcome.step, kind, value, outcome.started, outcome.ended, metadata)
        return content, graph

    def _offer(self, outcome: Outcome) -> None:
        """Holds a value that was just made, if steps need it, which saves reading it."""
        step = outcome.step
        if step != self._progress.source_of(self._progress.output) and self._progress.has_users(step):
            value = (outcome.value, outcome.error) if self._calls[step].catches else outcome.value
            with contextlib.suppress(ZrayError):  # then the steps that need it read it, or raise this error
                self._held[step] = self._tasks.hold(value)

    # ------------------------------------------------------------------ other ends

    def _fail(self, outcome: Outcome) -> None:
        self._progress.fail(outcome.step)
        if self._failed is None or _is_of_machine(self._failed.error):
            self._failed = outcome

    def _failure(self) -> WorkflowExecutionError:
        assert self._failed is not None, "no step runs, none is ready, and none has failed"
        step, error = self._failed.step, self._failed.error
        failed = WorkflowExecutionError(self._id, f"failed in step {step!r}: {_summary(error)}", step, error)
        if not _is_of_machine(error):
            self._storage.change(self._id, FAILED, (RUNNING,), _packed_error(failed))
        return failed

    def _check_cancelled(self) -> None:
        if self._storage.get(self._id).status == CANCELED:
            raise WorkflowCancellationError(self._id, "was cancelled")


def _is_of_machine(error: BaseException | None) -> bool:
    """Whether a step ended by no fault of its own. A TaskError is what its code raised, whatever its class."""
    return isinstance(error, MACHINE_FAILURES) and not isinstance(error, TaskError)


def _summary(error: BaseException | None) -> str:
    """Describes an error without its traceback, which is that of the cause."""
    cause = error.cause if isinstance(error, TaskError) and error.cause is not None else error
    return f"{type(cause).__name__}: {cause}"


def _packed_error(error: WorkflowExecutionError) -> bytes:
    """Serializes an error; without its cause if that cannot be pickled."""
    try:
        made = serialize(error)
        if not made.refs:
            return made.to_bytes()
    except Exception as reason:
        error = WorkflowExecutionError(error.workflow_id, f"{error.reason} ({reason})", error.task_id)
    return serialize(WorkflowExecutionError(error.workflow_id, error.reason, error.task_id)).to_bytes()
