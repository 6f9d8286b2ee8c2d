"""Tasks and calls that may run for a limited time. The broker keeps the time, and says when it is up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.client.core.assignments import Assignment
from zray.client.core.effects import Interrupt
from zray.client.core.tasks import TaskTable
from zray.protocol.messages import CANCEL_RECURSIVE, TimeIsUp, TimeLimited, TimeLimitOver


class TimeLimits:
    """The limits of what one worker runs. ``send``: to the broker. ``cancelled``: the running tasks and calls that were
    asked to stop; those whose time is over are added."""

    def __init__(
        self,
        tasks: TaskTable,
        send: Callable[[Any], None],
        perform: Callable[[Interrupt], None],
        cancelled: set[bytes],
    ) -> None:
        self._tasks = tasks
        self._send = send
        self._perform = perform
        self._cancelled = cancelled
        self.limited: set[bytes] = set()  # running tasks and calls that may run for a limited time
        self._timed_out: set[bytes] = set()  # those of them whose time is over

    def begin(self, task: Assignment, limit_s: float) -> None:
        """Reports that a task or call begins that may run for ``limit_s`` seconds. The broker keeps the time."""
        self.limited.add(task.task_id)
        self._send(TimeLimited(task.owner, task.task_id, task.attempt, limit_s))

    def end(self, task_id: bytes) -> None:
        """A task or call has ended, or is given up."""
        if task_id in self.limited:
            self.limited.remove(task_id)
            self._timed_out.discard(task_id)
            self._send(TimeLimitOver(task_id))

    def is_timed_out(self, task_id: bytes) -> bool:
        """Whether a running task or call has run as long as it may. Its outcome is that, whatever it does from now."""
        return task_id in self._timed_out

    def on_time_is_up(self, message: TimeIsUp) -> None:
        """Interrupts a task or call that has run as long as it may, and cancels what it has submitted."""
        task_id = message.task_id
        if task_id in self.limited:
            self._tasks.cancel_children(task_id, CANCEL_RECURSIVE)
            self._timed_out.add(task_id)
            self._cancelled.add(task_id)
            self._perform(Interrupt(task_id))
