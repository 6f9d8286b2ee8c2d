"""How the objects of this process were made, so that a lost one can be made again.

A value in the store of a host is lost with that host, unless another has a copy. Its owner then runs its task again, as
soon as the value is needed. For that it keeps a *record* of the task: the task itself with its arguments. It also keeps
what those arguments refer to, or how that was made:

* a small value of this process, and a stored one that nothing can make again, for instance one that was put: pinned.
  If the stored one has references inside, no record is kept: it would keep all that is inside;
* a small value with references inside: its bytes, and what these refer to by the same rules. A pin would keep the large
  values behind them in the stores;
* a stored value of another task: not pinned. Its own record is kept as long as this one, so it can be made again, too;
* an object of another process: neither. A process that owned small values for us could not end.

A task is run again at the cost of one of its retries, as in Ray. Records have a limit in bytes. Beyond it the oldest
ones are dropped. States of a record: it is kept, or its task runs again (``rerun``). It is dropped when no stored value
of the task is left that could be lost, and no other record needs it.

Theory of the depth. A lost value may have been made from lost values, and those from others. ``_ahead`` has the tasks
that are still to be submitted. So a chain of any length needs no recursion: each task waits for its arguments as usual.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from zray.client.core.references import RECONSTRUCTION_FAILED, ReferenceTable
from zray.client.core.states import INLINE, PENDING, STORED
from zray.client.core.tasks import Task, TaskTable
from zray.ids import TASK_ID_BYTES, return_id, task_of, was_put
from zray.named_tuples import NamedTuple

RECORD_BYTES = 1000
"""The size of a record without its arguments, in bytes; measured with CPython 3.11."""


class Value(NamedTuple):
    """A small value with references inside. It does not hold the objects of these."""

    data: bytes
    size: int
    inner: tuple[bytes, ...]


class Record:
    """A task that can be run again.

    ``stored``: the indices of its stored values. ``needs``: the records, by task, of how its arguments were made.
    ``pinned``: the arguments that are pinned. ``values``: those that are kept otherwise. ``dependents``: the number of
    records that need this one.
    """

    __slots__ = ("dependents", "n_bytes", "needs", "pinned", "stored", "task", "values")

    def __init__(self, task: Task, stored: set[int]) -> None:
        self.task = task
        self.stored = stored
        self.needs: dict[bytes, Record] = {}
        self.pinned: dict[bytes, None] = {}
        self.values: dict[bytes, Value] = {}
        self.n_bytes = 0
        self.dependents = 0


class Pins:
    """The objects that records pin, with the number of these. What something else holds, too, costs nothing.

    ``n_bytes``: what the pins alone keep, as of the last ``count``. ``added``: the bytes pinned since then.
    """

    __slots__ = ("_counts", "_references", "added", "n_bytes")

    def __init__(self, references: ReferenceTable) -> None:
        self._references = references
        self._counts: dict[bytes, int] = {}
        self.n_bytes = 0
        self.added = 0

    def add(self, object_id: bytes) -> None:
        """Pins an object for one more record."""
        if object_id not in self._counts:
            self.added += self._size(object_id)
        self._counts[object_id] = self._counts.get(object_id, 0) + 1
        self._references.pin(object_id)

    def remove(self, object_id: bytes) -> None:
        """Undoes one ``add``."""
        if self._counts[object_id] == 1 and self._is_alone(object_id):
            self.n_bytes = max(0, self.n_bytes - self._size(object_id))
        self._counts[object_id] -= 1
        if not self._counts[object_id]:
            del self._counts[object_id]
        self._references.unpin(object_id)

    def count(self) -> None:
        """Computes ``n_bytes`` anew: the program may have dropped, or loaded again, what is pinned."""
        self.added = 0
        self.n_bytes = sum(self._size(object_id) for object_id in self._counts if self._is_alone(object_id))

    def _size(self, object_id: bytes) -> int:
        entry = self._references.entries[object_id]
        return entry.size or len(entry.data)

    def _is_alone(self, object_id: bytes) -> bool:
        entry = self._references.entries[object_id]
        return entry.pins == self._counts[object_id] and not (entry.local or entry.covers or entry.holders)


class Lineage:
    """The records of one process, by task. ``max_bytes``: their limit; 0: there are none."""

    def __init__(self, references: ReferenceTable, tasks: TaskTable, max_bytes: int) -> None:
        self.records: OrderedDict[bytes, Record] = OrderedDict()  # not a dict: its first key is looked for
        self.rerun: set[bytes] = set()
        """The tasks that run again because a value is lost."""
        self.later: dict[bytes, list[tuple[Record, bytes]]] = {}
        """Tasks that have not ended, although records need their values: these were referred to within arguments."""
        self.n_bytes = 0
        self.n_dropped = 0
        """The number of records that were dropped because of the limit."""
        self.max_bytes = max_bytes
        self.clear: Callable[[bytes], None] = lambda object_id: None
        """Called for an object that was stored and is not now: frees what hosts have of it."""
        self.pins = Pins(references)
        self._references = references
        self._entries = references.entries
        self._tasks = tasks
        self._ahead: deque[bytes] = deque()
        self._going = False
        self._unneeded: list[bytes] = []
        self._dropping = False

    # ------------------------------------------------------------------ records

    def keep(self, task: Task) -> None:
        """Notes how a task's stored values were made. Called at its end, while it still holds its arguments.

        Not for calls of actors: a call that is made again would wait behind the one that needs its value.
        """
        task_id = task.task_id
        stored = self._stored(task)
        if task_id in self.rerun:
            self.rerun.discard(task_id)
            self._clear_places(task, stored)
        record = self.records.get(task_id)
        if record is not None:
            record.stored = stored
            self._drop_unneeded(task_id)
        elif stored and task.retries_left and self.max_bytes and not task.route.actor_id:
            record = self.records[task_id] = Record(task, stored)
            self._add(record, RECORD_BYTES + len(task.arguments.data))
            self._hold(record, task.arguments.held)
        for dependent, object_id in self.later.pop(task_id, ()):
            if self.records.get(dependent.task.task_id) is dependent:
                self._hold(dependent, (object_id,))
        self._shrink()

    def _stored(self, task: Task) -> set[int]:
        entries, task_id = self._entries, task.task_id
        found = ((index, entries.get(return_id(task_id, index))) for index in range(1, task.n_returns + 1))
        return {index for index, entry in found if entry is not None and entry.status is STORED}

    def _add(self, record: Record, n_bytes: int) -> None:
        record.n_bytes += n_bytes
        self.n_bytes += n_bytes

    def _shrink(self) -> None:
        """Drops the oldest records beyond the limit."""
        if self.pins.added > self.max_bytes // 4:
            self.pins.count()
        while self.records and self.n_bytes + self.pins.n_bytes > self.max_bytes:
            self.n_dropped += 1
            self._drop(next(iter(self.records)))

    def _hold(self, record: Record, object_ids: Iterable[bytes]) -> None:
        """Keeps arguments of a record's task, or how they are made. Drops the record if one would keep large values."""
        ahead = list(object_ids)
        while ahead:
            object_id = ahead.pop()
            entry = self._entries.get(object_id)
            if entry is None or not self._references.owns(object_id):
                continue
            maker = self.records.get(task_id := task_of(object_id))
            if maker is not None and entry.status in (STORED, PENDING) and self._can_make(object_id):
                if task_id not in record.needs:  # PENDING: it is made again
                    record.needs[task_id] = maker
                    maker.dependents += 1
            elif entry.status is PENDING:  # it is within an argument
                self.later.setdefault(task_id, []).append((record, object_id))
            elif entry.status is INLINE and entry.inner:
                if object_id not in record.values:
                    record.values[object_id] = Value(entry.data, entry.size, entry.inner)
                    self._add(record, len(entry.data))
                    ahead += entry.inner
            elif entry.status is STORED and entry.inner:  # a pin would keep all that is inside, and what is inside that
                self._drop(record.task.task_id)
                return
            elif entry.status in (STORED, INLINE) and object_id not in record.pinned:
                record.pinned[object_id] = None
                self.pins.add(object_id)

    def freed(self, object_id: bytes) -> None:
        """Notes that no reference to a stored value is left."""
        record = self.records.get(task_id := task_of(object_id))
        if record is not None:
            record.stored.discard(int.from_bytes(object_id[TASK_ID_BYTES:], "big"))
            self._drop_unneeded(task_id)

    def failed(self, task: Task) -> None:
        """Notes that a task has failed without an answer. Values that it had not lost stay."""
        task_id = task.task_id
        self.later.pop(task_id, None)
        if task_id in self.rerun:
            self.rerun.discard(task_id)
            stored = self._stored(task)
            self._clear_places(task, stored)
            record = self.records.get(task_id)
            if record is not None and stored:
                record.stored = stored
            else:
                self._drop(task_id)

    def _clear_places(self, task: Task, stored: set[int]) -> None:
        """Frees what is left in stores of values that are not ``stored`` any more."""
        for index in range(1, task.n_returns + 1):
            if index not in stored:
                self.clear(return_id(task.task_id, index))

    def _drop_unneeded(self, *task_ids: bytes) -> None:
        """Drops those of the records that nothing needs, and then those that only they needed, to any depth.

        Within itself it only notes them: a pin that goes may free an object, and that another record.
        """
        self._unneeded.extend(task_ids)
        if self._dropping:
            return
        self._dropping = True
        try:
            while self._unneeded:
                task_id = self._unneeded.pop()
                record = self.records.get(task_id)
                if record is not None and not (record.stored or record.dependents or task_id in self.rerun):
                    self._unneeded += self._take_out(task_id)
        finally:
            self._dropping = False

    def _drop(self, task_id: bytes) -> None:
        """Drops a record, even if others need it: what they made cannot be made again then."""
        self._drop_unneeded(*self._take_out(task_id))

    def _take_out(self, task_id: bytes) -> list[bytes]:
        """Removes a record. Returns the tasks whose records it has needed."""
        record = self.records.pop(task_id, None)
        if record is None:
            return []
        self.n_bytes -= record.n_bytes
        needs, record.needs, record.values = record.needs, {}, {}  # others may hold the record: it must hold nothing
        for maker in needs.values():
            maker.dependents -= 1
        pinned, record.pinned = record.pinned, {}
        for object_id in pinned:
            self.pins.remove(object_id)
        return list(needs)

    # ------------------------------------------------------------------ making values again

    def recover(self, object_id: bytes) -> str:
        """Has a lost value of this process made again. Returns the reason if it cannot be; empty if it will be.

        The object has no value meanwhile.
        """
        task_id = task_of(object_id)
        if task_id not in self.rerun:
            reason = self._objection(object_id)
            if reason:
                return reason
            self.rerun.add(task_id)
            self._ahead.append(task_id)
        self._references.lose(object_id)
        self._go()
        return ""

    def _objection(self, object_id: bytes) -> str:
        """Why the task of a lost value cannot be run again; empty if it can."""
        if was_put(object_id):
            return "it was put, and nothing can make it again"
        record = self.records.get(task_of(object_id))
        if record is None:
            if self.n_dropped or not self.max_bytes:
                return f"how it was made is not known any more (max_lineage_bytes={self.max_bytes:,})"
            return "its task may not be run again (max_retries=0, its retries are used up, or an actor's or a stream's)"
        task = record.task
        if not task.retries_left:
            return f"its task `{task.name}` has no retries left"
        for argument in task.arguments.held:
            if argument in self._entries or argument in record.values:
                continue
            if not self._references.owns(argument):
                return f"its task `{task.name}` cannot be run again, as another process's argument was given back"
            if not self._can_make(argument):
                return f"its task `{task.name}` cannot be run again, as an argument ({argument.hex()}) was freed"
        return ""

    def _can_make(self, object_id: bytes) -> bool:
        task_id = task_of(object_id)
        record = self.records.get(task_id)
        return task_id in self.rerun or (record is not None and bool(record.task.retries_left))

    def _go(self) -> None:
        """Submits the tasks of ``_ahead``. Does nothing within itself."""
        if self._going:
            return
        self._going = True
        try:
            while self._ahead:
                record = self.records.get(task_id := self._ahead.popleft())
                if record is not None and task_id not in self._tasks.tasks:
                    self._submit(record)
        finally:
            self._going = False

    def _submit(self, record: Record) -> None:
        """Submits a task again, with entries for the arguments of which no reference was left."""
        references, values = self._references, record.values
        missing: dict[bytes, None] = {}
        hopeless: list[bytes] = []
        ahead = list(record.task.arguments.held)
        while ahead:
            object_id = ahead.pop()
            if object_id in self._entries or object_id in missing:
                continue
            missing[object_id] = None
            if object_id in values:
                ahead += values[object_id].inner
        for object_id in missing:
            references.await_return(object_id)
            if object_id in values:
                continue
            if not references.owns(object_id):
                references.register(object_id)  # its owner may know it still
            elif self._can_make(object_id):
                self.rerun.add(task_of(object_id))
                self._ahead.append(task_of(object_id))
            else:
                why = self._objection(object_id)
                text = f"object {object_id.hex()} was freed, and is needed to make a lost one again; {why}"
                references.fail(object_id, RECONSTRUCTION_FAILED, text)
                hopeless.append(task_of(object_id))
        for object_id in missing:
            if object_id in values:
                value = values[object_id]
                for inner in value.inner:
                    references.pin(inner)
                references.resolve(object_id, INLINE, value.data, b"", value.size, value.inner)
        self._tasks.run_again(record.task)
        for task_id in hopeless:
            self._drop(task_id)

    def check(self) -> None:
        """Raises AssertionError if the counts are wrong. For tests."""
        dependents = dict.fromkeys(self.records, 0)
        for record in self.records.values():
            for task_id, maker in record.needs.items():
                if self.records.get(task_id) is maker:
                    dependents[task_id] += 1
        for task_id, record in self.records.items():
            assert record.dependents == dependents[task_id], "the number of dependents of a record"
            assert record.stored or record.dependents or task_id in self.rerun, "a record that nothing needs"
            known = all(return_id(task_id, index) in self._entries for index in record.stored)
            assert known or task_id in self.rerun, "a record of values that are gone"
        assert self.n_bytes == sum(record.n_bytes for record in self.records.values()), "bytes of records"
        assert self.rerun <= self._tasks.tasks.keys(), "a task that does not run again"
