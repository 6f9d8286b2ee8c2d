"""The setting ``dataframe_optimize`` of Dask."""

from __future__ import annotations

from typing import Any


def dataframe_optimize(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """Returns the graph as it is.

    Before Dask 2025.1 a function of this name could change the graphs of dataframes, and Ray's changed how shuffles
    return their parts. Today's Dask optimizes the expressions of a dataframe before there is a graph.
    """
    return dsk
