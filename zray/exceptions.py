"""The one tree of errors. Each says whose fault it is and whether trying again can help.

House names come first; Ray's names are aliases of them at the end, so ``except ray.exceptions.RayTaskError`` works
with the import changed.
"""

from __future__ import annotations

import functools
from typing import Any


class ZrayError(Exception):
    """Base of every error that zray raises."""


class ConfigError(ZrayError, ValueError):
    """The caller's fault: a setting that cannot be used."""


class SystemFailure(ZrayError):
    """zray's own fault, or that of the machine: the cluster cannot go on."""


class ClusterUnavailableError(SystemFailure, ConnectionError):
    """No broker could be reached, or the one that was there is gone. Trying again helps once it is back."""


class VersionMismatchError(ZrayError):
    """The joining side's Python, zray or protocol version does not fit the cluster's. Trying again cannot help."""


class TaskError(ZrayError):
    """The user's code raised. ``get`` raises an instance of both this class and the type that was raised.

    Attributes: function_name, traceback_str (the remote traceback), cause (the original exception, or None when it
    could not be pickled), pid and host of the process.
    """

    def __init__(
        self,
        function_name: str = "",
        traceback_str: str = "",
        cause: BaseException | None = None,
        pid: int = 0,
        host: str = "",
    ) -> None:
        super().__init__(function_name, traceback_str, cause, pid, host)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.pid = pid
        self.host = host

    def __str__(self) -> str:
        where = f"{self.function_name} (pid={self.pid}, host={self.host})"
        return f"{where}\n{self.traceback_str.rstrip()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (TaskError, (self.function_name, self.traceback_str, self.cause, self.pid, self.host))

    def as_instanceof_cause(self) -> TaskError:
        """An error that is an instance of both ``TaskError`` and the type of the cause."""
        cause = self.cause
        if cause is None or isinstance(cause, TaskError):
            return self
        try:
            made = _dual_class(type(cause)).__new__(_dual_class(type(cause)))
            TaskError.__init__(made, self.function_name, self.traceback_str, cause, self.pid, self.host)
            made.args = cause.args or (str(self),)
            if hasattr(cause, "__dict__"):
                for name, value in cause.__dict__.items():
                    made.__dict__.setdefault(name, value)
            made.__cause__ = None
        except Exception:  # a class that cannot be subclassed or made this way: the plain error tells as much
            return self
        return made


@functools.lru_cache(maxsize=256)
def _dual_class(kind: type[BaseException]) -> type[TaskError]:
    """``TaskError(ValueError)``: one class that is both."""

    def fresh(cls: type, *args: Any, **kwargs: Any) -> Any:
        return kind.__new__(cls) if kind.__new__ is not BaseException.__new__ else BaseException.__new__(cls)

    def reduce(self: TaskError) -> tuple[Any, ...]:
        plain = TaskError(self.function_name, self.traceback_str, self.cause, self.pid, self.host)
        return (_restore_dual, (plain,))

    body = {
        "__new__": fresh,
        "__init__": lambda self, *args, **kwargs: None,
        "__str__": TaskError.__str__,
        "__repr__": lambda self: f"TaskError({kind.__name__}): {TaskError.__str__(self)}",
        "__reduce__": reduce,
        "__module__": TaskError.__module__,
    }
    if issubclass(kind, Exception):
        return type(f"TaskError({kind.__name__})", (TaskError, kind), body)
    # SystemExit, KeyboardInterrupt: catching TaskError must still be possible without ending the process
    raise TypeError(kind.__name__)


def _restore_dual(plain: TaskError) -> TaskError:
    return plain.as_instanceof_cause()


class TaskCancelledError(ZrayError):
    """The task was cancelled by ``zray.cancel``."""


class WorkerCrashedError(ZrayError):
    """The process that ran the task died. The message tells its signal or exit code, memory, host and last output.

    Trying again helps when the cause was outside of the task; zray did so ``max_retries`` times.
    """


class OutOfMemoryError(WorkerCrashedError):
    """The process that ran the task was killed for lack of memory."""


class ActorError(ZrayError):
    """Base of the errors about actors."""


class ActorDiedError(ActorError):
    """The actor is dead and will not come back; the message tells why."""


class ActorUnavailableError(ActorError):
    """The actor cannot be reached at the moment; the call may or may not have run."""


class ActorExit(BaseException):
    """Ends the actor that raises it: what ``exit_actor`` raises. Not an error; never reaches a driver."""


class GetTimeoutError(ZrayError, TimeoutError):
    """``get`` did not have every value within its timeout."""


class ObjectError(ZrayError):
    """Base of the errors about objects."""


class ObjectLostError(ObjectError):
    """The value is gone: its segment was lost."""


class ObjectFreedError(ObjectLostError):
    """The value was freed since nobody held a reference that the owner knew of."""


class OwnerDiedError(ObjectLostError):
    """The process that owned the object died, and with it the object."""


class ObjectStoreFullError(ObjectError):
    """There is no room for the object in the store and nothing can be spilled to make some."""


class OutOfDiskError(ObjectStoreFullError):
    """The disk that objects are spilled to is full."""


class NodeDiedError(ZrayError):
    """The host that ran the task is gone."""


class TaskUnschedulableError(ZrayError):
    """The task's request can never be satisfied."""


class ActorUnschedulableError(ActorError):
    """The actor's request can never be satisfied."""


class RuntimeEnvSetupError(ZrayError):
    """A runtime environment could not be set up."""


class ModuleMissingError(ZrayError, ModuleNotFoundError):
    """A module that a function or value needs cannot be imported on the worker. Names module, host and search path."""


class SerializationError(ZrayError, TypeError):
    """A value cannot be pickled. The message names the member that is to blame."""


class PendingCallsLimitExceeded(ActorError):
    """More calls are pending on the actor than ``max_pending_calls`` allows. Trying again later helps."""


# Ray's names.
RayError = ZrayError
RayTaskError = TaskError
RayActorError = ActorError
RaySystemError = SystemFailure
ReferenceCountingAssertionError = ObjectFreedError
ObjectReconstructionFailedError = ObjectLostError
ObjectFetchTimedOutError = ObjectLostError
LocalRayletDiedError = NodeDiedError
AsyncioActorExit = ActorExit
RayletDiedError = NodeDiedError

FAILURES: dict[str, type[ZrayError]] = {
    kind.__name__: kind
    for kind in (
        SystemFailure,
        ClusterUnavailableError,
        TaskCancelledError,
        WorkerCrashedError,
        OutOfMemoryError,
        ActorDiedError,
        ActorUnavailableError,
        ObjectLostError,
        ObjectFreedError,
        OwnerDiedError,
        ObjectStoreFullError,
        OutOfDiskError,
        NodeDiedError,
        TaskUnschedulableError,
        ActorUnschedulableError,
        ModuleMissingError,
        SerializationError,
    )
}
"""What a failure that travels by name (not as a pickle) is raised as."""
