"""The route of plain tasks: through the broker's queues, within the owner's windows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from zray.client.core.leases import LeaseTable
from zray.client.core.states import READY, SENT
from zray.client.core.tasks import Task, TaskTable
from zray.client.core.windows import Windows
from zray.protocol.messages import FLAG_LEASE, Cancel, Submit

MAX_IDLE_WINDOWS = 1000
"""The number of shapes from which on windows that are not in use are removed."""


class _Window:
    """The tasks of one shape. ``n_bytes``: the size of those with the broker. ``held``: the tasks that wait for room.
    ``alone``: how many in a row were sent to the broker while it had no other."""

    __slots__ = ("alone", "held", "n_bytes")

    def __init__(self) -> None:
        self.n_bytes = 0
        self.alone = 0
        self.held: OrderedDict[bytes, Task] = OrderedDict()


class QueueRoute:
    """The route of plain tasks: through the broker's queue, within the windows of ``zray.client.core.windows``, or to a
    leased worker (``zray.client.core.leases``). What that has counts in no window: the broker does not hold it.

    ``n_bytes``: the size of all tasks under way. ``_behind_all``: shapes with room in their own window, whose tasks
    wait because of the limit for all tasks. The outcome of any task may let them go.
    """

    __slots__ = ("_behind_all", "_max_bytes", "_max_bytes_of_all", "_max_windows", "_send", "_table", "_windows",
                 "actor_id", "leases", "n_bytes")  # fmt: skip

    class_name = ""

    def __init__(self, table: TaskTable, send: Callable[[Any], None], windows: Windows, leases: LeaseTable) -> None:
        self.actor_id = b""
        self.leases = leases
        self.n_bytes = 0
        self._table = table
        self._send = send
        self._max_bytes = windows.task_bytes
        self._max_bytes_of_all = windows.all_task_bytes
        self._windows: dict[bytes, _Window] = {}
        self._max_windows = MAX_IDLE_WINDOWS
        self._behind_all: dict[bytes, None] = {}

    @property
    def may_run_again(self) -> bool:
        return True

    def admit_again(self, task: Task) -> None:
        return

    def ready(self, task: Task) -> None:
        if task.counted:  # it is tried again
            self._uncount(task)
        elif self.leases.running:
            self.leases.release(task.task_id)
        self._table.soon(task)

    def go(self, task: Task) -> None:
        window = self._windows.get(task.shape) or self._new_window(task.shape)
        waits = task.state is READY
        # ``_has_room`` written out, to save a call for every task.
        if not window.held and window.n_bytes < self._max_bytes and self.n_bytes < self._max_bytes_of_all:
            if waits:
                self._table.dispatch(task)
            return
        if waits and self._table.will_fail(task):
            self._table.dispatch(task)
            return
        if waits:
            window.held[task.task_id] = task
        self._fill(task.shape, window)

    def _has_room(self, window: _Window) -> bool:
        return window.n_bytes < self._max_bytes and self.n_bytes < self._max_bytes_of_all

    def _fill(self, shape: bytes, window: _Window) -> None:
        """Sends the tasks of a window for which there is room now."""
        while window.held and self._has_room(window):
            self._table.dispatch(next(iter(window.held.values())))
        if window.held and window.n_bytes < self._max_bytes:
            self._behind_all[shape] = None
        else:
            self._behind_all.pop(shape, None)

    def send(self, task: Task, payload: bytes) -> None:
        window = self._windows[task.shape]
        if window.held:
            window.held.pop(task.task_id, None)
        leases = self.leases
        if leases.by_shape and self._sent_to_leased(task, payload):
            return
        task.counted = size = len(payload)
        window.alone = 0 if window.n_bytes else window.alone + 1
        window.n_bytes += size
        self.n_bytes += size
        near, flags = self._table.nearest(task.arguments), task.flags
        is_alone = window.alone > leases.after and task.shape not in leases.by_shape
        if is_alone and leases.may_take(task, payload):
            if leases.lanes:
                near, flags = leases.host_id, flags | FLAG_LEASE
            else:
                leases.wants_lane = True
        self._send(Submit(task.task_id, task.attempt, task.function_id, task.shape, flags, near, payload))

    def _sent_to_leased(self, task: Task, payload: bytes) -> bool:
        """Sends a task to a leased worker, if one is free. Returns whether it has."""
        leases = self.leases
        lease = leases.by_shape.get(task.shape)
        if lease is None or not leases.is_free(lease) or not leases.may_take(task, payload):
            return False
        leases.send(lease, task, payload)
        return True

    def cancel(self, task: Task, mode: int) -> None:
        if not (self.leases.running and self.leases.cancel(task.task_id, mode)):
            self._send(Cancel(task.task_id, mode))

    def started(self, task: Task) -> None:
        if task.counted:
            self._uncount(task)
        elif self.leases.running:
            self.leases.release(task.task_id)

    def done(self, task: Task, error: bytes) -> None:
        if task.counted:  # ``_uncount`` written out, to save a call for every task
            window = self._windows[task.shape]
            window.n_bytes -= task.counted
            self.n_bytes -= task.counted
            if window.held or self._behind_all:
                self._let_go(window)
            if not window.n_bytes and window.alone >= self.leases.after and not error:
                self.leases.note_function(task.function_id)
        elif self.leases.running and self.leases.release(task.task_id):
            return
        elif task.state is not SENT:
            held_in = self._windows.get(task.shape)
            if held_in is not None:
                held_in.held.pop(task.task_id, None)

    def _uncount(self, task: Task) -> None:
        window = self._windows[task.shape]
        window.n_bytes -= task.counted
        self.n_bytes -= task.counted
        task.counted = 0
        self._let_go(window)

    def _let_go(self, window: _Window) -> None:
        """Sends held tasks, because there is more room in this window and among all tasks."""
        if window.held:
            self._table.soon(next(iter(window.held.values())))
        while self._behind_all and self.n_bytes < self._max_bytes_of_all:
            shape = next(iter(self._behind_all))
            del self._behind_all[shape]
            behind = self._windows.get(shape)
            if behind is not None and behind.held:
                self._table.soon(next(iter(behind.held.values())))

    def _new_window(self, shape: bytes) -> _Window:
        if len(self._windows) >= self._max_windows:
            windows = self._windows.items()
            self._windows = {key: window for key, window in windows if window.n_bytes or window.held}
            # Many may be in use. So the next look comes when there are twice as many.
            self._max_windows = max(MAX_IDLE_WINDOWS, 2 * len(self._windows))
        window = self._windows[shape] = _Window()
        return window

    def check(self) -> None:
        """Raises AssertionError if the counts are wrong, or a task waits although there is room. For tests."""
        tasks = [task for task in self._table.tasks.values() if task.route is self]
        assert self.n_bytes == sum(task.counted for task in tasks), "bytes of tasks under way"
        for shape, window in self._windows.items():
            assert window.n_bytes == sum(task.counted for task in tasks if task.shape == shape), "bytes of a shape"
            assert all(task.state is READY for task in window.held.values()), "a task is held that is not ready"
            assert not (window.held and self._has_room(window)), "a task is held though there is room"
        n_held = sum(len(window.held) for window in self._windows.values())
        assert n_held == sum(task.state is READY for task in tasks), "a task that could go is not held"
