"""Nodes of remote functions, and the node that collects several results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zray.api.decorator import remote
from zray.api.remote_function import RemoteFunction
from zray.dag.node import DAGNode


class FunctionNode(DAGNode):
    """A call of a remote function.

    Args:
        func_body: the plain function, or the remote function with its options applied.
        func_options: the options of the call; they are applied to a plain function only.
    """

    def __init__(
        self,
        func_body: Callable[..., Any] | RemoteFunction[..., Any],
        func_args: Sequence[Any],
        func_kwargs: dict[str, Any],
        func_options: dict[str, Any],
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(func_body, RemoteFunction):
            func_body = remote(func_body).options(**func_options)
        self._remote_function = func_body
        super().__init__(func_args, func_kwargs, func_options, other_args_to_resolve)

    @property
    def _body(self) -> Callable[..., Any]:
        return self._remote_function._function

    @property
    def _label(self) -> str:
        return str(self._body)

    def _copy_impl(
        self,
        new_args: Sequence[Any],
        new_kwargs: dict[str, Any],
        new_options: dict[str, Any],
        new_other_args_to_resolve: dict[str, Any],
    ) -> FunctionNode:
        return FunctionNode(self._remote_function, new_args, new_kwargs, new_options, new_other_args_to_resolve)

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        return self._remote_function.remote(*self._bound_args, **self._bound_kwargs)


class MultiOutputNode(DAGNode):
    """The end of a graph with several results: ``execute()`` returns the list of them.

    Args:
        args: a list or tuple of nodes.

    Raises:
        ValueError: ``args`` is neither a list nor a tuple.
    """

    def __init__(
        self,
        args: list[DAGNode] | tuple[DAGNode, ...],
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(args, (list, tuple)):
            raise ValueError(f"MultiOutputNode takes a list or tuple of nodes for args, not {type(args).__name__}")
        super().__init__(list(args), {}, {}, other_args_to_resolve)

    def _copy_impl(
        self,
        new_args: Sequence[Any],
        new_kwargs: dict[str, Any],
        new_options: dict[str, Any],
        new_other_args_to_resolve: dict[str, Any],
    ) -> MultiOutputNode:
        return MultiOutputNode(list(new_args), new_other_args_to_resolve)

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        return list(self._bound_args)
