"""Waiting for something other than an object, in a task: as in ``zray.get``, the task lends its CPUs meanwhile."""

from __future__ import annotations

import contextlib

from zray.client.context import current_task
from zray.client.session import current
from zray.client.waits import lending


def lending_cpus() -> contextlib.AbstractContextManager[None]:
    """A context for a wait. In a driver or an actor it does nothing."""
    session = current()
    if session is None or not current_task.get().task_id:
        return contextlib.nullcontext()
    return lending(session.shell)
