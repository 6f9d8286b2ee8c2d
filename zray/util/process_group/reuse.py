"""Keeps a group of processes for the next use with the same settings, so that what it has imported stays loaded.

There is at most one group at rest. It ends after ``REST_S``, or when another one comes to rest.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

from zray.util.process_group.group import ProcessGroup

REST_S = 60.0
"""How long a group rests before it ends, in seconds."""

_lock = threading.Lock()
_resting: tuple[Hashable, ProcessGroup, threading.Timer] | None = None


def take(key: Hashable) -> ProcessGroup | None:
    """Returns the group at rest if it was made with the settings ``key`` and can be used. It rests no more."""
    global _resting
    with _lock:
        if _resting is None or _resting[0] != key:
            return None
        _, group, timer = _resting
        _resting = None
    timer.cancel()
    return group if group.is_usable() else None


def rest(key: Hashable, group: ProcessGroup) -> None:
    """Lets a group rest, which has no job left. It is ended if it cannot be used again."""
    global _resting
    timer = threading.Timer(REST_S, _end, [group])
    timer.daemon = True
    with _lock:
        before, _resting = _resting, (key, group, timer)
    timer.start()
    if before is not None:
        before[2].cancel()
        before[1].close()


def _end(group: ProcessGroup) -> None:
    global _resting
    with _lock:
        if _resting is None or _resting[1] is not group:
            return
        _resting = None
    group.close()
