"""The workers of a simulated cluster: they run programs as tasks and calls, store values, and answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgpack

from zray.client.core.assignments import CALL, CONSTRUCTOR, TASK, Assignment
from zray.client.core.payloads import Return
from zray.client.core.states import ERROR, INLINE, STORED
from zray.client.core.streams import FIRST_ITEM, item_id
from zray.client.core.tasks import TIMED_OUT
from zray.failures import encode_failure
from zray.ids import return_id
from zray.protocol.messages import WORKER
from zray.protocol.records import JoinInfo
from zray.testing.clients import COLLECTED, ClientCluster, SimProcess
from zray.testing.hosts import SimHost
from zray.testing.nodes import Node
from zray.testing.operations import Get, Program


class WorkerCluster(ClientCluster, Protocol):
    """What a worker uses. ``die_storing``: how many workers will die between storing a value and answering."""

    programs: Callable[[SimWorker, Assignment, list[bytes]], Program]
    workers: list[SimWorker]
    die_storing: int
    stored_part: float

    def started(self, task_id: bytes) -> None:
        """A worker begins a task or call."""


class _Room:
    """A program that waits until it may yield another item."""

    def __init__(self, worker: SimWorker, task: Assignment, go_on: Callable[[], None]) -> None:
        self._worker = worker
        self._task = task
        self._go_on = go_on

    def wake(self) -> None:
        self._worker.cluster.sim.after(0.0, self.look)

    def look(self) -> None:
        worker = self._worker
        if worker.alive and self._task.task_id in worker.programs:
            if worker.core.execution.has_room(self._task, 0, self):
                self._go_on()
            worker.flush()


class SimWorker(SimProcess):
    """A worker: runs the tasks and calls that it gets, by the cluster's ``programs``."""

    cluster: WorkerCluster

    def __init__(self, cluster: WorkerCluster, worker_id: bytes, host: SimHost, pid: int) -> None:
        self.host = host
        self.pid = pid
        self.recorder = b""
        self.stored: list[bytes] = []  # return values, in its host's store
        self.kept: list[bytes] = []  # references that the user's code stored in a global
        self.seen: list[tuple[bytes, bytes]] = []  # an actor's calls, in the order in which they ran
        self.programs: dict[bytes, tuple[Assignment, Program]] = {}  # the running tasks and calls
        self.deaf: set[bytes] = set()  # running tasks and calls that go on when they are interrupted
        self.skipping: dict[bytes, int] = {}  # by stream: how many of the items that its owner has were left out
        super().__init__(cluster, worker_id, WORKER, host.process_id, host.through)
        self.info = JoinInfo(pid)
        cluster.workers.append(self)
        self.flush()

    def handle(self, message: Any) -> None:
        super().handle(message)
        self._go_on()

    def lanes_read(self) -> None:
        self._go_on()
        self.flush()

    def relay(self) -> Node:
        return self.host

    def _has_room(self) -> bool:
        """Whether another piece of work may begin."""
        execution = self.core.execution
        return execution.running < (execution.actor_spec.max_concurrency if execution.actor_spec else 1)

    def _go_on(self) -> None:
        execution = self.core.execution
        while self.alive and self._has_room():
            task = execution.take()
            if task is None:
                if execution.may_exit() and self.link is not None and self.link.idle and not self._waiting:
                    self.cluster.kill(self)
                return
            self._begin(task)
        if execution.running and not self.cluster.large and self.cluster.sim.random.random() < 0.1:
            execution.hand_back()
            execution.tell_started()

    def output(self) -> list[Any]:
        if self._has_room():
            self._go_on()
        return super().output()

    def _free(self, host: bytes, object_id: bytes) -> None:
        """Frees an object: of its own host's store by itself."""
        if self.host.process_id == host:
            self.host.store.pop(object_id, None)
        else:
            super()._free(host, object_id)

    def _begin(self, task: Assignment) -> None:
        if task.kind == TASK:
            self.recorder = task.task_id
        elif task.kind == CALL:
            self.seen.append((task.owner, task.task_id))
        if task.kind != CONSTRUCTOR:
            self.cluster.started(task.task_id)
        nested = msgpack.unpackb(task.payload.data) if task.payload.data else []
        lost: list[tuple[bytes, bytes]] = []
        for _, object_id, status, value, host, _ in task.payload.refs:
            if status == STORED:
                value = self.cluster.stored(host, object_id)
                if value is None:
                    lost.append((object_id, host))
            if status in (INLINE, STORED) and value is not None:
                nested = nested + msgpack.unpackb(value)
        for object_id in nested:
            self.core.references.load_covered(object_id)
            task.covered.append(object_id)
        for object_id, host in lost:
            self.core.references.load_covered(object_id)
            task.covered.append(object_id)
            self.look_for_holders(object_id, host)
            self.core.directory.look_again(object_id, host, b"")
        program = self.cluster.programs(self, task, nested)
        if task.kind == CONSTRUCTOR:
            self.core.execution.constructed(task, b"")
            return
        if lost:
            program = self._after_arguments([object_id for object_id, _ in lost], nested, program)
        self.programs[task.task_id] = task, program
        self.skipping[task.task_id] = 0
        self.run(program, lambda result, failed: self._end(task, result, failed))

    def _after_arguments(self, lost: list[bytes], nested: list[bytes], program: Program) -> Program:
        """Runs a program once its lost arguments have been made again. ``nested``: the references that it holds."""
        self.block()
        try:
            values = yield Get(lost)
        except GeneratorExit:  # cancelled
            self.unblock()
            self._drop_all([*lost, *nested])
            raise
        self.unblock()
        self._drop_all([*lost, *(inner for value in values for inner in value or ())])
        if None in values:
            self._drop_all(nested)  # the program has not begun
            raise RuntimeError("an argument is an error")
        return (yield from program)

    def _drop_all(self, object_ids: list[bytes]) -> None:
        for object_id in object_ids:
            self.drop(object_id)

    def _store(self, task_id: bytes, index: int, data: bytes, inner: tuple[bytes, ...]) -> Return:
        object_id = return_id(task_id, index)
        self.host.store[object_id] = data
        self.stored.append(object_id)
        return Return(STORED, b"", len(data), inner)

    def emit(self, program: Program, refs: list[bytes], end: Callable[[Any, bool], None]) -> None:
        task = next(task for task, other in self.programs.values() if other is program)
        producer = task.producer
        assert producer is not None
        skipped = self.skipping[task.task_id] < producer.skip
        if skipped:
            self.skipping[task.task_id] += 1
        else:
            self._send_item(task, refs)
        if self.alive:
            room = _Room(self, task, lambda: self.resume(program, None, end))
            self.cluster.sim.after(0.0, room.look)

    def _send_item(self, task: Assignment, refs: list[bytes]) -> None:
        assert task.producer is not None
        inner = tuple(dict.fromkeys(refs))
        data = msgpack.packb(list(inner))
        item = Return(INLINE, data, 0, inner)
        if not self.cluster.large and self.cluster.sim.random.random() < self.cluster.stored_part:
            item = self._store(task.task_id, FIRST_ITEM + task.producer.sent, data, inner)
            if self.cluster.die_storing and self.cluster.sim.random.random() < 0.2:
                self.cluster.die_storing -= 1
                self.cluster.kill(self)
                return
        self.core.execution.send_items(task, [item])

    def _completion(self, task: Assignment, collected: bool) -> Return:
        """Returns the completion of a stream. If it is ``collected``, it refers to all items."""
        assert task.producer is not None
        items = tuple(item_id(task.task_id, position) for position in range(task.producer.sent if collected else 0))
        return Return(INLINE, msgpack.packb(items), 0, ())  # the owner adds the references

    def function_of(self, task: Assignment) -> str:
        """Returns the name of the function that a task runs."""
        return self.core.execution.functions[task.function_id].name

    def limit(self, task: Assignment, limit_s: float, *, deaf: bool) -> None:
        """A task or call begins that may run so long. ``deaf``: it goes on when it is interrupted."""
        self.core.execution.begin_limited(task, limit_s)
        if deaf:
            self.deaf.add(task.task_id)

    def interrupt(self, task_id: bytes) -> None:
        if task_id in self.programs and task_id not in self.deaf:
            task, program = self.programs.pop(task_id)
            program.close()  # its ``finally`` block drops what it holds
            self.core.collect(self.cluster.sim.now)
            if self.core.execution.is_timed_out(task_id):
                self._answer_timed_out(task)
            else:
                self.core.execution.finish_cancelled(task)

    def _answer_timed_out(self, task: Assignment) -> None:
        data = encode_failure(TIMED_OUT, "the simulated task ran too long")
        n_returns = abs(msgpack.unpackb(task.payload.options))
        self.core.execution.finish(task, [Return(ERROR, data, 0, ())] * n_returns, False, 50)

    def block(self) -> None:
        """The running program is about to wait."""
        self.core.execution.block()

    def unblock(self) -> None:
        """The program goes on."""
        self.core.execution.unblock()

    def _end(self, task: Assignment, result: Any, failed: bool) -> None:
        if self.programs.pop(task.task_id, None) is None:
            return
        self.deaf.discard(task.task_id)
        failed = failed or self.core.execution.is_timed_out(task.task_id)
        n_returns = msgpack.unpackb(task.payload.options)
        if failed:
            data = encode_failure("SystemFailure", "the simulated task raised")
            returns = [Return(ERROR, data, 0, ())] * abs(n_returns)
        else:
            inner = tuple(dict.fromkeys(result))
            data = msgpack.packb(list(inner))
            if task.producer is not None:
                returns = [self._completion(task, n_returns == COLLECTED)]
            elif not self.cluster.large and self.cluster.sim.random.random() < self.cluster.stored_part:
                returns = [self._store(task.task_id, index, data, inner) for index in range(1, n_returns + 1)]
                if self.cluster.die_storing and self.cluster.sim.random.random() < 0.5:
                    self.cluster.die_storing -= 1
                    self.cluster.kill(self)
                    return
            else:
                returns = [Return(INLINE, data, 0, inner)] * n_returns
        self.core.collect(self.cluster.sim.now)
        self.core.execution.finish(task, returns, False, 50)
        for object_id in result or ():
            self.drop(object_id)
        self._go_on()
        self.flush()
