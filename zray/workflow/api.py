"""The functions of ``zray.workflow``."""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import platform
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from zray.api.decorator import remote
from zray.api.objects import wait
from zray.api.remote_function import RemoteFunction
from zray.api.runtime import is_local_mode
from zray.client.session import UnknownReference
from zray.dag import DAGNode
from zray.exceptions import ClusterUnavailableError
from zray.object_ref import ObjectRef
from zray.serialization import deserialize
from zray.workflow.exceptions import (
    WorkflowCancellationError,
    WorkflowExecutionError,
    WorkflowExistsError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
    WorkflowStillActiveError,
)
from zray.workflow.execution import Execution
from zray.workflow.graphs import Continuation, Graph, Names, graph_of, labels_of, metadata_text
from zray.workflow.lock import WorkflowLock
from zray.workflow.storage import CANCELED, FAILED, GRAPH, ROOT, RUNNING, VALUE, Record, Storage
from zray.workflow.tasks import ClusterTasks, is_current

_directory: str | None = None


class WorkflowStatus(str, enum.Enum):
    """The status of a workflow."""

    RUNNING = "RUNNING"
    """A process runs it."""
    SUCCESSFUL = "SUCCESSFUL"
    """Its output is stored."""
    FAILED = "FAILED"
    """A step raised. ``resume`` runs that step again."""
    RESUMABLE = "RESUMABLE"
    """The process that ran it has ended, or a worker, a host or the broker has died. ``resume`` continues."""
    CANCELED = "CANCELED"
    """It was cancelled, and cannot be resumed."""


def init(*, storage: str | os.PathLike[str] | None = None) -> None:
    """Says where this process keeps workflows. Calling it is optional.

    Args:
        storage: a directory, which is made if it is missing. None: ``ZRAY_WORKFLOW_DIR``, else
            ``$XDG_DATA_HOME/zray/workflows``, else ``~/.local/share/zray/workflows``.

    Raises:
        WorkflowStorageError: the directory cannot be used.
    """
    global _directory
    directory = None if storage is None else os.path.abspath(os.path.expanduser(os.fspath(storage)))
    Storage(directory or _default_directory()).close()
    _directory = directory


def _default_directory() -> str:
    if given := os.environ.get("ZRAY_WORKFLOW_DIR"):
        return os.path.abspath(os.path.expanduser(given))
    home = os.environ.get("XDG_DATA_HOME", "")
    base = home if os.path.isabs(home) else os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "zray", "workflows")


def _storage() -> Storage:
    return Storage(_directory or _default_directory())


# ---------------------------------------------------------------------- running


class _Claimed:
    """A workflow that this process may run: its storage and its lock."""

    def __init__(self, storage: Storage, lock: WorkflowLock, workflow_id: str, graph: Graph | None) -> None:
        self._storage = storage
        self._lock = lock
        self.workflow_id = workflow_id
        self._graph = graph

    def run(self) -> Any:
        """Runs the workflow to its end, and gives up the lock."""
        try:
            return Execution(self._storage, self.workflow_id, ClusterTasks(), self._graph).run()
        finally:
            self.close()

    def close(self) -> None:
        """Gives up the lock."""
        self._storage.close()
        self._lock.release()


def _claim(workflow_id: str, make: Callable[[Storage, Record | None], Graph | None]) -> _Claimed:
    """Locks a workflow. ``make`` gets its record, and returns its graph if that need not be loaded."""
    storage = _storage()
    lock = None
    try:
        lock = storage.lock(workflow_id)
        if lock is None:
            raise WorkflowStillActiveError(workflow_id, f"is being run by {storage.holder(workflow_id)}")
        graph = make(storage, storage.find(workflow_id))
        storage.sweep(workflow_id)
    except BaseException:
        storage.close()
        if lock is not None:
            lock.release()
        raise
    return _Claimed(storage, lock, workflow_id, graph)


def _claim_new(
    dag: DAGNode,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    workflow_id: str | None,
    metadata: Mapping[str, Any] | None,
) -> _Claimed:
    name = f"workflow-{uuid.uuid4().hex}" if workflow_id is None else _checked(workflow_id)
    text = metadata_text(metadata)
    graph = graph_of(dag, Names(), args, kwargs)

    def make(storage: Storage, record: Record | None) -> Graph | None:
        if record is None:
            storage.create(name, platform.python_version(), text, storage.pack(name, ROOT, GRAPH, graph))
            return graph
        _check_resumable(record)
        stored: Graph = storage.load(name, ROOT, GRAPH)
        if stored.shape != graph.shape:
            raise WorkflowExistsError(name, "is stored with other steps: give the new graph another workflow_id")
        _set_running(storage, record)
        return stored

    return _claim(name, make)


