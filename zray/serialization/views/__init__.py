"""Pickles values of other libraries so that their memory stays outside the pickle.

Most libraries pickle into ``bytes``. That makes one copy when a value is written, and another one when it is read. Here
their types are split into a description and a buffer, which a reader maps from the store. There are two rules:

- A value is *lent* if its type is immutable anyway, or if NumPy can forbid writing to it, as on Ray. The reader gets a
  read-only view of shared memory.
- A value is *copied* out of the store, once, if programs write to its type (torch tensors, ``bitarray``,
  ``array.array``). So it is writable, as on Ray. The setting ``mutable_as_views`` lends these too, if the library can.

This imports no libraries. ``find`` looks for them in ``sys.modules``. For each library there is a module in this
package, which is loaded when the library is found. Values are found by exact type, except that instances of subclasses
of ``numpy.ndarray`` are found too.
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
"""Whether this process also reads values of types that programs write to as views."""


def read_mutable_as_views(wanted: bool) -> None:
    """Sets ``mutable_as_views``."""
    global mutable_as_views
    mutable_as_views = wanted


ancestors: tuple[type, ...] = (type, BaseException)
"""Types whose instances the pickler handles itself, subclasses included. ``numpy.ndarray`` is added when NumPy is
loaded, for ``reduce_descendant``."""


def reduce_array_array(value: array.array[Any]) -> Any:
    """Reduces an ``array.array``. It is read as a copy, which is writable."""
    return load_array_array, (value.typecode, pickle.PickleBuffer(value))


def load_array_array(typecode: str, data: memoryview) -> array.array[Any]:
    """Undoes ``reduce_array_array``."""
    value: array.array[Any] = array.array(typecode)
    value.frombytes(data)
    return value


reducers: dict[type, Reducer] = {array.array: reduce_array_array}
"""The reducers, by exact type."""

custom: set[type] = set()
"""The types for which the program has registered a serializer, see ``zray.serialization.custom``."""

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
"""Modules of other libraries, and the modules in this package that know their types. The function ``reducers`` of such
a module returns a dictionary of them."""

_missing = dict(_MODULES)
_n_modules = 0
_lock = threading.RLock()  # reentrant: an import may run the user's code, which may pickle


def find() -> None:
    """Adds the reducers of libraries that were imported since the last call. Costs almost nothing if there are none."""
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
            reducers.update({kind: reduce for kind, reduce in found.items() if kind not in custom})
            if name == "numpy":
                ancestors = (*ancestors, *found)
        _n_modules = max(n_modules, len(sys.modules)) if complete else 0


def _is_being_imported(name: str) -> bool:
    """Whether a thread is importing the module at the moment, so that it is not complete yet."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def reduce_descendant(value: Any) -> Any:
    """Reduces an instance of a subclass of ``numpy.ndarray``."""
    from zray.serialization.views import arrays

    return arrays.reduce_array(value)
