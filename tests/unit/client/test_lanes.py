"""Lanes: how they are opened, the order of calls over two ways, and what breaks. The test plays broker and sockets."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from tests.unit.client.ends import End
from tests.unit.client.wiring import FUNCTION, INLINE_ARGUMENTS, actor_spec, process_id
from zray.client.core.assignments import Assignment
from zray.client.core.effects import CloseLane, DialLane, OfferLane
from zray.client.core.lanes import MAX_LANES
from zray.client.core.payloads import Return
from zray.client.core.states import DEAD, ERROR, INLINE, PENDING
from zray.client.core.streams import StreamSpec
from zray.client.core.tasks import Task
from zray.failures import decode_failure
from zray.ids import make_task_id, return_id, task_of
from zray.protocol import messages as m
from zray.protocol.codec import pack_body, read_frame, unpack_messages
from zray.protocol.contract import BROKER
from zray.protocol.link import Link

CALLER, WORKER, STRANGER = process_id("caller"), process_id("worker"), process_id("stranger")
ACTOR = make_task_id(CALLER, 1000)
PAYLOAD = msgpack.packb([b"", INLINE, msgpack.packb([]), b"", b"", 0, [], []])
TOKEN = b"t" * 16
VALUE = Return(INLINE, msgpack.packb([]), 0, ())


class Pair:
    """A caller, and the worker of the actor that it calls."""

    def __init__(self, after: int = 2) -> None:
        self.caller = End(CALLER, after)
        self.worker = End(WORKER, after)
        self.worker.core.execution.functions[FUNCTION] = m.FunctionBlob(FUNCTION, True, "f", b"x")
        self.worker.tell(m.ActorStart(ACTOR, 0, FUNCTION, actor_spec(), CALLER, [], PAYLOAD))
        constructor = self.worker.core.execution.take()
        assert constructor is not None
        self.worker.core.execution.constructed(constructor, b"")
        self.worker.flush()
        self.worker.up.clear()
        self.ran: list[bytes] = []

    # ------------------------------------------------------------------ the caller's program

    @property
    def view(self) -> Any:
        return self.caller.core.actors.view(ACTOR, True)

    def call(self, retries: int = 0, refs: tuple[bytes, ...] = (), stream: StreamSpec | None = None) -> bytes:
        core = self.caller.core
        task_id = core.new_task_id()
        core.references.own(return_id(task_id, 1))
        if stream is not None:
            core.streams.open(task_id, stream)
        arguments = INLINE_ARGUMENTS._replace(refs=tuple(enumerate(refs)), held=refs)
        core.actors.submit(self.view, Task(task_id, self.view, b"", b"", 0, b"", arguments, 1, retries, b""))
        self.caller.flush()
        return return_id(task_id, 1)

    def status(self, object_id: bytes) -> int:
        return int(self.caller.core.references.entries[object_id].status)

    def error(self, object_id: bytes) -> BaseException:
        entry = self.caller.core.references.entries[object_id]
        assert entry.status is ERROR
        return decode_failure(entry.data)

    # ------------------------------------------------------------------ the broker and the sockets

    def route(self, source: End, dest: End) -> None:
        """The broker passes on what a process has sent."""
        source.flush()
        up, source.up = source.up, []
        for message in up:
            if isinstance(message, m.ActorCall):
                run = m.ActorRun(CALLER, message.seq, message.task_id, message.attempt, message.payload)
                dest.tell(run)
            elif isinstance(message, m.ActorCancel):
                dest.tell(m.CancelTask(message.task_id, message.mode))
            elif isinstance(message, m.Reply):
                dest.tell(m.Result(message.task_id, message.attempt, WORKER, ACTOR, message.payload))
            elif isinstance(message, m.Forward):
                dest.tell(m.Delivered(source.core.process_id, message.rows))

    def carry(self, source: End, dest: End) -> None:
        """The socket passes on the frames of a lane."""
        source.flush()
        frames, source.frames = source.frames, []
        for frame in frames:
            dest.core.lanes.frame(TOKEN, frame, 0.0)
        dest.flush()

    def settle(self) -> None:
        """Delivers everything, and runs every call."""
        for _ in range(4):
            self.carry(self.caller, self.worker)
            self.route(self.caller, self.worker)
            self.work()
            self.carry(self.worker, self.caller)
            self.route(self.worker, self.caller)

    def start(self) -> Assignment:
        task = self.worker.core.execution.take()
        assert task is not None
        self.ran.append(task.task_id)
        return task

    def work(self) -> None:
        execution = self.worker.core.execution
        while execution.queued:
            execution.finish(self.start(), [VALUE], False, 0)
        self.worker.flush()

    def offer(self) -> None:
        """Makes as many calls as it takes, and has the worker offer a lane."""
        for _ in range(self.caller.core.lanes.after):
            self.call()
            self.settle()
        assert self.worker.take(OfferLane) == [OfferLane(CALLER)]
        self.worker.core.lanes.offered(CALLER, "/socket", TOKEN, 0.0)
        self.route(self.worker, self.caller)
        assert self.caller.take(DialLane) == [DialLane("/socket", TOKEN)]

    def open(self) -> None:
        """Opens the lane. The caller's ``LaneSwitched`` is still under way."""
        self.offer()
        self.caller.core.lanes.dialled(TOKEN, True, 0.0)
        self.worker.core.lanes.accepted(TOKEN, 0.0)
        self.carry(self.worker, self.caller)
        assert self.view.lane is not None

    def break_it(self, *ends: End) -> None:
        for end in ends or (self.caller, self.worker):
            end.frames.clear()
            end.core.lanes.broke(TOKEN, 0.0)
            end.flush()


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.fixture
def opened(pair: Pair) -> Pair:
    pair.open()
    pair.settle()
    pair.ran.clear()
    return pair


