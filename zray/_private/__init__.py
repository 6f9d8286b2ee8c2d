"""A few names from Ray's private packages that programs use all the same. A module is loaded when it is asked for.

Each name here does what its docstring says, with zray's public means. There is nothing of Ray's own processes: no GCS,
no raylet, no Redis.
"""

from __future__ import annotations

from typing import Any

_SUBMODULES = (
    "async_compat",
    "internal_api",
    "ray_constants",
    "services",
    "state",
    "test_utils",
    "utils",
    "worker",
)
"""Modules of this package that are attributes of it although the program has not imported them."""


def __getattr__(name: str) -> Any:
    if name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES})
