"""NumPy arrays that NumPy itself pickles as a copy: of dates, of extension types, strided arrays, and subclasses.

They are lent, as other arrays are.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np

from zray.serialization.views.reducer import Reducer

_REFERENCES = 0b111
"""The flags of a dtype whose elements are not plain bytes: counted objects, elements pickled as a list, or pointers."""
_NUMBERS = frozenset((*range(17), 23))
"""The type numbers of elements that NumPy itself pickles as a buffer: bool, integers, floats and complex numbers."""
_NAMED = _NUMBERS | {18, 19, 21, 22}
"""The type numbers of dtypes that their short name describes fully: numbers, strings, dates and times."""


def reducers() -> dict[type, Reducer]:
    """See ``zray.serialization.views``."""
    return {np.ndarray: reduce_array}


def reduce_array(array: Any) -> Any:
    """Reduces an array, or an instance of a subclass that is pickled in the way of arrays or of astropy's Quantity."""
    kind, dtype = type(array), array.dtype
    if dtype.hasobject or dtype.flags & _REFERENCES or not array.nbytes:
        return NotImplemented
    state = None
    if kind is not np.ndarray:
        state = _state_of_subclass(array)
        if state is NotImplemented:
            return NotImplemented
        array = array.view(np.ndarray)
    elif dtype.num in _NUMBERS and array.flags.forc:
        return NotImplemented  # NumPy's own pickle does the same, and is faster
    flat, strides = _lay_out(array)
    data = pickle.PickleBuffer(flat.reshape(-1).view(np.uint8))
    description = dtype.str if dtype.num in _NAMED and dtype.metadata is None else dtype
    if state is not None:
        return load_array, (kind, description, array.shape, data, strides, state)
    return load_array, (kind, description, array.shape, data, strides)


def _lay_out(array: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Returns the elements in one piece (a copy if they are not), and the strides if these are not those of C order."""
    if array.flags.c_contiguous:
        return array, None
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    turned = array.transpose(order)
    if turned.flags.c_contiguous:
        return turned, array.strides
    return np.ascontiguousarray(array), None


def _state_of_subclass(array: Any) -> Any:
    """Returns the content for its ``__dict__``, or None; NotImplemented if the subclass defines its own pickling."""
    kind: Any = type(array)
    if kind.__reduce_ex__ is not np.ndarray.__reduce_ex__:
        return NotImplemented
    if kind.__reduce__ is np.ndarray.__reduce__ and kind.__setstate__ is np.ndarray.__setstate__:
        return None
    quantity = getattr(sys.modules.get("astropy.units"), "Quantity", None)
    if quantity is not None and kind.__reduce__ is quantity.__reduce__ and kind.__setstate__ is quantity.__setstate__:
        return array.__dict__
    return NotImplemented


def load_array(
    kind: Any, dtype: Any, shape: tuple[int, ...], data: Any, strides: tuple[int, ...] | None, state: Any = None
) -> Any:
    """Undoes ``reduce_array``. Returns a view of ``data``."""
    array = np.ndarray.__new__(kind, shape, dtype, data, 0, strides)
    if state is not None:
        array.__dict__.update(state)
    return array
