"""Arrays of jax on the CPU. They are lent, because they are immutable. jax itself pickles arrays on other devices."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from zray.serialization.views.reducer import Reducer


def reducers() -> dict[type, Reducer]:
    """See ``zray.serialization.views``."""
    return {jax._src.array.ArrayImpl: _reduce_array}


def _reduce_array(array: Any) -> Any:
    devices = array.devices()
    if (
        len(devices) != 1
        or next(iter(devices)).platform != "cpu"
        or jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended)
    ):
        return NotImplemented
    return load_array, (np.asarray(array), array.weak_type)


def load_array(data: Any, weak_type: bool) -> Any:
    """Undoes ``_reduce_array``."""
    array: Any = jax.device_put(data, may_alias=True)
    if weak_type:
        array.aval = array.aval.update(weak_type=True)
    return array
