"""Encodes remote functions and actor classes as bytes, named by their hash, so that each is shipped once.

A definition that an import finds on the worker goes by reference. All others go by value: lambdas, local functions,
definitions in ``__main__``, and definitions that their own module no longer has under their name. The last case is the
usual one here: ``@zray.remote`` leaves a wrapper in the module, so a reference to ``module.f`` would load the wrapper
and not ``f``.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

from zray.exceptions import DeserializationError, SerializationError
from zray.ids import function_id_of
from zray.serialization import pickler
from zray.serialization.captures import Captures, after_reloads
from zray.serialization.explain import explain_unpicklable
from zray.serialization.pickler import LoadRef
from zray.system.signals import came_from_handler


@dataclasses.dataclass(frozen=True)
class PickledCallable:
    """A function or class that is ready to be shipped. ``id16`` is the hash of ``blob``."""

    id16: bytes
    name: str
    """Its qualified name without the enclosing functions: ``f``, ``Outer.Inner``."""
    full_name: str
    """The same after the name of its module; for a definition in ``__main__``, the name of its file, as in Ray."""
    blob: bytes
    refs: tuple[bytes, ...]
    """Identifiers of the ObjectRefs in its closure, globals and defaults."""
    captures: Captures | None = None
    """The objects that it refers to by name, to compare before each call; None if there are none."""


def pickle_callable(obj: Callable[..., Any]) -> PickledCallable:
    """Pickles a function or class. Raises SerializationError, which names the variable that cannot be pickled."""
    name = _name_of(obj)
    try:
        blob, refs, functions = pickler.dump_callable(obj)
    except MemoryError:
        raise
    except Exception as error:
        if came_from_handler(error):
            raise
        raise SerializationError(explain_unpicklable(obj, f"{_kind_of(obj)} {name!r}")) from error
    captures = Captures(functions, len(blob))
    reloaded = captures.reloaded()
    if reloaded:
        blob = after_reloads(blob, reloaded)
    shown = f"{_module_of(obj)}.{name}"
    return PickledCallable(function_id_of(blob), name, shown, blob, tuple(refs), captures or None)


def load_callable(blob: bytes | memoryview, load_ref: LoadRef) -> Any:
    """Loads the function or class in ``blob``.

    Raises ModuleMissingError if a module that it needs is not on this machine, DeserializationError if something that
    it uses cannot be loaded.
    """
    try:
        return pickler.load(blob, (), load_ref)
    except DeserializationError as error:
        raise error.about("a function or class, with what it uses,") from error.__cause__


def _name_of(obj: Callable[..., Any]) -> str:
    name: str = getattr(obj, "__qualname__", None) or type(obj).__qualname__
    return name.rpartition("<locals>.")[2]


def _module_of(obj: Callable[..., Any]) -> str:
    module: str = getattr(obj, "__module__", None) or type(obj).__module__
    if module != "__main__":
        return module
    path = getattr(sys.modules.get(module), "__file__", None)
    return os.path.splitext(os.path.basename(path))[0] if isinstance(path, str) else module


def _kind_of(obj: Callable[..., Any]) -> str:
    return "class" if isinstance(obj, type) else "function"
