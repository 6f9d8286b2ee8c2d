"""Pickles by value the definitions of a script that cloudpickle cannot, or changes: caches, dispatchers, slots.

- A class with ``__slots__`` arrives with its slots: they are given when the class is made. cloudpickle makes the class
  without slots and sets ``__slots__`` as a plain attribute.
- A function with ``functools.lru_cache`` or ``cache`` arrives with an empty cache, a function with ``singledispatch``
  with all of its registered functions, a ``cached_property`` without its lock.
- A ``ContextVar`` arrives with its default, and a ``threading.local`` arrives empty, as another thread would see them.
  All pickles that contain the same one load the same object in a process.

Objects that an import finds go by reference, as functions do.
"""

from __future__ import annotations

import abc
import contextvars
import enum
import functools
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from cloudpickle import cloudpickle as _cloudpickle

_CACHED: Any = type(functools.lru_cache(maxsize=1)(len))
_FUNCTOOLS = vars(functools)
_MADE_ANEW = ("__dict__", "__weakref__", "__slots__", "__slotnames__", "__annotate_func__", "_abc_impl")
"""Attributes of a class with slots that the interpreter or ``copyreg`` makes again, so they are not sent."""


def goes_by_reference(thing: Any) -> bool:
    """Whether an import finds a function or class under its name, and its module is not registered to go by value."""
    found = _cloudpickle._lookup_module_and_qualname(thing)
    return found is not None and not _cloudpickle._is_registered_pickle_by_value(found[0])


# ---------------------------------------------------------------- classes


def has_slots(kind: type) -> bool:
    """Whether a class has slots of its own that cloudpickle would lose.

    The slots of enumerations are Python's own. An empty ``__slots__``, as in a ``NamedTuple``, is no loss.
    """
    return bool(kind.__dict__.get("__slots__")) and not isinstance(kind, enum.EnumMeta)


def reduce_class_with_slots(kind: type) -> Any:
    """Reduces a class with slots, to be sent by value."""
    metaclass, name, bases, namespace, tracker_id, extra = _cloudpickle._class_getnewargs(kind)
    members = [name for name, member in vars(kind).items() if _is_slot(kind, member)]
    slots = vars(kind)["__slots__"]
    if not isinstance(slots, (str, tuple, list, dict)):  # an iterator, which the class statement has used up
        slots = tuple(members)
    arguments = (metaclass, name, bases, {**namespace, "__slots__": slots}, tracker_id, extra)
    state = _cloudpickle._extract_class_dict(kind)
    for name in (*members, *_MADE_ANEW):
        state.pop(name, None)
    if isinstance(kind, abc.ABCMeta):
        registered = abc._get_dump(kind)[0]  # type: ignore[attr-defined]
        state["_abc_impl"] = [each for reference in registered if (each := reference()) is not None]
    return _cloudpickle._make_skeleton_class, arguments, (state, {}), None, None, _cloudpickle._class_setstate


def _is_slot(kind: type, member: Any) -> bool:
    return type(member) is types.MemberDescriptorType and member.__objclass__ is kind


# ---------------------------------------------------------------- functools


def _reduce_cached(function: Any) -> Any:
    if goes_by_reference(function):
        return NotImplemented
    parameters = function.cache_parameters()
    return make_cached, (function.__wrapped__, parameters["maxsize"], parameters["typed"])


def make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Undoes ``_reduce_cached``."""
    return functools.lru_cache(maxsize, typed)(function)


def is_dispatcher(function: types.FunctionType) -> bool:
    """Whether ``functools.singledispatch`` has made ``function``."""
    return function.__globals__ is _FUNCTOOLS and "registry" in function.__dict__


def reduce_dispatcher(function: Any) -> Any:
    """Reduces a function with ``singledispatch``, to be sent by value."""
    names = (function.__module__, function.__name__, function.__qualname__, function.__doc__)
    return make_dispatcher, (list(function.registry.items()), names)


def make_dispatcher(registered: list[tuple[type, Callable[..., Any]]], names: tuple[Any, ...]) -> Any:
    """Undoes ``reduce_dispatcher``."""
    (_, default), *others = registered
    function: Any = functools.singledispatch(default)
    for kind, implementation in others:
        function.register(kind, implementation)
    function.__module__, function.__name__, function.__qualname__, function.__doc__ = names
    return function


def _reduce_dispatching_method(method: Any) -> Any:
    return make_dispatching_method, (method.func, method.dispatcher)


def make_dispatching_method(function: Any, dispatcher: Any) -> Any:
    """Undoes ``_reduce_dispatching_method``."""
    method: Any = functools.singledispatchmethod(function)
    method.dispatcher = dispatcher
    return method


def _reduce_cached_property(cached: Any) -> Any:
    return make_cached_property, (cached.func, cached.attrname, cached.__doc__)


def make_cached_property(function: Any, name: str | None, doc: str | None) -> Any:
    """Undoes ``_reduce_cached_property``."""
    cached: Any = functools.cached_property(function)
    cached.attrname, cached.__doc__ = name, doc
    return cached


# ---------------------------------------------------------------- objects that are unique in a process


_by_name: dict[bytes, Any] = {}
_names: dict[int, bytes] = {}  # by id(): ids stay valid because ``_by_name`` keeps the objects until the process ends
_lock = threading.Lock()


def _name_of(value: Any) -> bytes:
    with _lock:
        name = _names.get(id(value))
        if name is None:
            name = _names[id(value)] = os.urandom(16)
            _by_name[name] = value
        return name


def _named(name: bytes, value: Any) -> Any:
    """Returns the value with ``name`` in this process. It is ``value`` if there was none."""
    with _lock:
        value = _by_name.setdefault(name, value)
        _names[id(value)] = name
        return value


def _place_of(value: Any) -> tuple[types.ModuleType, str] | None:
    """Returns an importable module that has ``value`` as an attribute, and the attribute's name; None if none has.

    For values that do not know their own module and name.
    """
    for name, module in list(sys.modules.items()):
        if name == "__main__" or not isinstance(module, types.ModuleType) or module.__spec__ is None:
            continue
        if _cloudpickle._is_registered_pickle_by_value(module):
            continue
        for key, each in list(vars(module).items()):
            if each is value:
                return module, key
    return None


def _reduce_context_variable(variable: contextvars.ContextVar[Any]) -> Any:
    place = _place_of(variable)
    if place is not None:
        return getattr, place
    try:
        default: tuple[Any, ...] = (contextvars.Context().run(variable.get),)
    except LookupError:
        default = ()
    return make_context_variable, (_name_of(variable), variable.name, *default)


def make_context_variable(name: bytes, label: str, *default: Any) -> Any:
    """Undoes ``_reduce_context_variable``."""
    made: contextvars.ContextVar[Any]
    made = contextvars.ContextVar(label, default=default[0]) if default else contextvars.ContextVar(label)
    return _named(name, made)


def _reduce_thread_local(local: threading.local) -> Any:
    place = _place_of(local)
    if place is not None:
        return getattr, place
    return make_thread_local, (_name_of(local),)


def make_thread_local(name: bytes) -> Any:
    """Undoes ``_reduce_thread_local``."""
    return _named(name, threading.local())


reducers: dict[Any, Callable[[Any], Any]] = {
    _CACHED: _reduce_cached,
    functools.singledispatchmethod: _reduce_dispatching_method,
    functools.cached_property: _reduce_cached_property,
    contextvars.ContextVar: _reduce_context_variable,
    threading.local: _reduce_thread_local,
}
"""By exact type."""
