"""``numpy.ma.MaskedArray``. Its data and mask are lent. It arrives with a full mask, as from NumPy's own pickles."""

from __future__ import annotations

from typing import Any

import numpy as np

from zray.serialization.views.reducer import Reducer


def reducers() -> dict[type, Reducer]:
    """See ``zray.serialization.views``."""
    return {np.ma.MaskedArray: _reduce_masked}


def _reduce_masked(array: Any) -> Any:
    return load_masked, (array.data, np.ma.getmaskarray(array), array._fill_value)


def load_masked(data: Any, mask: Any, fill_value: Any) -> Any:
    """Undoes ``_reduce_masked``."""
    array = np.ma.MaskedArray(data, mask=mask, copy=False)
    if fill_value is not None:
        array.fill_value = fill_value
    return array
