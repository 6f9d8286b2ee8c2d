"""Notices that a name which a pickled function or class uses is bound to another object now.

A pickle of a function by value contains the globals that it uses, and the variables of enclosing functions. The pickle
is made once. But a notebook that redefines a helper function, or a program that reloads a module, expects calls to use
the new one. So before each call, the objects bound to the names are compared by identity with those in the pickle. That
takes some dozens of nanoseconds for each name, and no time for a function that uses none.

Changes in place are not noticed (a list that grows, an attribute of a class). Neither are changes in what modules that
go by reference use of other modules. For pickles above ``WATCHED_BYTES``, only functions, classes and modules are
compared, not data, because the cluster keeps each new pickle.

Modules go by reference, and a worker imports each once. A module that was reloaded here is reloaded on the worker
before the pickle that refers to it is loaded (``after_reloads``).
"""

from __future__ import annotations

import builtins
import operator
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cloudpickle import cloudpickle as _cloudpickle

WATCHED_BYTES = 1 << 20
_is = operator.is_
_item = operator.getitem
_CODE = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_EMPTY = object()
_versions: dict[str, tuple[Any, int]] = {}
"""By module name: its ``__spec__``, which ``importlib.reload`` replaces, and the number of replacements seen."""


class Captures:
    """The objects to which the names in some functions were bound when the functions were pickled."""

    __slots__ = ("_cells", "_contents", "_missing", "_modules", "_names", "_spaces", "_values")

    def __init__(self, functions: Iterable[types.FunctionType], pickle_bytes: int) -> None:
        watches = _watches_data if pickle_bytes <= WATCHED_BYTES else _watches_code
        spaces: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        cells: list[types.CellType] = []
        missing: dict[int, tuple[dict[str, Any], set[str]]] = {}
        for function in functions:
            space = function.__globals__
            _, seen = spaces.setdefault(id(space), (space, {}))
            for name in _cloudpickle._extract_code_globals(function.__code__):
                if name in space:
                    if watches(space[name]):
                        seen[name] = space[name]
                elif not hasattr(builtins, name):
                    missing.setdefault(id(space), (space, set()))[1].add(name)
            cells += [cell for cell in function.__closure__ or () if watches(_contents(cell))]
        values = [value for _, seen in spaces.values() for value in seen.values()]
        contents = [_contents(cell) for cell in cells]
        self._modules = list({id(module): module for module in _modules_of([*values, *contents])}.values())
        seen_at = [(space, name, value) for space, seen in spaces.values() for name, value in seen.items()]
        seen_at += [(vars(module), "__spec__", module.__spec__) for module in self._modules]
        self._spaces = tuple(space for space, _, _ in seen_at)
        self._names = tuple(name for _, name, _ in seen_at)
        self._values = tuple(value for _, _, value in seen_at)
        self._cells = tuple(cells)
        self._contents = tuple(contents)
        self._missing = list(missing.values())

    def __bool__(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self._names or self._cells or self._missing)

    def changed(self) -> bool:
        """Whether any of the names is bound to another object now."""
        try:  # one expression that runs in C, because every call does this
            if not all(map(_is, map(_item, self._spaces, self._names), self._values)):
                return True
        except KeyError:  # a name was deleted
            return True
        if self._cells and not all(map(_is, map(_contents, self._cells), self._contents)):
            return True
        if not self._missing:
            return False
        return any(not missing.isdisjoint(space) for space, missing in self._missing)  # defined since

    def reloaded(self) -> list[tuple[str, int]]:
        """The modules that the functions use and that were reloaded, with the number of reloads."""
        versions = [(module.__name__, _version(module)) for module in self._modules]
        return [(name, version) for name, version in versions if version]


def _version(module: types.ModuleType) -> int:
    name, spec = module.__name__, module.__spec__
    known, version = _versions.get(name, (spec, 0))
    if known is not spec:
        version += 1
    _versions[name] = spec, version
    return version


def after_reloads(blob: bytes, modules: list[tuple[str, int]]) -> bytes:
    """Makes a pickle that, when it is loaded, first reloads ``modules`` and then loads ``blob``.

    A module is reloaded if that process has seen fewer reloads of it than the number given.
    """
    return pickle.dumps(_AfterReloads(blob, modules), 5)


class _AfterReloads:
    def __init__(self, blob: bytes, modules: list[tuple[str, int]]) -> None:
        self._made_by = _load_after_reloads, (blob, modules)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._made_by


def _load_after_reloads(blob: bytes, modules: list[tuple[str, int]]) -> Any:
    import importlib

    for name, version in modules:
        module = sys.modules.get(name)
        if module is None:
            module = importlib.import_module(name)  # the import loads the current version
        elif _versions.get(name, (None, 0))[1] < version:
            importlib.reload(module)
        _versions[name] = module.__spec__, max(version, _versions.get(name, (None, 0))[1])
    return pickle.loads(blob)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _EMPTY


def _watches_data(value: Any) -> bool:
    """Whether a name bound to ``value`` is watched. Names of modules of libraries are not: they are seldom rebound."""
    return not isinstance(value, types.ModuleType) or _is_users(value)


def _watches_code(value: Any) -> bool:
    return isinstance(value, _CODE) and _watches_data(value)


def _modules_of(values: Iterable[Any]) -> Iterator[types.ModuleType]:
    """The user's modules among ``values``, and the user's modules that define functions and classes among them."""
    for value in values:
        module = value if isinstance(value, types.ModuleType) else None
        if isinstance(value, (types.FunctionType, type)):
            module = sys.modules.get(value.__module__)
        if module is not None and _is_users(module):
            yield module


def _is_users(module: types.ModuleType) -> bool:
    """Whether the user may edit and reload a module: its file is not in the standard library or in site-packages."""
    origin = getattr(getattr(module, "__spec__", None), "origin", None)
    if not isinstance(origin, str) or not os.path.isabs(origin):
        return False
    return not origin.startswith(_LIBRARY) and not any(part in origin for part in _PACKAGES)
