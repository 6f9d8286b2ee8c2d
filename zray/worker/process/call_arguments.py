"""The arguments of a piece of work. An error that loading one raises names the argument."""

from __future__ import annotations

from typing import Any

from zray.client.core.assignments import CALL, Assignment
from zray.exceptions import NAMELESS, DeserializationError
from zray.signatures import name_of_parameter
from zray.worker.process.runner import Runner, read_options
from zray.worker.process.served_actor import ServedActor


class CallArguments:
    """Loads arguments for one worker."""

    def __init__(self, runner: Runner, actor: ServedActor) -> None:
        self._runner = runner
        self._actor = actor

    def load(self, task: Assignment) -> tuple[list[Any], dict[str, Any]]:
        """Returns the arguments of a task or call. Raises what loading them raises, with the name of the argument."""
        try:
            return self._runner.arguments(task)
        except DeserializationError as error:
            if error.what != NAMELESS:
                raise
            raise error.about(self._name_of_argument(task, error.argument)) from error.__cause__

    def _name_of_argument(self, task: Assignment, argument: str) -> str:
        options = read_options(task.payload.options, self._actor.class_name)
        function = options.name
        if argument.isdecimal():
            called = self._actor.method(options) if task.kind == CALL else self._runner.function(task.function_id)
            argument = name_of_parameter(called, int(argument)) or argument
        return (
            f"argument {argument if argument.isdecimal() else repr(argument)} of {function}"
            if argument
            else (f"an argument of {function}")
        )
