"""Client cores connected by queues, with a minimal broker in between.

Each process has one queue to the broker and one from it, as with real links. Messages from one process to another are
first in, first out; no other order is guaranteed. A test decides which queue moves next. Values are lists of
references.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

import msgpack

from zray.client.core.assignments import Assignment
from zray.client.core.client_core import ClientCore
from zray.client.core.effects import FreeSegment
from zray.client.core.payloads import Arguments, Return
from zray.client.core.states import ERROR, INLINE, PENDING, STORED
from zray.client.core.tasks import Task
from zray.client.core.windows import WINDOWS, Windows
from zray.failures import decode_failure, missed_argument
from zray.ids import owner_of, put_id, return_id
from zray.protocol import messages as m
from zray.protocol.codec import pack_body, unpack_messages
from zray.protocol.contract import BROKER
from zray.protocol.records import ActorSpec
from zray.protocol.routing import through_broker

FUNCTION = b"function".ljust(16, b"\0")
HOST = b"host".ljust(16, b"\0")
SECOND_HOST = b"second host".ljust(16, b"\0")
HOSTS = (HOST, SECOND_HOST)
"""They live until a test says otherwise."""
MAX_INLINE_BYTES = 1 << 20
INLINE_ARGUMENTS = Arguments(INLINE, msgpack.packb([]), b"", b"", 0, (), ())


def actor_spec(**changes: Any) -> ActorSpec:
    """The ``ActorSpec`` of an ordinary actor, with ``changes``."""
    return ActorSpec("", "", "", False, 0, 1, True, False, b"\x90", b"\x90", b"", b"")._replace(**changes)


def process_id(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def kind_of_failure(data: bytes) -> str:
    """The kind of a failure; for a task that was not run, the kind of its argument's failure."""
    missed = missed_argument(data)
    return type(decode_failure(missed.error if missed is not None else data)).__name__


def over_the_wire(message: Any) -> Any:
    """Encodes and decodes the message, so that a field that cannot be sent shows at once."""
    (back,) = unpack_messages(pack_body([message]), frozenset([type(message)]))
    return back


