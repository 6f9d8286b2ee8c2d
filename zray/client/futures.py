"""Futures of ``concurrent.futures`` that are completed by objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from zray.exceptions import ClusterUnavailableError, TaskError
from zray.system.signals import came_from_handler

if TYPE_CHECKING:
    import concurrent.futures

    from zray.client.core.client_core import ClientCore
    from zray.client.object_refs import ObjectRefs
    from zray.client.shell import ClientShell
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


class Futures:
    """Makes the futures of one session. ``check_usable``: raises if the cluster is gone or this is a forked child."""

    def __init__(self, shell: ClientShell, refs: ObjectRefs, values: Values, check_usable: Callable[[], None]) -> None:
        self._shell = shell
        self._refs = refs
        self._values = values
        self._check_usable = check_usable

    def future_of(self, object_id: bytes) -> concurrent.futures.Future[Any]:
        """See ``zray.object_ref.Tracker``."""
        return self._future(object_id, Completion)

    def when_ready(self, object_id: bytes) -> concurrent.futures.Future[None]:
        """Returns a future that ends, with None, when the object has a value or an error."""
        return self._future(object_id, Readiness)

    def _future(self, object_id: bytes, kind: type[Completion]) -> concurrent.futures.Future[Any]:
        self._check_usable()
        from concurrent.futures import Future  # not at the top: it loads logging, which most workers never need

        future: Future[Any] = Future()
        ref = self._refs.intern(object_id)
        done = kind(self._values, ref, future)

        def watch() -> bool:
            return self._shell.core.references.wait_for(object_id, done)

        if not self._shell.run(watch):
            done.complete()
        elif self._shell.closed:
            done.give_up()
        return future


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