def kinds(messages: list[Any]) -> list[str]:
    return [type(message).__name__ for message in messages]


def in_frames(frames: list[bytes]) -> list[str]:
    """The classes of the messages in frames."""
    link = Link(TOKEN[:8], frozenset((m.ActorRun, m.CancelTask, m.Result)), 0.0)
    return kinds([message for frame in frames for message in link.receive(read_frame(frame), 0.0)])


# ------------------------------------------------------------------ opening


def test_a_lane_carries_calls_and_answers_and_the_broker_none(opened: Pair) -> None:
    called = [opened.call(), opened.call()]
    assert opened.caller.up == []
    opened.carry(opened.caller, opened.worker)
    opened.work()
    assert opened.worker.up == []
    opened.carry(opened.worker, opened.caller)
    assert [opened.status(each) for each in called] == [INLINE, INLINE]
    assert opened.ran == [task_of(each) for each in called]


def test_a_few_calls_open_none(pair: Pair) -> None:
    pair.call()
    pair.settle()
    assert pair.view.answered == 1 and not pair.worker.take(OfferLane)


@pytest.mark.parametrize("machines", [("", "here"), ("here", ""), ("", ""), ("here", "there")])
def test_none_between_machines_or_if_they_are_switched_off(pair: Pair, machines: tuple[str, str]) -> None:
    pair.caller.core.lanes.machine, pair.worker.core.lanes.machine = machines
    called = [pair.call() for _ in range(5)]
    pair.settle()
    assert not pair.worker.take(OfferLane) and not pair.caller.take(DialLane)
    assert {pair.status(each) for each in called} == {INLINE}


def test_a_worker_that_cannot_listen_offers_none(pair: Pair) -> None:
    pair.call()
    pair.call()
    pair.settle()
    pair.worker.core.lanes.offered(CALLER, "", b"", 0.0)
    pair.settle()
    assert not pair.caller.take(DialLane)
    called = pair.call()
    pair.settle()
    assert pair.status(called) == INLINE


def test_a_caller_that_cannot_connect_goes_on_through_the_broker(pair: Pair) -> None:
    pair.offer()
    pair.caller.core.lanes.dialled(TOKEN, False, 0.0)
    assert pair.caller.take(CloseLane) == [CloseLane(TOKEN)]
    pair.worker.core.lanes.expired(TOKEN, 0.0)
    called = pair.call()
    pair.settle()
    assert pair.status(called) == INLINE and not pair.worker.core.lanes.is_used


