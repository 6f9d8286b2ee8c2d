"""The processes of a simulated cluster that run programs: what drivers and workers have in common, and drivers.

A process has the real core of a client and a simulated shell. Values are lists of references, since the reference rule
depends on nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgpack

from zray.broker.resources import shape_key
from zray.client.core.client_core import ClientCore
from zray.client.core.effects import FreeSegment, Interrupt
from zray.client.core.payloads import Arguments
from zray.client.core.states import ERROR, HANDLE, INLINE, PENDING, STORED
from zray.client.core.streams import StreamSpec
from zray.client.core.tasks import Task
from zray.client.core.windows import Windows
from zray.config import Config
from zray.ids import function_id_of, owner_of, put_id, return_id
from zray.named_tuples import NamedTuple
from zray.protocol.contract import BROKER
from zray.protocol.messages import (
    DRIVER,
    FLAG_RETRYABLE,
    ActorFound,
    ActorLookup,
    CopyGone,
    FreeObjects,
    Goodbye,
    Locate,
)
from zray.protocol.records import ActorSpec
from zray.protocol.routing import through_broker
from zray.testing.lanes import SimLanes
from zray.testing.nodes import Network, Node
from zray.testing.operations import Ask, Emit, Get, Program, Sleep, Until, is_over

COLLECTED = -1
MAX_LOST_READS = 3
"""The number of times that a program looks for a lost value again."""


def _options(n_returns: int, stream: StreamSpec | None = None) -> bytes:
    """Returns the options of a call: the number of its return values; ``COLLECTED`` for a collected stream."""
    packed: bytes = msgpack.packb(COLLECTED if stream is not None and stream.collected else n_returns)
    return packed


class SimReader:
    """A generator object: the references that it holds. ``completion``: the reference that the program holds."""

    def __init__(self, completion: bytes, handle: bytes, next_item: bytes) -> None:
        self.completion = completion
        self.handle = handle
        self.next_item = next_item


class SimActor(NamedTuple):
    """An actor and a handle to it. ``concurrency``: how many calls it runs at once; if 1, in each caller's order."""

    actor_id: bytes
    handle_id: bytes
    concurrency: int


class ClientCluster(Network, Protocol):
    """What a driver or worker uses. ``freed``: the objects that were freed; ``once``: tasks without retries."""

    large: bool
    windows: Windows
    lanes: SimLanes
    freed: list[bytes]
    once: set[bytes]

    def stored(self, host: bytes, object_id: bytes) -> bytes | None:
        """Returns an object in a host's store; None if the host is dead."""


class _Wait:
    """A program that waits for objects."""

    def __init__(
        self,
        process: SimProcess,
        program: Program,
        object_ids: list[bytes],
        end: Callable[[Any, bool], None],
        loads: bool = True,
    ) -> None:
        """``loads``: the program gets the values."""
        self.left = 0
        self._failures: Counter[tuple[bytes, bytes]] = Counter()
        self._loads = loads
        self._process = process
        self._program = program
        self._object_ids = object_ids
        self._end = end
        for object_id in object_ids:
            self.left += process.core.references.wait_for(object_id, self)

    def ready(self, object_id: bytes) -> None:
        self.left -= 1
        if not self.left:
            self._process.cluster.sim.after(0.0, self.resume)

    def resume(self) -> None:
        """Continues the program with the values, unless it was interrupted meanwhile."""
        process = self._process
        if process.alive and not is_over(self._program):
            if self._loads and self._look_again():
                return
            values = [process.value(object_id) for object_id in self._object_ids] if self._loads else None
            process.resume(self._program, values, self._end)

    def _look_again(self) -> bool:
        """Has lost values looked for again. Returns whether the program goes on waiting."""
        process, entries = self._process, self._process.core.references.entries
        for object_id in self._object_ids:
            if entries[object_id].status is PENDING:  # another program has found that it is lost
                self.left += process.core.references.wait_for(object_id, self)
                continue
            host = entries[object_id].host
            failures = self._failures[object_id, host]
            if failures == MAX_LOST_READS or not process.is_lost(object_id):
                continue
            self._failures[object_id, host] += 1
            process.look_for_holders(object_id, host)
            if not process.core.directory.look_again(object_id, host, b""):
                self.left += process.core.references.wait_for(object_id, self)
        if self.left:
            process.flush()
        return bool(self.left)


