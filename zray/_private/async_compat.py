"""Whether functions and classes have coroutines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from zray._common.utils import get_or_create_event_loop

__all__ = ["get_or_create_event_loop", "has_async_methods", "is_async_func", "sync_to_async"]


def is_async_func(func: Callable[..., Any]) -> bool:
    """Whether ``func`` is a coroutine function or an asynchronous generator function."""
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)


def has_async_methods(cls: type) -> bool:
    """Whether a class has a method that is one."""
    return bool(inspect.getmembers(cls, predicate=is_async_func))


def sync_to_async(func: Callable[..., Any]) -> Callable[..., Any]:
    """``func`` if it is one already, otherwise a coroutine function that calls it."""
    if is_async_func(func):
        return func

    async def call(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return call
