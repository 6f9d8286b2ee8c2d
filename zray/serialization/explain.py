"""Finds the member of a value because of which the value cannot be pickled.

Pickle names the type that it could not pickle, but not where in the value it was. So the value is walked here: if one
of its members cannot be pickled on its own either, the walk continues in that member. The members of an object are the
parts that pickle would see (``__reduce_ex__``), so an attribute that ``__getstate__`` leaves out is never named. This
runs only after a failure.
"""

from __future__ import annotations

import functools
import inspect
import io
import reprlib
import socket
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

from zray.serialization.pickler import PROTOCOL, ValuePickler
from zray.system.signals import came_from_handler

_DEEPEST = 100
_REASON_CHARS = 300
Member = tuple[str, Any]


def explain_unpicklable(value: Any, label: str) -> str:
    """Returns a text that says why ``value`` cannot be pickled, and what to do. The text calls the value ``label``."""
    path, culprit, error = _innermost(value)
    begin = f"{_in_rays_words(label)}: cannot pickle {label}"
    if isinstance(error, RecursionError):
        return (
            f"{begin}: it is nested too deeply (sys.getrecursionlimit() is {sys.getrecursionlimit()}). "
            "Flatten it, for instance into a list, or raise the limit with sys.setrecursionlimit()"
        )
    what = f"{path.strip()} is a {type(culprit)}" if path else f"it is a {type(culprit)}"
    reason = f" ({_shorten(error)})" if error else ""
    return f"{begin}: {what}{reason}. {_remedy(culprit)}"


def _in_rays_words(label: str) -> str:
    """What failed, as the texts of Ray's errors begin: programs look for these words."""
    kind, _, name = label.partition(" ")
    if kind == "class":
        return f"Could not serialize the actor class {name}"
    return f"Could not serialize the {'put value' if label == 'the value' else label}"


def _innermost(value: Any) -> tuple[str, Any, Exception | None]:
    """Returns the path to the innermost member that fails on its own, that member, and its error."""
    error = _failure(value)
    path = ""
    seen = [value]  # keeps the objects that __reduce_ex__ has made, so that no new one gets their address
    while error is not None and not isinstance(error, RecursionError) and len(seen) < _DEEPEST:
        for step, member in _members(value):
            if any(member is other for other in seen):
                continue
            failure = _failure(member)
            if failure is not None:
                path, value, error = path + step, member, failure
                seen.append(member)
                break
        else:
            break
    return path, value, error


class _Nowhere(io.RawIOBase):
    def write(self, data: Any) -> int:
        return len(data)


def _failure(value: Any) -> Exception | None:
    try:
        ValuePickler(_Nowhere(), lambda buffer: None).dump(value)
    except Exception as error:
        if came_from_handler(error):
            raise
        return error
    return None


def _members(value: Any) -> Iterator[Member]:
    """Yields the parts of ``value`` that pickle would visit, each with the text that is appended to the path."""
    if type(value) is dict:
        yield from _items(value)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from _attributes(dict(zip(value._fields, value, strict=False)))
    elif type(value) in (list, tuple):
        yield from ((f"[{index}]", member) for index, member in enumerate(value))
    elif type(value) in (set, frozenset):
        yield from ((f" element {_short_repr(member)}", member) for member in value)
    elif isinstance(value, types.FunctionType):
        yield from _function_members(value)
    elif isinstance(value, types.MethodType):
        yield from ((".__self__", value.__self__), (".__func__", value.__func__))
    elif isinstance(value, (staticmethod, classmethod)):
        yield "", value.__func__
    elif isinstance(value, property):
        yield from (("", accessor) for accessor in (value.fget, value.fset, value.fdel) if accessor)
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, type):
        yield from _class_members(value)
    else:
        yield from _reduced_members(value)


def _items(mapping: dict[Any, Any]) -> Iterator[Member]:
    for key, member in mapping.items():
        yield f"[{_short_repr(key)}]", member
        yield f" key {_short_repr(key)}", key


def _function_members(function: types.FunctionType) -> Iterator[Member]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f" closure variable {name!r}", cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield f" global variable {name!r}", function.__globals__[name]
    for index, default in enumerate(function.__defaults__ or ()):
        yield f" default argument {index}", default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield f" default of {name!r}", default
    yield from _attributes(vars(function))


def _class_members(kind: type) -> Iterator[Member]:
    for name, member in vars(kind).items():
        if isinstance(member, (types.FunctionType, staticmethod, classmethod, property)):
            yield f".{name}", member
        elif not inspect.isdatadescriptor(member):  # the descriptors of __dict__ and of slots lead back to the class
            yield f" class attribute {name!r}", member
    yield from ((f" base class {base.__name__}", base) for base in kind.__bases__)


def _names(code: types.CodeType) -> set[str]:
    """The global names that ``code`` and the functions defined in it may use."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _reduced_members(value: Any) -> Iterator[Member]:
    try:
        reduced: Any = value.__reduce_ex__(PROTOCOL)
    except Exception as error:  # it has no members that can be visited: it is the cause itself
        if came_from_handler(error):
            raise
        return
    if not isinstance(reduced, tuple):
        return
    _, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)  # a pair is (__dict__, slots)
    for part in parts:
        yield from _attributes(part) if isinstance(part, dict) else [(" state", part)]
    yield from ((f"[{index}]", member) for index, member in enumerate(items or ()))
    yield from _items(dict(pairs or ()))
    for member in arguments or ():
        yield (" class" if member is type(value) else ""), member


def _attributes(state: dict[Any, Any]) -> Iterable[Member]:
    return [(f".{name}", member) for name, member in state.items()]


def _short_repr(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except Exception:  # for example, an integer has too many digits
        return f"<{type(value).__name__}>"


def _shorten(error: Exception) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text[:_REASON_CHARS]}"


def _remedy(culprit: Any) -> str:
    if isinstance(culprit, (io.IOBase, socket.socket)):
        return "Pass its path or address and open it inside the task or actor"
    if isinstance(culprit, Iterator):
        return "Pass a list of its items instead"
    return (
        "Make it inside the task, or in the actor's constructor; or leave it out of the object's state "
        "with __getstate__"
    )
