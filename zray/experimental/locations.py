"""``get_object_locations`` and ``get_local_object_locations``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zray.client import places
from zray.client.session import Session, current
from zray.object_ref import ObjectRef
from zray.protocol.records import ObjectLocation

Locations = dict[ObjectRef, dict[str, Any]]


def get_object_locations(obj_refs: Sequence[ObjectRef], timeout_ms: float = -1) -> Locations:
    """Asks the owners of objects on which hosts these are.

    Args:
        obj_refs: references.
        timeout_ms: milliseconds to wait for the owners' answers; negative: for ever. The objects are not waited for.

    Returns:
        For each reference a dictionary with these keys. Objects whose owner is dead are left out.

        - ``node_ids``: the hosts that have the value, in hexadecimal. The small result of a task has none, because it
          is with its owner. A small value of ``put`` counts as stored on the host of the process that put it.
        - ``object_size``: the size in bytes; None if the value does not exist yet.
        - ``did_spill``: whether the value is on the disk of this machine. False for values on other machines.

    Raises:
        RuntimeError: zray is not initialised, or runs in local mode, which stores nothing.
        TypeError: ``obj_refs`` is not a list of references.
        GetTimeoutError: an owner did not answer in time.
        ClusterUnavailableError: the broker is gone.
    """
    session = _session()
    refs = _checked(obj_refs, "get_object_locations")
    timeout_s = None if timeout_ms < 0 else timeout_ms / 1000
    return _told(session, refs, places.locations_of(session, list(refs), timeout_s))


def get_local_object_locations(obj_refs: Sequence[ObjectRef]) -> Locations:
    """As ``get_object_locations``, with what this process knows itself. It asks no other process."""
    session = _session()
    refs = _checked(obj_refs, "get_local_object_locations")
    return _told(session, refs, places.own_locations_of(session, list(refs)))


def _session() -> Session:
    session = current()
    if session is None:
        raise RuntimeError("there is no cluster to ask for locations of objects: call zray.init() first")
    return session


def _checked(obj_refs: Sequence[ObjectRef], what: str) -> dict[bytes, ObjectRef]:
    """The references by identifier."""
    if isinstance(obj_refs, ObjectRef):
        raise TypeError(f"{what}() takes a list of ObjectRefs, got a single one: use [ref]")
    refs = list(obj_refs)
    for ref in refs:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"{what}() takes a list of ObjectRefs; the list contains a {type(ref).__name__}")
    return {ref.binary(): ref for ref in refs}


def _told(session: Session, refs: dict[bytes, ObjectRef], found: list[ObjectLocation]) -> Locations:
    rows = {
        each.object_id: {
            "node_ids": [host.hex() for host in each.hosts],
            "object_size": each.size,
            "did_spill": places.is_spilled(session, each),
        }
        for each in found
    }
    return {ref: rows[object_id] for object_id, ref in refs.items() if object_id in rows}
