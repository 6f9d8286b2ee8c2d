"""The one tree of errors. Each class says which side is at fault and whether trying again can help.

zray's own names come first. Ray's names are aliases of them, at the end. ``except ray.exceptions.RayTaskError`` works
after only the import is changed.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import types
from typing import Any


class ZrayError(Exception):
    """Base of every error that zray raises."""


class ConfigError(ZrayError, ValueError):
    """The caller's fault: a setting has a value that cannot be used."""


class SystemFailure(ZrayError):
    """The fault of zray itself or of the machine: the cluster cannot continue."""


class ClusterUnavailableError(SystemFailure, ConnectionError):
    """No broker could be reached, or the connected broker is gone. Trying again helps once a broker is back."""


class VersionMismatchError(ZrayError):
    """The joining process has another version of Python, zray or the protocol than the cluster.

    Trying again cannot help.
    """


class TaskError(ZrayError):
    """The user's code raised. ``get`` raises an instance of both this class and the type that was raised.

    Attributes: function_name, traceback_str (the remote traceback), cause (the original exception, or a ZrayError with
    the reason if that could not be pickled or unpickled), pid and host of the process. A task is not run if one of its
    arguments could not be computed: then ``cause`` is the error of that argument, pid is 0 and host is empty.
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
        where = f"zray::{self.function_name}() (pid={self.pid}, host={self.host})" if self.pid else self.function_name
        return f"{where}\n{self.traceback_str.rstrip()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (TaskError, (self.function_name, self.traceback_str, self.cause, self.pid, self.host))

    def as_instanceof_cause(self) -> TaskError:
        """Returns an error that is both a ``TaskError`` and of the type of the cause, with the cause's attributes.

        In a chain of TaskErrors (a task raised again the error of another task) the innermost cause counts. Returns the
        plain error itself if there is no cause, if its type cannot be combined (a final type, or one whose attributes
        clash), if the type adds nothing (a ``TaskError`` is an ``Exception`` already, and a ``ZrayError``), and for
        SystemExit and KeyboardInterrupt, which would end the caller's process.
        """
        cause = self.cause
        while has_type(cause, TaskError):
            cause = cause.cause  # type: ignore[union-attr]  # a TaskError has one
        if cause is None or has_type(cause, SystemExit, KeyboardInterrupt):
            return self
        if any(type(cause) is base for base in TaskError.__mro__):  # ``issubclass`` may be the user's code
            return self
        try:
            args, state = exception_parts(cause)
            made = rebuild_exception(_dual_class(type(cause)), args)  # type: ignore[arg-type]  # a type is hashable
            fields = {name: getattr(self, name) for name in _TASK_ERROR_FIELDS} | {"cause": cause}
            restore_attributes(made, state | fields)
        except BaseException:  # the user's class raised: the plain error has the same information
            return self
        assert isinstance(made, TaskError)
        return made


def has_type(exc: object, *kinds: type) -> bool:
    """Returns whether ``exc`` is an instance of ``kinds``, by its type alone.

    ``isinstance`` also reads ``__class__``, which may be a property that raises.
    """
    return issubclass(type(exc), kinds)


_TASK_ERROR_FIELDS = ("function_name", "traceback_str", "cause", "pid", "host")
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: set on every class that Python code defines


_ORDINARY: dict[str, Any] = {
    "__bool__": lambda self: True,  # concurrent.futures takes an exception that is false for no exception
    **{name: getattr(object, name) for name in ("__eq__", "__ne__", "__hash__", "__format__")},
    **{name: getattr(object, name) for name in ("__getattribute__", "__setattr__", "__delattr__")},
    **{name: vars(BaseException)[name] for name in ("__traceback__", "__cause__", "__context__", "__dict__")},
    **{name: vars(BaseException)[name] for name in ("__suppress_context__", "with_traceback")},
    "__class__": vars(object)["__class__"],
}
"""How an error behaves when it is raised, caught, shown and passed on. The user's class cannot override these."""


