"""Marks on public names, as Ray's libraries put them on theirs. Only ``Deprecated(warning=True)`` has an effect."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from zray.api.deprecation import RayDeprecationWarning, warn_deprecated

__all__ = ["Deprecated", "DeveloperAPI", "PublicAPI", "RayDeprecationWarning"]

T = TypeVar("T")


def PublicAPI(*args: Any, **kwargs: Any) -> Any:
    """Marks a class or a function as meant for users: ``@PublicAPI`` or ``@PublicAPI(stability="beta")``."""
    return _mark(args)


def DeveloperAPI(*args: Any, **kwargs: Any) -> Any:
    """Marks a class or a function as meant for authors of libraries: ``@DeveloperAPI`` or ``@DeveloperAPI()``."""
    return _mark(args)


def Deprecated(*args: Any, message: str = "", warning: bool = False) -> Any:
    """Marks a class or a function as deprecated: ``@Deprecated`` or ``@Deprecated(message="use ...", warning=True)``.

    Args:
        message: what to use instead.
        warning: whether a call warns with RayDeprecationWarning.
    """
    if args:
        return args[0]

    def mark(what: T) -> T:
        if not warning or isinstance(what, type) or not callable(what):
            return what

        @functools.wraps(what)
        def warns(*given: Any, **named: Any) -> Any:
            warn_deprecated(getattr(what, "__qualname__", repr(what)), message or "something else")
            return what(*given, **named)

        return warns  # type: ignore[return-value]

    return mark


def _mark(args: tuple[Any, ...]) -> Any:
    """Returns what is marked, or, for a decorator with arguments, a decorator that does."""
    unchanged: Callable[[T], T] = lambda what: what  # noqa: E731
    return args[0] if args else unchanged
