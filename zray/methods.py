"""The methods of an actor: the methods of its class, and the methods that every actor has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.exceptions import ActorExit

BUILT_IN_METHODS = ("__ray_ready__", "__ray_terminate__", "__ray_call__")


def method_of(actor: Any, name: str) -> Any:
    """Returns a method, bound to its actor.

    As in Ray, an instance attribute with the same name does not hide the method: callers only know the class. Raises
    AttributeError if there is no such method.
    """
    if name in BUILT_IN_METHODS:
        return _built_in(actor, name)
    kind = type(actor)
    for each in kind.__mro__:
        if name in vars(each):
            member = vars(each)[name]
            bind = getattr(type(member), "__get__", None)
            return member if bind is None else bind(member, actor, kind)
    return getattr(actor, name)


def _built_in(actor: Any, name: str) -> Callable[..., Any]:
    if name == "__ray_ready__":
        return lambda: True
    if name == "__ray_call__":
        return lambda function, *args, **kwargs: function(actor, *args, **kwargs)
    return _terminate


def _terminate() -> None:
    raise ActorExit("the actor was asked to terminate")