class Process:
    """A client core, and the references that its user holds (``bag``)."""

    def __init__(self, wire: Wire, name: str, windows: Windows = WINDOWS) -> None:
        self.now = 0.0
        self.wire = wire
        self.name = name
        self.core = ClientCore(process_id(name), HOST, MAX_INLINE_BYTES, windows)
        self.core.execution.functions[FUNCTION] = m.FunctionBlob(FUNCTION, True, "f", b"x")
        self.bag: Counter[bytes] = Counter()
        self.up: deque[Any] = deque()
        self.down: deque[Any] = deque()
        self.effects: list[Any] = []
        self.tasks: list[Assignment] = []  # taken and not finished
        self.is_checked = True  # check the invariants in each turn; the time grows with the number of records

    @property
    def id(self) -> bytes:
        return self.core.process_id

    @property
    def alive(self) -> bool:
        return self.id in self.wire.processes

    def flush(self) -> None:
        """Takes a turn, as the shell's loop does."""
        self.core.collect(self.now)
        if self.is_checked:
            self.core.check()
        output = self.core.take_output()
        self.effects.extend(output.effects)
        self.up.extend(through_broker(output.sends))

    def take_effects(self) -> list[Any]:
        """The effects since the last query."""
        self.flush()
        effects, self.effects = self.effects, []
        return effects

    def entry(self, object_id: bytes) -> Any:
        return self.core.references.entries.get(object_id)

    @property
    def freed(self) -> list[bytes]:
        """The segments that were freed."""
        return [effect.object_id for effect in self.effects if isinstance(effect, FreeSegment)]

    # ------------------------------------------------------------------ actions of a user

    def put(self, inner: Iterable[bytes] = (), *, stored: bool = False) -> bytes:
        inner = tuple(inner)
        references = self.core.references
        object_id = put_id(self.core.new_task_id())
        references.own(object_id)
        for inner_id in inner:
            references.pin(inner_id)
        references.resolve(
            object_id, STORED if stored else INLINE, msgpack.packb(inner), HOST if stored else b"", 0, inner
        )
        self.bag[object_id] += 1
        self.flush()
        return object_id

    def submit(
        self, worker: Process, refs: Iterable[bytes] = (), nested: Iterable[bytes] = (), retries: int = 0,
        n_returns: int = 1,
        parent: bytes = b"", shape: bytes = b"\x90",
    ) -> bytes:  # fmt: skip
        """Submits a task for ``worker`` to run; returns its (first) return object."""
        refs, nested = tuple(refs), tuple(nested)
        core = self.core
        task_id = core.new_task_id()
        self.wire.placement[task_id] = worker
        arguments = Arguments(INLINE, msgpack.packb(nested), b"", b"", 0, tuple(enumerate(refs)), (*refs, *nested))
        task = Task(task_id, core.queue_route, FUNCTION, shape, 0, b"", arguments, n_returns, retries, parent)
        for index in range(1, n_returns + 1):
            core.references.own(return_id(task_id, index))
            self.bag[return_id(task_id, index)] += 1
        core.tasks.submit(task)
        self.flush()
        return return_id(task_id, 1)

    def drop(self, object_id: bytes, times: int = 1) -> None:
        for _ in range(times):
            assert self.bag[object_id] > 0
            self.bag[object_id] -= 1
            self.core.dropped.append(object_id)
        self.flush()

    def request(self, object_id: bytes) -> bool:
        """Asks for the value. Returns whether the process has to wait for it."""
        waits = self.core.references.wait_for(object_id, IgnoreReady())
        self.flush()
        return waits

    def is_ready(self, object_id: bytes) -> bool:
        return self.entry(object_id).status != PENDING

    def failed(self, object_id: bytes) -> bool:
        return bool(self.entry(object_id).status == ERROR)

    def load(self, outer: bytes) -> list[bytes]:
        """Unpickles a value that is here. Puts its references into the bag."""
        entry = self.entry(outer)
        inner: list[bytes] = [] if entry.status == ERROR else msgpack.unpackb(entry.data)
        for object_id in inner:
            self.core.references.load(object_id, outer)
            self.bag[object_id] += 1
        self.flush()
        return inner

    # ------------------------------------------------------------------ actions of a worker

    def take(self) -> Assignment | None:
        """Starts the next task. Puts the references in its arguments into the bag."""
        task = self.core.execution.take()
        if task is not None:
            values = [msgpack.unpackb(task.payload.data)]
            values += [msgpack.unpackb(data) for _, _, status, data, _, _ in task.payload.refs if status == INLINE]
            for object_id in [object_id for value in values for object_id in value]:
                self.core.references.load_covered(object_id)
                task.covered.append(object_id)
                self.bag[object_id] += 1
            self.tasks.append(task)
        self.flush()
        return task

    def finish(self, task: Assignment, result: Iterable[bytes] = (), *, retryable: bool = False) -> None:
        """Ends a task that returns ``result``. The bag keeps its content."""
        inner = tuple(dict.fromkeys(result))
        self.core.collect(self.now)
        self.tasks.remove(task)
        self.core.execution.finish(task, [Return(INLINE, msgpack.packb(inner), 0, inner)], retryable, 5)
        self.flush()


class IgnoreReady:
    """Waits for an object, and does nothing when it is ready."""

    def ready(self, object_id: bytes) -> None:
        """Ignores that the object is ready."""


