"""The errors that a piece of work is answered with by its worker, rather than by its own code."""

from __future__ import annotations

import traceback

from zray.client.core.assignments import Assignment
from zray.client.core.execution import Execution
from zray.client.core.payloads import Return
from zray.client.core.states import ERROR
from zray.client.core.tasks import TIMED_OUT
from zray.failures import encode_failure, error_text
from zray.system.streams import say
from zray.worker.process.runner import CallOptions, Runner
from zray.worker.process.served_actor import ServedActor


class Outcomes:
    """The errors of what one worker runs."""

    def __init__(self, execution: Execution, runner: Runner, actor: ServedActor) -> None:
        self._execution = execution
        self._runner = runner
        self._actor = actor

    def timed_out(
        self, task: Assignment, options: CallOptions, interrupted: BaseException | None
    ) -> tuple[list[Return], BaseException]:
        """Returns the outcome of a piece of work whose time was over, and the error itself."""
        from zray.worker.process.time_limits import timeout_error  # few calls need it

        self._runner.discard(task)
        error = timeout_error(options.name, task.attempt, options.timeout_s, interrupted)
        data = encode_failure(TIMED_OUT, str(error))
        return [Return(ERROR, data, len(data), ())] * options.n_returns, error

    def retryable(self, options: CallOptions, error: BaseException) -> bool:
        """Whether the submitter wants work that has raised ``error`` to be tried again."""
        try:
            return self._runner.retryable(options, error)
        except BaseException:  # the submitter's types cannot be loaded here: answer anyway
            say(traceback.format_exc().rstrip())
            return False

    def constructor_error(self, error: bytes) -> bytes:
        """The failure of an actor whose constructor has raised ``error``."""
        text = (
            f"The actor died because of an error raised in its creation task: "
            f"the constructor of {self._actor.class_name} raised:\n{error_text(error)}"
        )
        return encode_failure("ActorDiedError", text, self._execution.actor_id, in_constructor=True)


def forget_frames(error: BaseException) -> None:
    """Releases the frames of an interrupted task, and so the references that they hold.

    They would otherwise stay until a garbage collection: a frame that raises an exception which it was given holds that
    exception, too.
    """
    left: BaseException | None = error
    while left is not None:
        BaseException.with_traceback(left, None)
        left = left.__context__
