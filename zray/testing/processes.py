"""The processes of a simulated cluster: hosts, drivers and workers with real cores and simulated shells.

User code is a generator that yields *operations* (``Sleep``, ``Get``, ``Ask``) and calls the methods of its
``SimProcess`` in between. Values are lists of references, since the reference rule depends on nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgpack

from zray import version
from zray.broker.resources import shape_key
from zray.client.core.client_core import ClientCore
from zray.client.core.effects import FreeSegment, Interrupt
from zray.client.core.execution import CALL, CONSTRUCTOR, TASK, Assignment
from zray.client.core.payloads import Arguments, Return
from zray.client.core.states import ERROR, HANDLE, INLINE, PENDING, STORED
from zray.client.core.streams import FIRST_ITEM, StreamSpec, item_id
from zray.client.core.tasks import TIMED_OUT, Task
from zray.client.core.windows import Windows
from zray.config import Config
from zray.failures import encode_failure
from zray.ids import function_id_of, put_id, return_id
from zray.protocol.codec import KIND_HANDSHAKE, pack_handshake, read_frame, unpack_handshake
from zray.protocol.contract import BROKER
from zray.protocol.link import Link
from zray.protocol.messages import (
    DRIVER,
    FLAG_RETRYABLE,
    FROM_BROKER,
    HOST,
    PROTOCOL_VERSION,
    WORKER,
    ActorFound,
    ActorLookup,
    FreeObjects,
    Goodbye,
    Hello,
    HostReady,
    Refused,
)
from zray.protocol.records import ActorSpec, HostInfo, JoinInfo
from zray.protocol.routing import Arrival, through_broker
from zray.worker.host.core import Death, Fork, FreeSegments, HostCore, Kill

if TYPE_CHECKING:
    from zray.testing.lanes import SimLanes
    from zray.testing.network import Simulation

HELLO_S = 0.25
HEARTBEAT_S = 1.0
TICK_S = 0.25
SILENCE_S = 6.0
STORED_PART = 0.2
"""The part of the calls whose values are stored; other values are in the answer."""


class Sleep(NamedTuple):
    """Computes for ``seconds``."""

    seconds: float


class Ask(NamedTuple):
    """Asks the broker: ``send(on_answer)`` makes the request. The generator gets the answer, or None."""

    send: Callable[[Callable[[Any], None]], None]


class Emit(NamedTuple):
    """Yields an item of a stream, with these references inside. The program goes on when there is room for another."""

    refs: list[bytes]


class Until(NamedTuple):
    """Waits until an object is ready, whatever its value is."""

    object_id: bytes


class Get(NamedTuple):
    """Waits for objects. The generator gets the list of their values (lists of references), None for an error."""

    object_ids: list[bytes]


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


Program = Generator[Any, Any, Any]


class Connections(Protocol):
    """The broker's side of the simulated network."""

    def dialled(self, through: bytes, owner: Node) -> None:
        """A process has dialled the broker."""


class Cluster(Protocol):
    """What a process uses: the network, the broker, and the other processes. See ``zray.testing.cluster``."""

    sim: Simulation
    large: bool
    windows: Windows
    worker_tick_s: float
    connections: Connections
    lanes: SimLanes
    programs: Callable[[SimWorker, Assignment, list[bytes]], Program]
    nodes: dict[bytes, Node]
    workers: list[SimWorker]
    pids: int
    die_storing: int
    freed: list[bytes]
    once: set[bytes]

    def receive(self, arrival: Arrival) -> None:
        """A frame has reached the broker."""

    def kill(self, node: Node) -> None:
        """Kills a process."""

    def stored(self, host: bytes, object_id: bytes) -> bytes | None:
        """Returns an object in a host's store; None if the host is dead."""

    def started(self, task_id: bytes) -> None:
        """A worker begins a task or call."""


COLLECTED = -1


def _options(n_returns: int, stream: StreamSpec | None = None) -> bytes:
    """Returns the options of a call: the number of its return values; ``COLLECTED`` for a collected stream."""
    packed: bytes = msgpack.packb(COLLECTED if stream is not None and stream.collected else n_returns)
    return packed


def is_over(program: Program) -> bool:
    """Whether a program has ended, or was interrupted."""
    return inspect.getgeneratorstate(program) == inspect.GEN_CLOSED