class Wire:
    """Some processes, and a broker that only routes messages."""

    def __init__(self, *names: str, windows: Windows = WINDOWS) -> None:
        self.placement: dict[bytes, Process] = {}
        self.processes: dict[bytes, Process] = {}
        self.everybody = [Process(self, name, windows) for name in names]
        self.processes = {process.id: process for process in self.everybody}
        self.watchers: dict[bytes, set[bytes]] = {process.id: set() for process in self.everybody}
        self.running: dict[bytes, tuple[m.Submit, Process]] = {}
        self.others: list[tuple[Process, Any]] = []  # messages to the broker that it does not route

    def __iter__(self) -> Any:
        return iter(self.everybody)

    def post(self, dest: bytes, message: Any) -> None:
        if dest in self.processes:
            self.processes[dest].down.append(message)

    def step_up(self, process: Process) -> bool:
        """Lets the broker take one message of a process. Returns False if there is none."""
        if not process.up:
            return False
        message = over_the_wire(process.up.popleft())
        if isinstance(message, m.Submit):
            self._submit(process, message)
        elif isinstance(message, m.Done):
            self.running.pop(message.task_id, None)
            self.post(
                owner_of(message.task_id), m.Result(message.task_id, message.attempt, process.id, b"", message.payload)
            )
        elif isinstance(message, m.Started):
            self.post(owner_of(message.task_id), message)
        elif isinstance(message, m.Reply):
            self.post(
                message.owner,
                m.Result(
                    message.task_id, message.attempt, process.id, process.core.execution.actor_id, message.payload
                ),
            )
        elif isinstance(message, m.Forward) and message.dest in self.processes:
            self.post(message.dest, m.Delivered(process.id, message.rows))
        elif isinstance(message, m.Forward):
            self.post(process.id, m.ProcessDied(message.dest, "killed"))
        elif isinstance(message, m.Watch) and message.process_id in self.processes:
            self.watchers[message.process_id].add(process.id)
        elif isinstance(message, m.Watch) and message.process_id not in HOSTS:
            self.post(process.id, m.ProcessDied(message.process_id, "killed"))
        else:
            self.others.append((process, message))
        return True

    def _submit(self, source: Process, message: m.Submit) -> None:
        worker = self.placement[message.task_id]
        if worker.id not in self.processes:
            self.post(source.id, m.Failed(message.task_id, message.attempt, "WorkerCrashedError", "dead", True))
            return
        self.running[message.task_id] = (message, worker)
        run = m.Run(message.task_id, message.attempt, message.function_id, message.shape, [], message.payload)
        self.post(worker.id, run)

    def step_down(self, process: Process) -> bool:
        """Lets a process handle one message. Returns False if there is none."""
        if not process.down:
            return False
        process.core.receive(BROKER, over_the_wire(process.down.popleft()), 0.0)
        process.flush()
        return True

    def settle(self, *, without: Iterable[Process] = ()) -> None:
        """Delivers everything under way, except messages to or from the processes in ``without``."""
        moving = [process for process in self.everybody if process not in tuple(without)]
        while sum(self.step_up(process) | self.step_down(process) for process in moving):
            pass

    def run_all(self) -> None:
        """Delivers everything, and runs every task, which returns nothing."""
        self.settle()
        while self._run_one():
            self.settle()

    def _run_one(self) -> bool:
        for process in self.processes.values():
            task = process.tasks[0] if process.tasks else process.take()
            if task is not None:
                process.finish(task)
                return True
        return False

    def kill(self, process: Process) -> None:
        """Ends a process. The messages that it had not sent are lost."""
        del self.processes[process.id]
        process.up.clear()
        process.down.clear()
        process.bag.clear()
        for task_id, (_, worker) in self.running.items():
            if owner_of(task_id) == process.id:  # no process waits for it or holds its arguments any more
                self.post(worker.id, m.CancelTask(task_id, 0))
        for watcher in sorted(self.watchers[process.id]):
            self.post(watcher, m.ProcessDied(process.id, "killed"))
        for task_id, (message, worker) in list(self.running.items()):
            if worker is process:
                del self.running[task_id]
                self.post(owner_of(task_id), m.Failed(task_id, message.attempt, "WorkerCrashedError", "dead", True))

    def get(self, process: Process, object_id: bytes) -> list[bytes]:
        """Waits for a value, loads it, and waits until its references are registered."""
        process.request(object_id)
        self.settle()
        inner = process.load(object_id)
        self.settle()
        return inner


def nothing_is_left(wire: Wire) -> None:
    wire.settle()
    for process in wire.processes.values():
        assert process.core.references.entries == {}
        assert process.core.tasks.tasks == {}
