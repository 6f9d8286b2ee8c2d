"""A broker core alone. The test plays all other processes; the core's invariants are checked after each step."""

from __future__ import annotations

import itertools
from typing import Any

from zray.broker.core import BrokerCore
from zray.broker.records import Envelope
from zray.broker.resources import HEAD, UNIT, shape_key
from zray.ids import function_id_of, make_task_id
from zray.logs.line import WARNING, LogLine
from zray.protocol import messages as m
from zray.protocol.codec import pack_body, unpack_messages
from zray.protocol.records import ActorSpec, HostInfo, JobSettings, JoinInfo

ONE_CPU = shape_key({"CPU": UNIT})
NO_CPU = shape_key({})
FUNCTION = function_id_of(b"code")
ACTOR, OTHER = (make_task_id(b"driver".ljust(16, b"\0"), number) for number in (1, 2))
"""The first two actors of the process that ``BrokerHarness.driver`` makes."""


def amounts(**resources: float) -> dict[str, int]:
    return {name: round(value * UNIT) for name, value in resources.items()}


def shape(**resources: float) -> bytes:
    return shape_key(amounts(**resources))


def through_the_wire(message: Any) -> Any:
    """Returns a message as its receiver gets it. Raises ProtocolError if it is malformed."""
    (back,) = unpack_messages(pack_body([message]), frozenset([type(message)]))
    return back


class BrokerHarness:
    """The broker, its clock, and the messages that the test has not taken yet."""

    def __init__(
        self, idle_timeout_s: float = HostInfo().idle_timeout_s, pins_cpus: bool = False, **settings: Any
    ) -> None:
        """``idle_timeout_s``, ``pins_cpus``: of its hosts."""
        counter = itertools.count(1)
        self.core = BrokerCore(lambda: b"id".ljust(8, b"\0") + next(counter).to_bytes(8, "big"), **settings)
        self.now = 100.0
        self._of_hosts = HostInfo(idle_timeout_s=idle_timeout_s, pins_cpus=pins_cpus)
        self.mail: dict[bytes, list[Any]] = {}
        self.log: list[str] = []
        self.warnings: list[str] = []  # those of its lines that are at least warnings
        self._tasks = itertools.count(1)

    # ------------------------------------------------------------------ turns

    def turn(self) -> None:
        """Ends a turn of the broker's loop: collects its messages and log lines."""
        self.core.schedule(self.now)
        self.core.check()
        output = self.core.take_output()
        lines = [effect for effect in output.effects if isinstance(effect, LogLine)]
        self.log.extend(line.text for line in lines)
        self.warnings.extend(line.text for line in lines if line.level >= WARNING)
        for dest, messages in output.sends.items():
            self.mail.setdefault(dest, []).extend(map(through_the_wire, messages))

    def say(self, source: bytes, *messages: Any) -> None:
        """Sends messages of one process in one turn. Raises ProtocolError if one is malformed."""
        for message in messages:
            self.core.receive(source, through_the_wire(message), self.now)
        self.turn()

    def take(self, dest: bytes, *kinds: type) -> list[Any]:
        """Takes all messages to a process since the last call. Returns those of ``kinds`` (default: all)."""
        messages = self.mail.pop(dest, [])
        return [message for message in messages if not kinds or isinstance(message, kinds)]

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)
        self.turn()

    def lose(self, process_id: bytes) -> None:
        """Has the broker declare a process dead."""
        self.core.lost(process_id, "it was silent", self.now)
        self.turn()

    # ------------------------------------------------------------------ processes

    def driver(self, name: str = "driver") -> bytes:
        process_id = name.encode().ljust(16, b"\0")
        self.core.joined(process_id, m.DRIVER, JoinInfo(job=JobSettings(namespace=name)), self.now)
        self.turn()
        return process_id

    def host(self, name: str = "host", **resources: float) -> bytes:
        """Adds a host. Its workers have not joined yet."""
        return self.host_with({}, name, **resources)

    def host_with(self, labels: dict[str, str], name: str = "host", **resources: float) -> bytes:
        """Adds a host with labels."""
        process_id = name.encode().ljust(16, b"\0")
        self.core.joined(process_id, m.HOST, JoinInfo(), self.now)
        info = self._of_hosts._replace(hostname=name, labels=labels)
        self.say(process_id, m.HostReady(amounts(**resources), info))
        return process_id

    def workers(self, host: bytes) -> list[bytes]:
        """Joins the workers that the host was told to start since the last call, except dead ones. Returns them."""
        told = [message.worker_id for message in self.take(host, m.StartWorker)]
        started = [worker_id for worker_id in told if worker_id in self.core.workers.workers]
        for number, worker_id in enumerate(started):
            self.core.receive(host, m.WorkerStarted(worker_id, 1000 + number), self.now)
            assert self.core.may_join(worker_id, m.WORKER) == ""
            self.core.joined(worker_id, m.WORKER, JoinInfo(1000 + number), self.now)
        self.turn()
        return started

    def kill(self, worker_id: bytes, running: bytes = b"") -> None:
        """Has a worker's host report its death."""
        host = self.core.workers.workers[worker_id].host.host_id
        self.say(host, m.WorkerDied(worker_id, running, "WorkerCrashedError", "SIGKILL"))

    # ------------------------------------------------------------------ tasks

    def submit(
        self,
        owner: bytes,
        count: int = 1,
        shape: bytes = ONE_CPU,
        function_id: bytes = FUNCTION,
        *,
        retryable: bool = True,
        near: bytes = b"",
    ) -> list[bytes]:
        """Submits tasks in one turn."""
        task_ids = [make_task_id(owner, next(self._tasks)) for _ in range(count)]
        flags = m.FLAG_RETRYABLE if retryable else 0
        self.say(owner, *[m.Submit(task_id, 0, function_id, shape, flags, near, b"payload") for task_id in task_ids])
        return task_ids

    def runs(self, worker_id: bytes) -> list[bytes]:
        """The tasks that a worker was given since the last call."""
        return [run.task_id for run in self.take(worker_id, m.Run)]

    def done(self, worker_id: bytes, *task_ids: bytes, run_us: int = 50) -> None:
        self.say(worker_id, *[m.Done(task_id, 0, run_us, b"outcome") for task_id in task_ids])

    def teach(self, owner: bytes, worker_id: bytes, run_us: int, function_id: bytes = FUNCTION) -> None:
        """Runs a task, so that the broker learns how long a function runs."""
        (task_id,) = self.submit(owner, function_id=function_id)
        assert self.runs(worker_id) == [task_id]
        self.done(worker_id, task_id, run_us=run_us)
        self.take(owner)

    # ------------------------------------------------------------------ state

    @property
    def tasks(self) -> dict[bytes, Envelope]:
        """All tasks of living owners, by identifier: a new dictionary."""
        processes = self.core.processes.values()
        return {task_id: envelope for process in processes for task_id, envelope in process.tasks.items()}

    @property
    def free(self) -> dict[str, float]:
        """What is free, without the resource of the head."""
        return {
            name: amount / UNIT
            for host in self.core.scheduler.hosts.values()
            for name, amount in host.pool.free.items()
            if name != HEAD
        }

    def creation(
        self,
        actor_id: bytes = ACTOR,
        *,
        request: int = 0,
        get_if_exists: bool = False,
        ready: bool = True,
        near: bytes = b"",
        payload: bytes = b"payload",
        **changes: Any,
    ) -> m.ActorCreate:
        """Returns the announcement of an actor. ``changes``: fields of its specification."""
        spec = ActorSpec("A", "", "", False, 0, 1, True, False, ONE_CPU, NO_CPU, b"", b"")._replace(**changes)
        return m.ActorCreate(actor_id, FUNCTION, spec, request, get_if_exists, ready, near, payload)

    def create(self, creator: bytes, actor_id: bytes = ACTOR, **changes: Any) -> None:
        self.say(creator, self.creation(actor_id, **changes))


