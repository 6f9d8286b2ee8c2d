"""``bitarray``. It is read as a copy, which is writable; it is lent if the setting says so and it has whole bytes."""

from __future__ import annotations

import pickle
from typing import Any

from bitarray import bitarray

from zray.serialization import views
from zray.serialization.views.reducer import Reducer


def reducers() -> dict[type, Reducer]:
    """See ``zray.serialization.views``."""
    return {bitarray: _reduce_bits}


def _reduce_bits(bits: Any) -> Any:
    if memoryview(bits).readonly:  # a view of another buffer: it must stay read-only
        return NotImplemented
    return load_bits, (
        bits.endian if isinstance(bits.endian, str) else bits.endian(),
        len(bits),
        pickle.PickleBuffer(bits),
    )


def load_bits(endian: str, n_bits: int, data: memoryview) -> Any:
    """Undoes ``_reduce_bits``."""
    if views.mutable_as_views and not n_bits % 8:
        return bitarray(buffer=data, endian=endian)
    bits = bitarray(endian=endian)
    bits.frombytes(data)
    del bits[n_bits:]
    return bits
