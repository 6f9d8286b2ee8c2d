"""Serializers that programs register for their classes. They go before all others, by exact type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.serialization import views
from zray.serialization.views.reducer import Reducer

_replaced: dict[type, Reducer | None] = {}
"""The registered classes, and the reducers that they had before."""


def register(kind: type, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """Makes ``deserializer(serializer(value))`` the copy of a value of exactly this type."""
    views.find()  # a reducer that is found later would replace this one

    def reduce(value: Any) -> Any:
        return deserializer, (serializer(value),)

    if kind not in _replaced:
        _replaced[kind] = views.reducers.get(kind)
    views.reducers[kind] = reduce
    views.custom.add(kind)


def deregister(kind: type) -> None:
    """Undoes ``register``."""
    if kind not in _replaced:
        return
    before = _replaced.pop(kind)
    views.custom.discard(kind)
    if before is None:
        views.reducers.pop(kind, None)
    else:
        views.reducers[kind] = before
