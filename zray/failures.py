"""How an error travels in place of a value. It has one of four forms; the first byte says which.

- A *failure* is raised by zray itself (a worker died, an object was lost). It is a name and a message, which the broker
  can write and read without pickle. A failure about an actor has the actor's identifier too.
- An *error* was raised by the user's code, see ``zray.serialization.errors``.
- An *alias* names the object whose error it stands for. A large error is in the store once, and many objects can have
  it as their outcome.
- A *missed argument* is the outcome of a task that could not run: the name of the task, and the error of its argument.

The tags differ from the tags of values, so the first byte also tells an error from a value (``is_error``).
"""

from __future__ import annotations

import functools

import msgpack

from zray.exceptions import FAILURES, ActorError, SystemFailure, TaskCancelledError, ZrayError
from zray.named_tuples import NamedTuple

KILLED = "The actor is dead because it was killed by `ray.kill`"
NO_REFERENCES = "The actor is dead because all references to the actor were removed"
WORKER_DIED = (
    "The actor died unexpectedly before finishing this task. The actor is dead because its worker process has died"
)
NODE_DIED = "The actor died unexpectedly before finishing this task. The actor died because its node has died"
"""Why an actor ended, in Ray's words, because programs look for them in the texts of errors."""

TASK_WORKER_DIED = "The worker died unexpectedly while executing this task"
"""Why a task has no outcome, in Ray's words."""

FAILURE_TAG = b"F"
ERROR_TAG = b"E"
ALIAS_TAG = b"@"
MISSED_TAG = b"A"
_ERROR_TAGS = frozenset(FAILURE_TAG + ERROR_TAG + ALIAS_TAG + MISSED_TAG)


def is_error(data: bytes | memoryview) -> bool:
    """Whether ``data`` encodes an error, in any of the four forms, rather than a value."""
    return len(data) > 0 and data[0] in _ERROR_TAGS


def alias_of(object_id: bytes) -> bytes:
    """Returns an alias: it stands for the error of the object ``object_id``."""
    return ALIAS_TAG + object_id


def aliased(data: bytes | memoryview) -> bytes:
    """The object whose error ``data`` stands for; empty if it is not an alias."""
    return bytes(data[1:]) if bytes(data[:1]) == ALIAS_TAG else b""


class MissedArgument(NamedTuple):
    """Why a task could not run. ``between``: the number of other tasks that could not run, between the task that failed
    and this one.

    Only the two ends of a chain of tasks are named, so an error does not grow with the number of tasks that it passes.
    """

    task_name: str
    argument: int | str  # its position, or its keyword
    between: int
    error: bytes  # the argument's error, in any of the other three forms

    @functools.lru_cache(maxsize=16)  # noqa: B019 (a tuple): thousands of tasks may share one error's bytes
    def to_bytes(self) -> bytes:
        """Returns the encoded form."""
        packed: bytes = msgpack.packb(self, unicode_errors="backslashreplace")
        return MISSED_TAG + packed

    @property
    def reason(self) -> str:
        """The text in front of the argument's own error."""
        which = f"argument {self.argument!r}" if isinstance(self.argument, str) else f"argument {self.argument}"
        passed = f", through {self.between:,} other task(s)," if self.between else ""
        return f"The task was not run: its {which} could not be computed{passed} because of this error:"


def missed_argument(data: bytes | memoryview) -> MissedArgument | None:
    """Decodes ``data``; None if it is of another form, or malformed."""
    if bytes(data[:1]) != MISSED_TAG:
        return None
    try:
        missed = MissedArgument(*msgpack.unpackb(memoryview(data)[1:]))
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    well_formed = type(missed.task_name) is str and type(missed.error) is bytes and type(missed.between) is int
    return missed if well_formed and missed.error[:1] != MISSED_TAG else None


def encode_failure(kind: str, message: str, actor_id: bytes = b"", in_constructor: bool = False) -> bytes:
    """Encodes the failure ``zray.exceptions.<kind>``.

    ``actor_id``: of the actor, for an ActorError. ``in_constructor``: the actor's constructor raised.

    Raises ValueError if no failure has that name.
    """
    if kind not in FAILURES:
        raise ValueError(f"{kind!r} is not a failure; there are {', '.join(sorted(FAILURES))}")
    fields: list[str | bytes | bool] = [kind, message, actor_id] if actor_id else [kind, message]
    if in_constructor:
        fields.append(True)
    packed: bytes = msgpack.packb(fields, unicode_errors="backslashreplace")
    return FAILURE_TAG + packed


def decode_failure(data: bytes | memoryview) -> ZrayError:
    """Makes an exception from the result of ``encode_failure``. Raises SystemFailure if ``data`` is malformed."""
    try:
        kind, message, *of_actor = msgpack.unpackb(memoryview(data)[1:])
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise SystemFailure(f"a malformed failure arrived: {error}") from error
    known = FAILURES.get(str(kind))
    if known is None:
        return SystemFailure(f"{kind}: {message}")
    if issubclass(known, ActorError) and of_actor and type(of_actor[0]) is bytes:
        return known(message, of_actor[0], of_actor[1:] == [True])
    return TaskCancelledError(error_message=message) if known is TaskCancelledError else known(message)


def show_error(data: bytes | memoryview) -> str:
    """Returns a failure or error as text for people. Accepts any bytes, and unpickles nothing.

    A task's error looks as its exception shows it: ``f (pid=4711, host=node7)`` and the traceback.
    """
    try:
        missed = missed_argument(data)
        if missed is not None:
            error = "an error in the object store" if aliased(missed.error) else show_error(missed.error)
            return f"{missed.task_name}: {missed.reason}\n{error}"
        fields = msgpack.unpackb(memoryview(data)[1:])
        heading = f"zray::{fields[0]}() (pid={fields[2]}, host={fields[3]})\n" if bytes(data[:1]) == ERROR_TAG else ""
        return f"{heading}{fields[1]}".rstrip()
    except (SystemFailure, ValueError, TypeError, IndexError, KeyError, msgpack.UnpackException):
        return "an error that cannot be read"


NOT_RUN = "MissedArgument"
"""Stands for the name of the error of a task that was not run."""


def error_name(data: bytes | memoryview) -> str:
    """The name of the failure in ``data``; ``NOT_RUN`` for a missed argument; empty for an error of the user's code."""
    if missed_argument(data) is not None:
        return NOT_RUN
    return type(decode_failure(data)).__name__ if bytes(data[:1]) == FAILURE_TAG else ""


def error_text(data: bytes | memoryview) -> str:
    """Returns the text of a failure or error. Unpickles nothing. Raises SystemFailure if ``data`` is malformed."""
    try:
        fields = msgpack.unpackb(memoryview(data)[1:])
        return str(fields[1])
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise SystemFailure(f"a malformed error arrived: {error}") from error
