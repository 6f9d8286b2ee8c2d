"""``RemoteFunction``: the result of ``@zray.remote`` on a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, overload

from zray.api.binding import bind_function
from zray.api.generators import ObjectRefGenerator
from zray.api.runtime import PreparedTask, runtime
from zray.api.typed import P, R_co, Remote
from zray.options import TaskOptions
from zray.serialization import PickledCallable, pickle_callable
from zray.signatures import SignatureCheck
from zray.user_warnings import warn_user

MANY_SHIPMENTS = 100
"""The number of different pickles of a function after which a warning is shown. The cluster keeps each of them until
the job ends."""


class _Shipment:
    """A function or class in pickled form. It is pickled at the first call, because it may use names defined after it.

    It is pickled again if a name that it uses is bound to another object (``zray.serialization.captures``).

    There is no lock, because pickling runs the user's code, which may call any remote function. Threads that make the
    first call at the same time each pickle it.
    """

    __slots__ = ("_function", "_pickled", "_shipped")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._pickled: PickledCallable | None = None
        self._shipped = 0  # number of different pickles

    def __call__(self) -> PickledCallable:
        pickled = self._pickled
        if pickled is None or (pickled.captures is not None and pickled.captures.changed()):
            return self._pickle(pickled)
        return pickled

    def _pickle(self, before: PickledCallable | None) -> PickledCallable:
        pickled = self._pickled = pickle_callable(self._function)
        if before is None or pickled.id16 != before.id16:
            self._shipped += 1
            if self._shipped == MANY_SHIPMENTS:
                warn_user(
                    f"{pickled.name} has been shipped {MANY_SHIPMENTS} times, because a global variable that it uses "
                    f"changes between calls: pass it as an argument instead",
                )
        return pickled


class RemoteFunction(Remote[P, R_co]):
    """A function that runs in the cluster. ``f.remote(...)`` returns at once, with references to the future results.

    ``P``: the parameters of the function. ``R_co``: what ``remote`` returns: ``ObjectRef[T]`` if the function returns a
    ``T``, ``ObjectRefGenerator[T]`` if it is a generator of ``T``; ``Any`` if ``num_returns`` was given.

    ``remote`` submits a call. It returns an ObjectRef, a list of them if ``num_returns`` is above one, None if it is
    zero. A generator function returns an ``ObjectRefGenerator``, unless ``num_returns`` is a number. Any argument may
    be a reference. TypeError is raised if the arguments do not fit the signature or cannot be pickled. ``remote`` shows
    the function's signature and docstring.
    """

    def __init__(self, function: Callable[..., Any], options: TaskOptions, shipment: _Shipment | None = None) -> None:
        self._function = function
        self._options = options
        self._shipment = shipment or _Shipment(function)
        name = getattr(function, "__qualname__", None) or repr(function)
        self._name = name.rpartition(".<locals>.")[2]
        functools.update_wrapper(self, function)
        prepared = PreparedTask(self._name, options, inspect.isgeneratorfunction(function))
        self.remote = _submitter(function, self._name, self._shipment, prepared)  # type: ignore[method-assign]

    def _remote(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Submits a call with options: Ray's other form of ``options(...).remote(*args, **kwargs)``."""
        return (self.options(**options) if options else self).remote(*(args or ()), **(kwargs or {}))

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """Returns a node of a graph of calls (``zray.dag``): a call of this function."""
        return bind_function(self, args, kwargs)

    @property
    def _function_name(self) -> str:
        return f"{self._function.__module__}.{self._name}"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"Remote functions cannot be called directly: use {self._name}.remote(...), or "
            f"{self._name}._function(...) to run it here"
        )

    @overload
    def options(self, *, num_returns: int | str, **options: Any) -> RemoteFunction[P, Any]: ...

    @overload
    def options(self, **options: Any) -> RemoteFunction[P, R_co]: ...

    def options(self, **options: Any) -> RemoteFunction[P, Any]:
        """Returns the same function with other options (see ``zray.remote``)."""
        return RemoteFunction(self._function, self._options.updated(options), self._shipment)

    def __reduce__(self) -> tuple[Any, ...]:
        return (RemoteFunction, (self._function, self._options))

    def __repr__(self) -> str:
        return f"RemoteFunction({self._name})"


def _submitter(
    function: Callable[..., Any], name: str, shipment: _Shipment, prepared: PreparedTask
) -> Callable[..., Any]:
    """Makes ``RemoteFunction.remote`` for one function: a separate function, so that it can look like that one."""
    check = SignatureCheck(function, skip_first=False).bind_check
    n_returns = prepared.n_returns
    has_reader = prepared.stream is not None and not prepared.stream.spec.collected

    def remote(*args: Any, **kwargs: Any) -> Any:
        check(args, kwargs)
        source = runtime()
        refs = source.submit(shipment, function, prepared, args, kwargs)
        if has_reader:
            return ObjectRefGenerator(source, refs)
        if n_returns == 1:
            return refs[0]
        return refs or None

    return looks_like(remote, function)


def looks_like(wrapper: Callable[..., Any], wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``wrapper`` with the name, docstring and signature of ``wrapped``. Takes a quarter of the time of
    ``functools.wraps``."""
    wrapper.__name__ = getattr(wrapped, "__name__", wrapper.__name__)
    wrapper.__doc__ = wrapped.__doc__
    wrapper.__wrapped__ = wrapped  # type: ignore[attr-defined]
    return wrapper