def test_a_connection_that_was_never_accepted_is_no_lane(pair: Pair) -> None:
    pair.offer()
    pair.caller.core.lanes.dialled(TOKEN, True, 0.0)
    assert pair.view.lane is None, "the worker may have closed its socket at this moment"
    called = pair.call()
    assert kinds(pair.caller.up) == ["ActorCall"]
    pair.break_it(pair.caller)
    pair.settle()
    assert pair.status(called) == INLINE and not pair.caller.core.lanes.is_used


def test_an_accepted_lane_does_not_expire(pair: Pair) -> None:
    pair.open()
    pair.worker.core.lanes.expired(TOKEN, 0.0)
    called = pair.call()
    pair.settle()
    assert pair.status(called) == INLINE and pair.worker.core.lanes.is_used


def test_only_so_many_lanes(pair: Pair) -> None:
    for number in range(MAX_LANES):
        row = pack_body([m.LaneWanted(ACTOR, "here", 1 << 20)])
        pair.worker.tell(m.Delivered(process_id(str(number)), row))
        if number % 2:  # the shell has not made the other offers yet
            pair.worker.core.lanes.offered(process_id(str(number)), "/socket", process_id(f"token {number}"), 0.0)
    assert len(pair.worker.take(OfferLane)) == MAX_LANES
    pair.call()
    pair.call()
    pair.settle()
    assert not pair.worker.take(OfferLane)


def test_a_caller_gets_one_lane(opened: Pair) -> None:
    row = pack_body([m.LaneWanted(ACTOR, "here", 1 << 20)])
    opened.worker.tell(m.Delivered(CALLER, row))
    assert not opened.worker.take(OfferLane)
    assert kinds(opened.worker.up) == ["Forward"], "it is told that there is none"


# ------------------------------------------------------------------ order


def test_calls_of_the_lane_wait_for_those_through_the_broker(pair: Pair) -> None:
    before = pair.call()
    pair.open()  # settles that call; the next one is under way when the lane opens
    late = m.ActorRun(CALLER, 99, make_task_id(CALLER, 99), 0, PAYLOAD)
    by_lane = pair.call()
    pair.carry(pair.caller, pair.worker)
    assert pair.worker.core.execution.queued == 0
    pair.worker.tell(late)  # what the caller had sent through the broker arrives, and then its LaneSwitched
    pair.route(pair.caller, pair.worker)
    pair.ran.clear()
    pair.work()
    assert pair.ran == [late.task_id, task_of(by_lane)]
    assert pair.status(before) == INLINE


def test_calls_before_the_switch_are_answered_through_the_broker(pair: Pair) -> None:
    pair.open()
    pair.worker.tell(m.ActorRun(CALLER, 99, make_task_id(CALLER, 99), 0, PAYLOAD))
    pair.work()
    assert kinds(pair.worker.up) == ["Reply"] and pair.worker.frames == []


def test_a_cancellation_travels_behind_its_call(opened: Pair) -> None:
    called = opened.call()
    opened.caller.core.cancel(called, 0)
    opened.caller.flush()
    assert opened.caller.up == []
    opened.settle()
    assert "cancel" in str(opened.error(called)) and opened.ran == []


def test_a_call_through_the_broker_is_cancelled_through_the_broker(pair: Pair) -> None:
    pair.offer()
    called = pair.call()
    pair.caller.core.lanes.dialled(TOKEN, True, 0.0)
    pair.worker.core.lanes.accepted(TOKEN, 0.0)
    pair.carry(pair.worker, pair.caller)
    pair.caller.core.cancel(called, 0)
    pair.caller.flush()
    assert "ActorCancel" in kinds(pair.caller.up)
    pair.settle()
    assert "cancel" in str(pair.error(called))


def test_a_call_tried_again_keeps_to_the_lane(opened: Pair) -> None:
    called = opened.call(retries=1)
    opened.carry(opened.caller, opened.worker)
    opened.worker.core.execution.finish(opened.start(), [VALUE], True, 0)
    opened.carry(opened.worker, opened.caller)
    assert opened.status(called) == PENDING and in_frames(opened.caller.frames[-1:]) == []
    opened.settle()
    assert opened.status(called) == INLINE and len(opened.ran) == 2


