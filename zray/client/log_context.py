"""What a line of a job's log says about the process and the task that wrote it, see ``zray.logs.job_logging``."""

from __future__ import annotations

from zray.client.context import current_task
from zray.client.session import Session


def log_context(session: Session) -> dict[str, str]:
    """Returns the identifiers, in hexadecimal, and the names that apply now, under Ray's keys."""
    running = current_task.get()
    execution = session.core.execution
    found = {
        "job_id": session.current_job().hex(),
        "worker_id": session.process_id.hex(),
        "node_id": session.stores.home.hex(),
        "actor_id": execution.actor_id.hex(),
        "task_id": running.task_id.hex(),
        "task_name": running.name,
        "task_func_name": execution.function_name(running.task_id) if running.task_id else "",
        "actor_name": "" if execution.actor_spec is None else execution.actor_spec.name,
    }
    return {key: value for key, value in found.items() if value}
