"""``InputNode``: stands for what a graph is executed with; and the nodes for parts of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zray.dag.node import DAGNode

_IN_CONTEXT_MANAGER = "__in_context_manager__"
_RESULT_TYPE = "result_type_string"


class InputNode(DAGNode):
    """What ``execute`` is given. Make it with ``with InputNode() as value:``, and use ``value``, ``value[0]``,
    ``value["key"]`` or ``value.name`` as arguments of ``.bind()``.

    ``execute(x)`` with one argument: the node is ``x``, and its parts are the parts of ``x``. With several arguments,
    or with keyword arguments: ``value[0]`` is the first argument, ``value["key"]`` and ``value.key`` are keyword
    arguments.

    Args:
        input_type: the type of the input, or the types of its parts by key; kept for tools that read it.

    Raises:
        ValueError: further arguments are given.
    """

    _is_input = True

    def __init__(
        self,
        *args: Any,
        input_type: type | dict[int | str, type] | None = None,
        _other_args_to_resolve: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if args or kwargs:
            raise ValueError("InputNode should not take any args or kwargs: the input is given to execute()")
        other = dict(_other_args_to_resolve or {})
        if isinstance(input_type, type):
            other[_RESULT_TYPE] = _name_of(input_type)
        self.input_type = input_type
        self._parts_by_key: dict[tuple[str, int | str], InputAttributeNode] = {}
        super().__init__([], {}, {}, other)

    def _copy_impl(
        self,
        new_args: Sequence[Any],
        new_kwargs: dict[str, Any],
        new_options: dict[str, Any],
        new_other_args_to_resolve: dict[str, Any],
    ) -> InputNode:
        return InputNode(_other_args_to_resolve=new_other_args_to_resolve)

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        assert self._bound_other_args_to_resolve.get(_IN_CONTEXT_MANAGER), (
            "InputNode is a singleton instance that should be only used in a context manager: with InputNode() as value"
        )
        return args[0] if len(args) == 1 and not kwargs else DAGInputData(*args, **kwargs)

    def __enter__(self) -> InputNode:
        self._bound_other_args_to_resolve[_IN_CONTEXT_MANAGER] = True
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __getattr__(self, name: str) -> InputAttributeNode:
        if name.startswith("__") or "_parts_by_key" not in self.__dict__:  # it is being copied or unpickled
            raise AttributeError(name)
        return self._part("__getattr__", name)

    def __getitem__(self, key: int | str) -> InputAttributeNode:
        assert isinstance(key, (int, str)), (
            "Please only use int index or str as first-level key of the input of a graph"
        )
        return self._part("__getitem__", key)

    def _part(self, accessor: str, key: int | str) -> InputAttributeNode:
        part = self._parts_by_key.get((accessor, key))
        if part is None:
            kind = self.input_type.get(key) if isinstance(self.input_type, dict) else None
            kind_name = _name_of(kind) if kind is not None else None
            part = self._parts_by_key[accessor, key] = InputAttributeNode(self, key, accessor, kind_name)
        return part

    def get_result_type(self) -> str | None:
        """The name of the input's type, if it was given."""
        return self._bound_other_args_to_resolve.get(_RESULT_TYPE)


class InputAttributeNode(DAGNode):
    """A part of the input: an item, or an attribute. ``key``: which."""

    def __init__(
        self, dag_input_node: Any, key: int | str, accessor_method: str, input_type: str | None = None
    ) -> None:
        self._dag_input_node = dag_input_node
        self._key = key
        self._accessor_method = accessor_method
        other = {
            "dag_input_node": dag_input_node,
            "key": key,
            "accessor_method": accessor_method,
            _RESULT_TYPE: input_type,
        }
        super().__init__([], {}, {}, other)

    def _copy_impl(
        self,
        new_args: Sequence[Any],
        new_kwargs: dict[str, Any],
        new_options: dict[str, Any],
        new_other_args_to_resolve: dict[str, Any],
    ) -> InputAttributeNode:
        other = new_other_args_to_resolve
        return InputAttributeNode(other["dag_input_node"], self._key, self._accessor_method, other[_RESULT_TYPE])

    def _execute_impl(self, *args: Any, **kwargs: Any) -> Any:
        whole = self._dag_input_node  # the input itself by now
        if self._accessor_method == "__getattr__" and not isinstance(whole, DAGInputData):
            return getattr(whole, str(self._key))
        return whole[self._key]

    @property
    def _label(self) -> str:
        return f"[{self._key!r}]"

    @property
    def key(self) -> int | str:
        """The index, name or key of the part."""
        return self._key

    def get_result_type(self) -> str | None:
        """The name of the part's type, if it was given."""
        return self._bound_other_args_to_resolve.get(_RESULT_TYPE)


class DAGInputData:
    """The arguments of ``execute``, if it was given several: positional ones by number, others by name.

    Raises:
        ValueError: it is asked for another kind of key.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args = list(args)
        self._kwargs = kwargs

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, int):
            return self._args[key]
        if isinstance(key, str):
            return self._kwargs[key]
        raise ValueError(f"Please only use int index or str as first-level key of the input, not {type(key).__name__}")


def _name_of(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
