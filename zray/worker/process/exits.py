"""How a piece of work ends its worker: ``sys.exit`` and ``exit_actor``."""

from __future__ import annotations

import time

from zray.client.core.execution import Execution
from zray.client.shell import ClientShell
from zray.exceptions import ActorExit, has_type
from zray.worker.process.served_actor import ServedActor


class Exits:
    """The end of one worker. ``code``: the exit code of its process. ``timeout_s``: how long an actor's last calls may
    take."""

    def __init__(self, execution: Execution, shell: ClientShell, actor: ServedActor, timeout_s: float) -> None:
        self._execution = execution
        self._shell = shell
        self._actor = actor
        self._timeout_s = timeout_s
        self.code = 0
        self._last_calls_until = 0.0  # the deadline of an ending actor's calls

    def leaves(self, task_id: bytes, error: BaseException) -> bool:
        """Does what a SystemExit asks for: ends the actor without a restart, or the process, if there is an exit code.

        The host reports the end of the process. Returns whether the piece of work that raised it, if any, gets no
        answer from here.
        """
        code = exit_code(error)
        if self._execution.actor_id and (not code or self._execution.ends_actor):
            reason = str(error) if has_type(error, ActorExit) else ""
            self.end_actor(reason or "sys.exit() was called: the worker ended with exit code 0", task_id)
            return False
        with self._shell.lock:
            self.code = code
            self._execution.exit_process(task_id)
            self._shell.submitted()
        self._shell.settle()
        return True

    def leave(self, error: SystemExit) -> None:
        """A background task of an async actor has raised SystemExit."""
        self.leaves(b"", error)

    def end_actor(self, reason: str, ender: bytes) -> None:
        """Ends the actor as soon as nothing runs. May be called from any thread.

        ``ender``: the call whose code asked for it, or whose code started the thread or task that asked.
        """
        if not all(loop.is_at(ender) for loop in self._actor.loops()):
            ender = b""
        with self._shell.lock:
            self._execution.end_actor(reason, ender)
            self._shell.submitted()
        self._shell.settle()

    def limit_last_calls(self) -> None:
        """Bounds the last calls of an actor that ends.

        A call of an ending async actor may wait for an event that never comes. After ``sys.exit``, any call may go on
        running.
        """
        if not (self._execution.must_exit or (self._actor.loop is not None and self._execution.leaving)):
            return
        now = time.monotonic()
        self._last_calls_until = self._last_calls_until or now + self._timeout_s
        if now > self._last_calls_until:
            with self._shell.lock:
                self._execution.abandon_all()
                self._shell.submitted()


def exit_code(error: BaseException | None) -> int:
    """Returns the code that the interpreter would exit with."""
    if error is None:
        return 0
    code = vars(SystemExit)["code"].__get__(error) if has_type(error, SystemExit) else 1
    return code if isinstance(code, int) else 0 if code is None else 1