class Node:
    """A process on the simulated network: it joins, has a link to the broker, and handles messages.

    ``through``: the name of the connection that it shares; if empty, it dials one of its own. ``key``: the key that it
    presents.
    """

    def __init__(self, cluster: Cluster, process_id: bytes, kind: str, through: bytes = b"") -> None:
        self.cluster = cluster
        self.process_id = process_id
        self.kind = kind
        self.alive = True
        self.through = through or cluster.sim.new_id()
        self.key = b"driver" if kind == DRIVER else b"host"
        self.info = JoinInfo()
        self.link: Link | None = None
        self._incarnation = b""
        self._waiting: list[Any] = []  # messages to send when it has joined
        self._held: list[Callable[[], None]] | None = None  # actions held back while the process is stopped
        cluster.nodes[process_id] = self
        if not through:
            cluster.connections.dialled(self.through, self)
        cluster.sim.after(0.0, self._say_hello)
        cluster.sim.after(TICK_S, self._tick)

    def handle(self, message: Any) -> None:
        """Handles a message from the broker."""

    def output(self) -> list[Any]:
        """Returns the messages to send."""
        return []

    def ticked(self) -> None:
        """Time has passed."""

    def refused(self, reason: str) -> None:
        """The broker has refused it, or has declared it dead."""
        self.cluster.kill(self)

    def _say_hello(self) -> None:
        if not self.alive or self.link is not None:
            return
        if self._held is None:
            here = PROTOCOL_VERSION, version.python_version(), version.VERSION
            self.transmit(pack_handshake(Hello(*here, self.kind, self.process_id, self.info)))
        self.cluster.sim.after(HELLO_S, self._say_hello)

    def transmit(self, frame: bytes) -> None:
        """Sends a frame to the broker."""

        def send(frame: bytes) -> None:
            self.cluster.receive(Arrival(self.process_id, self.through, self.key, frame))

        self.relay().pass_on(lambda: self.cluster.sim.transmit(frame, send))

    def relay(self) -> Node:
        """Returns the process whose connection it uses."""
        return self

    def pass_on(self, action: Callable[[], None]) -> None:
        """Does an action on its connection, or holds it back while the process is stopped."""
        if self._held is not None:
            self._held.append(action)
        else:
            action()

    def deliver(self, data: bytes) -> None:
        """A frame has arrived."""
        if not self.alive:
            return
        if self._held is not None:
            self._held.append(lambda: self.deliver(data))
            return
        frame = read_frame(data)
        if frame.kind == KIND_HANDSHAKE:
            self._on_handshake(unpack_handshake(frame))
        elif self.link is not None and frame.incarnation == self._incarnation:
            for message in self.link.receive(frame, self.cluster.sim.now):
                self.handle(message)
        self.flush()

    def _on_handshake(self, answer: Any) -> None:
        if isinstance(answer, Refused):
            self.refused(answer.reason)
        elif self.link is None:
            self._incarnation = answer.incarnation
            self.link = Link(answer.incarnation, FROM_BROKER, self.cluster.sim.now, HEARTBEAT_S, SILENCE_S)

    def flush(self) -> None:
        """Sends what is queued."""
        if not self.alive or self._held is not None:
            return
        self._waiting.extend(self.output())
        if self.link is None:
            return
        for message in self._waiting:
            self.link.send(message)
        self._waiting.clear()
        for frame in self.link.outgoing(self.cluster.sim.now):
            self.transmit(frame)

    def _tick(self) -> None:
        if not self.alive:
            return
        if self.link is not None and self._held is None:
            self.link.tick(self.cluster.sim.now)
            self.ticked()
            self.flush()
        self.cluster.sim.after(self.cluster.worker_tick_s if self.kind == WORKER else TICK_S, self._tick)

    # ------------------------------------------------------------------ faults

    def pause(self) -> None:
        """Stops the process (SIGSTOP): frames that arrive stay in the kernel."""
        if self._held is None:
            self._held = []

    def go_on(self) -> None:
        """Continues the process (SIGCONT)."""
        held, self._held = self._held, None
        for action in held or ():
            action()


