"""Durable graphs of calls: ``run`` keeps the result of each step on disk, and ``resume`` continues after any crash.

This is what ``ray.workflow`` was before Ray removed it (2.48), in small: graphs of remote functions, run by the process
that calls ``run``. ``docs/guide/durable-graphs.md`` in the source tree describes it.

- ``progress.py``: which steps may run: the core, without I/O.
- ``graphs.py``: graphs as they are stored: steps, their names, and what is refused.
- ``storage.py``, ``lock.py``: workflows on disk; who runs them.
- ``execution.py``, ``tasks.py``: the run of a workflow, and its steps as tasks of the cluster.
- ``api.py``: the public functions.
"""

from zray.workflow import exceptions
from zray.workflow.api import (
    WorkflowStatus,
    cancel,
    continuation,
    delete,
    get_metadata,
    get_output,
    get_status,
    init,
    list_all,
    options,
    resume,
    resume_all,
    resume_async,
    run,
    run_async,
)

__all__ = [
    "WorkflowStatus",
    "cancel",
    "continuation",
    "delete",
    "exceptions",
    "get_metadata",
    "get_output",
    "get_status",
    "init",
    "list_all",
    "options",
    "resume",
    "resume_all",
    "resume_async",
    "run",
    "run_async",
]
