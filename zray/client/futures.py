"""Futures of ``concurrent.futures`` that are completed by objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from zray.exceptions import ClusterUnavailableError, TaskError
from zray.system.signals import came_from_handler

if TYPE_CHECKING:
    import concurrent.futures

    from zray.client.core.client_core import ClientCore
    from zray.object_ref import ObjectRef


class Values(Protocol):
    """The part of a session that returns values."""

    core: ClientCore

    def value(self, object_id: bytes) -> Any:
        """The value of an object that is ready. Raises its error."""


class Completion:
    """Completes a future when its object is ready. It is queued as an effect: callbacks must not run under the lock."""

    __slots__ = ("_future", "_ref", "_values")

    def __init__(self, values: Values, ref: ObjectRef, future: concurrent.futures.Future[Any]) -> None:
        self._values = values
        self._ref: ObjectRef | None = ref
        self._future = future

    def ready(self, object_id: bytes) -> None:
        """The object is ready (``Waiting``)."""
        self._values.core.perform(self)

    def complete(self) -> None:
        """Sets the result or the error."""
        ref = self._begin()
        if ref is None:
            return
        try:
            value = self._outcome(ref)
        except BaseException as error:
            if came_from_handler(error):  # a signal handler interrupted the caller, which has no future yet
                raise
            self._future.set_exception(raisable_in_coroutines(error))
        else:
            self._future.set_result(value)

    def _outcome(self, ref: ObjectRef) -> Any:
        """Returns the result of the future. Raises its error."""
        return self._values.value(ref._id)

    def give_up(self) -> None:
        """Sets an error, because the session has ended and the object can no longer become ready."""
        if self._begin() is not None:
            self._future.set_exception(ClusterUnavailableError("zray.shutdown() was called before the value was ready"))

    def _begin(self) -> ObjectRef | None:
        """Returns the reference; None if the future has been completed or cancelled already."""
        ref, self._ref = self._ref, None
        return ref if ref is not None and self._future.set_running_or_notify_cancel() else None


class Readiness(Completion):
    """Completes a future with None when its object has a value or an error."""

    __slots__ = ()

    def _outcome(self, ref: ObjectRef) -> None:
        return None


def raisable_in_coroutines(error: BaseException) -> BaseException:
    """Returns ``error``, or a RuntimeError in place of a StopIteration, as Python does if one leaves a coroutine.

    If ``await`` raised a StopIteration, its argument would be taken for the value.
    """
    if not isinstance(error, StopIteration):
        return error
    instead: BaseException
    if isinstance(error, TaskError):
        name = error.function_name
        cause = RuntimeError(f"{name} raised StopIteration")
        instead = TaskError(name, error.traceback_str, cause, error.pid, error.host).as_instanceof_cause()
    else:
        instead = RuntimeError("unpickling the value raised StopIteration")
    instead.__cause__ = error
    return instead
