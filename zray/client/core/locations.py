"""The places of an owner's stored objects besides the host that keeps them, and the transfers between holders.

The host that an object was stored at is in its reference entry. This table has the copies, complete or under way. Each
has *parents*: the holders from which it was told to get the object. A process that asks is sent to the holder with the
fewest children, which may itself still be receiving. So many processes that ask at the same time form a chain, in which
each feeds one other, and chunks travel as fast as through one link. Processes that ask later find more complete
holders. A process is never sent to a holder that gets the object from it, because both would wait for ever.
"""

from __future__ import annotations

MAX_SOURCES = 3
"""Up to this number of complete holders without children are named together. The asker takes chunks from each."""


class Holder:
    """A copy. ``parents``: the holders from which it comes; empty if it is complete."""

    __slots__ = ("complete", "parents", "serves")

    def __init__(self, serves: bool) -> None:
        self.complete = False
        self.serves = serves  # other processes may be sent to it
        self.parents: tuple[bytes, ...] = ()


class LocationTable:
    """The copies of one process's objects; also segments left by earlier attempts, see ``leave``."""

    def __init__(self) -> None:
        self._left: dict[bytes, dict[bytes, None]] = {}
        self._copies: dict[bytes, dict[bytes, Holder]] = {}
        self._held_by: dict[bytes, set[bytes]] = {}  # by process: the objects of which it has or gets a copy

    def sources(self, object_id: bytes, keeper: bytes, asker: bytes, serves: bool, lost: list[bytes]) -> list[bytes]:
        """Returns the holders that ``asker`` should ask for an object that ``keeper`` stores; empty if none is left.

        ``lost``: holders that turned out not to have it. From now on the asker counts as receiving the object.
        """
        copies = self._copies.setdefault(object_id, {})
        for process_id in lost:
            # A holder that still receives it reports itself if it fails. It must not be removed before: the asker may
            # get the object from it, or it from the asker.
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
        """The holders that may be asked, and whether each is complete; the keeper first."""
        others = [(process_id, holder.complete) for process_id, holder in copies.items() if holder.serves]
        return [(keeper, True), *(row for row in others if row[0] != keeper)]

    @staticmethod
    def _fed(copies: dict[bytes, Holder]) -> dict[bytes, int]:
        """The number of children of each holder."""
        fed: dict[bytes, int] = {}
        for holder in copies.values():
            for parent in holder.parents:
                fed[parent] = fed.get(parent, 0) + 1
        return fed

    @staticmethod
    def _descendants(copies: dict[bytes, Holder], asker: bytes) -> set[bytes]:
        """The asker, and all processes that get the object from it, directly or not."""
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
        """Notes that a host has the whole object now."""
        holder = self._copies.setdefault(object_id, {}).setdefault(host, Holder(serves=True))
        holder.complete, holder.parents = True, ()
        self._held_by.setdefault(host, set()).add(object_id)

    def gone(self, object_id: bytes, host: bytes) -> None:
        """Notes that a host has no copy, and does not receive one."""
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
        """Notes that a host has a segment that an earlier attempt stored as this object.

        It is freed with the object. Before that, the host may also get a copy of the object.
        """
        self._left.setdefault(object_id, {})[host] = None

    def forget(self, object_id: bytes) -> list[bytes]:
        """Removes an object that is freed. Returns the processes that have or get a copy, or have a segment left of
        it."""
        copies = self._copies.pop(object_id, {})
        for host in copies:
            self._held_by[host].discard(object_id)
        return [*copies, *(host for host in self._left.pop(object_id, ()) if host not in copies)]

    def on_process_died(self, process_id: bytes) -> None:
        """Removes the copies of a dead process."""
        for object_id in self._held_by.pop(process_id, ()):
            copies = self._copies[object_id]
            del copies[process_id]
            if not copies:
                del self._copies[object_id]