class SimProcess(Node):
    """A driver or worker: a client core, and programs that run on it. ``bag``: the references that programs hold."""

    cluster: ClientCluster

    def __init__(
        self, cluster: ClientCluster, process_id: bytes, kind: str, host_id: bytes, through: bytes = b""
    ) -> None:
        self.core = ClientCore(process_id, host_id, Config().max_message_bytes // 2, cluster.windows)
        self.bag: list[bytes] = []
        cluster.lanes.prepare(self)
        super().__init__(cluster, process_id, kind, through)

    def handle(self, message: Any) -> None:
        self.cluster.lanes.receive(self)  # before the message, see zray.client.core.lanes
        self.core.receive(BROKER, message, self.cluster.sim.now)

    def ticked(self) -> None:
        self.core.tick(self.cluster.sim.now)

    def lanes_read(self) -> None:
        """Frames of lanes have come."""
        self.flush()

    def output(self) -> list[Any]:
        self.core.collect(self.cluster.sim.now)
        if not self.cluster.large:
            self.core.check()
        sends: dict[bytes, list[Any]] = {}
        first: list[Any] = []
        self.core.now = self.cluster.sim.now
        while output := self.core.take_output():
            output.add_sends_to(sends)
            first += self.cluster.lanes.send(self, sends)
            for effect in output.effects:
                self.cluster.lanes.perform(self, effect)
                if isinstance(effect, FreeSegment):
                    self.cluster.freed.append(effect.object_id)
                    self._free(effect.host, effect.object_id)
                elif isinstance(effect, Interrupt):
                    self.interrupt(effect.task_id)
        return [*first, *through_broker(sends)]

    def _free(self, host: bytes, object_id: bytes) -> None:
        """Frees an object by a message to its host."""
        self.core.send(host, FreeObjects([object_id]))

    def interrupt(self, task_id: bytes) -> None:
        """Stops a running task."""

    # ------------------------------------------------------------------ what programs do

    def put(self, inner: list[bytes]) -> bytes:
        """Makes an object with references inside; the caller holds one reference to it."""
        references = self.core.references
        object_id = put_id(self.core.new_task_id())
        references.own(object_id)
        for inner_id in inner:
            references.pin(inner_id)
        references.resolve(object_id, INLINE, msgpack.packb(inner), b"", 0, tuple(inner))
        return object_id

    def submit(
        self, function: str, refs: Iterable[bytes] = (), nested: Iterable[bytes] = (), retries: int = 3, cpus: int = 0,
        parent: bytes = b"", n_returns: int = 1, stream: StreamSpec | None = None, constraint: list[Any] | None = None,
        shape: bytes = b"",
    ) -> list[bytes]:  # fmt: skip
        """Submits a task; the caller holds the references returned. ``stream``: see ``Submission.submit``. ``shape``:
        what it asks for, if not ``cpus``."""
        core = self.core
        task_id = core.new_task_id()
        arguments = self._arguments(refs, nested)
        flags = FLAG_RETRYABLE if retries else 0
        function_id = function_id_of(function.encode())
        core.export(function_id, function, function.encode())
        task = Task(task_id, core.queue_route, function_id,
                    shape or shape_key({"CPU": cpus * 10_000}, constraint), flags,
                    _options(n_returns, stream), arguments, n_returns, retries, parent)  # fmt: skip
        returns = [return_id(task_id, index + 1) for index in range(n_returns)]
        for object_id in returns:
            core.references.own(object_id)
        if stream is not None:
            returns += core.streams.open(task_id, stream)
        if not retries:
            self.cluster.once.add(task_id)
        core.tasks.submit(task)
        return returns

    @staticmethod
    def _arguments(refs: Iterable[bytes], nested: Iterable[bytes], handle: bytes = b"") -> Arguments:
        refs, nested = list(refs), list(nested)
        held = (*refs, *nested, *((handle,) if handle else ()))
        return Arguments(INLINE, msgpack.packb(nested), b"", b"", 0, tuple(enumerate(refs)), held)

    def create_actor(
        self, restarts: int = 0, concurrency: int = 1, name: str = "", request: int = 0,
        constraint: list[Any] | None = None, shape: bytes = b"",
    ) -> SimActor:  # fmt: skip
        """Creates an actor; the caller holds a reference to its handle object. ``shape``: what it holds, if not
        nothing."""
        core = self.core
        actor_id = core.new_task_id()
        handle_id = put_id(actor_id)
        core.references.own(handle_id)
        core.references.resolve(handle_id, HANDLE, b"", b"", 0)
        function_id = function_id_of(b"actor")
        core.export(function_id, "actor", b"actor")
        spec = ActorSpec("A", name, "", detached=False, max_restarts=restarts, max_concurrency=concurrency,
                         ordered=concurrency == 1, has_coroutines=False,
                         placement=shape or shape_key({"CPU": 10_000}, constraint),
                         running=shape or shape_key({}), handle=handle_id, meta=b"")  # fmt: skip
        task = Task(actor_id, core.queue_route, function_id, b"", 0, b"", self._arguments((), ()), 0, 0, b"")
        core.actors.create(spec, task, request)
        return SimActor(actor_id, handle_id, concurrency)

    def create_named(self, name: str, restarts: int = 0, concurrency: int = 1) -> Program:
        """Creates an actor with a name, for ``yield from``; None when another actor has the name."""
        made: list[SimActor] = []

        def create(on_answer: Callable[[Any], None]) -> None:
            made.append(self.create_actor(restarts, concurrency, name, self.core.new_request(on_answer)))

        answer = yield Ask(create)
        (actor,) = made
        if isinstance(answer, ActorFound) and answer.actor_id == actor.actor_id:
            return actor
        self.core.actors.abandon(actor.actor_id)
        self.drop(actor.handle_id)
        return None

    def find_named(self, name: str) -> Program:
        """Looks up an actor, for ``yield from``; the caller holds a reference to its handle. None if there is none."""
        answer = yield Ask(lambda done: self.core.to_broker(ActorLookup(self.core.new_request(done), name, "")))
        if not isinstance(answer, ActorFound):
            return None
        spec = answer.spec
        self.core.references.load(spec.handle)
        return SimActor(answer.actor_id, spec.handle, spec.max_concurrency)

    def cancel(self, object_id: bytes, mode: int) -> None:
        """Cancels the task that makes an object, whichever process owns it."""
        self.core.cancel(object_id, mode)

    def call(self, actor: SimActor, refs: Iterable[bytes] = (), retries: int = 0) -> bytes:
        """Calls an actor; the caller holds the reference returned."""
        return self.call_stream(actor, refs, retries, None)[0]

    def call_stream(
        self, actor: SimActor, refs: Iterable[bytes], retries: int, stream: StreamSpec | None
    ) -> list[bytes]:
        """As ``call``, for a method that is a generator if ``stream`` is given; see ``Submission.submit``."""
        core = self.core
        task_id = core.new_task_id()
        object_id = return_id(task_id, 1)
        core.references.own(object_id)
        arguments = self._arguments(refs, (), actor.handle_id)
        view = core.actors.view(actor.actor_id, actor.concurrency == 1, actor.concurrency)
        if not retries:
            self.cluster.once.add(task_id)
        opened = core.streams.open(task_id, stream) if stream is not None else ()
        core.actors.submit(view, Task(task_id, view, b"", b"", 0, msgpack.packb(1), arguments, 1, retries, b""))
        return [object_id, *opened]

    def read(self, reader: SimReader) -> Program:
        """Reads a stream, for ``yield from``: its next item, of which the caller holds a reference; None at the end."""
        streams = self.core.streams
        yield Until(reader.next_item)
        if streams.is_end(reader.next_item):
            return None
        item, reader.next_item = reader.next_item, streams.take_next(reader.next_item)
        return item

    def close(self, reader: SimReader) -> None:
        """Drops a generator object."""
        for object_id in (reader.completion, reader.handle, reader.next_item):
            self.drop(object_id)

    def promise(self) -> bytes:
        """Makes an object of this process without a value; the caller holds a reference to it."""
        object_id = return_id(self.core.new_task_id(), 1)
        self.core.references.own(object_id)
        return object_id

    def keep_promise(self, object_id: bytes) -> None:
        """Gives the object its value."""
        self.core.references.resolve(object_id, INLINE, msgpack.packb([]), b"", 0)

    def load(self, value: list[bytes], outer: bytes) -> list[bytes]:
        """Loads references found in a value: the caller holds each of them."""
        for object_id in value:
            self.core.references.load(object_id, outer)
        return value

    def drop(self, object_id: bytes) -> None:
        """Drops one of the caller's references."""
        self.core.dropped.append(object_id)

    def is_lost(self, object_id: bytes) -> bool:
        """Whether an object is in no store any more, although it has a value."""
        entry = self.core.references.entries[object_id]
        return entry.status is STORED and self.cluster.stored(entry.host, object_id) is None

    def look_for_holders(self, object_id: bytes, host: bytes) -> None:
        """Asks the owner who has an object, as a pull does that did not get it from ``host``."""
        for message in (Locate(object_id, 0, False, [host]), CopyGone(object_id)):
            self.core.send(owner_of(object_id), message)

    def value(self, object_id: bytes) -> list[bytes] | None:
        """Returns a ready object's value, with its references loaded; None for an error."""
        entry = self.core.references.entries[object_id]
        assert entry.status is not PENDING
        if entry.status is ERROR:
            assert b"ObjectFreedError" not in entry.data, "an object was freed while it was held"
            return None
        data = self.cluster.stored(entry.host, object_id) if entry.status is STORED else entry.data
        return None if data is None else self.load(msgpack.unpackb(data), object_id)

    # ------------------------------------------------------------------ running programs

    def run(self, program: Program, end: Callable[[Any, bool], None]) -> None:
        """Starts a program; ``end(result, failed)`` is called at its end."""
        self.resume(program, None, end)

    def resume(self, program: Program, value: Any, end: Callable[[Any, bool], None]) -> None:
        """Runs a program to its next operation."""
        if not self.alive or is_over(program):  # killed, or interrupted
            return
        try:
            operation = program.send(value)
        except StopIteration as stop:
            end(stop.value, False)
        except RuntimeError:
            end(None, True)
        else:
            if isinstance(operation, Sleep):
                self.cluster.sim.after(operation.seconds, lambda: self.resume(program, None, end))
            elif isinstance(operation, Ask):
                operation.send(lambda answer: self.cluster.sim.after(0.0, lambda: self.resume(program, answer, end)))
            elif isinstance(operation, Emit):
                self.emit(program, operation.refs, end)
            else:
                is_get = isinstance(operation, Get)
                wait = _Wait(self, program, operation.object_ids if is_get else [operation.object_id], end, is_get)
                if not wait.left:
                    self.cluster.sim.after(0.0, wait.resume)
        self.flush()

    def emit(self, program: Program, refs: list[bytes], end: Callable[[Any, bool], None]) -> None:
        """Sends an item of a stream. Only workers have any."""
        raise NotImplementedError


class SimDriver(SimProcess):
    """A driver. ``done`` is set when its program has ended."""

    def __init__(self, cluster: ClientCluster, program: Callable[[SimDriver], Program]) -> None:
        super().__init__(cluster, cluster.sim.new_id(), DRIVER, b"")
        self.done = False
        self.fenced = False
        self.run(program(self), self._end)

    def _end(self, result: Any, failed: bool) -> None:
        self.done = True

    def refused(self, reason: str) -> None:
        if not self.fenced:
            self.fenced = self.done = True
            self.core.lose_cluster("the broker has declared this driver dead", self.cluster.sim.now)

    def leave(self) -> None:
        """Leaves the cluster like zray.shutdown()."""
        self.core.to_broker(Goodbye("done"))
        self.flush()
