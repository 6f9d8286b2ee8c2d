"""Handles the messages about where the objects of this process are: questions to it as their owner, and reports.

``LocationTable`` has the copies. The host that keeps the original is in the object's reference entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.client.core.locations import LocationTable
from zray.client.core.references import Entry, ReferenceTable, is_stored
from zray.protocol.messages import CopyGone, CopyMade, FreeObjects, KeepCopies, Locate, Located


class ObjectDirectory:
    """Answers questions about the objects that this process owns. ``send(dest, message)`` sends a message."""

    def __init__(
        self, references: ReferenceTable, locations: LocationTable, send: Callable[[bytes, Any], None]
    ) -> None:
        self._references = references
        self._locations = locations
        self._send = send

    def on_locate(self, source: bytes, message: Locate) -> None:
        """Tells a process that wants an object of this process from which processes to get it."""
        object_id = message.object_id
        entry = self._own_stored(object_id)
        if entry is None:
            why = "the object was freed: no reference to it was known any more"
            self._send(source, Located(object_id, message.question, 0, [], "ObjectFreedError", why))
            return
        for process_id in (source, entry.host):
            self._references.watch_once(process_id)  # if it dies, its copy is gone
        sources = self._locations.sources(object_id, entry.host, source, message.serves, message.lost)
        kind, why = ("", "") if sources else ("ObjectLostError", "no host has it any more")
        if not sources and self._references.is_dead(entry.host):
            why = f"the host that kept it ({entry.host.hex()[:8]}) has died, and no other has a copy"
        self._send(source, Located(object_id, message.question, entry.size, sources, kind, why))

    def on_copy_made(self, source: bytes, message: CopyMade) -> None:
        """Notes that a host has a complete copy now."""
        entry = self._own_stored(message.object_id)
        if entry is None:
            self._send(source, FreeObjects([message.object_id]))  # it was freed while it was copied
        else:
            for process_id in (source, entry.host):
                self._references.watch_once(process_id)
            self._locations.made(message.object_id, source)
            if self._references.is_dead(entry.host):
                self._promote(message.object_id)

    def on_copy_gone(self, source: bytes, message: CopyGone) -> None:
        """Notes that a host has dropped its copy, or never received one."""
        self._own_stored(message.object_id)
        self._locations.gone(message.object_id, source)

    def _own_stored(self, object_id: bytes) -> Entry | None:
        """Returns the entry of a stored object of this process; None if it has been freed.

        Raises ProtocolError if another process owns the object: only the owner is told, and asked, where an object is.
        """
        self._references.check_own(object_id)
        entry = self._references.entries.get(object_id)
        return entry if entry is not None and is_stored(entry.status, entry.data) else None

    def _promote(self, object_id: bytes) -> None:
        """Makes the copies of an object its originals, because the host that kept it is gone.

        All copies are promoted, because one may have been evicted: hosts do not report that.
        """
        copies = self._locations.complete(object_id)
        for host in copies:
            self._send(host, KeepCopies([object_id]))
        if copies:
            self._references.moved(object_id, copies[0])
            self._locations.gone(object_id, copies[0])

    def on_process_died(self, process_id: bytes) -> None:
        """Removes a dead process: the objects and copies that it kept are gone."""
        self._locations.on_process_died(process_id)
        for object_id in self._references.stored_at(process_id):
            self._promote(object_id)
