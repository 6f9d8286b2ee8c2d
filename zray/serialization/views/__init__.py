"""How values of other libraries are pickled so that their memory stays outside of the pickle.

Most libraries pickle into ``bytes``: a copy when a value is written, and another one when it is read. Here their types
are taken apart into a description and a buffer, which the store maps for whoever reads it. Two rules:

- What is *lent* is a read-only view of shared memory. That is for types which are immutable anyway, or which NumPy
  keeps from being written to, as on Ray.
- What programs write to (torch tensors, ``bitarray``, ``array.array``) is *copied* out of the store, once, and so is
  writable as on Ray. ``mutable_as_views`` (the setting of that name) lends these too, where the library can.

Nothing is imported for that: ``find`` looks for libraries in ``sys.modules``, and each has a module of its own here,
which is loaded with it. Values are found by exact type. (Subclasses of ``numpy.ndarray`` are the exception.)
"""

from __future__ import annotations

import array
import importlib
import pickle
import sys
import threading
from typing import Any

from zray.serialization.views.reducer import Reducer

mutable_as_views = False
"""Whether this process reads as views also what programs write to."""


def read_mutable_as_views(wanted: bool) -> None:
    """Sets ``mutable_as_views``."""
    global mutable_as_views
    mutable_as_views = wanted


ancestors: tuple[type, ...] = (type, BaseException)
"""Whose instances the pickler does not leave to pickle, subclasses included; ``numpy.ndarray``, once it is loaded, for
``reduce_descendant``."""


def reduce_array_array(value: array.array[Any]) -> Any:
    """``array.array``: read as a copy, which is writable."""
    return load_array_array, (value.typecode, pickle.PickleBuffer(value))


def load_array_array(typecode: str, data: memoryview) -> array.array[Any]:
    """Undoes ``reduce_array_array``."""
    value: array.array[Any] = array.array(typecode)
    value.frombytes(data)
    return value


reducers: dict[type, Reducer] = {array.array: reduce_array_array}
"""By exact type."""

_MODULES = {
    "numpy": "arrays",
    "numpy.ma": "masked",
    "pyarrow": "arrow",
    "polars": "polars",
    "torch": "torch",
    "jax": "jax",
    "PIL.Image": "pil",
    "bitarray": "bitarray",
}
"""Modules of other libraries, and the modules here that know their types: ``reducers`` in them makes a dictionary."""

_missing = dict(_MODULES)
_n_modules = 0
_lock = threading.RLock()  # an import may run code of the user's, which may pickle


def find() -> None:
    """Takes in the libraries that have been imported since the last call. Costs next to nothing if there is none."""
    if len(sys.modules) != _n_modules:
        _find()


def _find() -> None:
    global _n_modules, ancestors
    with _lock:
        n_modules = len(sys.modules)
        complete = True
        for name in [name for name in _missing if name in sys.modules]:
            if _is_being_imported(name):
                complete = False
                continue
            knows = _missing.pop(name)
            try:
                found = importlib.import_module(f"{__name__}.{knows}").reducers()
            except Exception:
                continue
            reducers.update(found)
            if name == "numpy":
                ancestors = (*ancestors, *found)
        _n_modules = max(n_modules, len(sys.modules)) if complete else 0


def _is_being_imported(name: str) -> bool:
    """Whether somebody is in the middle of it: not all is there yet."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def reduce_descendant(value: Any) -> Any:
    """As a reducer, for an instance of a subclass of ``numpy.ndarray``."""
    from zray.serialization.views import arrays

    return arrays.reduce_array(value)