def _dual_name(kind: type) -> str:
    """The name of the dual class of ``kind``. It is Ray's, because programs look for it in texts of errors."""
    return f"RayTaskError({kind.__name__})"


@functools.lru_cache(maxsize=256)
def _dual_class(kind: Any) -> type[TaskError]:
    """Returns the class ``RayTaskError(ValueError)`` for ValueError: a subclass of both.

    Raises TypeError if ``kind`` cannot be subclassed, or has a descriptor for an attribute that TaskError keeps in
    ``__dict__``.
    """
    for name in _TASK_ERROR_FIELDS:
        if hasattr(getattr(kind, name, None), "__set__"):
            raise TypeError(f"{kind.__name__}.{name} would hide the attribute of TaskError")

    def reduce(self: TaskError) -> tuple[Any, ...]:
        return _restore_dual, TaskError.__reduce__(self)[1]

    body = {
        **_ORDINARY,
        "__new__": lambda cls, *args, **kwargs: builtin_base(cls).__new__(cls, *args),
        "__init__": lambda self, *args, **kwargs: None,
        "__str__": TaskError.__str__,
        "__repr__": lambda self: f"{_dual_name(kind)}: {TaskError.__str__(self)}",
        "__reduce__": reduce,
        "__reduce_ex__": lambda self, protocol: reduce(self),
        "__module__": TaskError.__module__,
    }
    return types.new_class(_dual_name(kind), (TaskError, kind), exec_body=lambda space: space.update(body))


def dual_class_of(kind: type) -> type[TaskError]:
    """The class of the error that ``as_instanceof_cause`` makes if the cause is a ``kind``. For pickling that class."""
    return _dual_class(kind)


def kind_of_dual(kind: type) -> type | None:
    """The user's class of a dual class; None for any other class."""
    bases = kind.__bases__
    is_dual = len(bases) == 2 and bases[0] is TaskError and kind.__name__ == _dual_name(bases[1])
    return bases[1] if is_dual else None


def _restore_dual(*fields: Any) -> TaskError:
    return TaskError(*fields).as_instanceof_cause()


def builtin_base(kind: type[BaseException]) -> type[BaseException]:
    """The built-in exception whose memory layout ``kind`` has.

    Its C constructor takes the exception's ``args``, whatever arguments the Python constructors of ``kind`` take.
    """
    while kind.__flags__ & _HEAP_TYPE:
        assert kind.__base__ is not None
        kind = kind.__base__
    return kind