def test_items_and_outcome_of_a_stream_take_one_way(opened: Pair) -> None:
    core = opened.caller.core
    opened.call(stream=StreamSpec(False, 0))
    opened.carry(opened.caller, opened.worker)
    execution = opened.worker.core.execution
    task = opened.start()
    execution.send_items(task, [VALUE])
    execution.finish(task, [VALUE], False, 0)
    opened.worker.flush()
    assert kinds(opened.worker.up) == ["Yield", "Reply"] and in_frames(opened.worker.frames) == []
    assert core.tasks.tasks


# ------------------------------------------------------------------ breaks and deaths


@pytest.mark.parametrize("lost", ["calls", "answers"])
def test_what_a_broken_lane_has_lost_comes_through_the_broker(opened: Pair, lost: str) -> None:
    called = [opened.call(), opened.call()]
    if lost == "answers":
        opened.carry(opened.caller, opened.worker)
        opened.work()
    opened.break_it()
    opened.settle()
    assert [opened.status(each) for each in called] == [INLINE, INLINE]
    assert opened.ran == [task_of(each) for each in called], "each ran once, in order"
    later = opened.call()
    assert kinds(opened.caller.up) == ["Forward"], "later calls stay behind those of the lane"
    opened.settle()
    assert opened.status(later) == INLINE


def test_a_lane_that_only_one_end_knows_to_be_broken(opened: Pair) -> None:
    called = opened.call()
    opened.break_it(opened.caller)
    opened.settle()
    assert opened.status(called) == INLINE


def test_frames_that_the_socket_does_not_take_keep_their_order(opened: Pair) -> None:
    called = []
    for _ in range(6):
        called.append(opened.call())
        opened.caller.flush()
    first, *others = opened.caller.frames
    opened.caller.frames = [others.pop()]  # the last one is sent, because there is room again
    opened.caller.core.lanes.overflowed(TOKEN, [first, *others], 0.0)
    opened.caller.flush()
    assert kinds(opened.caller.up) == ["Forward"]
    opened.settle()
    assert opened.ran == [task_of(each) for each in called]
    assert {opened.status(each) for each in called} == {INLINE}


def test_after_an_overflow_the_socket_is_not_used_until_all_is_acknowledged(opened: Pair) -> None:
    """Frames of two ways would overtake each other: the peer keeps early ones only up to a limit."""
    lanes = opened.caller.core.lanes
    called = [opened.call()]
    lanes.overflowed(TOKEN, [opened.caller.frames.pop()], 0.0)
    assert not lanes.takes_frames(TOKEN)
    called.append(opened.call())
    assert opened.caller.frames == [] and kinds(opened.caller.up) == ["Forward", "Forward"]
    opened.settle()
    assert lanes.takes_frames(TOKEN) and {opened.status(each) for each in called} == {INLINE}
    opened.call()
    assert len(opened.caller.frames) == 1


def test_what_a_broken_lane_carries_leaves_before_everything_else(opened: Pair) -> None:
    """As for a lane that is full: the shell sends refused frames first. A release must not overtake an answer."""
    opened.break_it(opened.worker)
    opened.worker.tell(m.ActorRun(CALLER, 50, make_task_id(CALLER, 50), 0, PAYLOAD))
    opened.worker.up.clear()
    task = opened.start()
    opened.worker.core.execution.end_actor("it is over")
    opened.worker.core.execution.finish(task, [VALUE], False, 0)
    opened.worker.flush()
    assert kinds(opened.worker.up) == ["Forward", "ActorExiting", "Leaving"]


@pytest.mark.parametrize("retries", [0, 1])
def test_a_restart_counts_calls_of_the_lane_as_run(opened: Pair, retries: int) -> None:
    called = opened.call(retries)
    opened.caller.tell(m.ActorState(ACTOR, 1, m.RESTARTING, 2, "its worker was killed", b""))
    assert opened.caller.take(CloseLane) == [CloseLane(TOKEN)]
    if not retries:
        assert "may have run" in str(opened.error(called))
        assert opened.caller.up == []
    else:
        assert opened.status(called) == PENDING
        (again,) = opened.caller.up
        assert isinstance(again, m.ActorCall) and (again.incarnation, again.seq, again.attempt) == (1, 1, 1)


