"""``.bind()``: makes nodes of graphs of calls.

The graphs (``zray.dag``) are written with remote functions and actors, so nothing here may import them. They are loaded
by name at the first ``.bind()``: programs without graphs do not pay for them.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, Protocol


class Optioned(Protocol):
    """A remote function or an actor class."""

    _options: Any


def bind_function(function: Optioned, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Returns a node for a call of a remote function."""
    return importlib.import_module("zray.dag").FunctionNode(function, args, kwargs, _given(function._options))


def bind_class(actor_class: Optioned, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Returns a node for the creation of an actor."""
    return importlib.import_module("zray.dag").ClassNode(actor_class, args, kwargs, _given(actor_class._options))


def bind_method(method: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Returns a node for a call of an ``ActorMethod``; if the call returns several values, a tuple of nodes."""
    return importlib.import_module("zray.dag.classes").bind_method(method, args, kwargs)


def _given(options: Any) -> dict[str, Any]:
    """The options that differ from the defaults, by name."""
    default = type(options)()
    names = [field.name for field in dataclasses.fields(options)]
    return {name: getattr(options, name) for name in names if getattr(options, name) != getattr(default, name)}
