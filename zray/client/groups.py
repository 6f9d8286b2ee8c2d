"""The placement groups whose creation this process waits for.

``PlacementGroup.ready`` returns a reference, as in Ray. Its object belongs to this process, and gets its value when the
broker says that the group is created. So it needs neither a task nor a worker. The broker is asked once for each group,
however many references wait.
"""

from __future__ import annotations

from typing import Any, Protocol

from zray.client.core.client_core import ClientCore
from zray.client.core.states import ERROR, INLINE
from zray.client.object_refs import ObjectRefs
from zray.client.shell import ClientShell
from zray.failures import encode_failure
from zray.ids import put_id
from zray.object_ref import ObjectRef
from zray.protocol.messages import GroupSettled, GroupWatch


class Owner(Protocol):
    """The part of a session that makes references."""

    core: ClientCore
    shell: ClientShell
    refs: ObjectRefs

    def check_usable(self) -> None:
        """Raises if the cluster is gone or this is a forked child."""


class GroupWatches:
    """The groups of one session that are not created yet, with the objects that wait for each, and their values."""

    def __init__(self, session: Owner) -> None:
        self._session = session
        self._waiting: dict[bytes, list[tuple[bytes, bytes]]] = {}

    def ready(self, group_id: bytes, value: bytes) -> ObjectRef:
        """Returns the reference to an object that gets the serialized ``value`` when the group is created.

        If the group is removed, it fails with TaskPlacementGroupRemoved.
        """
        session = self._session
        session.check_usable()
        core = session.core
        object_id = put_id(core.new_task_id())

        def watch() -> ObjectRef:
            ref = session.refs.make(object_id, core.references.own(object_id))
            waiting = self._waiting.setdefault(group_id, [])
            waiting.append((object_id, value))
            if len(waiting) == 1:
                core.to_broker(GroupWatch(core.new_request(lambda answer: self._settled(group_id, answer)), group_id))
            return ref

        ref: ObjectRef = session.shell.run(watch)
        return ref

    def _settled(self, group_id: bytes, answer: Any) -> None:
        """Handles the broker's answer. It is None if there will be none; then the cluster is gone."""
        references = self._session.core.references
        for object_id, value in self._waiting.pop(group_id):
            if isinstance(answer, GroupSettled) and answer.is_created:
                references.resolve(object_id, INLINE, value, b"", len(value))
            elif answer is not None:
                text = f"the placement group was removed (placement group id: {group_id.hex()})"
                error = encode_failure("TaskPlacementGroupRemoved", text)
                references.resolve(object_id, ERROR, error, b"", len(error))
