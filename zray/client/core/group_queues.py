"""The worker's side of concurrency groups: which of an actor's calls may begin.

Each group runs a number of calls at once, whatever the other groups do. So the calls that wait have a queue for each
group, and the first call of a group begins when that group has room. Calls of one group begin in the order in which
they arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from zray.client.core.grouped_view import DEFAULT_GROUP


class Call(Protocol):
    """A call that has arrived."""

    task_id: bytes


C = TypeVar("C", bound=Call)


class GroupQueues(Generic[C]):
    """The calls of an actor with concurrency groups that have not begun. ``_running``: the group of each that has."""

    def __init__(self, concurrency: int, groups: Mapping[str, int]) -> None:
        """``groups``: the number of calls that each group runs at once; ``concurrency``: that of the default group."""
        self._limits = {DEFAULT_GROUP: max(1, concurrency), **groups}
        self._waiting: dict[str, deque[C]] = {group: deque() for group in self._limits}
        self._n_running = dict.fromkeys(self._limits, 0)
        self._running: dict[bytes, str] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, group: str, call: C) -> None:
        """Adds a call that has arrived. A group that the actor does not have counts as the default group."""
        self._waiting[group if group in self._waiting else DEFAULT_GROUP].append(call)

    def take(self) -> C | None:
        """Takes a call that may begin; None if there is none."""
        for group, waiting in self._waiting.items():
            if waiting and self._n_running[group] < self._limits[group]:
                call = waiting.popleft()
                self._running[call.task_id] = group
                self._n_running[group] += 1
                return call
        return None

    def ended(self, task_id: bytes) -> None:
        """Notes the end of a call that was taken. Nothing happens for any other task."""
        group = self._running.pop(task_id, None)
        if group is not None:
            self._n_running[group] -= 1

    def remove(self, task_id: bytes) -> C | None:
        """Removes and returns a call that has not begun; None if there is none with that identifier."""
        for waiting in self._waiting.values():
            for call in waiting:
                if call.task_id == task_id:
                    waiting.remove(call)
                    return call
        return None

    def clear(self) -> None:
        """Removes the calls that have not begun."""
        for waiting in self._waiting.values():
            waiting.clear()