def _claim_stored(workflow_id: str) -> _Claimed:
    _checked(workflow_id)

    def make(storage: Storage, record: Record | None) -> None:
        found = record or storage.get(workflow_id)
        _check_resumable(found)
        _set_running(storage, found)

    return _claim(workflow_id, make)


def _check_resumable(record: Record) -> None:
    name = record.workflow_id
    if record.status == CANCELED:
        raise WorkflowNotResumableError(name, "was cancelled")
    minor, here = (version.rpartition(".")[0] for version in (record.python, platform.python_version()))
    if minor != here:
        raise WorkflowNotResumableError(name, f"was stored by Python {minor}, and this is Python {here}")


def _set_running(storage: Storage, record: Record) -> None:
    """A workflow that has failed runs again."""
    if record.status == FAILED and not storage.change(record.workflow_id, RUNNING, (FAILED,)):
        raise WorkflowNotResumableError(record.workflow_id, "was cancelled")


def _checked(workflow_id: Any) -> str:
    if not isinstance(workflow_id, str):
        raise TypeError(f"workflow_id must be a string, not {type(workflow_id).__name__}")
    if not workflow_id or "\0" in workflow_id:
        raise ValueError(f"workflow_id must not be empty or contain a null character: {workflow_id!r:.100}")
    return workflow_id


