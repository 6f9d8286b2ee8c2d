"""What a worker does with a task of a Dask graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from dask._task_spec import DataNode, GraphNode, Task

import zray

Pretask = Callable[[Any, Any], Any]
Posttask = Callable[[Any, Any, Any], Any]


def execute(
    node: Any,
    key: Any,
    dependencies: Sequence[Any],
    pretasks: Sequence[Pretask | None],
    posttasks: Sequence[Posttask | None],
    *values: Any,
) -> Any:
    """Runs a node of a graph.

    Args:
        dependencies: the keys of the nodes that it needs; ``values`` are their values.
        pretasks: called with the key and the values before; what each returns goes to its ``posttask``.
        posttasks: called with the key, the result and that.
    """
    states = [None if each is None else each(key, list(values)) for each in pretasks]
    result = with_values(node)(dict(zip(dependencies, values, strict=True)))
    for state, each in zip(states, posttasks, strict=True):
        if each is not None:
            each(key, result, state)
    return result


def with_values(thing: Any) -> Any:
    """Replaces the references in a node by their values, at any depth: in a collection that was persisted, they stand
    for values, and Dask may have moved them into the arguments of other nodes."""
    kind = type(thing)
    if kind is zray.ObjectRef:
        return zray.get(thing)
    if kind in (list, tuple, set):
        return _same_or(thing, kind, [with_values(each) for each in thing])
    if kind is dict:
        replaced = [with_values(each) for each in thing.values()]
        unchanged = all(new is old for new, old in zip(replaced, thing.values(), strict=True))
        return thing if unchanged else dict(zip(thing, replaced, strict=True))
    if not isinstance(thing, GraphNode):
        return thing
    if isinstance(thing, DataNode):
        value = with_values(thing.value)
        return thing if value is thing.value else DataNode(thing.key, value)
    if isinstance(thing, Task):
        args, kwargs = with_values(thing.args), with_values(thing.kwargs)
        if args is not thing.args or kwargs is not thing.kwargs:
            thing = copy.copy(thing)
            thing.args, thing.kwargs = args, kwargs
    return thing


def _same_or(thing: Any, kind: type, replaced: list[Any]) -> Any:
    return thing if all(new is old for new, old in zip(replaced, thing, strict=True)) else kind(replaced)
