"""Frames and series of polars. They are lent, as buffers of Arrow: they are immutable.

polars itself pickles the types that come back from Arrow changed (Categorical, Enum, Object, ...).
"""

from __future__ import annotations

from typing import Any

import polars as pl

from zray.serialization.views.reducer import Reducer

_PLAIN = frozenset(
    (
        *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64),
        *(pl.Boolean, pl.String, pl.Binary, pl.Date, pl.Time, pl.Datetime, pl.Duration),
    )
)


def reducers() -> dict[type, Reducer]:
    """See ``zray.serialization.views``."""
    return {pl.DataFrame: _reduce_frame, pl.Series: _reduce_series}


def _comes_back(dtype: Any) -> bool:
    base = dtype.base_type()
    if base is pl.List:
        return _comes_back(dtype.inner)
    if base is pl.Struct:
        return all(_comes_back(field.dtype) for field in dtype.fields)
    return base in _PLAIN


def _reduce_frame(frame: Any) -> Any:
    if not frame.width or not all(map(_comes_back, frame.dtypes)):
        return NotImplemented
    try:
        return load_frame, (frame.to_arrow(compat_level=pl.CompatLevel.newest()),)
    except ModuleNotFoundError:  # pyarrow is not installed
        return NotImplemented


def _reduce_series(series: Any) -> Any:
    if not _comes_back(series.dtype):
        return NotImplemented
    try:
        return load_series, (series.name, series.to_arrow(compat_level=pl.CompatLevel.newest()))
    except ModuleNotFoundError:  # pyarrow is not installed
        return NotImplemented


def load_frame(table: Any) -> Any:
    """Undoes ``_reduce_frame``."""
    return pl.from_arrow(table, rechunk=False)


def load_series(name: str, array: Any) -> Any:
    """Undoes ``_reduce_series``."""
    series: Any = pl.from_arrow(array, rechunk=False)
    return series.alias(name)
