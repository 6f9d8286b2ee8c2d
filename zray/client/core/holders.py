"""An index of the objects that concern a process, so that its death costs no scan of all objects."""

from __future__ import annotations


class ObjectsByProcess:
    """Sets of objects, by process. Adding what is there, and discarding what is not, changes nothing."""

    __slots__ = ("_objects",)

    def __init__(self) -> None:
        self._objects: dict[bytes, set[bytes]] = {}

    def __bool__(self) -> bool:
        return bool(self._objects)

    def add(self, process_id: bytes, object_id: bytes) -> None:
        """Adds an object to those of a process."""
        objects = self._objects.get(process_id)
        if objects is None:
            self._objects[process_id] = {object_id}
        else:
            objects.add(object_id)

    def discard(self, process_id: bytes, object_id: bytes) -> None:
        """Removes an object from those of a process."""
        objects = self._objects.get(process_id)
        if objects is not None:
            objects.discard(object_id)
            if not objects:
                del self._objects[process_id]

    def of(self, process_id: bytes) -> list[bytes]:
        """Returns the objects of a process."""
        return list(self._objects.get(process_id, ()))

    def as_dict(self) -> dict[bytes, set[bytes]]:
        """Returns all of it; for checks."""
        return {process_id: set(objects) for process_id, objects in self._objects.items()}
