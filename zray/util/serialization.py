"""Custom serializers, under Ray's name for this module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.serialization import custom


def register_serializer(cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """Sets how this process serializes instances of exactly ``cls``: in arguments, results, ``put`` and closures.

    Other processes read such values without a registration, because ``deserializer`` travels with them. A worker that
    is to return instances of ``cls`` registers a serializer itself.

    Args:
        cls: a class. Instances of its subclasses are not affected.
        serializer: called with the instance; returns a value that can be serialized.
        deserializer: called with that value, in the process that reads it; returns the instance. It is pickled itself.

    Raises:
        TypeError: ``cls`` is not a class, or one of the functions cannot be called.
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_serializer() takes a class, got {cls!r}")
    for name, function in (("serializer", serializer), ("deserializer", deserializer)):
        if not callable(function):
            raise TypeError(f"register_serializer(): {name} must be a function, got {function!r}")
    custom.register(cls, serializer, deserializer)


def deregister_serializer(cls: type) -> None:
    """Undoes ``register_serializer`` in this process. Nothing happens if ``cls`` has no serializer."""
    custom.deregister(cls)
