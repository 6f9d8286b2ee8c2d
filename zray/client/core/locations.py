"""Where an owner's stored objects are besides the host that keeps them, and who is getting one from whom.

The host that an object was stored at is in its reference entry; this table has the copies, complete or under way, each
with its *parents*: whom it was told to get it from. Whoever asks is sent to the holder that feeds the fewest, which may
be one that is still receiving. So of many that ask at the same time each feeds one other, a chain in which chunks
travel as fast as through one link; those that ask later find more who are complete. An asker is never sent to
somebody who gets the object from it, or both would wait for ever.
"""

from __future__ import annotations

MAX_SOURCES = 3
"""Complete holders that feed nobody are named together, up to this number: the asker takes chunks from each."""


class Holder:
    """A copy. ``parents``: whom it comes from; empty when it is complete."""

    __slots__ = ("complete", "parents", "serves")

    def __init__(self, serves: bool) -> None:
        self.complete = False
        self.serves = serves  # others may be sent to it
        self.parents: tuple[bytes, ...] = ()


class LocationTable:
    """The copies of one process's objects; and what has the identifier of one and is none, see ``leave``."""

    def __init__(self) -> None:
        self._left: dict[bytes, set[bytes]] = {}
        self._copies: dict[bytes, dict[bytes, Holder]] = {}
        self._held_by: dict[bytes, set[bytes]] = {}  # objects of which a process has a copy or gets one

    def sources(self, object_id: bytes, keeper: bytes, asker: bytes, serves: bool, lost: list[bytes]) -> list[bytes]:
        """Whom ``asker`` is to ask for an object that ``keeper`` stores; empty if nobody is left.

        ``lost``: those that have turned out not to have it. The asker counts as somebody who is getting it.
        """
        copies = self._copies.setdefault(object_id, {})
        for process_id in lost:
            # One that is still getting it says so itself when it does not, and must not be forgotten before: it may be
            # behind the asker, or the asker behind it.
            if process_id in copies and copies[process_id].complete:
                self._held_by[process_id].discard(object_id)
                del copies[process_id]
        me = copies.get(asker)
        if me is None:
            me = copies[asker] = Holder(serves)
            self._held_by.setdefault(asker, set()).add(object_id)
        me.complete, me.parents = False, ()
        fed = self._fed(copies)
        mine = self._descendants(copies, asker)
        ranked = [
            (fed.get(holder, 0), 0 if complete else 1, holder)
            for holder, complete in self._holders(copies, keeper)
            if holder not in mine and holder not in lost
        ]
        if not ranked:
            self._drop(object_id, copies, asker)
            return []
        ranked.sort(key=lambda row: row[:2])
        chosen = [holder for children, incomplete, holder in ranked if not (children or incomplete)][:MAX_SOURCES]
        me.parents = tuple(chosen or [ranked[0][2]])
        return list(me.parents)

    @staticmethod
    def _holders(copies: dict[bytes, Holder], keeper: bytes) -> list[tuple[bytes, bool]]:
        """Everybody who might be asked, the keeper first."""
        others = [(process_id, holder.complete) for process_id, holder in copies.items() if holder.serves]
        return [(keeper, True), *(row for row in others if row[0] != keeper)]

    @staticmethod
    def _fed(copies: dict[bytes, Holder]) -> dict[bytes, int]:
        """How many each holder feeds."""
        fed: dict[bytes, int] = {}
        for holder in copies.values():
            for parent in holder.parents:
                fed[parent] = fed.get(parent, 0) + 1
        return fed

    @staticmethod
    def _descendants(copies: dict[bytes, Holder], asker: bytes) -> set[bytes]:
        """The asker, and all who get the object from it, directly or not."""
        children: dict[bytes, list[bytes]] = {}
        for process_id, holder in copies.items():
            for parent in holder.parents:
                children.setdefault(parent, []).append(process_id)
        found, ahead = {asker}, [asker]
        while ahead:
            for child in children.get(ahead.pop(), ()):
                if child not in found:
                    found.add(child)
                    ahead.append(child)
        return found

    def made(self, object_id: bytes, host: bytes) -> None:
        """A host has the whole object now."""
        holder = self._copies.setdefault(object_id, {}).setdefault(host, Holder(serves=True))
        holder.complete, holder.parents = True, ()
        self._held_by.setdefault(host, set()).add(object_id)

    def gone(self, object_id: bytes, host: bytes) -> None:
        """A host has no copy, and does not get one."""
        copies = self._copies.get(object_id)
        if copies is not None:
            self._drop(object_id, copies, host)

    def _drop(self, object_id: bytes, copies: dict[bytes, Holder], host: bytes) -> None:
        if copies.pop(host, None) is not None:
            self._held_by[host].discard(object_id)
        if not copies:
            self._copies.pop(object_id, None)

    def complete(self, object_id: bytes) -> list[bytes]:
        """The hosts that have a whole copy."""
        return [host for host, holder in self._copies.get(object_id, {}).items() if holder.complete]

    def leave(self, object_id: bytes, host: bytes) -> None:
        """A host has what an earlier attempt stored as this object. It is freed with the object, which that host may
        get a copy of before."""
        self._left.setdefault(object_id, set()).add(host)

    def forget(self, object_id: bytes) -> list[bytes]:
        """The object is freed: those who have, or get, a copy, or have what was left of it."""
        copies = self._copies.pop(object_id, {})
        for host in copies:
            self._held_by[host].discard(object_id)
        return [*copies, *(self._left.pop(object_id, set()) - copies.keys())]

    def on_process_died(self, process_id: bytes) -> None:
        """Its copies are gone with it."""
        for object_id in self._held_by.pop(process_id, ()):
            copies = self._copies[object_id]
            del copies[process_id]
            if not copies:
                del self._copies[object_id]
