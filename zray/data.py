"""Ray Data stays out of zray, which is Ray Core only.

The module can be imported, because libraries import it for a conversion that few of their users call.
"""

from __future__ import annotations

from typing import Any

_CONVERSIONS = frozenset({"from_arrow_refs", "from_numpy_refs", "from_pandas_refs"})


def _refuse(name: str) -> str:
    return (
        f"ray.data.{name}: Ray Data is not part of zray, which is Ray Core only. "
        "Use polars, pandas, Arrow or Dask, with tasks for the parts"
    )


def __getattr__(name: str) -> Any:
    if name in _CONVERSIONS:

        def conversion(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError(_refuse(name))

        conversion.__name__ = conversion.__qualname__ = name
        return conversion
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise ImportError(_refuse(name))