def run(
    dag: DAGNode,
    *args: Any,
    workflow_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Runs a graph of remote functions, keeps each step's result on disk, and returns the output.

    If there is a workflow with this name and the same steps, it is resumed: the stored graph and its stored arguments
    count. So a program that runs the same workflow again after a crash continues where it was.

    Args:
        dag: a node that ``.bind()`` has made, or a ``MultiOutputNode``.
        args: what the graph's ``InputNode`` stands for.
        kwargs: likewise, by name.
        workflow_id: the name of the workflow in the storage directory; None: a new one is made up.
        metadata: a dict of JSON's values, for ``get_metadata``.

    Raises:
        WorkflowExecutionError: a step failed; ``__cause__`` is its error. ``resume`` runs that step again.
        WorkflowCancellationError: the workflow was cancelled.
        WorkflowNotResumableError: there is a workflow with this name that was cancelled.
        WorkflowStillActiveError: another process or thread runs it.
        WorkflowExistsError: there is a workflow with this name and other steps. It is a ValueError.
        WorkflowStorageError: the storage cannot be used, for instance because the disk is full.
        TypeError: a step is of an actor, or ``metadata`` are not values that JSON has.
        ValueError: a step returns several values.
    """
    return _claim_new(dag, args, kwargs, workflow_id, metadata).run()


def run_async(
    dag: DAGNode,
    *args: Any,
    workflow_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> ObjectRef[Any]:
    """As ``run``, in a thread of this process. Returns a reference to the output."""
    return _in_thread(_claim_new(dag, args, kwargs, workflow_id, metadata))


def resume(workflow_id: str) -> Any:
    """Continues a workflow, in any process that reaches its storage directory, and returns the output.

    Finished steps are not run again. If all are finished, the stored output is returned.

    Raises:
        WorkflowNotFoundError: there is no such workflow. It is a ValueError.
        WorkflowNotResumableError: it was cancelled, or another version of Python has stored it.
        WorkflowError: the other errors of ``run``.
    """
    return _claim_stored(workflow_id).run()


def resume_async(workflow_id: str) -> ObjectRef[Any]:
    """As ``resume``, in a thread of this process. Returns a reference to the output."""
    return _in_thread(_claim_stored(workflow_id))


def resume_all(include_failed: bool = False) -> list[tuple[str, ObjectRef[Any]]]:
    """Resumes all workflows that are RESUMABLE, in threads of this process.

    Args:
        include_failed: also those that are FAILED.

    Returns:
        The name of each workflow, with a reference to its output.
    """
    statuses = {WorkflowStatus.RESUMABLE, *([WorkflowStatus.FAILED] if include_failed else ())}
    resumed = []
    for name, _ in list_all(statuses):
        try:
            resumed.append((name, resume_async(name)))
        except WorkflowStillActiveError:  # another process was faster
            continue
        except (WorkflowNotResumableError, WorkflowNotFoundError) as error:  # or cancelled or deleted meanwhile
            logging.getLogger("zray").warning("resume_all has left out a workflow: %s", error)
    return resumed


class _Promise:
    """An actor whose call ``result`` ends when the workflow has ended."""

    def __init__(self) -> None:
        import asyncio

        self._ended = asyncio.Event()
        self._ended_with: tuple[Any, BaseException | None] = (None, None)

    async def settle(self, value: Any, error: BaseException | None) -> None:
        self._ended_with = value, error
        self._ended.set()

    async def result(self) -> Any:
        await self._ended.wait()
        return _outcome(*self._ended_with)


def _outcome(value: Any, error: BaseException | None) -> Any:
    if error is not None:
        raise error
    return value


def _in_thread(claimed: _Claimed) -> ObjectRef[Any]:
    if is_local_mode():  # where a task runs when it is submitted, and so does a workflow
        try:
            value, error = claimed.run(), None
        except Exception as failure:
            value, error = None, failure
        found: ObjectRef[Any] = remote(_outcome).remote(value, error)
        return found
    try:
        promise = remote(_Promise).options(num_cpus=0).remote()
        output: ObjectRef[Any] = promise.result.remote()
    except BaseException:
        claimed.close()
        raise

    def settle(value: Any, error: BaseException | None) -> None:
        if not is_current(output._tracker):  # the reference was given up with its cluster
            return
        with contextlib.suppress(ClusterUnavailableError, UnknownReference):
            promise.settle.remote(value, error)
            wait([output])  # the actor ends with its last handle

    def work() -> None:
        try:
            value = claimed.run()
            settle(value, None)
        except BaseException as error:
            try:
                settle(None, error)
            except Exception as reason:  # the error cannot be pickled
                text = f"{type(error).__name__}: {error} ({reason})"
                settle(None, WorkflowExecutionError(claimed.workflow_id, text))

    threading.Thread(target=work, name="zray-workflow", daemon=True).start()
    return output


# ---------------------------------------------------------------------- steps


class options:
    """Options of a step: a decorator of a remote function, or ``f.options(**workflow.options(...))``.

    Args:
        task_id: the name of the step. Default: the option ``name``, else the function's name. A name that is in use in
            the workflow gets a number.
        metadata: a dict of JSON's values, for ``get_metadata``.
        catch_exceptions: the value of the step is the pair of the function's value and its error, one of which is None.

    Raises:
        TypeError: a value has the wrong type.
    """

    def __init__(
        self,
        *,
        task_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        catch_exceptions: bool = False,
    ) -> None:
        self._labels = labels_of(task_id, metadata, catch_exceptions)

    def keys(self) -> tuple[str]:
        """The name of the option of remote functions in which these options are."""
        return ("_labels",)

    def __getitem__(self, name: str) -> dict[str, str]:
        return {"_labels": self._labels}[name]

    def __call__(self, function: RemoteFunction[..., Any]) -> RemoteFunction[..., Any]:
        if not isinstance(function, RemoteFunction):
            raise TypeError("workflow.options decorates remote functions: write it above @zray.remote")
        return function.options(_labels={**(function._options._labels or {}), **self._labels})


def continuation(dag: DAGNode) -> Continuation:
    """Returns what a step returns if the value of a graph is its value. The graph's steps become steps of the workflow.

    A step that continues as another one, and so on, takes no stack and no waiting task. Only a workflow understands
    the result.

    Raises:
        TypeError: ``dag`` is no node.
    """
    if not isinstance(dag, DAGNode):
        raise TypeError(f"a continuation is a graph made with .bind(), not {type(dag).__name__}")
    return Continuation(dag)


# ---------------------------------------------------------------------- questions


def _status_of(storage: Storage, record: Record) -> WorkflowStatus:
    if record.status == RUNNING and not storage.is_locked(record.workflow_id):
        current = storage.find(record.workflow_id)  # its process may have ended it since
        if current is not None and current.status == RUNNING:
            return WorkflowStatus.RESUMABLE
        record = current or record
    return WorkflowStatus(record.status)


def get_status(workflow_id: str) -> WorkflowStatus:
    """Returns the status of a workflow. Raises WorkflowNotFoundError if there is none with this name."""
    with _storage() as storage:
        return _status_of(storage, storage.get(_checked(workflow_id)))


def list_all(
    status_filter: WorkflowStatus | str | Iterable[WorkflowStatus | str] | None = None,
) -> list[tuple[str, WorkflowStatus]]:
    """Returns the name and status of each workflow, in the order in which they were started.

    Args:
        status_filter: a status or several; None: all.

    Raises:
        ValueError: there is no such status.
    """
    if status_filter is None:
        wanted = set(WorkflowStatus)
    elif isinstance(status_filter, str):  # a WorkflowStatus is one, too
        wanted = {WorkflowStatus(status_filter)}
    else:
        wanted = {WorkflowStatus(one) for one in status_filter}
    with _storage() as storage:
        found = [(record.workflow_id, _status_of(storage, record)) for record in storage.records()]
    return [(name, status) for name, status in found if status in wanted]


def get_output(workflow_id: str, *, task_id: str | None = None) -> Any:
    """Returns the stored output of a workflow, or the stored value of a finished step.

    Args:
        task_id: the name of the step; None: the output.

    Raises:
        WorkflowNotFoundError: there is no such workflow, or no such finished step. It is a ValueError.
        WorkflowExecutionError: the workflow is FAILED.
        WorkflowCancellationError: it is CANCELED.
        WorkflowStillActiveError: it is RUNNING.
        WorkflowNotResumableError: it is RESUMABLE, so it has no output before ``resume``.
        WorkflowDamagedError: what is stored is damaged; ``resume`` runs the step again.
    """
    _checked(workflow_id)
    with _storage() as storage:
        record = storage.get(workflow_id)
        if task_id is not None:
            return _value_of(storage, workflow_id, task_id)
        status = _status_of(storage, record)
        record = storage.get(workflow_id)
        if status is WorkflowStatus.SUCCESSFUL:
            graph: Graph = storage.load(workflow_id, ROOT, GRAPH)
            return _value_of(storage, workflow_id, graph.shape.output)
        if status is WorkflowStatus.FAILED and record.error is not None:
            failed = _stored_error(workflow_id, record.error)
            raise failed from failed.cause
        if status is WorkflowStatus.CANCELED:
            raise WorkflowCancellationError(workflow_id, "was cancelled")
        if status is WorkflowStatus.RESUMABLE:
            raise WorkflowNotResumableError(workflow_id, "has no output yet: resume() continues it")
        raise WorkflowStillActiveError(workflow_id, f"is being run by {storage.holder(workflow_id)}")


def _stored_error(workflow_id: str, error: bytes) -> WorkflowExecutionError:
    try:
        failed: WorkflowExecutionError = deserialize(error, ObjectRef)
        return failed
    except Exception as reason:  # a module is missing here, for instance
        return WorkflowExecutionError(workflow_id, f"failed, and its error cannot be loaded: {reason}", "", reason)


def _value_of(storage: Storage, workflow_id: str, step: str) -> Any:
    kinds = {content.step: content.kind for content in storage.kept(workflow_id)}
    while kinds.get(step) == GRAPH:  # it has returned a continuation
        graph: Graph = storage.load(workflow_id, step, GRAPH)
        step = graph.shape.output
    return storage.load(workflow_id, step, VALUE)


def get_metadata(workflow_id: str, task_id: str | None = None) -> dict[str, Any]:
    """Returns what is known of a workflow, or of one of its finished steps.

    Args:
        task_id: the name of the step; None: the workflow.

    Returns:
        ``status`` and ``finished_tasks``, a list of names (of a workflow); ``task_id`` and ``bytes`` (of a step);
        ``user_metadata``; and ``stats`` with ``start_time`` and ``end_time`` in seconds since the epoch. A step starts
        when it is submitted. The workflow's ``end_time`` is None if it has not ended.

    Raises:
        WorkflowNotFoundError: there is no such workflow, or no such finished step.
    """
    with _storage() as storage:
        record = storage.get(_checked(workflow_id))
        if task_id is None:
            finished = [content.step for content in storage.kept(workflow_id) if content.step != ROOT]
            return {
                "status": _status_of(storage, record).value,
                "finished_tasks": finished,
                "user_metadata": json.loads(record.metadata),
                "stats": {"start_time": record.started, "end_time": record.ended},
            }
        for content in storage.kept(workflow_id):
            if content.step == task_id and content.step != ROOT:
                return {
                    "task_id": content.step,
                    "bytes": content.size,
                    "user_metadata": json.loads(content.metadata),
                    "stats": {"start_time": content.started, "end_time": content.ended},
                }
        raise WorkflowNotFoundError(workflow_id, f"has no finished step {task_id!r}")


# ---------------------------------------------------------------------- changes


def cancel(workflow_id: str) -> None:
    """Cancels a workflow. The process that runs it cancels its steps within a second. Its finished steps stay stored.

    Nothing happens if it is SUCCESSFUL or CANCELED.

    Raises:
        WorkflowNotFoundError: there is no such workflow.
    """
    with _storage() as storage:
        storage.get(_checked(workflow_id))
        storage.change(workflow_id, CANCELED, (RUNNING, FAILED))


def delete(workflow_id: str) -> None:
    """Removes a workflow from the storage, with all of its results.

    Raises:
        WorkflowNotFoundError: there is no such workflow.
        WorkflowStillActiveError: a process runs it.
    """
    with _storage() as storage:
        lock = storage.lock(_checked(workflow_id))
        if lock is None:
            raise WorkflowStillActiveError(workflow_id, f"is being run by {storage.holder(workflow_id)}")
        try:
            storage.get(workflow_id)
            storage.delete(workflow_id)
        finally:
            lock.release(remove=True)
