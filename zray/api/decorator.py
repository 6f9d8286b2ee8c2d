"""``zray.remote``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeVar, overload

from zray.api.actor import ActorClass
from zray.api.generators import ObjectRefGenerator
from zray.api.remote_function import RemoteFunction
from zray.api.typed import P
from zray.object_ref import ObjectRef
from zray.options import ActorOptions, TaskOptions

if TYPE_CHECKING:
    from zray.api.actor import ConstructedActorClass
    from zray.api.typed import Constructible

T = TypeVar("T")


class Decorator(Protocol):
    """The type of ``zray.remote`` with options."""

    @overload
    def __call__(self, target: Constructible[P, T], /) -> ConstructedActorClass[P, T]: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: Callable[P, NoReturn], /
    ) -> RemoteFunction[P, ObjectRef[Any]]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: Callable[P, Iterator[T]], /
    ) -> RemoteFunction[P, ObjectRefGenerator[T]]: ...

    @overload
    def __call__(self, target: Callable[P, T], /) -> RemoteFunction[P, ObjectRef[T]]: ...


class SeveralReturnsDecorator(Protocol):
    """The type of ``zray.remote(num_returns=...)``: types do not know what ``remote`` returns."""

    def __call__(self, target: Callable[P, Any], /) -> RemoteFunction[P, Any]: ...


class DecoratorMisused(TypeError, AssertionError):
    """``zray.remote`` was given something else than a function, a class, or options by keyword.

    It is a TypeError. Ray raises AssertionError, for which programs may wait.
    """


@overload
def remote(target: Constructible[P, T], /) -> ConstructedActorClass[P, T]: ...  # type: ignore[overload-overlap]


@overload
def remote(target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]


@overload
def remote(  # type: ignore[overload-overlap]
    target: Callable[P, NoReturn], /
) -> RemoteFunction[P, ObjectRef[Any]]: ...


@overload
def remote(  # type: ignore[overload-overlap]
    target: Callable[P, Iterator[T]], /
) -> RemoteFunction[P, ObjectRefGenerator[T]]: ...


@overload
def remote(target: Callable[P, T], /) -> RemoteFunction[P, ObjectRef[T]]: ...


@overload
def remote(*, num_returns: Literal["streaming"], **options: Any) -> Decorator: ...


@overload
def remote(*, num_returns: int | str, **options: Any) -> SeveralReturnsDecorator: ...


@overload
def remote(**options: Any) -> Decorator: ...


def remote(*args: Any, **options: Any) -> Any:
    """Makes a function or class remote: ``@zray.remote``, ``@zray.remote(num_cpus=2)`` or ``zray.remote(f)``.

    Options of functions: num_cpus, num_gpus, memory (bytes), resources, num_returns, max_retries, retry_exceptions,
    max_calls, name, scheduling_strategy, timeout_s, priority. Options of classes: num_cpus, num_gpus, memory,
    resources, max_restarts, max_task_retries, max_concurrency, concurrency_groups, allow_out_of_order_execution,
    max_pending_calls, name, namespace, lifetime, get_if_exists, priority.
    ``zray.options.TaskOptions`` and ``ActorOptions`` describe them.

    Returns:
        A ``RemoteFunction`` or an ``ActorClass``; with options, a decorator that makes one.

    Raises:
        TypeError: an option has a wrong type, or the target is neither a function nor a class. It is an AssertionError
            too if there is no target and no option.
        ValueError: an option does not exist or is out of range, or the function is ``async``. The message names the
            option, its value and what is allowed.
        NotImplementedError: the option asks for a transport of tensors between GPUs.
    """
    if len(args) == 1 and not options and (callable(args[0]) or inspect.isclass(args[0])):
        return _make(args[0], {})
    if args or not options:
        raise DecoratorMisused(
            "The @zray.remote decorator must be applied either with no arguments and no parentheses, for example "
            "'@zray.remote', or with options by keyword, for example '@zray.remote(num_cpus=2)'"
            + (f"; got {args!r:.100}" if args else "")
        )

    def decorate(target: Any) -> Any:
        return _make(target, options)

    return decorate


def _make(target: Any, options: dict[str, Any]) -> Any:
    if inspect.isclass(target):
        return ActorClass(target, ActorOptions.from_kwargs(options, what="@zray.remote"))
    if inspect.isfunction(target) or inspect.isbuiltin(target):
        if inspect.iscoroutinefunction(target):
            raise ValueError(
                f"{target.__name__} is an async function; tasks are plain functions. Use an actor with async methods, "
                f"or call asyncio.run() inside the task"
            )
        return RemoteFunction(target, TaskOptions.from_kwargs(options, what="@zray.remote"))
    raise TypeError(f"@zray.remote is for functions and classes; {target!r:.100} is a {type(target).__name__}")