def test_a_death_ends_calls_of_the_lane(opened: Pair) -> None:
    called = opened.call()
    opened.caller.tell(m.ActorState(ACTOR, 0, m.DEAD, 2, "it was killed", b""))
    assert "it was killed" in str(opened.error(called))
    assert opened.caller.take(CloseLane) == [CloseLane(TOKEN)] and not opened.caller.core.lanes.is_used


def test_a_lane_is_not_opened_for_an_incarnation_that_is_over(pair: Pair) -> None:
    pair.offer()
    pair.caller.core.lanes.dialled(TOKEN, True, 0.0)
    pair.caller.tell(m.ActorState(ACTOR, 1, m.RESTARTING, 2, "its worker was killed", b""))
    assert pair.caller.take(CloseLane) == [CloseLane(TOKEN)]
    pair.worker.core.lanes.accepted(TOKEN, 0.0)
    pair.carry(pair.worker, pair.caller)
    assert pair.view.lane is None and not pair.caller.core.lanes.is_used


def test_an_offer_for_an_incarnation_that_is_over_is_not_taken(pair: Pair) -> None:
    pair.call()
    pair.call()
    pair.settle()
    pair.caller.tell(m.ActorState(ACTOR, 1, m.RESTARTING, 2, "its worker was killed", b""))
    pair.worker.core.lanes.offered(CALLER, "/socket", TOKEN, 0.0)
    pair.route(pair.worker, pair.caller)
    assert not pair.caller.take(DialLane) and pair.view.state is not DEAD


def test_nothing_is_kept_of_a_lane_that_a_dead_worker_was_asked_for(pair: Pair) -> None:
    pair.call()
    pair.call()
    pair.route(pair.caller, pair.worker)
    pair.work()
    pair.route(pair.worker, pair.caller)
    assert pair.caller.core.lanes.is_used, "one is about to be opened"
    pair.caller.tell(m.ActorState(ACTOR, 1, m.RESTARTING, 2, "its worker was killed", b""))
    assert not pair.caller.core.lanes.is_used


def test_a_connection_to_a_dead_worker_is_given_up(pair: Pair) -> None:
    pair.offer()
    pair.caller.core.lanes.dialled(TOKEN, True, 0.0)
    pair.caller.tell(m.ActorState(ACTOR, 0, m.DEAD, 2, "it was killed", b""))
    assert pair.caller.take(CloseLane) == [CloseLane(TOKEN)] and not pair.caller.core.lanes.is_used


def test_the_lane_of_a_dead_caller_is_closed(opened: Pair) -> None:
    called = opened.call()
    opened.carry(opened.caller, opened.worker)
    opened.worker.tell(m.ProcessDied(CALLER, "killed"))
    assert opened.worker.take(CloseLane) == [CloseLane(TOKEN)] and not opened.worker.core.lanes.is_used
    opened.work()
    assert opened.ran == [task_of(called)] and kinds(opened.worker.up)[-1:] == ["Reply"]


@pytest.mark.parametrize("actor_id", [make_task_id(CALLER, 7), make_task_id(STRANGER, 1000)])
def test_who_does_not_know_the_actor_gets_no_lane_to_it(pair: Pair, actor_id: bytes) -> None:
    pair.worker.tell(m.Delivered(STRANGER, pack_body([m.LaneWanted(actor_id, "here", 1 << 20)])))
    assert not pair.worker.take(OfferLane)


def test_a_worker_of_tasks_offers_none() -> None:
    worker = End(WORKER)
    worker.tell(m.Delivered(CALLER, pack_body([m.LaneWanted(ACTOR, "here", 1 << 20)])))
    assert not worker.take(OfferLane)


def test_a_worker_that_leaves_offers_none(pair: Pair) -> None:
    pair.worker.core.execution.end_actor("it is over")
    pair.worker.flush()
    pair.worker.tell(m.Delivered(CALLER, pack_body([m.LaneWanted(ACTOR, "here", 1 << 20)])))
    assert not pair.worker.take(OfferLane)


