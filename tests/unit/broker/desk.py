"""A broker core on a desk: the test plays everybody else, and the broker's invariants are checked after every step."""

from __future__ import annotations

import itertools
from typing import Any

from zray.broker.core import BrokerCore
from zray.broker.resources import UNIT, shape_key
from zray.ids import function_id_of, make_task_id
from zray.protocol import messages as m
from zray.protocol.codec import pack_body, unpack_messages

ONE_CPU = shape_key({"CPU": UNIT})
NO_CPU = shape_key({})
FUNCTION = function_id_of(b"code")
ACTOR, OTHER = (make_task_id(b"driver".ljust(16, b"\0"), number) for number in (1, 2))
"""The first actors of the process that ``Desk.driver`` makes."""


def amounts(**resources: float) -> dict[str, int]:
    return {name: round(value * UNIT) for name, value in resources.items()}


def shape(**resources: float) -> bytes:
    return shape_key(amounts(**resources))


class Desk:
    """The broker, its clock, and the messages that have not been looked at."""

    def __init__(self, idle_timeout_s: float | None = None, **settings: Any) -> None:
        """``idle_timeout_s``: what its hosts say; None: nothing."""
        counter = itertools.count(1)
        self.core = BrokerCore(lambda: b"id".ljust(8, b"\0") + next(counter).to_bytes(8, "big"), **settings)
        self.now = 100.0
        self._idle_timeout_s = idle_timeout_s
        self.mail: dict[bytes, list[Any]] = {}
        self._tasks = itertools.count(1)

    # ------------------------------------------------------------------ turns

    def turn(self) -> None:
        """The end of a turn of the broker's loop."""
        self.core.schedule(self.now)
        self.core.check()
        for dest, messages in self.core.drain().items():
            for message in messages:
                (back,) = unpack_messages(pack_body([message]), frozenset([type(message)]))
                self.mail.setdefault(dest, []).append(back)

    def say(self, source: bytes, *messages: Any) -> None:
        """Messages of one process, in one turn."""
        for message in messages:
            self.core.receive(source, message, self.now)
        self.turn()

    def take(self, dest: bytes, *kinds: type) -> list[Any]:
        """What a process was sent since the last look; all of it is taken, those of ``kinds`` are returned."""
        messages = self.mail.pop(dest, [])
        return [message for message in messages if not kinds or isinstance(message, kinds)]

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)
        self.turn()

    def lose(self, process_id: bytes) -> None:
        """The broker declares a process dead."""
        self.core.lost(process_id, "it was silent")
        self.turn()

    # ------------------------------------------------------------------ who takes part

    def driver(self, name: str = "driver") -> bytes:
        process_id = name.encode().ljust(16, b"\0")
        self.core.joined(process_id, m.DRIVER, {"job": {"name": name}}, self.now)
        self.turn()
        return process_id

    def host(self, name: str = "host", **resources: float) -> bytes:
        """A host; none of its workers has come yet."""
        process_id = name.encode().ljust(16, b"\0")
        self.core.joined(process_id, m.HOST, {}, self.now)
        idle = {} if self._idle_timeout_s is None else {"idle_timeout_s": self._idle_timeout_s}
        self.say(process_id, m.HostReady(amounts(**resources), {"hostname": name, **idle}))
        return process_id

    def workers(self, host: bytes) -> list[bytes]:
        """Every worker that the host was told to start since the last look comes."""
        started = [message.worker_id for message in self.take(host, m.StartWorker)]
        for number, worker_id in enumerate(started):
            self.core.receive(host, m.WorkerStarted(worker_id, 1000 + number), self.now)
            assert self.core.may_join(worker_id, m.WORKER) == ""
            self.core.joined(worker_id, m.WORKER, {"pid": 1000 + number}, self.now)
        self.turn()
        return started

    def kill(self, worker_id: bytes, running: bytes = b"") -> None:
        """A worker's process dies, and its host tells so."""
        host = self.core.scheduler.workers[worker_id].host.host_id
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
        """The tasks that a worker was given since the last look."""
        return [run.task_id for run in self.take(worker_id, m.Run)]

    def done(self, worker_id: bytes, *task_ids: bytes, run_us: int = 50) -> None:
        self.say(worker_id, *[m.Done(task_id, 0, run_us, b"outcome") for task_id in task_ids])

    def teach(self, owner: bytes, worker_id: bytes, run_us: int, function_id: bytes = FUNCTION) -> None:
        """The broker learns how long a function runs."""
        (task_id,) = self.submit(owner, function_id=function_id)
        assert self.runs(worker_id) == [task_id]
        self.done(worker_id, task_id, run_us=run_us)
        self.take(owner)

    # ------------------------------------------------------------------ state

    @property
    def free(self) -> dict[str, float]:
        return {
            name: amount / UNIT
            for host in self.core.scheduler.hosts.values()
            for name, amount in host.pool.free.items()
        }

    def actor_spec(self, **changes: Any) -> dict[str, Any]:
        spec = {"name": "", "namespace": "", "detached": False, "max_restarts": 0,
                "placement": ONE_CPU, "running": NO_CPU,
                "class_name": "A", "ready": True}  # fmt: skip
        return {**spec, **changes}

    def create(self, creator: bytes, actor_id: bytes = ACTOR, **changes: Any) -> None:
        self.say(creator, m.ActorCreate(actor_id, FUNCTION, self.actor_spec(**changes), b"payload"))


class Stage:
    """A driver, a host of two CPUs, and an actor that lives."""

    def __init__(self, desk: Desk, **spec: Any) -> None:
        self.desk = desk
        self.driver = desk.driver()
        self.host = desk.host(CPU=2)
        self.idle = desk.workers(self.host)
        desk.create(self.driver, **spec)
        self.worker = self.find()
        self.start = desk.take(self.worker, m.ActorStart)[0]
        desk.say(self.worker, m.ActorReady(ACTOR, b""))
        desk.take(self.host)

    def find(self) -> bytes:
        """The worker that the actor has now."""
        self.desk.workers(self.host)
        worker = self.desk.core.actors.actors[ACTOR].worker
        assert worker is not None
        return worker.worker_id

    def call(self, caller: bytes, seq: int, incarnation: int = 0) -> bytes:
        task_id = make_task_id(caller, 1000 * incarnation + seq)
        self.desk.say(caller, m.ActorCall(ACTOR, incarnation, seq, task_id, 0, b"payload"))
        return task_id

    def served(self) -> list[bytes]:
        return [run.task_id for run in self.desk.take(self.worker, m.ActorRun)]

    def states(self, process: bytes) -> list[tuple[int, int, int]]:
        """(state, incarnation, last sequence number) of each notice."""
        return [(notice.state, notice.incarnation, notice.last_seq) for notice in self.desk.take(process, m.ActorState)]


def one_worker(desk: Desk) -> tuple[bytes, bytes]:
    """A driver, and the only worker of the only CPU."""
    driver = desk.driver()
    (worker,) = desk.workers(desk.host(CPU=1))
    return driver, worker


def prefetched(desk: Desk, count: int = 5) -> tuple[bytes, bytes, list[bytes]]:
    driver, worker = one_worker(desk)
    desk.teach(driver, worker, run_us=10)
    # Shares are half of the backlog per CPU: twice as many are needed for one worker to get so many.
    task_ids = desk.submit(driver, count)
    given = desk.runs(worker)
    assert len(given) > 1
    assert given == task_ids[: len(given)]
    return driver, worker, task_ids
