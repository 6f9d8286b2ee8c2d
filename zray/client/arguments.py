"""Packs the arguments of tasks and calls: small ones travel in the message, large ones through the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zray.client.advice import Advice
from zray.client.core.client_core import ClientCore
from zray.client.core.payloads import Arguments
from zray.client.core.states import INLINE, STORED
from zray.client.objects import Objects
from zray.exceptions import ObjectLostError
from zray.ids import put_id
from zray.object_ref import ObjectRef
from zray.serialization import serialize_call

NO_ARGUMENTS = Arguments(INLINE, b"", b"", b"", 0, (), ())


class ArgumentPacker:
    """Packs arguments for one session. ``advice``: of a driver; ``foreign``: see ``Objects``."""

    def __init__(
        self,
        core: ClientCore,
        objects: Objects,
        advice: Advice | None,
        inline_max_bytes: int,
        foreign: Callable[[Iterable[ObjectRef]], ObjectLostError],
    ) -> None:
        self._core = core
        self._entries = core.references.entries
        self._objects = objects
        self._advice = advice
        self._inline_max_bytes = inline_max_bytes
        self._foreign = foreign

    def pack(
        self, args: Sequence[Any], kwargs: dict[str, Any], handle: ObjectRef | None = None
    ) -> tuple[Arguments, list[ObjectRef]]:
        """Serializes a call's arguments. Also returns the references to keep until the task is submitted."""
        keep: list[ObjectRef] = [handle] if handle is not None else []
        held: tuple[bytes, ...] = (handle._id,) if handle is not None else ()
        if not args and not kwargs:
            return NO_ARGUMENTS if handle is None else Arguments(INLINE, b"", b"", b"", 0, (), held), keep
        refs: list[tuple[int | str, bytes]] = []
        plain_args = list(args)
        for position, value in enumerate(args):
            if type(value) is ObjectRef:
                refs.append((position, value._id))
                plain_args[position] = None
        plain_kwargs = kwargs
        if kwargs and any(type(value) is ObjectRef for value in kwargs.values()):
            refs.extend((name, value._id) for name, value in kwargs.items() if type(value) is ObjectRef)
            plain_kwargs = {name: None if type(value) is ObjectRef else value for name, value in kwargs.items()}
        for _, object_id in refs:
            if object_id not in self._entries:
                raise self._foreign([value for value in (*args, *kwargs.values()) if type(value) is ObjectRef])
        serialized = serialize_call(plain_args, plain_kwargs)
        keep.extend(serialized.held)
        held += tuple(object_id for _, object_id in refs) + serialized.refs
        size = serialized.total_bytes
        if size <= self._inline_max_bytes:
            return Arguments(INLINE, serialized.to_bytes(), b"", b"", 0, tuple(refs), held), keep
        if self._advice is not None:
            self._advice.sent((*plain_args, *plain_kwargs.values()), size)
        stored = self._objects.put_serialized(put_id(self._core.new_task_id()), serialized)
        keep.append(stored)
        host = self._entries[stored._id].host
        return Arguments(STORED, b"", stored._id, host, size, tuple(refs), (*held, stored._id)), keep