def test_an_answer_comes_before_the_end_of_its_actor(opened: Pair) -> None:
    """The frames of a lane are in the output that has ``ActorExiting``, so a shell can send them first."""
    called = opened.call()
    opened.carry(opened.caller, opened.worker)
    task = opened.start()
    opened.worker.core.execution.end_actor("sys.exit()")
    opened.worker.core.execution.finish(task, [VALUE], False, 0)
    output = opened.worker.core.take_output()
    assert list(output.sends) == [BROKER, TOKEN] and kinds(output.sends[BROKER]) == ["ActorExiting", "Leaving"]
    for frame in output.sends[TOKEN]:
        opened.caller.core.lanes.frame(TOKEN, frame, 0.0)
    assert opened.status(called) == INLINE


# ------------------------------------------------------------------ what is sent at once


def test_only_a_call_that_is_alone_is_urgent(opened: Pair) -> None:
    lanes = opened.caller.core.lanes
    core = opened.caller.core
    for is_urgent in (True, False):
        task_id = core.new_task_id()
        core.references.own(return_id(task_id, 1))
        core.actors.submit(opened.view, Task(task_id, opened.view, b"", b"", 0, b"", INLINE_ARGUMENTS, 1, 0, b""))
        assert lanes.is_urgent is is_urgent
        opened.caller.flush()
        assert not lanes.is_urgent


def test_only_the_last_answer_is_urgent(opened: Pair) -> None:
    for _ in range(2):
        opened.call()
    opened.carry(opened.caller, opened.worker)
    execution, lanes = opened.worker.core.execution, opened.worker.core.lanes
    execution.finish(opened.start(), [VALUE], False, 0)
    assert not lanes.is_urgent
    execution.finish(opened.start(), [VALUE], False, 0)
    assert lanes.is_urgent


# ------------------------------------------------------------------ rest


def test_a_lane_rests_when_everything_is_acknowledged(opened: Pair) -> None:
    opened.call()
    opened.settle()
    assert not opened.caller.core.is_at_rest
    for end, other in ((opened.caller, opened.worker), (opened.worker, opened.caller)):
        end.core.tick(1.0)
        opened.carry(end, other)
    for end in (opened.caller, opened.worker):
        end.core.tick(1.25)
        end.flush()
        assert end.core.is_at_rest and end.frames == []


def test_a_message_above_the_limit_is_reported_to_its_caller(opened: Pair) -> None:
    core = opened.caller.core
    task_id = core.new_task_id()
    core.references.own(return_id(task_id, 1))
    arguments = INLINE_ARGUMENTS._replace(data=bytes(3 << 20))
    core.actors.submit(opened.view, Task(task_id, opened.view, b"", b"", 0, b"", arguments, 1, 0, b""))
    opened.caller.flush()
    assert "max_message_bytes" in str(opened.error(return_id(task_id, 1)))


def test_an_answer_above_the_limit_is_an_error_of_the_call(opened: Pair) -> None:
    called = opened.call()
    opened.carry(opened.caller, opened.worker)
    opened.worker.core.execution.finish(opened.start(), [VALUE._replace(data=bytes(3 << 20))], False, 0)
    opened.settle()
    assert "max_message_bytes" in str(opened.error(called))


# ------------------------------------------------------------------ impostors


def frames_of(*messages: Any) -> list[bytes]:
    link = Link(TOKEN[:8], frozenset(), 0.0)
    for message in messages:
        link.send(message)
    return link.outgoing(0.0)


@pytest.mark.parametrize(
    "message",
    [
        m.ActorRun(STRANGER, 1, make_task_id(STRANGER, 1), 0, PAYLOAD),
        m.ActorRun(CALLER, 1, make_task_id(STRANGER, 1), 0, PAYLOAD),
        m.CancelTask(make_task_id(STRANGER, 1), 0),
    ],
)
def test_a_caller_speaks_for_itself_only(pair: Pair, message: Any) -> None:
    pair.offer()
    lanes = pair.worker.core.lanes
    lanes.accepted(TOKEN, 0.0)
    pair.worker.tell(m.Delivered(CALLER, pack_body([m.LaneSwitched(TOKEN)])))
    for frame in frames_of(message):
        lanes.frame(TOKEN, frame, 0.0)
    assert lanes.faults == 1 and pair.worker.core.execution.queued == 0


