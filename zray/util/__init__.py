"""The package in which Ray has utilities. Names are loaded at their first use, so that ``import zray`` stays small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zray.util.named_actors import list_named_actors

__all__ = ["list_named_actors"]

_PLACES = {"list_named_actors": "zray.util.named_actors"}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
