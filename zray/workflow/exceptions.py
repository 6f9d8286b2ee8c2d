"""Errors of durable graphs, under the names that they had in Ray. The base of all of them is ``WorkflowError``."""

from __future__ import annotations

from typing import Any

from zray.exceptions import ZrayError


class WorkflowError(ZrayError):
    """Base of the errors of ``zray.workflow``."""


class _OfWorkflow(WorkflowError):
    """An error about one workflow. Attributes: ``workflow_id``, ``reason``."""

    def __init__(self, workflow_id: str, reason: str) -> None:
        super().__init__(workflow_id, reason)
        self.workflow_id = workflow_id
        self.reason = reason

    def __str__(self) -> str:
        return f"workflow {self.workflow_id!r} {self.reason}"


class WorkflowExecutionError(_OfWorkflow):
    """A step failed. ``__cause__`` and ``cause`` are the step's error, ``task_id`` is the step."""

    def __init__(self, workflow_id: str, reason: str, task_id: str = "", cause: BaseException | None = None) -> None:
        super().__init__(workflow_id, reason)
        self.task_id = task_id
        self.cause = self.__cause__ = cause

    def __reduce__(self) -> tuple[Any, ...]:
        return (WorkflowExecutionError, (self.workflow_id, self.reason, self.task_id, self.cause))


class WorkflowCancellationError(_OfWorkflow):
    """The workflow was cancelled."""


class WorkflowNotResumableError(_OfWorkflow):
    """The workflow cannot be resumed: it was cancelled, or another version of Python has stored it."""


class WorkflowNotFoundError(_OfWorkflow, ValueError):
    """The storage directory has no workflow, or no finished step, with this name."""


class WorkflowStillActiveError(_OfWorkflow):
    """Another process, or another thread of this one, runs the workflow."""


class WorkflowExistsError(_OfWorkflow, ValueError):
    """``run`` was given the name of a workflow whose graph has other steps."""


class WorkflowStorageError(WorkflowError, OSError):
    """The storage directory cannot be read or written, for instance because the disk is full. What was kept stays."""


class WorkflowDamagedError(WorkflowStorageError):
    """Something that was stored is not what was written."""
