"""The client core: everything that a driver or worker decides, see ``zray/protocol/contract.py``.

The session calls its tables. Any code may append to ``dropped``, also during a garbage collection. ``collect`` reads
it.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, get_args

from zray.client.core.actors import ActorTable
from zray.client.core.directory import ObjectDirectory
from zray.client.core.effects import ClientEffect, FreeSegment, ShowLogs, Unhandled, Warn
from zray.client.core.execution import Execution
from zray.client.core.lanes import LaneTable
from zray.client.core.leases import LeaseTable
from zray.client.core.lineage import Lineage
from zray.client.core.locations import LocationTable
from zray.client.core.object_places import ObjectPlaces
from zray.client.core.payloads import pack_outcome, read_outcome
from zray.client.core.queue_route import QueueRoute
from zray.client.core.references import ReferenceTable
from zray.client.core.states import ERROR, PENDING
from zray.client.core.streams import StreamTable
from zray.client.core.tasks import TaskTable
from zray.client.core.windows import WINDOWS, Windows
from zray.failures import aliased, encode_failure, show_error
from zray.ids import PROCESS_ID_BYTES, owner_of, task_of
from zray.logs.digest import Digest
from zray.protocol.codec import pack_body, unpack_messages
from zray.protocol.contract import BROKER, Outbox, Output, event
from zray.protocol.key_values import KvAnswer, KvRequest
from zray.protocol.messages import (
    CANCEL_FORCE,
    DEAD,
    FROM_PEER,
    ActorCall,
    ActorCreate,
    ActorFound,
    ActorLookup,
    ActorRun,
    ActorStart,
    ActorState,
    ActorStop,
    BorrowAck,
    BorrowAdd,
    BorrowCheck,
    BorrowChecked,
    BorrowConfirm,
    BorrowEnd,
    CancelObject,
    CancelTask,
    ChannelOffer,
    ChannelWanted,
    Chunk,
    CopyGone,
    CopyMade,
    Delivered,
    Done,
    ExitIfIdle,
    Failed,
    FunctionBlob,
    FunctionPut,
    GroupCreate,
    GroupNamed,
    GroupSettled,
    GroupWatch,
    Inspect,
    Inspected,
    Item,
    JobConfig,
    LaneFrame,
    LaneOffer,
    LaneSwitched,
    LaneWanted,
    Leased,
    LeaseEnded,
    LeaseLost,
    LeaseOver,
    LeaseReturned,
    LeaseRun,
    LeftBehind,
    Locate,
    Located,
    LocationsAsked,
    LocationsTold,
    Logs,
    NameTaken,
    NoSuchActor,
    Notice,
    ObjectRequest,
    ObjectState,
    PinCpus,
    ProcessDied,
    ProtocolError,
    Pull,
    PullFailed,
    Reply,
    Result,
    Run,
    Started,
    StreamCredit,
    Submit,
    TimedOut,
    TimeIsUp,
    Watch,
    Yield,
)
from zray.protocol.questions import Answer, Question
from zray.protocol.records import Activity
from zray.protocol.state_questions import (
    LEFT_BEHIND,
    InspectObjects,
    InspectTasks,
    ObjectRows,
    RecordsInspected,
    StateAnswer,
    StateQuestion,
    TaskRows,
)

UNHANDLED = "Unhandled error (suppress with RAY_IGNORE_UNHANDLED_ERRORS=1)"
"""Ray's wording."""
MAX_LINEAGE_BYTES = 256 << 20
"""See ``zray.client.core.lineage``. The session sets it by the setting of this name."""
MAX_LEFT_ROWS = 1_000
MAX_LEFT_BYTES = 1 << 20
"""How much a driver that leaves tells the broker of its tasks."""
MAX_INSPECTED = 20
"""The number of running calls, and of awaited objects, that an answer to ``Inspect`` contains."""
FORCE_IS_FOR_TASKS = "force=True is not supported for actor tasks: cancel without it, or end the actor with zray.kill()"


