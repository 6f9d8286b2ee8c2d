"""Interrupts the piece of work that was cancelled, or whose time is up: by a signal, or on its event loop."""

from __future__ import annotations

import signal
import threading
from typing import Any

from zray.client.core.effects import Interrupt
from zray.client.core.execution import Execution
from zray.worker.process.served_actor import ServedActor


class Interruption:
    """The interruption of what one worker runs. Made in the main thread. ``in_main``: the task that runs there."""

    def __init__(self, execution: Execution, actor: ServedActor) -> None:
        self._execution = execution
        self._actor = actor
        self._main_thread = threading.get_ident()
        self.in_main = b""
        self._cancelled = b""

    def interrupt(self, effect: Interrupt) -> None:
        """Performs the effect. Calls of an actor with threads are not interrupted."""
        if self._actor.loop is not None:
            for loop in self._actor.loops():  # only the one that runs the call does something
                loop.cancel(effect.task_id)
            return
        if self._execution.actor_id and not self._execution.is_timed_out(effect.task_id):
            return
        self._cancelled = effect.task_id  # also looked at before the task begins
        if self.in_main == effect.task_id:
            # Signal that thread itself: otherwise a system call that it is in would not be interrupted.
            signal.pthread_kill(self._main_thread, signal.SIGINT)

    def on_signal(self, number: int, frame: Any) -> None:
        """Handles the signal: interrupts what the main thread runs, if that is still wanted."""
        if self.in_main and self.is_interrupted(self.in_main):
            raise KeyboardInterrupt

    def is_interrupted(self, task_id: bytes) -> bool:
        """Whether the present attempt of a task is to be interrupted. An earlier one may have been, in this process."""
        return self._cancelled == task_id and task_id in self._execution.cancelled