class SimHost(Node):
    """A host that forks ``SimWorker``s."""

    def __init__(self, cluster: Cluster, resources: dict[str, int], labels: dict[str, str] | None = None) -> None:
        self.core = HostCore("simulated")
        self.store: dict[bytes, bytes] = {}
        self._unsent: dict[bytes, list[Any]] = {}
        super().__init__(cluster, cluster.sim.new_id(), HOST)
        info = HostInfo(hostname="simulated", labels=labels or {}, pins_cpus=True)
        self._unsent[BROKER] = [HostReady(resources, info)]
        self.flush()

    def handle(self, message: Any) -> None:
        self.core.receive(BROKER, message, self.cluster.sim.now)
        self._perform()

    def _perform(self) -> None:
        output = self.core.take_output()
        output.add_sends_to(self._unsent)
        for effect in output.effects:
            if isinstance(effect, Fork):
                self.cluster.sim.after(0.003, lambda worker_id=effect.worker_id: self._forked(worker_id))  # type: ignore[misc]
            elif isinstance(effect, Kill):
                victim = self.cluster.nodes.get(effect.worker_id)
                if isinstance(victim, SimWorker):
                    self.cluster.kill(victim)
            elif isinstance(effect, FreeSegments):
                for object_id in effect.object_ids:
                    self.store.pop(object_id, None)

    def output(self) -> list[Any]:
        self._perform()
        unsent, self._unsent = self._unsent, {}
        return through_broker(unsent)

    def _forked(self, worker_id: bytes) -> None:
        if not self.alive or worker_id not in self.core.workers:
            return
        self.cluster.pids += 1
        pid = self.cluster.pids
        SimWorker(self.cluster, worker_id, self, pid)
        self.core.forked(worker_id, pid, self.cluster.sim.now)
        self.flush()

    def worker_died(self, worker: SimWorker) -> None:
        """The zygote reports a worker's death, a moment later."""

        def tell() -> None:
            if self.alive:
                stored = [object_id for object_id in worker.stored if object_id in self.store]
                self.core.exited(
                    worker.process_id, Death("was killed", 9, 0, worker.recorder, "", stored), self.cluster.sim.now
                )
                self.flush()

        self.cluster.sim.after(0.001, tell)


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
            values = [process.value(object_id) for object_id in self._object_ids] if self._loads else None
            process.resume(self._program, values, self._end)


class SimProcess(Node):
    """A driver or worker: a client core, and programs that run on it. ``bag``: the references that programs hold."""

    def __init__(self, cluster: Cluster, process_id: bytes, kind: str, host_id: bytes, through: bytes = b"") -> None:
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
        """Frees an object: a worker itself, on its own host; otherwise by a message to the host."""
        if isinstance(self, SimWorker) and self.host.process_id == host:
            self.host.store.pop(object_id, None)
        else:
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
        """Submits a task; the caller holds the references returned. ``stream``: see ``Session.submit``. ``shape``: what
        it asks for, if not ``cpus``."""
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
        """As ``call``, for a method that is a generator if ``stream`` is given; see ``Session.submit``."""
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


class SimDriver(SimProcess):
    """A driver. ``done`` is set when its program has ended."""

    def __init__(self, cluster: Cluster, program: Callable[[SimDriver], Program]) -> None:
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


class SimWorker(SimProcess):
    """A worker: runs the tasks and calls that it gets, by the cluster's ``programs``."""

    def __init__(self, cluster: Cluster, worker_id: bytes, host: SimHost, pid: int) -> None:
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

    def _begin(self, task: Assignment) -> None:
        if task.kind == TASK:
            self.recorder = task.task_id
        elif task.kind == CALL:
            self.seen.append((task.owner, task.task_id))
        if task.kind != CONSTRUCTOR:
            self.cluster.started(task.task_id)
        nested = msgpack.unpackb(task.payload.data) if task.payload.data else []
        for _, object_id, status, value, host, _ in task.payload.refs:
            if status == STORED:
                value = self.cluster.stored(host, object_id)
            if status in (INLINE, STORED) and value is not None:
                nested = nested + msgpack.unpackb(value)
        for object_id in nested:
            self.core.references.load_covered(object_id)
            task.covered.append(object_id)
        program = self.cluster.programs(self, task, nested)
        if task.kind == CONSTRUCTOR:
            self.core.execution.constructed(task, b"")
            return
        self.programs[task.task_id] = task, program
        self.skipping[task.task_id] = 0
        self.run(program, lambda result, failed: self._end(task, result, failed))

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
        if not self.cluster.large and self.cluster.sim.random.random() < STORED_PART:
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
            elif not self.cluster.large and self.cluster.sim.random.random() < STORED_PART:
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