class OwnTransfers(Protocol):
    """The transfers of a process that pulls and serves objects itself, because its machine has no host."""

    def receive(self, source: bytes, message: Any) -> None:
        """Handles a message of another process, or of the broker."""

    def tick(self) -> None:
        """Lets time pass."""

    def lose_cluster(self, reason: str) -> None:
        """Ends all transfers, because the broker is gone."""


class ClientCore:
    """The state of one client process. ``process_id``: its own identifier. ``host_id``: the host whose store it writes
    to. ``max_inline_bytes``: the limit for all values in one message. ``windows``: how much may be under way."""

    def __init__(self, process_id: bytes, host_id: bytes, max_inline_bytes: int, windows: Windows = WINDOWS) -> None:
        self.process_id = process_id
        self.host_id = host_id
        self.dropped: deque[Any] = deque()  # objects, or weak references with an ``object_id``
        self._outbox: Outbox[ClientEffect] = Outbox()
        self.perform = self._outbox.perform
        self.to_broker = to_broker = self._outbox.to_broker
        self._counter = itertools.count(1)
        self.exported: dict[bytes, str] = {}  # functions and classes that this process has shipped, with their names
        self._requests: dict[int, Callable[[Any], None]] = {}
        self._next_request = 1
        self.references = ReferenceTable(process_id, self.send, self._watch, self._freed)
        self.locations = LocationTable()
        self.streams = StreamTable(self.references, self.send)
        self.tasks = TaskTable(self.references, self.locations, self.streams, max_inline_bytes)
        self.lineage = self.tasks.records = Lineage(self.references, self.tasks, MAX_LINEAGE_BYTES)
        self.directory = ObjectDirectory(self.references, self.locations, self.lineage, self.send)
        self.references.recover = self.directory.recover
        self.lineage.clear = self._clear_places
        self.places = ObjectPlaces(process_id, host_id, self.references, self.locations, self.send)
        self.leases = LeaseTable(self.tasks, host_id, to_broker)
        self.queue_route = QueueRoute(self.tasks, to_broker, windows, self.leases)
        self.actors = ActorTable(self.references, self.tasks, to_broker, windows)
        self.transfers: OwnTransfers | None = None  # set if the machine has no host
        self.faults = 0  # number of malformed messages of other processes
        self.now = 0.0  # when the present turn began
        self.awaited: dict[Any, list[bytes]] = {}  # by waiter: the objects that a thread of this process waits for
        self._retries = Digest("attempts failed and are tried again")
        self.on_logs: Callable[[ShowLogs], None] = self.perform
        """Called with workers' output, in order. (Not an effect: two threads may perform the effects of two turns.)"""
        self._unseen = Digest("more errors that were not fetched")
        self.references.on_unseen = self._on_unseen
        self.tasks.on_retry = self._on_retry
        self.execution = Execution(
            self.references, self.tasks, to_broker, self._reply, self._answer_owner, self.perform, process_id, host_id,
            windows.started_bytes,
        )  # fmt: skip
        self.lanes = LaneTable(
            process_id, self.actors, self.tasks, self.execution, self.references, self.send, self._outbox.send,
            self.perform, lambda each: self.rejected(each.message, each.reason, self.now), 2 * max_inline_bytes,
            self.leases,
        )  # fmt: skip

    # ------------------------------------------------------------------ messages and effects

    def receive(self, source: bytes, message: Any, now: float) -> None:
        """Handles a message of the broker, or a single message of another process."""
        self.now = now
        if source != BROKER:
            self._received_from(source, message)
        elif (handler := _HANDLERS.get(type(message))) is not None:
            handler(self, message)
        else:
            raise ProtocolError(f"a client is sent no {type(message).__name__}")

    def _delivered(self, message: Delivered) -> None:
        for inner in unpack_messages(message.rows, FROM_PEER):
            try:
                self._received_from(message.source, inner)
            except ProtocolError:  # the messages that came with it are valid
                self.faults += 1

    def _received_from(self, source: bytes, message: Any) -> None:
        if source == self.process_id:
            raise ProtocolError("a message arrived that claims to come from this process itself")
        _PEER_HANDLERS[type(message)](self, source, message)

    def take_output(self) -> Output[ClientEffect]:
        """Takes the messages and effects that are due."""
        if self.execution.has_items:
            self.execution.flush_items()
        if self.lanes.due:
            self.lanes.flush(self.now)
        return self._outbox.take()

    @property
    def has_output(self) -> bool:
        """Whether there are messages or effects to take."""
        return bool(self._outbox or self.lanes.due or self.execution.has_items)

    def _reply(self, reply: Reply) -> None:
        if self.lanes.serves(reply.owner):
            self.lanes.reply(reply)
        else:
            self.to_broker(reply)

    def _answer_owner(self, owner: bytes, message: Result | LeaseReturned) -> None:
        self.lanes.answer_owner(owner, message)

    def _on_result(self, message: Result) -> None:
        self.tasks.on_result(message)
        if message.actor:
            self.lanes.answered(message)
        elif self.leases.wants_lane:
            self.leases.answered(message.source)

    def _on_timed_out(self, message: TimedOut) -> None:
        self.leases.on_timed_out(message.task_id)
        self.tasks.on_timed_out(message)

    def _on_retry(self, name: str, notice: str) -> None:
        self._tell(self._retries.add(self.now, name, notice))

    def tick(self, now: float) -> None:
        """Lets time pass."""
        self.now = now
        if self.transfers is not None:
            self.transfers.tick()
        self.execution.note_time(now)
        self.tasks.tick(now)
        self.leases.tick()
        self.lanes.tick(now)
        self.tell_held_back(now)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing runs here of which the time is noted, and no task pauses."""
        busy = self.transfers is not None or self.execution.running or self.tasks.pauses
        return not busy and self.leases.is_at_rest and self.lanes.is_at_rest

    def due_s(self, now: float) -> float:
        """No limit: nothing in this core is more urgent than a regular tick."""
        return math.inf

    @event
    def tell_held_back(self, now: float) -> None:
        """Shows the warnings and errors that were held back, to be shown in one line."""
        self._tell(self._retries.flush(now))
        if unseen := self._unseen.flush(now):
            self.perform(Unhandled(unseen))

    def _on_unseen(self, name: str, data: bytes, size: int) -> None:
        def what() -> str:
            if not data:
                return f"{UNHANDLED}: {name} raised an error of {size:,} bytes, which is too large to be shown here"
            if origin := aliased(data):
                return f"{UNHANDLED}: {name} was not run, because its argument {origin.hex()} is an error"
            return f"{UNHANDLED}: {show_error(data)}"

        if unseen := self._unseen.add(self.now, name, what):
            self.perform(Unhandled(unseen))

    def _tell(self, notice: str) -> None:
        if notice:
            self.perform(Warn(notice))

    @event
    def collect(self, now: float) -> None:
        """Counts the references that were garbage collected since the last call."""
        self.now = self.tasks.now = now
        dropped = self.dropped
        drop = self.references.drop
        while dropped:
            gone = dropped.popleft()
            drop(gone if type(gone) is bytes else gone.object_id)

    def send(self, dest: bytes, message: Any) -> None:
        """Sends a message to the broker, to another process, or to this process itself."""
        if dest == self.process_id:
            _PEER_HANDLERS[type(message)](self, dest, message)
        elif dest == BROKER:
            self.to_broker(message)
        else:
            self._outbox.send(dest, message)

    # ------------------------------------------------------------------ cancellation

    def cancel(self, object_id: bytes, mode: int) -> None:
        """Cancels the task or call that makes an object, if it has not ended. Asks the owner, which may be another
        process."""
        owner = owner_of(object_id)
        if owner == self.process_id:
            self._cancel_own(object_id, mode)
        else:
            self.send(owner, CancelObject(object_id, mode))

    def _on_cancel_object(self, source: bytes, message: CancelObject) -> None:
        if not self.references.owns(message.object_id):
            raise ProtocolError("asked to cancel a task that another process owns")
        self._cancel_own(message.object_id, message.mode)

    def _cancel_own(self, object_id: bytes, mode: int) -> None:
        task = self.tasks.tasks.get(task_of(object_id))
        if task is None:
            return  # it has ended, or the object was put
        entry = self.references.entries.get(object_id)
        if task.task_id in self.lineage.rerun and entry is not None and entry.status is not PENDING:
            return  # another value of the task is made again
        if mode & CANCEL_FORCE and self.actors.is_call(task):
            self.perform(Warn(f"a cancellation by another process had no effect: {FORCE_IS_FOR_TASKS}"))
        else:
            self.tasks.cancel(task.task_id, mode)

    # ------------------------------------------------------------------ the places of objects

    def _left_behind(self, source: bytes, message: LeftBehind) -> None:
        for object_id in message.object_ids:
            self.references.check_own(object_id)
        for object_id in message.object_ids:
            self.tasks.left_behind(object_id, source)

    def _process_died(self, message: ProcessDied) -> None:
        process_id = message.process_id
        self.references.on_process_died(process_id)
        self.directory.on_process_died(process_id)
        self.execution.wake_producers()
        self.places.on_process_died(process_id)
        self.leases.on_process_died(process_id)
        self.lanes.on_process_died(process_id)
        if self.transfers is not None:
            self.transfers.receive(BROKER, message)

    def _about_transfers(self, source: bytes, message: Any) -> None:
        """Handles a message about transfers. Only a process without a host makes any: others leave it to their host."""
        if self.transfers is not None:
            self.transfers.receive(source, message)
        elif isinstance(message, Pull):
            self.send(source, PullFailed(message.pull, "this process has no objects in memory"))

    def _watch(self, process_id: bytes) -> None:
        self.to_broker(Watch(process_id))

    def _freed(self, host: bytes, object_id: bytes) -> None:
        if self.streams.handle_freed(object_id) or self.actors.handle_freed(object_id):
            return
        if host:
            self.perform(FreeSegment(host, object_id))
            self._clear_places(object_id)
            if self.lineage.records:
                self.lineage.freed(object_id)

    def _clear_places(self, object_id: bytes) -> None:
        """Frees copies of an object, and what earlier attempts have left of it."""
        for holder in self.locations.forget(object_id):
            self.perform(FreeSegment(holder, object_id))

    # ------------------------------------------------------------------ inspection
    def _inspect(self, message: Inspect) -> None:
        awaited = [
            self.tasks.about(object_id)
            for object_ids in itertools.islice(list(self.awaited.values()), MAX_INSPECTED)
            for object_id in object_ids[:MAX_INSPECTED]
        ]
        running = self.execution.about_running(self.now, MAX_INSPECTED)
        activity = Activity(running, awaited[:MAX_INSPECTED], self.tasks.waiting_for_arguments())
        self.to_broker(Inspected(message.request, activity))

    def _inspect_records(self, message: InspectTasks | InspectObjects) -> None:
        from zray.client.core import records  # not at the top: most processes never need it

        body: TaskRows | ObjectRows
        if isinstance(message, InspectTasks):
            total, tasks = records.task_rows(self.tasks, self.exported, message.limit)
            body, running = TaskRows(tasks), self.execution.running_tasks(message.limit)
            ran_ms = self.execution.ran_ms(self.now, message.limit)
        else:
            total, objects = records.object_rows(self.references, self.tasks, message.limit)
            body, running, ran_ms = ObjectRows(objects), [], []
        self.to_broker(RecordsInspected(message.request, total, pack_body([body]), running, ran_ms))

    @event
    def last_records(self, reason: str, now: float) -> list[RecordsInspected]:
        """What this process tells of its tasks before it says goodbye: nothing, or one message. ``reason``: it ends."""
        self.now = self.tasks.now = now
        if not self.tasks.ended and not self.tasks.tasks:
            return []
        from zray.client.core import records  # not at the top: most processes never need it

        total, rows = records.last_rows(self.tasks, self.exported, reason, MAX_LEFT_ROWS)
        while len(body := pack_body([TaskRows(rows)])) > MAX_LEFT_BYTES:
            rows = rows[: len(rows) // 2]
        return [RecordsInspected(LEFT_BEHIND, total, body, [], [])]

    # ------------------------------------------------------------------ helpers for the session and the tables

    def new_task_id(self) -> bytes:
        """An identifier for a task or ``put`` of this process."""
        return self.process_id + next(self._counter).to_bytes(8, "big")  # ``make_task_id`` inlined, to save a call

    def only_task(self) -> bytes:
        """Returns the only task under way; empty if there is none, if there are others, or a call of an actor."""
        tasks = self.tasks.tasks
        if len(tasks) != 1:
            return b""
        only = next(iter(tuple(tasks.values())), None)
        return only.task_id if only is not None and only.route is self.queue_route else b""

    def export(self, function_id: bytes, name: str, blob: bytes, short_name: str = "") -> None:
        """Makes a function or class known to the cluster, once. ``short_name``: without the name of its module."""
        if function_id not in self.exported:
            self.exported[function_id] = short_name or name
            self.to_broker(FunctionPut(function_id, name, blob))

    def new_request(self, on_answer: Callable[[Any], None]) -> int:
        """Returns a number for a request to the broker. ``on_answer`` is called with the answer."""
        request = self._next_request
        self._next_request += 1
        self._requests[request] = on_answer
        return request

    def query(
        self, question: Callable[[int], Question | StateQuestion | KvRequest], on_answer: Callable[[Any], None]
    ) -> None:
        """Asks the broker. ``question(number)`` makes the question. ``on_answer`` is called with the answer, or with
        None if there will be none."""
        self.to_broker(question(self.new_request(on_answer)))

    def _answered(self, request: int, value: Any) -> None:
        on_answer = self._requests.pop(request, None)
        if on_answer is not None:
            on_answer(value)

    @event
    def rejected(self, message: Any, reason: str, now: float) -> None:
        """Reports a message that a link did not accept, to the code that waits for its result."""
        self.now = now
        text = f"a {type(message).__name__} was not sent to the broker: {reason}"
        error = encode_failure("MessageRefusedError", text)
        if isinstance(message, (Submit, ActorCall, ActorRun, LeaseRun)):
            self.tasks.refused(message.task_id, message.attempt, error)
        elif isinstance(message, Result):
            returns = [(ERROR, error, 0, ()) for _ in read_outcome(message.payload).returns]
            payload = pack_outcome(self.host_id, returns, [], False)
            owner = message.task_id[:PROCESS_ID_BYTES]
            if message.actor:
                self._reply(Reply(owner, message.task_id, message.attempt, payload))
            else:
                self._answer_owner(owner, message._replace(payload=payload))
        elif isinstance(message, (Done, Reply, Yield)):
            returns = [(ERROR, error, 0, ()) for _ in read_outcome(message.payload).returns]
            self.to_broker(message._replace(payload=pack_outcome(self.host_id, returns, [], False)))
        elif isinstance(message, ActorCreate):
            self.actors.on_state(ActorState(message.actor_id, 0, DEAD, 0, text, error))
            self._answered(message.request, None)
        elif isinstance(message, ActorLookup | GroupCreate | GroupWatch | Question | StateQuestion | KvRequest):
            self._answered(message.request, None)
        else:
            self.perform(Warn(text))

    def check(self) -> None:
        """Raises AssertionError if an invariant of the windows does not hold; for tests."""
        self.references.check()
        self.queue_route.check()
        self.actors.check()
        self.lanes.check()
        self.leases.check()
        self.lineage.check()

    @event
    def lose_cluster(self, message: str, now: float) -> None:
        """Ends every wait with ClusterUnavailableError, because the broker is gone."""
        self.now = now
        self.tasks.lose_everything("ClusterUnavailableError", message)
        self.leases.lose_everything()
        for object_id, entry in list(self.references.entries.items()):
            if entry.status is PENDING:
                self.references.fail(object_id, "ClusterUnavailableError", message)
        if self.transfers is not None:
            self.transfers.lose_cluster(message)
        self.places.lose_cluster()
        for request in list(self._requests):
            self._answered(request, None)


_HANDLERS: dict[Any, Callable[[ClientCore, Any], None]] = {
    Run: lambda core, m: core.execution.on_run(m),
    Result: ClientCore._on_result,
    Item: lambda core, m: core.tasks.on_item(m),
    Failed: lambda core, m: core.tasks.on_failed(m, core.now),
    Started: lambda core, m: core.tasks.on_started(m),
    TimedOut: ClientCore._on_timed_out,
    ActorRun: lambda core, m: core.execution.on_actor_run(m),
    ActorStart: lambda core, m: core.execution.on_actor_start(m),
    ActorStop: lambda core, m: core.execution.on_actor_stop(m),
    ActorState: lambda core, m: core.actors.on_state(m),
    **dict.fromkeys(
        (ActorFound, NoSuchActor, NameTaken, GroupNamed, GroupSettled, *get_args(Answer | StateAnswer | KvAnswer)),
        lambda core, m: core._answered(m.request, m),
    ),
    Leased: lambda core, m: core.leases.on_leased(m),
    LeaseEnded: lambda core, m: core.leases.on_ended(m),
    LeaseLost: lambda core, m: core.leases.on_lost(m, core.now),
    LeaseOver: lambda core, m: core.execution.on_lease_over(m),
    CancelTask: lambda core, m: core.execution.on_cancel(m),
    TimeIsUp: lambda core, m: core.execution.on_time_is_up(m),
    PinCpus: lambda core, m: core.execution.on_pin(m),
    FunctionBlob: lambda core, m: core.execution.on_function(m),
    ExitIfIdle: lambda core, m: core.execution.on_exit_if_idle(m),
    ProcessDied: lambda core, m: core._process_died(m),
    Delivered: ClientCore._delivered,
    JobConfig: lambda core, m: core.execution.on_job(m),
    Logs: lambda core, m: core.on_logs(ShowLogs(m.entries, m.left_out)),
    Notice: lambda core, m: core.perform(Warn(m.text)),
    Inspect: ClientCore._inspect,
    InspectTasks: ClientCore._inspect_records,
    InspectObjects: ClientCore._inspect_records,
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
    CancelObject: ClientCore._on_cancel_object,
    StreamCredit: lambda core, source, m: core.execution.on_credit(source, m),
    LocationsAsked: lambda core, source, m: core.places.on_asked(source, m),
    LocationsTold: lambda core, source, m: core.places.on_told(source, m),
    Locate: lambda core, source, m: core.directory.on_locate(source, m),
    CopyMade: lambda core, source, m: core.directory.on_copy_made(source, m),
    CopyGone: lambda core, source, m: core.directory.on_copy_gone(source, m),
    LeftBehind: ClientCore._left_behind,
    ChannelWanted: lambda core, source, m: core.send(source, ChannelOffer("", b"", b"")),  # clients have no channels
    LaneWanted: lambda core, source, m: core.lanes.on_wanted(source, m),
    LaneOffer: lambda core, source, m: core.lanes.on_offer(source, m, core.now),
    LaneSwitched: lambda core, source, m: core.lanes.on_switched(source, m),
    LaneFrame: lambda core, source, m: core.lanes.on_frame(source, m, core.now),
    Pull: ClientCore._about_transfers,
    Chunk: ClientCore._about_transfers,
    PullFailed: ClientCore._about_transfers,
    Located: ClientCore._about_transfers,
}
