"""``DAGNode``: what all nodes of a graph have in common.

A graph is never changed by its execution. Nodes are visited from the arguments upwards, each once. For each node a copy
is made, whose arguments are the results of the nodes below, and the copy is run. ``_stable_uuid`` is the same in all
copies of a node.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

from zray.dag.scanner import Scan
from zray.user_warnings import warn_user

T = TypeVar("T")


class DAGNode:
    """A node of a graph of calls. Subclasses define ``_copy_impl`` and ``_execute_impl``.

    Args:
        args, kwargs: the bound arguments; nodes may be anywhere inside.
        options: the options of the call, by name.
        other_args_to_resolve: further values in which nodes may be, such as the actor of a method call.
    """

    def __init__(
        self,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        other_args_to_resolve: dict[str, Any] | None,
    ) -> None:
        self._bound_args = args or []
        self._bound_kwargs = kwargs or {}
        self._bound_options = options or {}
        self._bound_other_args_to_resolve = other_args_to_resolve or {}
        self._stable_uuid = uuid.uuid4().hex
        self.cache_from_last_execute: dict[str, Any] = {}

    # ------------------------------------------------------------------ what it was bound to

    def get_args(self) -> Sequence[Any]:
        """The bound positional arguments."""
        return self._bound_args

    def get_kwargs(self) -> dict[str, Any]:
        """The bound keyword arguments."""
        return dict(self._bound_kwargs)

    def get_options(self) -> dict[str, Any]:
        """The options of the call, those that differ from the defaults."""
        return dict(self._bound_options)

    def get_other_args_to_resolve(self) -> dict[str, Any]:
        """The further values in which nodes may be."""
        return dict(self._bound_other_args_to_resolve)

    def get_stable_uuid(self) -> str:
        """The identifier of the node, which its copies share."""
        return self._stable_uuid

    # ------------------------------------------------------------------ execution

    def execute(self, *args: Any, _ray_cache_refs: bool = False, **kwargs: Any) -> Any:
        """Submits the calls of the graph that ends in this node, and returns this node's result: a reference, a list of
        references, or the handle of an actor.

        Each node runs once. Each class node makes a new actor in each execution; a method that was bound to a handle
        uses that actor.

        Args:
            args, kwargs: what the graph's ``InputNode`` stands for.
            _ray_cache_refs: keep the result of each node, see ``get_object_refs_from_last_execute``.

        Raises:
            AssertionError: the graph has two input nodes, or an input node that was not made by ``with InputNode()``.
        """
        warn_user("DAGNode.execute() is deprecated, as in Ray", DeprecationWarning)
        results: dict[str, Any] = {}
        result = self._walk(lambda node: node._execute_impl(*args, **kwargs), results)
        if _ray_cache_refs:
            self.cache_from_last_execute = results
        return result

    async def get_object_refs_from_last_execute(self) -> dict[str, Any]:
        """The results of the nodes in the last ``execute(_ray_cache_refs=True)``, by ``get_stable_uuid()``."""
        return dict(self.cache_from_last_execute)

    def clear_cache(self) -> None:
        """Forgets the results of the last execution."""
        self.cache_from_last_execute = {}

    def experimental_compile(self, *args: Any, **options: Any) -> NoReturn:
        """Not supported. Raises NotImplementedError."""
        raise NotImplementedError("zray has no compiled graphs: run the graph with execute(), which submits its calls")

    def with_tensor_transport(self, *args: Any, **options: Any) -> NoReturn:
        """Not supported. Raises NotImplementedError."""
        raise NotImplementedError("zray has no tensor transports: tensors pass through the object store; leave it out")

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        """Runs this node, whose arguments are results already. ``args``, ``kwargs``: those of ``execute``."""
        raise NotImplementedError

    # ------------------------------------------------------------------ walking

    def apply_recursive(self, fn: Callable[[Any], T]) -> T:
        """Calls ``fn(node)`` for each node of the graph, from the arguments upwards, each once.

        ``fn`` gets a copy of the node in which the results of ``fn`` stand in the places of the nodes below. Returns
        the result for this node.

        Raises AssertionError if the graph has two input nodes.
        """
        return self._walk(fn, {})

    def traverse_and_apply(self, fn: Callable[[DAGNode], Any]) -> None:
        """Calls ``fn(node)`` for this node and all nodes below it, each once, from this node downwards.

        In Ray it reaches the nodes above, too: here a node does not know who uses it.
        """
        seen: dict[str, DAGNode] = {self._stable_uuid: self}
        level = [self]
        while level:
            for node in level:
                fn(node)
            below = [child for node in level for child in node._get_all_child_nodes()]
            level = list({child._stable_uuid: child for child in below if child._stable_uuid not in seen}.values())
            seen.update((child._stable_uuid, child) for child in level)

    def _walk(self, visit: Callable[[Any], T], results: dict[str, T]) -> T:
        """As ``apply_recursive``. ``results``: filled with the results, by the identifiers of nodes."""
        inputs = set()
        for node in self._in_order():
            if node._is_input:
                inputs.add(node._stable_uuid)
                assert len(inputs) == 1, "Each DAG should only have one unique InputNode, and this one has two"
            results[node._stable_uuid] = visit(node._with(lambda child: results[child._stable_uuid]))
        return results[self._stable_uuid]

    _is_input = False

    def _in_order(self) -> list[DAGNode]:
        """This node and all nodes below it, each once, each after the nodes that it needs. No recursion: a graph may
        have many thousand nodes one below the other."""
        order: dict[str, DAGNode] = {}
        entered: set[str] = set()
        todo: list[tuple[DAGNode, bool]] = [(self, False)]
        while todo:
            node, is_left = todo.pop()
            if is_left:
                order.setdefault(node._stable_uuid, node)
            elif node._stable_uuid not in entered:
                entered.add(node._stable_uuid)
                todo.append((node, True))
                todo.extend((child, False) for child in reversed(node._get_all_child_nodes()))
        return list(order.values())

    def _values(self) -> Iterable[Any]:
        """The values in which nodes may be."""
        return *self._bound_args, *self._bound_kwargs.values(), *self._bound_other_args_to_resolve.values()

    def _get_all_child_nodes(self) -> list[DAGNode]:
        """The nodes in the arguments, wherever inside, each once."""
        found = {id(node): node for value in self._values() for node in Scan(value, DAGNode).nodes}
        return list(found.values())

    def _get_toplevel_child_nodes(self) -> list[DAGNode]:
        """The nodes that are arguments themselves, each once."""
        found = {id(value): value for value in self._values() if isinstance(value, DAGNode)}
        return list(found.values())

    def _with(self, replace: Callable[[DAGNode], Any]) -> DAGNode:
        """A copy of this node with ``replace(node)`` in the place of each node in its arguments."""

        def replaced(value: Any) -> Any:
            return Scan(value, DAGNode).replaced(replace)

        values = [replaced(value) for value in self._bound_args]
        args = tuple(values) if isinstance(self._bound_args, tuple) else values
        kwargs = {name: replaced(value) for name, value in self._bound_kwargs.items()}
        other = {name: replaced(value) for name, value in self._bound_other_args_to_resolve.items()}
        return self._copy(args, kwargs, self.get_options(), other)

    def _apply_and_replace_all_child_nodes(self, fn: Callable[[DAGNode], Any]) -> DAGNode:
        """As ``_with``, calling ``fn`` once for each node."""
        done = {child._stable_uuid: fn(child) for child in self._get_all_child_nodes()}
        return self._with(lambda child: done[child._stable_uuid])

    def apply_functional(
        self, source_input_list: Any, predicate_fn: Callable[[Any], bool], apply_fn: Callable[[Any], Any]
    ) -> Any:
        """Returns ``source_input_list`` with ``apply_fn(node)`` in the place of each node inside for which
        ``predicate_fn(node)`` is true. No node is changed."""
        scan = Scan(source_input_list, DAGNode)
        done = {node._stable_uuid: apply_fn(node) for node in scan.nodes if predicate_fn(node)}
        return scan.replaced(lambda node: done.get(node._stable_uuid, node))

    def _copy(
        self,
        new_args: Sequence[Any],
        new_kwargs: dict[str, Any],
        new_options: dict[str, Any],
        new_other_args_to_resolve: dict[str, Any],
    ) -> DAGNode:
        copy = self._copy_impl(new_args, new_kwargs, new_options, new_other_args_to_resolve)
        copy._stable_uuid = self._stable_uuid
        return copy

    def _copy_impl(
        self,
        new_args: Sequence[Any],
        new_kwargs: dict[str, Any],
        new_options: dict[str, Any],
        new_other_args_to_resolve: dict[str, Any],
    ) -> DAGNode:
        """Returns a node of the same kind with these arguments."""
        raise NotImplementedError

    # ------------------------------------------------------------------ display and errors

    @property
    def _label(self) -> str:
        """What the node runs, for people."""
        return type(self).__name__

    def __str__(self) -> str:
        lines = [f"({type(self).__name__}, {self._stable_uuid})("]
        named = (
            ("body", self._label),
            ("args", list(self._bound_args)),
            ("kwargs", self._bound_kwargs),
            ("options", self._bound_options),
            ("other_args_to_resolve", self._bound_other_args_to_resolve),
        )
        for name, value in named:
            text = value if isinstance(value, str) else _show(value)
            lines.extend(f"    {line}" for line in f"{name}={text}".split("\n"))
        return "\n".join([*lines, ")"])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __getattr__(self, name: str) -> Any:
        if name == "bind":
            raise AttributeError(f".bind() cannot be used again on {type(self)}")
        if name == "remote":
            raise AttributeError(f".remote() cannot be used on {type(self)}: run the graph with .execute()")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _show(value: Any) -> str:
    """A value as text; a node inside is shown with what is below it."""
    if isinstance(value, DAGNode):
        return str(value)
    if isinstance(value, (list, tuple)):
        rows = [_show(item) for item in value]
    elif isinstance(value, dict):
        rows = [f"{key}: {_show(item)}" for key, item in value.items()]
    else:
        return str(value)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    if not rows:
        return opening + closing
    inner = "\n".join(f"    {line}" for row in rows for line in row.split("\n"))
    return f"{opening}\n{inner}\n{closing}"
