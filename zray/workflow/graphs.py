"""Graphs of calls (``zray.dag``) as they are stored: steps with names, and slots in the places of their inputs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from zray.api.actor import ActorHandle
from zray.api.objects import get
from zray.api.remote_function import RemoteFunction
from zray.dag import ClassMethodNode, ClassNode, DAGNode, FunctionNode, InputAttributeNode, InputNode, MultiOutputNode
from zray.dag.scanner import Scan
from zray.named_tuples import NamedTuple
from zray.object_ref import ObjectRef
from zray.workflow.progress import Shape

LABEL = "zray.workflow/"
"""The prefix of the labels of a remote function that say how its steps are run."""
OUTPUT = "output"
"""The name of the step that collects the values of several steps."""


class Slot:
    """Stands in the arguments of a call for the value of a step."""

    def __init__(self, step: str) -> None:
        self.step = step


class Constant:
    """Stands in the arguments of a call for what a reference refers to."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Call(NamedTuple):
    """What a step runs. ``function``: None if the value of the step is its only argument, filled in.

    ``catches``: the value is the pair of the function's value and its error, one of which is None.
    """

    function: RemoteFunction[..., Any] | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    catches: bool = False
    metadata: Mapping[str, Any] = {}


class Graph(NamedTuple):
    """A graph that can be stored. Both are by step."""

    calls: dict[str, Call]
    shape: Shape


class Names:
    """Gives each step a name of its own: the second one that asks for ``add`` is ``add_1``."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._next: dict[str, int] = {}

    def use(self, name: str) -> None:
        """The name is in use."""
        self._used.add(name)

    def new(self, name: str) -> str:
        """Returns ``name``, or with a number after it if that is in use."""
        found, number = name, self._next.get(name, 1)
        while found in self._used:
            found, number = f"{name}_{number}", number + 1
        self._next[name] = number
        self._used.add(found)
        return found


class Continuation:
    """What a step returns whose value is that of a graph."""

    def __init__(self, node: DAGNode) -> None:
        self.node = node


def labels_of(task_id: str | None, metadata: Mapping[str, Any] | None, catch_exceptions: bool) -> dict[str, str]:
    """Returns the labels for options of steps. Raises TypeError for metadata that are no dict of JSON's values."""
    labels = {}
    if task_id is not None:
        if not isinstance(task_id, str) or not task_id:
            raise TypeError(f"task_id must be a non-empty string, not {task_id!r:.100}")
        labels["task_id"] = task_id
    if metadata is not None:
        labels["metadata"] = metadata_text(metadata)
    if catch_exceptions:
        labels["catch_exceptions"] = "1"
    return {LABEL + name: value for name, value in labels.items()}


def metadata_text(metadata: Mapping[str, Any] | None) -> str:
    """Returns metadata as JSON. Raises TypeError if they are no dict of JSON's values."""
    if metadata is None:
        return "{}"
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a dict, not {type(metadata).__name__}")
    try:
        return json.dumps(dict(metadata))
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata must be values that JSON has: {error}") from None


def graph_of(node: Any, names: Names, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Graph:
    """Returns the graph that ends in ``node``, with ``args`` and ``kwargs`` in the place of its input node.

    Names are given in the order in which the graph is walked, so they are the same for the same graph.

    Raises:
        TypeError: ``node`` is no node, or a node makes or calls an actor.
        ValueError: a function is a generator or returns several values.
    """
    if not isinstance(node, DAGNode):
        raise TypeError(f"a workflow is a graph made with .bind(), not {type(node).__name__}: {node!r:.100}")
    for each in node._in_order():
        if isinstance(each, (ClassNode, ClassMethodNode)):
            raise TypeError(
                f"a workflow has remote functions only, and {each._label!r:.100} is of an actor: an actor's state is "
                "not stored, so it could not be resumed. Make the actor within a step, or use a function"
            )
    calls: dict[str, Call] = {}

    def visit(one: DAGNode) -> Any:
        if isinstance(one, (InputNode, InputAttributeNode)):
            return one._execute_impl(*args, **(kwargs or {}))
        if isinstance(one, MultiOutputNode):
            return add(OUTPUT, Call(None, ([_storable(value) for value in one._bound_args],), {}))
        assert isinstance(one, FunctionNode)
        return add(*_call_of(one))

    def add(name: str, call: Call) -> Slot:
        step = names.new(name)
        calls[step] = call
        return Slot(step)

    last: Any = node._walk(visit, {})
    if not isinstance(last, Slot):  # the graph is its input
        last = add(OUTPUT, Call(None, (_storable(last),), {}))
    inputs = {
        step: tuple(
            dict.fromkeys(
                slot.step
                for value in (*call.args, *call.kwargs.values())
                for slot in Scan(value, Slot).nodes
            )
        )
        for step, call in calls.items()
    }  # fmt: skip
    return Graph(calls, Shape(inputs, last.step))


def _call_of(node: FunctionNode) -> tuple[str, Call]:
    """Returns the name that a step asks for, and what it runs."""
    function, options = node._remote_function, node._remote_function._options
    if options.num_returns not in (None, 1) or inspect.isgeneratorfunction(function._function):
        raise ValueError(
            f"{function._name} returns several values (num_returns, or a generator), and a step of a workflow has one: "
            "return a list or a tuple"
        )
    labels = options._labels or {}
    name = labels.get(f"{LABEL}task_id") or options.name or function._name
    args = tuple(_storable(value) for value in node._bound_args)
    kwargs = {key: _storable(value) for key, value in node._bound_kwargs.items()}
    metadata = json.loads(labels.get(f"{LABEL}metadata", "{}"))
    return name, Call(function, args, kwargs, f"{LABEL}catch_exceptions" in labels, metadata)


def _storable(value: Any) -> Any:
    """Returns an argument with its references replaced by what they refer to. Raises TypeError for an actor."""
    if isinstance(value, Slot):
        return value
    if Scan(value, ActorHandle).nodes:
        raise TypeError("a workflow cannot have the handle of an actor in its arguments: an actor is not stored")
    refs: list[ObjectRef[Any]] = Scan(value, ObjectRef).nodes
    if not refs:
        return value
    constants = {ref.binary(): Constant(found) for ref, found in zip(refs, get(refs), strict=True)}
    return Scan(value, ObjectRef).replaced(lambda ref: constants[ref.binary()])


def filled(
    call: Call, value_of: Callable[[str], Any], constant: Callable[[Constant], Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Returns the arguments of a call with ``value_of(step)`` in the place of each slot, and ``constant(one)`` in that
    of each constant."""

    def fill(value: Any) -> Any:
        return Scan(value, (Slot, Constant)).replaced(
            lambda one: value_of(one.step) if isinstance(one, Slot) else constant(one)
        )

    return [fill(value) for value in call.args], {key: fill(value) for key, value in call.kwargs.items()}
