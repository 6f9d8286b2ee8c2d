"""Finds the nodes inside a value, and makes a copy of the value with other values in their places.

Nodes may be anywhere: in lists, in dictionaries, in attributes of the user's objects. So the value is pickled, and the
pickler is asked about each object inside. What cannot contain a node (references, handles, functions, classes) is
neither pickled nor copied, and neither are the buffers of arrays. A value without nodes is used as it is.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle

from zray.api.actor import ActorClass, ActorHandle
from zray.api.remote_function import RemoteFunction
from zray.object_ref import ObjectRef

_ATOMS = (str, bytes, int, float, bool, type(None))
_KEPT = (ObjectRef, ActorHandle, ActorClass, RemoteFunction, FunctionType, ModuleType, type)


class Scan:
    """The nodes inside ``value``: instances of ``kind``, a class or several."""

    def __init__(self, value: Any, kind: type | tuple[type, ...]) -> None:
        self._value = value
        self._kind = kind
        self._kept: list[Any] = []
        self._buffers: list[pickle.PickleBuffer] = []
        self._nodes: dict[int, Any] = {}
        self._pickled = b""
        if isinstance(value, kind):
            self._nodes[id(value)] = value
        elif not isinstance(value, (*_ATOMS, *_KEPT)):
            self._find()

    @property
    def nodes(self) -> list[Any]:
        """Each of the nodes once, in the order in which they were found."""
        return list(self._nodes.values())

    def _find(self) -> None:
        file = io.BytesIO()
        try:
            _Pickler(file, self.place_of, self._buffers.append).dump(self._value)
        except Exception:
            # No call can take a value that cannot be pickled. That call's error names the argument, so the value is
            # passed on as it is.
            self._nodes.clear()
        self._pickled = file.getvalue()

    def place_of(self, thing: Any) -> int | None:
        """Notes an object that is not pickled, and returns its number; None: it is to be pickled."""
        if isinstance(thing, self._kind):
            self._nodes[id(thing)] = thing
        elif not isinstance(thing, _KEPT):
            return None
        self._kept.append(thing)
        return len(self._kept) - 1

    def replaced(self, replace: Callable[[Any], Any]) -> Any:
        """Returns the value with ``replace(node)`` in the place of each node."""
        if not self._nodes:
            return self._value
        if id(self._value) in self._nodes:
            return replace(self._value)

        def load(place: int) -> Any:
            thing = self._kept[place]
            return replace(thing) if id(thing) in self._nodes else thing

        return _Unpickler(self._pickled, self._buffers, load).load()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
    def __init__(
        self, file: io.BytesIO, place_of: Callable[[Any], int | None], on_buffer: Callable[[Any], Any]
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=on_buffer)
        self.persistent_id = place_of


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, buffers: list[pickle.PickleBuffer], load: Callable[[int], Any]) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._load = load

    def persistent_load(self, place: int) -> Any:
        return self._load(place)
