"""The client core: everything that a driver or worker decides, without a socket, clock or thread.

Contract: call a method of one of the tables, or ``receive`` with a message from the broker; then take what is to be
sent with ``drain`` and what is to be done with ``take_effects``. ``dropped`` may be appended to from anywhere, also
from a garbage collection; it is looked at by ``collect``.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from zray.client.core.actors import ActorTable
from zray.client.core.effects import FreeSegment, ShowLogs, Warn
from zray.client.core.execution import Execution
from zray.client.core.pulls import PullTable
from zray.client.core.references import ReferenceTable
from zray.client.core.tasks import QueueRoute, TaskTable
from zray.ids import make_task_id, owner_of
from zray.protocol.codec import unpack_messages
from zray.protocol.messages import (
    FROM_PEER,
    ActorFound,
    ActorRun,
    ActorStart,
    ActorState,
    ActorStop,
    Answer,
    BorrowAck,
    BorrowAdd,
    BorrowCheck,
    BorrowChecked,
    BorrowConfirm,
    BorrowEnd,
    CancelTask,
    Chunk,
    CopyMade,
    Delivered,
    ExitIfIdle,
    Failed,
    FreeObjects,
    FunctionBlob,
    FunctionPut,
    JobConfig,
    Logs,
    Notice,
    ObjectRequest,
    ObjectState,
    Peer,
    ProcessDied,
    PullFailed,
    Query,
    Result,
    Run,
    Watch,
    encode_row,
)

PEER_CHUNK_BYTES = 1 << 20


class ClientCore:
    """The state of one process. ``process_id``: its own; ``host_id``: of the host whose store it writes to."""

    def __init__(self, process_id: bytes, host_id: bytes) -> None:
        self.process_id = process_id
        self.host_id = host_id
        self.dropped: deque[Any] = deque()  # objects, or weak references with an ``object_id``
        self._out: list[Any] = []
        self._effects: list[Any] = []
        self._peer_rows: dict[bytes, list[Any]] = {}
        self._counter = itertools.count(1)
        self.exported: set[bytes] = set()  # functions and classes that this process has shipped
        self._requests: dict[int, Callable[[Any], None]] = {}
        self._next_request = 1
        send = self._out.append
        self.references = ReferenceTable(process_id, self.to_peer, self._watch, self._freed)
        self.tasks = TaskTable(self.references)
        self.queue_route = QueueRoute(self.tasks, send)
        self.actors = ActorTable(self.references, self.tasks, send)
        self.pulls = PullTable(self.to_peer, self._watch)
        self._copies: dict[bytes, list[bytes]] = {}  # hosts that hold copies of own objects
        self.execution = Execution(self.references, self.tasks, send, self._effects, host_id)
        self.send = send

    # ------------------------------------------------------------------ in and out

    def receive(self, message: Any) -> None:
        """Handles one message from the broker. Raises ProtocolError if its content is no good."""
        _HANDLERS[type(message)](self, message)

    def _delivered(self, message: Delivered) -> None:
        for inner in unpack_messages(message.rows, FROM_PEER):
            _PEER_HANDLERS[type(inner)](self, message.source, inner)

    def drain(self) -> list[Any]:
        """What is to be sent to the broker now, in order.

        Rows for peers go last: what lets a reference go must not overtake the answer that hands it over.
        """
        out = self._out[:]
        self._out.clear()
        if self._peer_rows:
            for dest, rows in self._peer_rows.items():
                out.extend(Peer(dest, msgpack.packb(chunk)) for chunk in _chunks(rows))
            self._peer_rows.clear()
        return out

    @property
    def has_output(self) -> bool:
        """Whether ``drain`` would return anything."""
        return bool(self._out or self._peer_rows)

    def take_effects(self) -> list[Any]:
        """What the shell is to do now, in order."""
        if not self._effects:
            return []
        effects = self._effects[:]
        self._effects.clear()
        return effects

    def add_effect(self, effect: Any) -> None:
        """Queues something for the shell to do, outside of its lock."""
        self._effects.append(effect)

    def collect(self) -> None:
        """Counts the references that were garbage collected since the last call."""
        dropped = self.dropped
        drop = self.references.drop
        while dropped:
            gone = dropped.popleft()
            drop(gone if type(gone) is bytes else gone.object_id)

    def to_peer(self, dest: bytes, message: Any) -> None:
        """Sends a message to another process, which may be this one."""
        if dest == self.process_id:
            _PEER_HANDLERS[type(message)](self, dest, message)
        else:
            self._peer_rows.setdefault(dest, []).append(encode_row(message))

    def _copy_made(self, message: CopyMade) -> None:
        entry = self.references.entries.get(message.object_id)
        if entry is None or owner_of(message.object_id) != self.process_id:
            self.to_peer(message.host, FreeObjects([message.object_id]))  # it was freed while it was copied
        else:
            self._copies.setdefault(message.object_id, []).append(message.host)

    def _process_died(self, message: ProcessDied) -> None:
        self.references.on_process_died(message.process_id)
        self.pulls.on_process_died(message.process_id, message.message)

    def _watch(self, process_id: bytes) -> None:
        self._out.append(Watch(process_id))

    def _freed(self, host: bytes, object_id: bytes) -> None:
        if not self.actors.handle_freed(object_id) and host:
            for holder in (host, *self._copies.pop(object_id, ())):
                self._effects.append(FreeSegment(holder, object_id))

    # ------------------------------------------------------------------ small services

    def new_task_id(self) -> bytes:
        """An identifier for a task or ``put`` of this process."""
        return make_task_id(self.process_id, next(self._counter))

    def export(self, function_id: bytes, name: str, blob: bytes) -> None:
        """Makes a function or class known to the cluster, once."""
        if function_id not in self.exported:
            self.exported.add(function_id)
            self._out.append(FunctionPut(function_id, name, blob))

    def new_request(self, on_answer: Callable[[Any], None]) -> int:
        """A number for a request to the broker; ``on_answer`` gets the answer."""
        request = self._next_request
        self._next_request += 1
        self._requests[request] = on_answer
        return request

    def query(self, what: str, argument: dict[str, Any], on_answer: Callable[[Any], None]) -> None:
        """Asks the broker for something of its state."""
        self._out.append(Query(self.new_request(on_answer), what, argument))

    def _answered(self, request: int, value: Any) -> None:
        on_answer = self._requests.pop(request, None)
        if on_answer is not None:
            on_answer(value)

    def lose_cluster(self, message: str) -> None:
        """The broker is gone: every wait ends with ClusterUnavailableError."""
        self.tasks.lose_everything("ClusterUnavailableError", message)
        for object_id, entry in list(self.references.entries.items()):
            if entry.status == 0:
                self.references.fail(object_id, "ClusterUnavailableError", message)
        self.pulls.lose_everything(message)
        for request in list(self._requests):
            self._answered(request, None)


_HANDLERS: dict[Any, Callable[[ClientCore, Any], None]] = {
    Run: lambda core, m: core.execution.on_run(m),
    Result: lambda core, m: core.tasks.on_result(m),
    Failed: lambda core, m: core.tasks.on_failed(m),
    ActorRun: lambda core, m: core.execution.on_actor_run(m),
    ActorStart: lambda core, m: core.execution.on_actor_start(m),
    ActorStop: lambda core, m: core.execution.on_actor_stop(m),
    ActorState: lambda core, m: core.actors.on_state(m),
    ActorFound: lambda core, m: core._answered(m.request, m),
    Answer: lambda core, m: core._answered(m.request, m.value),
    CancelTask: lambda core, m: core.execution.on_cancel(m),
    FunctionBlob: lambda core, m: core.execution.on_function(m),
    ExitIfIdle: lambda core, m: core.execution.on_exit_if_idle(m),
    ProcessDied: lambda core, m: core._process_died(m),
    Delivered: ClientCore._delivered,
    JobConfig: lambda core, m: core.execution.on_job(m),
    Logs: lambda core, m: core.add_effect(ShowLogs(m.entries)),
    Notice: lambda core, m: core.add_effect(Warn(m.text)),
}
_PEER_HANDLERS: dict[Any, Callable[[ClientCore, bytes, Any], None]] = {
    ObjectRequest: lambda core, source, m: core.references.on_request(source, m),
    ObjectState: lambda core, source, m: core.references.on_state(source, m),
    BorrowAdd: lambda core, source, m: core.references.on_borrow_add(source, m),
    BorrowAck: lambda core, source, m: core.references.on_borrow_ack(source, m),
    BorrowEnd: lambda core, source, m: core.references.on_borrow_end(source, m),
    BorrowConfirm: lambda core, source, m: core.references.on_borrow_confirm(source, m),
    BorrowCheck: lambda core, source, m: core.references.on_borrow_check(source, m),
    BorrowChecked: lambda core, source, m: core.references.on_borrow_checked(source, m),
    Chunk: lambda core, source, m: core.pulls.on_chunk(source, m),
    PullFailed: lambda core, source, m: core.pulls.on_failed(source, m),
    CopyMade: lambda core, source, m: core._copy_made(m),
}


def _chunks(rows: list[Any]) -> Iterator[list[Any]]:
    """Cuts rows so that the values in a chunk are about ``PEER_CHUNK_BYTES``: a message has a largest size."""
    chunk: list[Any] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += sum(len(field) for field in row if type(field) is bytes)
        if size >= PEER_CHUNK_BYTES:
            yield chunk
            chunk = []
            size = 0
    if chunk:
        yield chunk
