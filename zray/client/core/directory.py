"""Handles the messages about where the objects of this process are: questions to it as their owner, and reports.

``LocationTable`` has the copies. The host that keeps the original is in the object's reference entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.client.core.lineage import Lineage
from zray.client.core.locations import LocationTable
from zray.client.core.references import RECONSTRUCTION_FAILED, Entry, ReferenceTable, is_stored
from zray.client.core.states import PENDING, STORED
from zray.ids import owner_of
from zray.protocol.messages import CopyGone, CopyMade, FreeObjects, KeepCopies, Locate, Located

MADE_AGAIN = "it is lost, and is made again"


class ObjectDirectory:
    """Answers questions about the objects that this process owns. ``send(dest, message)`` sends a message."""

    def __init__(
        self,
        references: ReferenceTable,
        locations: LocationTable,
        lineage: Lineage,
        send: Callable[[bytes, Any], None],
    ) -> None:
        self._references = references
        self._lineage = lineage
        self._locations = locations
        self._send = send

    def on_locate(self, source: bytes, message: Locate) -> None:
        """Tells a process that wants an object of this process from which processes to get it."""
        object_id = message.object_id
        entry = self._own_stored(object_id)
        if entry is None and self._is_pending(object_id):
            self._send(source, Located(object_id, message.question, 0, [], "ObjectLostError", MADE_AGAIN))
            return
        if entry is None:
            why = "the object was freed: no reference to it was known any more"
            self._send(source, Located(object_id, message.question, 0, [], "ObjectFreedError", why))
            return
        for process_id in (source, entry.host):
            self._references.watch_once(process_id)  # if it dies, its copy is gone
        sources = self._locations.sources(object_id, entry.host, source, message.serves, message.lost)
        kind = why = ""
        if not sources:
            kind, why = self._lost(object_id, entry)
        self._send(source, Located(object_id, message.question, entry.size, sources, kind, why))

    def _lost(self, object_id: bytes, entry: Entry) -> tuple[str, str]:
        """Has an object made again that no host has any more. Returns the kind and text of the asker's error. The asker
        asks for the object's value then, and so waits for the new one."""
        host = entry.host
        why = self.recover(object_id, host) if entry.status is STORED else "it is an error"
        if not why:
            return "ObjectLostError", MADE_AGAIN
        gone = f"the host that kept it ({host.hex()[:8]}) has died, and no other has a copy"
        return RECONSTRUCTION_FAILED, f"{gone if self._references.is_dead(host) else 'no host has it any more'}; {why}"

    def recover(self, object_id: bytes, missing: bytes) -> str:
        """See ``ReferenceTable.recover``: a copy takes the place of the lost value, or it is made again."""
        self._locations.gone(object_id, missing)
        if self._locations.complete(object_id):
            self._promote(object_id)
            return ""
        why = self._lineage.recover(object_id)
        if not why and not self._references.is_dead(missing):
            self._locations.leave(object_id, missing)  # something of it may be there
        return why

    def look_again(self, object_id: bytes, host: bytes, missing: bytes) -> str:
        """A process here could not read a stored value at ``host``. Returns why it must not try again; empty if it may,
        as soon as the object has a value.

        ``missing``: ``host``, if it is on this machine and does not have it; else empty.
        """
        references = self._references
        entry = references.entries.get(object_id)
        if entry is None:
            return "no reference to it is left"
        if entry.status is PENDING and not entry.requested and not references.owns(object_id):
            references.ask_again(object_id, missing)  # it was an argument, and is not known here otherwise
            return ""
        if entry.status is not STORED or entry.host != host:
            return ""
        if references.owns(object_id):
            if not missing and not references.is_dead(host):
                return "its host may have it still"
            return self.recover(object_id, host)
        if references.is_dead(owner_of(object_id)):
            return "its owner is dead, and only that could have it made again"
        references.ask_again(object_id, missing)
        return ""

    def _is_pending(self, object_id: bytes) -> bool:
        entry = self._references.entries.get(object_id)
        return entry is not None and entry.status is PENDING

    def on_copy_made(self, source: bytes, message: CopyMade) -> None:
        """Notes that a host has a complete copy now."""
        entry = self._own_stored(message.object_id)
        if entry is None and self._is_pending(message.object_id):
            self._locations.leave(message.object_id, source)  # it counted as lost, and is made again, maybe there
        elif entry is None:
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
