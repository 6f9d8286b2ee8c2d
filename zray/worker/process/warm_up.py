"""The optimization ``warm-up``: runs the worker's code before the fork, so that workers write to fewer shared pages.

The first calls of a function write to its code, as the interpreter specializes it, and to its caches of types and
names. Each page that a worker writes to becomes a page of its own. So a few short workers are run here, with a
simulated broker. That saves a tenth of a worker's memory, and a worker's first task runs warm code. Host and broker use
much of the same code. It takes about 5 ms and leaves nothing behind: no thread, no descriptor, no setting of the
process.

Depends on: how CPython caches and, from 3.11 on, specializes code that runs often. On another interpreter it helps less
and does no harm. Tested on CPython 3.10.13, 3.11.7, 3.12.1 and 3.13.0. Gain: see "Optimizations that can be switched
off" in ``docs/architecture.md``. Without it: each worker warms its own code.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from typing import Any

from zray import version
from zray.client.core.assignments import Assignment
from zray.client.core.payloads import TaskPayload
from zray.client.core.states import INLINE
from zray.client.session import Session
from zray.config import WARM_UP, Config
from zray.ids import TASK_ID_BYTES
from zray.memory.optimizations import left_out
from zray.named_tuples import NamedTuple
from zray.protocol.codec import pack, pack_handshake, read_frame, shape_key, unpack_handshake
from zray.protocol.link import Link
from zray.protocol.messages import (
    MAY_SEND,
    PROTOCOL_VERSION,
    WORKER,
    Done,
    FunctionBlob,
    Hello,
    JobConfig,
    Run,
    Welcome,
)
from zray.protocol.records import ClusterInfo, JobSettings, JoinInfo
from zray.serialization import pickle_callable
from zray.transport.connection import Connection
from zray.transport.sockets import POLLIN, Again
from zray.worker.process.runner import CallOptions
from zray.worker.process.worker import Worker

WORKERS = 9
"""The number of simulated workers. The interpreter specializes a function at its eighth call (CPython 3.11)."""
TASKS = 4
INCARNATION = b"warm-up."
LAST_THREAD_S = 1.0
"""How long the kernel may take to end a thread, in seconds."""


def warm_up() -> None:
    """Runs ``WORKERS`` workers of ``TASKS`` tasks each in this process, which must have no other threads.

    Raises nothing: if it fails, workers only use more memory.
    """
    threads = _threads()
    _clear_caches_of_types()
    try:
        _play()
    except Exception as error:
        left_out(WARM_UP, f"it has failed: {error!r}", error)
    # The kernel may still be ending a thread that has been joined, and does not report when it is done. A process that
    # forks must have one thread.
    until = time.monotonic() + LAST_THREAD_S
    while _threads() > threads and time.monotonic() < until:
        time.sleep(0.0001)


def _clear_caches_of_types() -> None:
    """Empties the interpreter's cache of types' attributes, where it can be asked to.

    An entry holds its attribute's name. So an entry that replaces one from an import, in a worker, writes to two names.
    """
    clear = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)  # the first: 3.13
    if clear is not None:
        clear()


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _play() -> None:
    before = signal.getsignal(signal.SIGINT)
    shipped = pickle_callable(lambda: None)
    config = Config(heartbeat_s=math.inf, silence_s=math.inf)
    hello = Hello(PROTOCOL_VERSION, version.python_version(), version.VERSION, WORKER, bytes(16), JoinInfo())
    for worker_number in range(WORKERS):
        unpack_handshake(read_frame(pack_handshake(hello)))
        socket = _Socket()
        socket.broker.send(JobConfig(bytes(4), JobSettings()))
        socket.broker.send(FunctionBlob(shipped.id16, True, shipped.full_name, shipped.blob))
        for number in range(TASKS):
            task_id = worker_number.to_bytes(TASK_ID_BYTES // 2, "big") + number.to_bytes(TASK_ID_BYTES // 2, "big")
            socket.broker.send(Run(task_id, 0, shipped.id16, _SHAPE, [], _PAYLOAD))
        welcome = Welcome(INCARNATION, config.max_message_bytes, ClusterInfo())
        connection = Connection(_Context(), socket, welcome, "", config)  # type: ignore[arg-type]
        session = Session(connection, bytes(16), bytes(16), JobSettings(), config)
        worker = socket.worker = _WarmUpWorker(session, bytearray(4096))
        session.shell.on_standby = None  # hand nothing back, however slow this is
        try:
            worker.serve()
        finally:
            session.close([])  # no thread may stay, whatever has failed
    signal.signal(signal.SIGINT, before)


_SHAPE = shape_key({"CPU": 10_000})
_OPTIONS = pack({"name": "warm_up", "num_returns": 1})
_PAYLOAD = pack(TaskPayload(_OPTIONS, INLINE, b"", b"", b"", 0, [], []))


class _WarmUpWorker(Worker):
    """A worker that does not change the process: variables, directory, title, output."""

    def _enter(self, task: Assignment, options: CallOptions) -> None:
        return

    def _show_idle(self) -> None:
        return

    def end_service(self) -> None:
        """Makes ``serve`` return."""
        self._lost = True


class _Frame(NamedTuple):
    """The used part of ``zmq.Frame``."""

    bytes: bytes
    more: bool = False


class _Socket:
    """A simulated socket with a broker's link at its other end. The last answer ends the worker."""

    def __init__(self) -> None:
        self.broker = Link(INCARNATION, MAY_SEND[WORKER], time.monotonic())
        self.worker: _WarmUpWorker | None = None
        self._done = 0
        self._arrived: list[bytes] = []
        self._fd = os.eventfd(1, os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def recv(self, flags: int, copy: bool) -> Any:
        if not self._arrived:
            raise Again
        return _Frame(self._arrived.pop(0))

    def send(self, data: bytes, flags: int) -> None:
        for message in self.broker.receive(read_frame(data), time.monotonic()):
            self._done += type(message) is Done
            if self._done == TASKS and self.worker is not None:
                self.worker.end_service()

    def getsockopt(self, option: int) -> int:
        self._arrived += self.broker.outgoing(time.monotonic())
        return POLLIN if self._arrived else 0

    def close(self, linger_ms: int) -> None:
        os.close(self._fd)


class _Context:
    """A simulated ZeroMQ context."""

    def term(self) -> Any:
        return
