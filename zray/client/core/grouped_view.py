"""The caller's view of an actor with concurrency groups.

Each group of methods has its own number of calls that run at once, and so has the rest of the methods, the default
group. Calls of one group must not wait for calls of another, neither at the actor nor here. So each group has a queue
and a window of its own. In an actor that runs calls in order, the calls of a group are sent in order; otherwise each is
sent when its arguments exist. See ``zray.client.core.views`` and ``zray.client.core.windows``.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Collection, Mapping

from zray.client.core.states import DEAD
from zray.client.core.tasks import Task
from zray.client.core.views import ActorView, Calls
from zray.protocol.codec import unpack
from zray.protocol.messages import ProtocolError

DEFAULT_GROUP = ""


@functools.lru_cache(maxsize=256)
def group_in(options: bytes) -> str:
    """The concurrency group in a call's options; ``DEFAULT_GROUP`` if it names none, or if the options are malformed:
    then the worker refuses the call when it begins."""
    try:
        fields = unpack(options) if options else {}
    except ProtocolError:
        return DEFAULT_GROUP
    group = fields.get("group", DEFAULT_GROUP) if type(fields) is dict else DEFAULT_GROUP
    return group if type(group) is str else DEFAULT_GROUP


class _Group:
    """The calls of one group.

    ``always``: the number of calls that may be in flight whatever their size. ``unsent``: the calls not sent yet,
    oldest first. ``held``: in an unordered group, those of them whose arguments exist. ``n_calls``, ``n_bytes``: the
    number and size of its calls in flight.
    """

    __slots__ = ("always", "held", "max_calls", "n_bytes", "n_calls", "unsent")

    def __init__(self, concurrency: int, max_calls: int) -> None:
        self.always = max(1, concurrency)
        self.max_calls = max(max_calls, 2 * concurrency)
        self.unsent: OrderedDict[bytes, Task] = OrderedDict()
        self.held: OrderedDict[bytes, Task] = OrderedDict()
        self.n_calls = 0
        self.n_bytes = 0


class GroupedView(ActorView):
    """The view of an actor with concurrency groups. ``_groups``: by group."""

    __slots__ = ("_groups", "_ordered")

    def __init__(
        self,
        actor_id: bytes,
        table: Calls,
        ordered: bool,
        concurrency: int,
        groups: Mapping[str, int],
        class_name: str = "",
    ) -> None:
        """``groups``: the number of calls that each group runs at once; ``concurrency``: that of the default group."""
        super().__init__(actor_id, table, concurrency + sum(groups.values()), class_name)
        self._ordered = ordered
        limits = {DEFAULT_GROUP: concurrency, **groups}
        self._groups = {name: _Group(limit, table.windows.calls) for name, limit in limits.items()}

    def _group_of(self, task: Task) -> _Group:
        group = self._groups.get(group_in(task.options))
        return self._groups[DEFAULT_GROUP] if group is None else group

    def _is_full(self, group: _Group) -> bool:
        table = self.table
        return group.n_calls >= group.always and (
            group.n_calls >= group.max_calls or group.n_bytes >= self._max_bytes or table.n_bytes >= table.max_bytes
        )

    @property
    def n_unsent(self) -> int:
        return sum(len(group.unsent) for group in self._groups.values())

    def take_unsent(self) -> list[Task]:
        tasks = [task for group in self._groups.values() for task in group.unsent.values()]
        for group in self._groups.values():
            group.unsent.clear()
            group.held.clear()
        return tasks

    def add(self, task: Task) -> None:
        self._group_of(task).unsent[task.task_id] = task

    def put_back(self, tasks: list[Task]) -> None:
        for task in reversed(tasks):
            group = self._group_of(task)
            for queue in (group.unsent,) if self._ordered else (group.unsent, group.held):
                queue[task.task_id] = task
                queue.move_to_end(task.task_id, last=False)

    def remove(self, task: Task) -> None:
        group = self._group_of(task)
        group.unsent.pop(task.task_id, None)
        group.held.pop(task.task_id, None)
        if self._ordered and group.unsent:
            self.table.soon(task)  # the call behind it may be sent now

    def held(self) -> Collection[Task]:
        heads = [self._first(group) for group in self._groups.values() if group.n_calls < group.always]
        return [head for head in heads if head is not None and not head.missing]

    def _first(self, group: _Group) -> Task | None:
        """The call of a group that is to be sent next. In an ordered group, it may wait for an argument."""
        return next(iter((group.unsent if self._ordered else group.held).values()), None)

    def go_on(self) -> None:
        for group in self._groups.values():
            first = self._first(group)
            if first is not None and not self._is_full(group):
                self.table.soon(first)

    def go(self, task: Task) -> None:
        group = self._group_of(task)
        if not self._ordered and not task.missing and task.task_id in group.unsent and self.state is not DEAD:
            if self.table.will_fail(task):
                self.table.dispatch(task)
            else:
                group.held[task.task_id] = task
        while self.state is not DEAD:
            first = self._first(group)
            if first is None or first.missing or self._is_full(group):
                return
            self.table.dispatch(first)

    def send(self, task: Task, payload: bytes) -> None:
        group = self._group_of(task)
        del group.unsent[task.task_id]
        group.held.pop(task.task_id, None)
        group.n_calls += 1
        group.n_bytes += len(payload)
        self.send_call(task, payload)

    def landed(self, task: Task) -> None:
        group = self._group_of(task)
        group.n_calls -= 1
        group.n_bytes -= task.counted
        super().landed(task)

    def forget_in_flight(self) -> dict[int, Task]:
        for group in self._groups.values():
            group.n_calls = group.n_bytes = 0
        return super().forget_in_flight()