@pytest.mark.parametrize(("source", "actor"), [(STRANGER, ACTOR), (WORKER, make_task_id(CALLER, 7))])
def test_a_worker_answers_for_its_actor_only(pair: Pair, source: bytes, actor: bytes) -> None:
    pair.offer()
    pair.caller.core.lanes.dialled(TOKEN, True, 0.0)
    called = pair.call()
    for frame in frames_of(m.Result(task_of(called), 0, source, actor, b"")):
        pair.caller.core.lanes.frame(TOKEN, frame, 0.0)
    assert pair.caller.core.lanes.faults == 1 and pair.status(called) == PENDING


@pytest.mark.parametrize(
    "message",
    [m.LaneOffer("/socket", TOKEN, 1 << 20), m.LaneSwitched(TOKEN), m.LaneOffer("", b"", 0)],
)
def test_what_was_not_asked_for_is_dropped(pair: Pair, message: Any) -> None:
    for end in (pair.caller, pair.worker):
        end.tell(m.Delivered(STRANGER, pack_body([message])))
        assert end.core.faults == 1 and not end.effects


@pytest.mark.parametrize("token", [b"", b"short", TOKEN + b"x"])
def test_a_token_of_another_size_is_refused(pair: Pair, token: bytes) -> None:
    pair.call()
    pair.call()
    pair.settle()
    pair.caller.tell(m.Delivered(WORKER, pack_body([m.LaneOffer("/socket", token, 1 << 20)])))
    assert pair.caller.core.faults == 1 and not pair.caller.take(DialLane)


def test_a_frame_of_another_process_does_not_reach_a_lane(opened: Pair) -> None:
    (frame,) = frames_of(m.ActorRun(CALLER, 1, make_task_id(CALLER, 77), 0, PAYLOAD))
    opened.worker.tell(m.Delivered(STRANGER, pack_body([m.LaneFrame(frame)])))
    assert opened.worker.core.execution.queued == 0


def test_a_frame_through_the_broker_does_not_open_a_lane(pair: Pair) -> None:
    pair.offer()
    (frame,) = frames_of(m.Result(make_task_id(CALLER, 1), 0, WORKER, ACTOR, b""))
    pair.caller.tell(m.Delivered(WORKER, pack_body([m.LaneFrame(frame)])))
    assert pair.view.lane is None


@pytest.mark.parametrize("smaller", ["caller", "worker"])
def test_both_ends_send_what_the_other_accepts(smaller: str) -> None:
    pair = Pair()
    end = pair.caller if smaller == "caller" else pair.worker
    end.core.lanes._max_message_bytes = 500_000
    pair.open()
    limits = {each.core.lanes._lanes[TOKEN].link._max_body_bytes for each in (pair.caller, pair.worker)}
    assert len(limits) == 1 and 490_000 < limits.pop() < 500_000 - 1024


def test_a_frame_that_is_none_is_an_error(opened: Pair) -> None:
    with pytest.raises(m.ProtocolError):
        opened.worker.core.lanes.frame(TOKEN, b"no frame", 0.0)
    opened.worker.tell(m.Delivered(CALLER, pack_body([m.LaneFrame(b"no frame")])))
    assert opened.worker.core.faults == 1
    opened.worker.core.lanes.frame(b"u" * 16, b"of a lane that is gone", 0.0)


def test_the_messages_of_each_direction_are_limited(opened: Pair) -> None:
    for end, message in (
        (opened.caller, m.CancelTask(make_task_id(CALLER, 1), 0)),
        (opened.worker, m.Result(make_task_id(CALLER, 1), 0, WORKER, ACTOR, b"")),
    ):
        lane = end.core.lanes._lanes[TOKEN]
        with pytest.raises(m.ProtocolError, match="may not be sent"):
            unpack_messages(pack_body([message]), lane.link._allowed)
