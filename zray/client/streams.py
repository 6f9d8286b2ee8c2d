"""Reads streams: the references that a generator's caller takes, one after the other."""

from __future__ import annotations

from typing import Protocol

from zray.client.core.states import PENDING
from zray.client.object_refs import ObjectRefs
from zray.client.shell import ClientShell
from zray.object_ref import ObjectRef


class Reader(Protocol):
    """A generator object that reads a stream. ``next_ref``: the reference that comes next; it may not be ready."""

    next_ref: ObjectRef


class StreamReader:
    """Reads the streams that this process has opened."""

    def __init__(self, shell: ClientShell, refs: ObjectRefs) -> None:
        self._shell = shell
        self._core = shell.core
        self._refs = refs
        self._entries = shell.core.references.entries

    def is_end(self, ref: ObjectRef) -> bool:
        """Whether a reference is ready and stands for the end of its stream."""
        with self._shell.lock:
            return self._core.streams.is_end(ref._id)

    def advance(self, reader: Reader) -> ObjectRef | None:
        """Returns the next reference of a stream, and sets the one behind it; None if it is not ready.

        Raises StopIteration at the end, ClusterUnavailableError.
        """
        streams = self._core.streams
        with self._shell.lock:
            ref = reader.next_ref
            if self._entries[ref._id].status is PENDING:
                return None
            if streams.is_end(ref._id):
                raise StopIteration
            object_id = streams.take_next(ref._id)
            entry = self._entries[object_id]
            following: ObjectRef | None = entry.ref() if entry.ref is not None else None
            if following is None:
                following = self._refs.make(object_id, entry)
            else:
                entry.local -= 1
            reader.next_ref = following
            if self._core.has_output:
                self._shell.submitted()
        self._shell.settle()
        return ref