def exception_parts(exc: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the parts of a copy of ``exc``: arguments for ``rebuild_exception``, and attributes, slots included.

    Traceback, cause and context are left out.
    """
    reduced: Any = builtin_base(type(exc)).__reduce__(exc)
    args = reduced[1]
    state = dict(reduced[2] or {}) if len(reduced) > 2 else {}
    for name in copyreg._slotnames(type(exc)):  # type: ignore[attr-defined]
        with contextlib.suppress(AttributeError):  # a slot that was never set
            state[name] = object.__getattribute__(exc, name)
    return args, state


def rebuild_exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Makes an exception without running the constructor of ``kind``, because its arguments are not known any more."""
    base = builtin_base(kind)
    made = base.__new__(kind, *args)
    base.__init__(made, *args)
    return made


def restore_attributes(exc: BaseException, state: dict[str, Any]) -> None:
    """Sets the attributes of ``exc``, even if its class forbids it (a frozen dataclass)."""
    for name, value in state.items():
        object.__setattr__(exc, name, value)


class TaskCancelledError(ZrayError):
    """The task was cancelled by ``zray.cancel``.

    Attributes, as in Ray: task_id (None if it is not known), error_message (the text; None if there is none).
    """

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        super().__init__(task_id, error_message)
        self.task_id = task_id
        self.error_message = error_message

    def __str__(self) -> str:
        which = f"Task: {self.task_id} was cancelled. " if self.task_id else ""
        return which + (self.error_message or "")


class RunningTaskCancelledError(TaskError, TaskCancelledError):
    """The task was cancelled while it ran. It is a ``TaskError`` too, as in Ray, because the code was interrupted.

    ``cause`` is the plain TaskCancelledError. There is no traceback.
    """

    def __init__(self, error_message: str | None = None) -> None:
        TaskCancelledError.__init__(self, None, error_message)
        self.function_name, self.traceback_str = "", error_message or ""
        self.cause = TaskCancelledError(error_message=error_message)
        self.pid, self.host = 0, ""

    def __str__(self) -> str:
        return TaskCancelledError.__str__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return RunningTaskCancelledError, (self.error_message,)

    def as_instanceof_cause(self) -> TaskError:
        """Returns the error itself: it is a ``TaskCancelledError`` already."""
        return self


class TaskTimeoutError(ZrayError, TimeoutError):
    """The task or call ran longer than its ``timeout_s``. (Not in Ray.)

    The message names the call, the attempt and the limit. It says where the call was interrupted; or that it did not
    end then, so that its worker was killed. The call does not run any more. It may have had effects before. It was
    tried again only if ``retry_exceptions`` includes this class, for example ``[TimeoutError]``.
    """


class WorkerCrashedError(ZrayError):
    """The process that ran the task died. The message gives its signal or exit code, memory, host and last output.

    Trying again helps if the cause was outside the task. zray has already tried again ``max_retries`` times.
    """


class OutOfMemoryError(WorkerCrashedError):
    """The process that ran the task or actor was stopped because its machine was running low on memory.

    The message says how much was in use, why this task was chosen, and which processes were the largest.
    """


class ActorError(ZrayError):
    """Base of the errors about actors.

    Attributes, as in Ray: actor_id (hexadecimal; None if it is not known), error_msg (the text), actor_init_failed
    (whether the constructor raised), preempted (whether the actor's host was taken away; always False, since zray
    cannot know it).
    """

    preempted = False

    def __init__(
        self,
        error_msg: str = "the actor had an error before the call was finished",
        actor_id: bytes | str | None = None,
        actor_init_failed: bool = False,
    ) -> None:
        super().__init__(error_msg)
        self.error_msg = error_msg
        self.actor_id = actor_id.hex() if isinstance(actor_id, bytes) else actor_id
        self.actor_init_failed = actor_init_failed


class ActorDiedError(ActorError):
    """The actor is dead and will not be restarted. The message says why."""


class ActorUnavailableError(ActorError):
    """The actor cannot be reached at the moment. The call may or may not have run."""


class ActorAlreadyExistsError(ZrayError, ValueError):
    """The name of a new actor is taken: another actor has it in that namespace. Attribute: error_message (the text)."""

    def __init__(self, error_message: str = "another actor has that name") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class ActorHandleNotFoundError(ZrayError, ValueError):
    """An actor handle of a cluster that this process has left was given to ``kill``.

    Attribute: error_message (the text).
    """

    def __init__(self, error_message: str = "the handle belongs to a cluster that this process has left") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class ActorExit(SystemExit):
    """Ends the actor that raises it. ``exit_actor`` raises it. It is not an error and never reaches a driver.

    Its ``code`` is 0, so a thread that it ends prints nothing.
    """

    def __init__(self, reason: str = "exit_actor() was called") -> None:
        super().__init__(0)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class GetTimeoutError(ZrayError, TimeoutError):
    """``get`` did not receive every value within its timeout."""


class ObjectError(ZrayError):
    """Base of the errors about objects."""


class ObjectLostError(ObjectError):
    """The value is gone: its segment was lost."""


class ObjectReconstructionFailedError(ObjectLostError):
    """A lost value cannot be made again: its task has no retries left, for instance. The text says why.

    The job's fault if its tasks must not be retried, else the machine's.
    """


class ObjectFreedError(ObjectLostError):
    """The value was freed because the owner knew of no reference to it."""


class OwnerDiedError(ObjectLostError):
    """The process that owned the object died, and with it the object."""


class ObjectStoreFullError(ObjectError):
    """The store has no room for the object, and no other object can be spilled to make room."""


class OutOfDiskError(ObjectStoreFullError):
    """The disk to which objects are spilled is full."""


class NodeDiedError(ZrayError):
    """The host that ran the task is gone."""


class TaskUnschedulableError(ZrayError):
    """The task had to run on one host (``NodeAffinitySchedulingStrategy`` with ``soft=False``), which does not exist.

    Or the host is too small for the task, even when it is empty.
    """

    def __init__(self, error_message: str = "") -> None:
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        return f"The task is not schedulable: {self.error_message}"


class ActorUnschedulableError(ActorError):
    """The same as ``TaskUnschedulableError``, for an actor. Each call of the actor raises it."""

    def __str__(self) -> str:
        return f"The actor is not schedulable: {self.error_msg}"


class RuntimeEnvSetupError(ZrayError):
    """A runtime environment could not be set up, so the tasks and actors that need it fail.

    The caller's fault, or the network's. The message says what failed, with the last lines of the installer's output.
    Work that is submitted later tries again.
    """

    def __init__(self, error_message: str = "") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class ModuleMissingError(ZrayError, ModuleNotFoundError):
    """The worker cannot import a module that a function or value needs. Names module, host and search path."""


class SerializationError(ZrayError, TypeError):
    """A value cannot be pickled. The message names the member that is the cause."""


NAMELESS = "a value"
"""The subject of a DeserializationError until ``about`` names the value."""


class DeserializationError(SystemFailure):
    """A value arrived but cannot be loaded, because a constructor inside it raised.

    The message names the value, and the argument or reference. ``__cause__`` is the exception that was raised.
    """

    def __init__(self, reason: str, argument: str = "", what: str = NAMELESS) -> None:
        super().__init__(f"{what} cannot be loaded: {reason}")
        self.reason = reason
        self.argument = argument
        """The position or name of the argument, if the value is an argument of a call."""
        self.what = what

    def __reduce__(self) -> tuple[Any, ...]:
        return (DeserializationError, (self.reason, self.argument, self.what))

    def about(self, what: str) -> DeserializationError:
        """Returns the same error with ``what`` as the name of the value."""
        named = DeserializationError(self.reason, self.argument, what)
        named.__cause__ = self.__cause__
        return named


class MessageRefusedError(ZrayError, ValueError):
    """A message was not sent: it is larger than ``max_message_bytes``, or holds data that cannot be sent."""


class PendingCallsLimitExceeded(ActorError):
    """More calls are pending on the actor than ``max_pending_calls`` allows. Trying again later helps."""


# ---- Errors of Ray that zray has no cause to raise. They exist for code that catches them.


class AuthenticationError(ZrayError):
    """Not raised by zray, whose keys are checked before a connection exists: see ``ClusterUnavailableError``."""


class UserCodeException(ZrayError):
    """Not raised by zray. Ray's libraries raise it for an error in a user's function."""


class CrossLanguageError(ZrayError):
    """Not raised by zray, which has no workers in other languages."""


class RpcError(ZrayError):
    """Not raised by zray, see ``ClusterUnavailableError``.

    Attributes: message, rpc_code (a number, or None).
    """

    def __init__(self, message: str = "", rpc_code: int | None = None) -> None:
        super().__init__(message, rpc_code)
        self.message = message
        self.rpc_code = rpc_code

    def __str__(self) -> str:
        return self.message


class PlasmaObjectNotAvailable(ZrayError):
    """Not raised by zray, see ``GetTimeoutError`` and ``ObjectLostError``."""


class TaskPlacementGroupRemoved(ZrayError):
    """The placement group of the task was removed before the task began, or before it was tried again."""


class ActorPlacementGroupRemoved(ZrayError):
    """The placement group of the actor was removed before the actor had a place in it."""


class ObjectRefStreamEndOfStreamError(ZrayError):
    """The end of a stream, in place of an item. ``next`` of its ``ObjectRefGenerator`` raises StopIteration."""


class StreamingGeneratorReplayInconsistentError(SystemFailure):
    """A generator was run again, and yielded another number of values than before."""


class OufOfBandObjectRefSerializationException(ZrayError):
    """Not raised by zray: a reference in a pickle of the user's own keeps its object until the process ends.

    The name is Ray's.
    """


class UnserializableException(ZrayError):
    """Not raised by zray: an error that cannot be pickled arrives as a ``TaskError`` with its traceback."""


class RayChannelError(SystemFailure):
    """Not raised by zray, which has no compiled graphs."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """Not raised by zray, which has no compiled graphs."""


class RayCgraphCapacityExceeded(SystemFailure):
    """Not raised by zray, which has no compiled graphs."""


class RayDirectTransportError(SystemFailure):
    """Not raised by zray, which does not move tensors between GPUs."""


SILENT_LISTENER = (
    "a process listens there but does not answer: it is not a zray broker, or the broker is stopped or too busy, or it "
    "has no file descriptors left for another connection (see ulimit -n on its machine)"
)
READ_ONLY_HINT = "hint: values from zray.get() are read-only and shared; write to a copy (array.copy(), frame.copy())"
"""Added to the error of a failed write to such a value: the library that raises it does not know whose value it is."""
REFERENCE_HINT = (
    "hint: an ObjectRef is not its value: zray.get(ref) returns that. A task gets the values of references that are "
    "its arguments; references inside lists and other arguments stay references"
)
"""Added to an error of code that used a reference as if it were its value."""
NATIVE_HINT = (
    "hint: values from zray.get(), and arguments of tasks, are read-only and shared; native code that writes to one "
    "without a check crashes its process: give it a copy (array.copy())"
)
"""Added to the error of a process that accessed memory that it may not access."""

# Ray's names.
RayError = ZrayError
RayTaskError = TaskError
RayActorError = ActorError
RaySystemError = SystemFailure
ReferenceCountingAssertionError = ObjectFreedError
ObjectFetchTimedOutError = ObjectLostError
LocalRayletDiedError = NodeDiedError
AsyncioActorExit = ActorExit
RayletDiedError = NodeDiedError
RAY_EXCEPTION_TYPES = [
    PlasmaObjectNotAvailable,
    RayError,
    RayTaskError,
    WorkerCrashedError,
    RayActorError,
    ObjectStoreFullError,
    ObjectLostError,
    ObjectFetchTimedOutError,
    ReferenceCountingAssertionError,
    ObjectReconstructionFailedError,
    OwnerDiedError,
    GetTimeoutError,
    AsyncioActorExit,
    RuntimeEnvSetupError,
    TaskPlacementGroupRemoved,
    ActorPlacementGroupRemoved,
    PendingCallsLimitExceeded,
    LocalRayletDiedError,
    TaskUnschedulableError,
    ActorDiedError,
    ActorUnschedulableError,
    ActorUnavailableError,
    RayChannelError,
    RayChannelTimeoutError,
    OufOfBandObjectRefSerializationException,
    RayCgraphCapacityExceeded,
    UnserializableException,
    ActorAlreadyExistsError,
    ActorHandleNotFoundError,
    AuthenticationError,
]
"""The list under the same name in Ray."""

FAILURES: dict[str, type[ZrayError]] = {
    kind.__name__: kind
    for kind in (
        SystemFailure,
        ClusterUnavailableError,
        TaskCancelledError,
        RunningTaskCancelledError,
        TaskTimeoutError,
        WorkerCrashedError,
        OutOfMemoryError,
        ActorDiedError,
        ActorUnavailableError,
        ObjectLostError,
        ObjectReconstructionFailedError,
        ObjectFreedError,
        OwnerDiedError,
        ObjectStoreFullError,
        OutOfDiskError,
        NodeDiedError,
        TaskUnschedulableError,
        ActorUnschedulableError,
        ModuleMissingError,
        SerializationError,
        MessageRefusedError,
        TaskPlacementGroupRemoved,
        ActorPlacementGroupRemoved,
        RuntimeEnvSetupError,
        ObjectRefStreamEndOfStreamError,
    )
}
"""The class, by name, of each failure that travels as a name and not as a pickle."""
