"""``RemoteFunction``: what ``@zray.remote`` makes of a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from zray.api.runtime import PreparedTask, runtime
from zray.options import TaskOptions
from zray.serialization import PickledCallable, pickle_callable
from zray.signatures import SignatureCheck

R_co = TypeVar("R_co", covariant=True)


class _Shipment:
    """A function in pickled form, made at the first call: what it refers to may be defined after it.

    Without a lock: pickling runs code of the user's, which may call any remote function. Threads that make the first
    call at the same time each pickle it.
    """

    __slots__ = ("_function", "_pickled")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._pickled: PickledCallable | None = None

    def __call__(self) -> PickledCallable:
        pickled = self._pickled
        if pickled is None:
            pickled = self._pickled = pickle_callable(self._function)
        return pickled


class RemoteFunction(Generic[R_co]):
    """A function that runs in the cluster: ``f.remote(...)`` returns at once, with references to its results to be.

    ``R_co`` is what ``remote`` returns: an ``ObjectRef[T]`` where the function returns a ``T``; ``Any`` where
    ``num_returns`` was given. Arguments are checked when they are given and not by types: any may be a reference.
    """

    def __init__(self, function: Callable[..., Any], options: TaskOptions, shipment: _Shipment | None = None) -> None:
        self._function = function
        self._options = options
        self._shipment = shipment or _Shipment(function)
        self._signature = SignatureCheck(function, skip_first=False)
        name = getattr(function, "__qualname__", None) or repr(function)
        self._name = name.rpartition(".<locals>.")[2]
        generator = inspect.isgeneratorfunction(function)
        self._prepared = PreparedTask(self._name, options, generator)
        self._streams = generator and options.num_returns is None
        functools.update_wrapper(self, function)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"the remote function {self._name} cannot be called directly: use {self._name}.remote(...), or "
            f"{self._name}._function(...) to run it here"
        )

    def remote(self, /, *args: Any, **kwargs: Any) -> R_co:
        """Submits a call. Returns an ObjectRef, a list of them for ``num_returns`` above one, None for zero.

        Raises TypeError when the arguments do not fit the signature or cannot be pickled.
        """
        self._signature.bind_check(args, kwargs)
        if self._streams:
            raise NotImplementedError(
                f"{self._name} is a generator: streaming its values is not supported yet. Give num_returns=n to have "
                f"each of its n values as an object, or return a list"
            )
        prepared = self._prepared
        refs: Any = runtime().submit(self._shipment, self._function, prepared, args, kwargs)
        if prepared.n_returns == 1:
            return refs[0]  # type: ignore[no-any-return]
        return refs or None  # type: ignore[return-value]

    @overload
    def options(self, *, num_returns: int | str, **options: Any) -> RemoteFunction[Any]: ...

    @overload
    def options(self, **options: Any) -> RemoteFunction[R_co]: ...

    def options(self, **options: Any) -> RemoteFunction[Any]:
        """The same function with other options (see ``zray.remote``)."""
        return RemoteFunction(self._function, self._options.updated(options), self._shipment)

    def __reduce__(self) -> tuple[Any, ...]:
        return (RemoteFunction, (self._function, self._options))

    def __repr__(self) -> str:
        return f"RemoteFunction({self._name})"