class Stage:
    """A driver, a host with two CPUs, and an actor that is alive."""

    def __init__(self, broker: BrokerHarness, **spec: Any) -> None:
        self.broker = broker
        self.driver = broker.driver()
        self.host = broker.host(CPU=2)
        self.idle = broker.workers(self.host)
        broker.create(self.driver, **spec)
        self.worker = self.find()
        self.start = broker.take(self.worker, m.ActorStart)[0]
        broker.say(self.worker, m.ActorReady(ACTOR, b""))
        broker.take(self.host)

    def find(self) -> bytes:
        """The present worker of the actor."""
        self.broker.workers(self.host)
        worker = self.broker.core.actors.actors[ACTOR].worker
        assert worker is not None
        return worker.worker_id

    def call(self, caller: bytes, seq: int, incarnation: int = 0) -> bytes:
        task_id = make_task_id(caller, 1000 * incarnation + seq)
        self.broker.say(caller, m.ActorCall(ACTOR, incarnation, seq, task_id, 0, b"payload"))
        return task_id

    def served(self) -> list[bytes]:
        return [run.task_id for run in self.broker.take(self.worker, m.ActorRun)]

    def states(self, process: bytes) -> list[tuple[int, int, int]]:
        """State, incarnation and last sequence number of each notice."""
        return [
            (notice.state, notice.incarnation, notice.last_seq) for notice in self.broker.take(process, m.ActorState)
        ]


def one_worker(broker: BrokerHarness) -> tuple[bytes, bytes]:
    """A driver, and the only worker of the only CPU."""
    driver = broker.driver()
    (worker,) = broker.workers(broker.host(CPU=1))
    return driver, worker


def prefetched(broker: BrokerHarness, count: int = 5) -> tuple[bytes, bytes, list[bytes]]:
    driver, worker = one_worker(broker)
    broker.teach(driver, worker, run_us=10)
    # A worker gets at most half of the backlog per CPU, so the backlog must be twice what one worker may get.
    task_ids = broker.submit(driver, count)
    given = broker.runs(worker)
    assert len(given) > 1
    assert given == task_ids[: len(given)]
    return driver, worker, task_ids
