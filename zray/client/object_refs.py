"""The ``ObjectRef``s of a process: makes them, loads those inside values, and counts them.

A process has at most one ``ObjectRef`` for each object. ``zray.object_ref`` says how it is noticed that one is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zray.client.core.references import Entry
from zray.client.shell import ClientShell
from zray.object_ref import HeldRef, ObjectRef, Tracker

LOADED_AT_ONCE = 64
"""The number of references that are made in one critical section, while other threads wait for the lock."""


class ObjectRefs:
    """The ``ObjectRef``s of one session. ``tracker``: what they turn to, see ``zray.object_ref``."""

    def __init__(self, shell: ClientShell, tracker: Tracker) -> None:
        self._shell = shell
        self._tracker = tracker
        self._references = shell.core.references
        self._entries = shell.core.references.entries
        # One bound method for all references. Otherwise the collector would have one more object to look at for each.
        self._dropped: Callable[[HeldRef], None] = shell.core.dropped.append

    def make(self, object_id: bytes, entry: Entry) -> ObjectRef:
        """Makes the reference that an object's entry counts already. Under the lock, or if the object is new."""
        ref = ObjectRef._make(object_id, self._tracker)
        held = entry.ref = HeldRef(ref, self._dropped)
        held.object_id = object_id
        return ref

    def intern(self, object_id: bytes) -> ObjectRef:
        """See ``zray.object_ref.Tracker``."""
        return self.load(object_id, b"")

    def load(self, object_id: bytes, outer: bytes) -> ObjectRef:
        """Returns the reference to an object, which was found in the value of ``outer``; counts it if it is new."""
        with self._shell.lock:
            return self._load_locked(object_id, outer)

    def _load_locked(self, object_id: bytes, outer: bytes) -> ObjectRef:
        entry = self._entries.get(object_id)
        if entry is not None and entry.ref is not None:
            ref: ObjectRef | None = entry.ref()
            if ref is not None:
                return ref
        return self.make(object_id, self._references.load(object_id, outer))

    def load_inner(self, outer: bytes, inner: Sequence[bytes]) -> Callable[[bytes], ObjectRef]:
        """Returns the function that loads the references in the value of ``outer``.

        The references ``inner`` are known to be in the value. They are made here together, because entering the section
        for each takes as long as making it.
        """
        made: dict[bytes, ObjectRef] = {}
        for start in range(0, len(inner), LOADED_AT_ONCE):
            with self._shell.lock:
                for object_id in inner[start : start + LOADED_AT_ONCE]:
                    made[object_id] = self._load_locked(object_id, outer)

        def load_ref(object_id: bytes) -> ObjectRef:
            return made.get(object_id) or self.load(object_id, outer)

        return load_ref

    def load_covered(self, object_id: bytes, covered: list[bytes]) -> ObjectRef:
        """Loads a reference in the arguments of a running task. Appends its object to ``covered``."""
        with self._shell.lock:
            entry = self._references.load_covered(object_id)
            covered.append(object_id)
            ref: ObjectRef | None = entry.ref() if entry.ref is not None else None
            if ref is not None:
                entry.local -= 1
                return ref
            return self.make(object_id, entry)

    def pickled_by_user(self, object_id: bytes) -> None:
        """See ``zray.object_ref.Tracker``."""
        with self._shell.lock:
            self._references.pin(object_id)
