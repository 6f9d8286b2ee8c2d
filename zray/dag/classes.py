"""Nodes of actors and of calls of their methods.

Calls that are bound to the same class node run in the order in which they were bound: each has the one before it among
its ``other_args_to_resolve``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zray.api.actor import ActorClass, ActorHandle, ActorMethod
from zray.api.decorator import remote
from zray.dag.inputs import InputNode
from zray.dag.node import DAGNode

PARENT_CLASS_NODE_KEY = "parent_class_node"
PREV_CLASS_METHOD_CALL_KEY = "prev_class_method_call"
IS_CLASS_METHOD_OUTPUT_KEY = "is_class_method_output"


class ClassNode(DAGNode):
    """The creation of an actor. ``node.method.bind(...)`` makes a call of one of its methods.

    Args:
        cls: the plain class, or the actor class with its options applied.
        cls_options: the options of the actor; they are applied to a plain class only.

    Raises:
        ValueError: an input node is in the arguments of the constructor.
    """

    def __init__(
        self,
        cls: type | ActorClass[Any],
        cls_args: Sequence[Any],
        cls_kwargs: dict[str, Any],
        cls_options: dict[str, Any],
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        actor_class: Any = cls if isinstance(cls, ActorClass) else remote(cls).options(**cls_options)
        self._actor_class: ActorClass[Any] = actor_class
        self._body: type = actor_class._class
        self._last_call: ClassMethodNode | None = None
        super().__init__(cls_args, cls_kwargs, cls_options, other_args_to_resolve)
        if any(isinstance(node, InputNode) for node in self._in_order()):
            raise ValueError(
                "InputNode handles user dynamic input the the DAG, and cannot be used as args, kwargs, or "
                "other_args_to_resolve in ClassNode constructor because it is not available at class construction or "
                f"binding time. Give it to a method, not to {self._body.__name__}.bind()"
            )

    def _copy_impl(
        self,
        new_args: Sequence[Any],
        new_kwargs: dict[str, Any],
        new_options: dict[str, Any],
        new_other_args_to_resolve: dict[str, Any],
    ) -> ClassNode:
        return ClassNode(self._actor_class, new_args, new_kwargs, new_options, new_other_args_to_resolve)

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        return self._actor_class.remote(*self._bound_args, **self._bound_kwargs)

    @property
    def _label(self) -> str:
        return str(self._body)

    def __getattr__(self, name: str) -> Any:
        body = self.__dict__.get("_body")
        if body is None or name in ("bind", "remote") or (name.startswith("__") and name.endswith("__")):
            return super().__getattr__(name)
        getattr(body, name)  # raises AttributeError if there is no such method
        return UnboundMethod(self, name, {})


class UnboundMethod:
    """A method of a class node, before ``.bind()``."""

    def __init__(self, node: ClassNode, name: str, options: dict[str, Any]) -> None:
        self._node = node
        self._name = name
        self._options = options

    def options(self, **options: Any) -> UnboundMethod:
        """Returns the same method with other options of the call."""
        return UnboundMethod(self._node, self._name, {**self._options, **options})

    def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """Makes a call of the method, which runs after the calls that were bound before."""
        node = self._node
        other = {PARENT_CLASS_NODE_KEY: node, PREV_CLASS_METHOD_CALL_KEY: node._last_call}
        node._last_call = call = ClassMethodNode(self._name, args, kwargs, self._options, other)
        return call

    def __getattr__(self, name: str) -> Any:
        if name == "remote":
            raise AttributeError(f".remote() cannot be used on ClassMethodNodes: use {self._name}.bind(...)")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class ClassMethodNode(DAGNode):
    """A call of an actor's method, or one of the values of a call that returns several.

    Args:
        method_name: the method; for a value of a call, its name in texts.
        method_args: the arguments; for a value of a call, that call and the number of the value.
        other_args_to_resolve: the actor or its node, see the names of the keys.
    """

    def __init__(
        self,
        method_name: str,
        method_args: Sequence[Any],
        method_kwargs: dict[str, Any],
        method_options: dict[str, Any],
        other_args_to_resolve: dict[str, Any],
    ) -> None:
        self._method_name = method_name
        self._parent_class_node = other_args_to_resolve.get(PARENT_CLASS_NODE_KEY)
        self._prev_class_method_call = other_args_to_resolve.get(PREV_CLASS_METHOD_CALL_KEY)
        self._is_class_method_output = bool(other_args_to_resolve.get(IS_CLASS_METHOD_OUTPUT_KEY, False))
        super().__init__(method_args, method_kwargs, method_options, other_args_to_resolve)

    def _copy_impl(
        self,
        new_args: Sequence[Any],
        new_kwargs: dict[str, Any],
        new_options: dict[str, Any],
        new_other_args_to_resolve: dict[str, Any],
    ) -> ClassMethodNode:
        return ClassMethodNode(self._method_name, new_args, new_kwargs, new_options, new_other_args_to_resolve)

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_class_method_output:
            return self._bound_args[0][self._bound_args[1]]
        method = getattr(self._parent_class_node, self._method_name)
        if self._bound_options:
            method = method.options(**self._bound_options)
        return method.remote(*self._bound_args, **self._bound_kwargs)

    @property
    def _label(self) -> str:
        return f"{self._method_name}()"

    def __repr__(self) -> str:
        return str(self)

    def get_method_name(self) -> str:
        """The name of the method."""
        return self._method_name

    @property
    def num_returns(self) -> int:
        """The number of values that the call returns."""
        call = self.class_method_call
        if call is not None:
            return call.num_returns
        given = self._bound_options.get("num_returns")
        parent = self._parent_class_node
        if given is not None:
            return int(given)
        return int(getattr(parent, self._method_name)._n_returns) if isinstance(parent, ActorHandle) else 1

    @property
    def is_class_method_call(self) -> bool:
        """Whether the node is a call."""
        return not self._is_class_method_output

    @property
    def is_class_method_output(self) -> bool:
        """Whether the node is one of the values of a call."""
        return self._is_class_method_output

    @property
    def class_method_call(self) -> ClassMethodNode | None:
        """The call of which this node is a value; None if it is a call itself."""
        return self._bound_args[0] if self._is_class_method_output else None

    @property
    def output_idx(self) -> int | None:
        """Which value of the call this node is; None if it is a call itself."""
        return self._bound_args[1] if self._is_class_method_output else None


def bind_method(
    method: ActorMethod[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> ClassMethodNode | tuple[ClassMethodNode, ...]:
    """Makes a call of a method of an actor that exists. If it returns several values: a node for each of them.

    Raises TypeError if the arguments do not fit the method's signature.
    """
    handle, name = method._handle, method._meta.name
    method._meta.check.bind_check(args, kwargs)
    call = ClassMethodNode(name, args, kwargs, method._given, {PARENT_CLASS_NODE_KEY: handle})
    if method._n_returns <= 1:
        return call
    other = {PARENT_CLASS_NODE_KEY: handle, IS_CLASS_METHOD_OUTPUT_KEY: True}
    return tuple(
        ClassMethodNode(f"return_idx_{index}", (call, index), {}, {}, other) for index in range(method._n_returns)
    )
