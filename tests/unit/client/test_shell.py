"""Which thread waits for the socket, which is woken, and when messages are sent. Core and connection are fakes."""

import math
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest

from zray.client import shell as shell_module
from zray.client.core.effects import CloseLane, DialLane, OfferLane
from zray.client.shell import REST_S, ClientShell
from zray.client.states import CLOSED, LOST, OPEN
from zray.client.waiter import Waiter
from zray.protocol.contract import BROKER, TICK_S, Output


class Core:
    """A fake core. It calls what it receives, and sends messages and effects as the test says."""

    transfers = None
    now = 0.0
    is_at_rest = True

    def __init__(self):
        self.out, self.effects = [], []
        self.lanes = self
        self.due, self.is_urgent = [], False

    def receive(self, source, message, now):
        message()

    def collect(self, now):
        return

    def tick(self, now):
        return

    def lose_cluster(self, message, now):
        return

    @property
    def has_output(self):
        return bool(self.out or self.effects)

    def take_output(self):
        output = Output({BROKER: self.out} if self.out else {}, self.effects)
        self.out, self.effects = [], []
        return output


class Connection:
    """A fake connection, whose socket is an eventfd. Messages arrive in ``arrived``; sent ones go to ``story``."""

    refused = None
    rejected = ()
    congested = False
    dropped_frames = 0
    readable = False
    is_at_rest = False
    pending = False
    max_message_bytes = 1 << 20
    pings = False  # whether a ping is due at each tick

    def __init__(self, story):
        self.story = story
        self.arrived: deque[Callable[[], object]] = deque()
        self.socket = self.link = self
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)

    def fileno(self):
        return self.fd

    def arrive(self, message):
        self.arrived.append(message)
        os.eventfd_write(self.fd, 1)

    def receive(self, expected=False):
        if not self.arrived:
            return []
        os.eventfd_read(self.fd)
        messages, self.arrived = list(self.arrived), deque()
        return messages

    def flush(self, messages):
        self.story += messages
        if self.pending:
            self.story.append("ping")
        sent, self.pending = bool(messages or self.pending), False
        return sent

    def tick(self, now):
        self.pending = self.pings
        return True

    def restart_silence(self, now):
        return

    def confirm(self, timeout_s):
        self.story.append(f"confirm {timeout_s} s")
        return True

    def close(self):
        os.close(self.fd)


class Poll:
    """A fake poll object. Each poll runs the next of ``acts``, and is recorded in the story."""

    def __init__(self, poll, story, acts):
        self.poll_, self.story, self.acts = poll, story, acts

    def poll(self, timeout_ms):
        self.story.append("poll")
        self.timeout_ms = timeout_ms
        if self.acts:
            self.acts.popleft()()
        return self.poll_.poll(timeout_ms)

    def __getattr__(self, name):
        return getattr(self.poll_, name)


class Stage:
    def __init__(self, on_effects=lambda effects: []):
        self.story: list[str] = []
        self.acts: deque[Callable[[], object]] = deque()
        self.core = Core()
        self.connection = Connection(self.story)
        self.shell = ClientShell(cast(Any, self.core), cast(Any, self.connection), on_effects, lambda reason: None)
        with self.shell.lock:
            self.shell.turn()  # the first one ticks
        self.shell.settle()
        self.shell._poller._user_poll = cast(Any, Poll(self.shell._poller._user_poll, self.story, self.acts))

    def is_signalled(self):
        try:
            return bool(os.eventfd_read(self.shell._poller.wake_fd))
        except BlockingIOError:
            return False


@pytest.fixture
def stage():
    stage = Stage()
    yield stage
    stage.shell.close([])


def test_a_leader_that_finds_its_own_answer_does_not_wake_itself(stage):
    waiter = Waiter(stage.shell)
    stage.acts.append(lambda: stage.connection.arrive(lambda: waiter.ready(b"")))
    assert stage.shell.wait(waiter, 60)
    assert stage.story == ["poll"]
    assert not stage.is_signalled()
    assert not waiter.entered


def test_a_waiter_that_was_entered_waits_without_another_turn(stage):
    waiter = Waiter(stage.shell)
    with stage.shell.lock:
        stage.shell.turn()
        stage.shell.enter(waiter)
    turns = []
    turn = stage.shell.turn

    def noted_turn(expected=False, looks=True, by_lanes=False):
        turns.append(len(stage.story))
        return turn(expected, looks, by_lanes)

    stage.shell.turn = noted_turn
    stage.acts.append(lambda: stage.connection.arrive(lambda: waiter.ready(b"")))
    assert stage.shell.wait(waiter, 60)
    assert turns == [1], "none before the poll, one after"


def test_what_is_done_now_and_then_is_done_by_a_leader_that_stays_one(stage):
    """To leave the lead would wake the background thread, some times a second in each process that waits."""
    waiter, ticks, left = Waiter(stage.shell), [], []
    leave = stage.shell._leave
    stage.shell.on_tick = lambda: ticks.append(stage.shell._leader is waiter)

    def noted_leave(waiter):
        left.append(len(ticks))
        leave(waiter)

    stage.shell._leave = noted_leave
    stage.shell._last_tick = 0.0  # so the first turn ticks
    stage.acts.append(lambda: stage.connection.arrive(lambda: waiter.ready(b"")))
    assert stage.shell.wait(waiter, 60)
    assert ticks == [True]
    assert left == [1], "when it was done, and not before"


@pytest.mark.parametrize("at_rest", [False, True])
def test_a_process_at_rest_looks_around_less_often(stage, at_rest):
    waiter = Waiter(stage.shell)
    stage.connection.is_at_rest = at_rest
    stage.acts.append(lambda: stage.connection.arrive(lambda: waiter.ready(b"")))
    assert stage.shell.wait(waiter, 60)
    assert stage.shell._poller._user_poll.timeout_ms == pytest.approx(1000 * (REST_S if at_rest else TICK_S))


def test_what_another_thread_submits_wakes_the_leader(stage):
    waiter = Waiter(stage.shell)

    def submit():
        with stage.shell.lock:
            stage.core.out.append("from another thread")
            stage.shell.submitted()

    def act():
        thread = threading.Thread(target=submit)
        thread.start()
        thread.join()

    stage.acts.append(act)
    stage.acts.append(lambda: stage.connection.arrive(lambda: waiter.ready(b"")))
    assert stage.shell.wait(waiter, 60)
    assert stage.story == ["poll", "from another thread", "poll"]


def test_what_there_is_to_send_leaves_before_what_has_arrived_is_handled(stage):
    stage.connection.arrive(lambda: stage.core.out.append("an answer"))
    stage.core.out.append("was there before")
    sent_by_then = []
    stage.connection.arrive(lambda: sent_by_then.extend(stage.story))
    with stage.shell.lock:
        stage.shell.turn()
    assert sent_by_then == ["was there before"]
    assert stage.story == ["was there before", "an answer"]


@pytest.mark.parametrize("sends", [False, True])
def test_a_count_of_what_is_gone_wakes_the_leader_only_if_there_is_something_to_send(stage, sends):
    """Any ``put`` counts references that are gone. To wake a thread would cost more than the rest of the ``put``."""
    done = []

    def collect():
        stage.core.effects.append("free")
        if sends:
            stage.core.out.append("let go")
        with stage.shell.lock:
            stage.shell.collect()
        done.extend(stage.shell._effects)

    def act():
        thread = threading.Thread(target=collect)
        thread.start()
        thread.join()

    waiter = Waiter(stage.shell)
    stage.acts.append(act)
    stage.acts.append(lambda: stage.connection.arrive(lambda: waiter.ready(b"")))
    if not sends:
        stage.acts[0] = lambda: (act(), stage.acts.popleft()())
    assert stage.shell.wait(waiter, 60)
    assert done == ["free"], "for its own thread to do, at once"
    assert stage.story == (["poll", "let go", "poll"] if sends else ["poll"])


def test_what_an_effect_submits_leaves_before_the_next_wait():
    def on_effects(effects):
        if effects == ["call back"]:
            with scene.shell.lock:
                scene.core.out.append("from a callback")
                scene.shell.submitted()
        return []

    scene = Stage(on_effects)
    waiter = Waiter(scene.shell)
    scene.acts.append(lambda: scene.connection.arrive(lambda: scene.core.effects.append("call back")))
    scene.acts.append(lambda: scene.connection.arrive(lambda: waiter.ready(b"")))
    assert scene.shell.wait(waiter, 60)
    scene.shell.close([])
    assert scene.story == ["poll", "from a callback", "poll"]


def test_an_effect_may_end_the_wait():
    def on_effects(effects):
        if effects == ["call back"]:
            with stage.shell.lock:
                waiter.wake()
        return []

    stage = Stage(on_effects)
    waiter = Waiter(stage.shell)
    stage.acts.append(lambda: stage.connection.arrive(lambda: stage.core.effects.append("call back")))
    assert stage.shell.wait(waiter, 60)
    stage.shell.close([])
    assert stage.story == ["poll"]


def test_the_background_thread_does_not_lead_while_others_have_just_done_so(monkeypatch):
    """Else each worker would begin with a turn of its background thread, beside that of its main thread."""
    story = []
    acted = threading.Event()

    def note(what, act):
        def noted(*arguments):
            story.append(what)
            acted.set()
            act(*arguments)

        return noted

    monkeypatch.setattr(ClientShell, "_lead", note("leads", ClientShell._lead))
    monkeypatch.setattr(Waiter, "sleep", note("sleeps", Waiter.sleep))
    monkeypatch.setattr(shell_module, "GRACE_S", 60.0)
    shell = ClientShell(cast(Any, Core()), cast(Any, Connection([])), lambda effects: [], lambda reason: None)
    assert acted.wait(60)
    assert story == ["sleeps"]
    shell.close([])


def test_a_follower_is_promoted_when_the_leader_leaves(stage):
    leader, follower = Waiter(stage.shell), Waiter(stage.shell)
    with stage.shell.lock:
        stage.shell.turn()
        stage.shell.enter(leader)
        stage.shell.enter(follower)
    done = []
    thread = threading.Thread(target=lambda: done.append(stage.shell.wait(follower, 60)))
    thread.start()
    stage.acts.append(lambda: stage.connection.arrive(lambda: leader.ready(b"")))
    stage.acts.append(lambda: stage.connection.arrive(lambda: follower.ready(b"")))
    assert stage.shell.wait(leader, 60)
    thread.join(60)
    assert done == [True]
    assert not leader.entered
    assert not follower.entered


def test_the_end_of_the_session_ends_every_wait(stage):
    waiter = Waiter(stage.shell)
    stage.acts.append(lambda: threading.Thread(target=stage.shell.close, args=([],)).start())
    assert stage.shell.wait(waiter, 60)
    assert stage.shell.closed


def test_a_lost_connection_stays_lost_until_the_session_ends(stage):
    assert stage.shell.state is OPEN
    stage.shell.lose("the broker is gone")
    stage.shell.lose("once more")
    assert (stage.shell.state, stage.shell.lost, stage.shell.closed) == (LOST, "the broker is gone", False)
    stage.shell.close([])
    stage.shell.lose("too late")
    stage.shell.close([])
    assert (stage.shell.state, stage.shell.lost) == (CLOSED, "the broker is gone")
    assert stage.shell.closed


# ------------------------------------------------------------------ lanes


class FakeLanes:
    """The sockets of lanes, as an eventfd. What arrives is called; what does not fit goes to the broker."""

    def __init__(self, stage):
        self.stage = stage
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.arrived = []
        self.full = False
        self.due, self.is_urgent = [], False

    def fileno(self):
        return self.fd

    def arrive(self, frame):
        self.arrived.append(frame)
        os.eventfd_write(self.fd, 1)

    def receive(self, now):
        if self.arrived:
            os.eventfd_read(self.fd)
        arrived, self.arrived = self.arrived, []
        for frame in arrived:
            frame()

    def send(self, sends):
        frames = sends.pop(b"lane", [])
        if self.full:
            return {b"lane": frames}
        self.stage.story += [f"lane: {frame}" for frame in frames]
        return {}

    def overflowed(self, name, frames, now):
        self.stage.core.out += frames

    def tick(self, now):
        return

    def close(self):
        os.close(self.fd)


@pytest.fixture
def lanes(stage):
    made = stage.shell._lanes = stage.core.lanes = FakeLanes(stage)
    with stage.shell.lock:
        stage.shell._poller.choose(made, lost=False)
    stage.shell._poller._user_poll = Poll(stage.shell._poller._user_poll, stage.story, stage.acts)
    return made


def test_lanes_are_read_before_messages_of_the_broker_are_handled(stage, lanes):
    told = []
    stage.connection.arrive(lambda: told.append("message of the broker"))
    lanes.arrive(lambda: told.append("frame of a lane"))
    with stage.shell.lock:
        stage.shell.turn()
    assert told == ["frame of a lane", "message of the broker"]


def test_a_lane_wakes_the_thread_that_waits_and_the_brokers_socket_is_not_asked(stage, lanes):
    waiter = Waiter(stage.shell)
    asked = []
    receive = stage.connection.receive

    def noted_receive(expected=False):
        asked.append(expected)
        return receive(expected)

    stage.acts.append(lambda: lanes.arrive(lambda: waiter.ready(b"")))
    with stage.shell.lock:
        stage.shell.turn()
        stage.shell.enter(waiter)
    stage.connection.receive = noted_receive
    assert stage.shell.wait(waiter, 60)
    assert asked == []


def test_a_turn_for_lanes_that_sends_to_the_broker_looks_at_its_socket(stage, lanes):
    """A send may have consumed the signal that something has arrived."""
    told = []
    stage.connection.arrived.append(lambda: told.append("answer"))
    os.eventfd_write(stage.connection.fd, 1)
    stage.core.out.append("message")
    with stage.shell.lock:
        stage.shell.turn(by_lanes=True)
    assert told == ["answer"] and stage.story == ["message"]


def test_frames_that_do_not_fit_are_sent_before_everything_else(stage, lanes):
    for lanes.full in (False, True):
        with stage.shell.lock:
            stage.shell._unsent = {BROKER: ["message"], b"lane": ["frame"]}
            stage.shell._send()
    assert stage.story == ["lane: frame", "message", "frame", "message"]


def test_a_message_that_the_link_rejects_is_reported_at_once(stage, lanes):
    rejected = []
    stage.core.rejected = lambda message, reason, now: rejected.append(message)
    stage.connection.rejected = [("message", "too large")]
    with stage.shell.lock:
        stage.shell.turn(looks=False)
    assert rejected == ["message"]


def test_the_last_answers_leave_by_their_lane(stage, lanes):
    stage.shell._unsent = {b"lane": ["answer"]}
    stage.shell.close(["goodbye"])
    assert stage.story[-2:] == ["lane: answer", "goodbye"]
    with pytest.raises(OSError):
        os.fstat(lanes.fd)


def test_what_is_left_is_confirmed_before_the_last_messages(stage):
    stage.shell._unsent = {BROKER: ["answer"]}
    stage.shell.close(["goodbye"], confirm_s=3.0)
    assert stage.story[-3:] == ["answer", "confirm 3.0 s", "goodbye"]


@pytest.mark.parametrize("busy", [False, True])
def test_pings_are_sent_also_if_nothing_comes_or_goes_but_by_lanes(stage, lanes, busy):
    stage.connection.pings = True
    stage.shell._last_tick = 0.0
    if busy:
        lanes.arrived.append(lambda: stage.shell._unsent.update({b"lane": ["answer"]}))
        os.eventfd_write(lanes.fd, 1)
    with stage.shell.lock:
        stage.shell.turn(looks=False, by_lanes=busy)
    assert stage.story == (["lane: answer", "ping"] if busy else ["ping"])


@pytest.mark.parametrize("is_urgent", [False, True])
def test_what_is_urgent_leaves_by_a_lane_without_the_leader(stage, lanes, is_urgent):
    waiter = Waiter(stage.shell)

    def submit():
        with stage.shell.lock:
            lanes.due, lanes.is_urgent = ["lane"], is_urgent
            stage.shell.last_flush = math.inf  # a burst
            stage.shell._unsent = {b"lane": ["call"]}
            stage.shell.submitted()
            assert stage.story[-1] == ("lane: call" if is_urgent else "poll")
        lanes.due, lanes.is_urgent = [], False
        assert stage.is_signalled() is not is_urgent
        waiter.woken = True
        os.eventfd_write(stage.shell._poller.wake_fd, 1)

    stage.acts.append(submit)
    assert stage.shell.wait(waiter, 60)
    assert stage.story == ["poll", "lane: call"]


def test_the_leader_is_woken_for_what_goes_to_the_broker_with_an_urgent_call(stage, lanes):
    waiter = Waiter(stage.shell)

    def submit():
        with stage.shell.lock:
            lanes.due, lanes.is_urgent = ["lane"], True
            stage.shell._unsent = {b"lane": ["call"], BROKER: ["message"]}
            stage.shell.submitted()
        lanes.due, lanes.is_urgent = [], False
        waiter.woken = True
        assert stage.is_signalled(), "the send may have consumed the signal of the broker's socket"
        os.eventfd_write(stage.shell._poller.wake_fd, 1)

    stage.acts.append(submit)
    assert stage.shell.wait(waiter, 60)
    assert stage.story == ["poll", "lane: call", "message"]


def test_an_urgent_call_leaves_at_once_if_no_thread_waits(stage, lanes):
    with stage.shell.lock:
        stage.shell.turn()
        lanes.due, lanes.is_urgent = ["lane"], True
        stage.shell._unsent = {b"lane": ["call"]}
        stage.shell.submitted()
    assert stage.story == ["lane: call"]
    lanes.due, lanes.is_urgent = [], False


@pytest.mark.parametrize(
    ("effect", "told"),
    [
        (OfferLane(b"c" * 16), ("offered", b"c" * 16, "", b"")),
        (DialLane("/socket", b"t" * 16), ("dialled", b"t" * 16, False)),
        (CloseLane(b"t" * 16), None),
    ],
)
def test_without_descriptors_the_core_is_told_that_there_is_no_lane(stage, monkeypatch, effect, told):
    heard = []

    def no_descriptors(*arguments):
        raise OSError("too many open files")

    monkeypatch.setattr(shell_module, "LaneSockets", no_descriptors)
    stage.core.offered = lambda *said: heard.append(("offered", *said[:-1]))
    stage.core.dialled = lambda *said: heard.append(("dialled", *said[:-1]))
    stage.shell.perform_for_lanes(effect)
    assert heard == ([told] if told else []) and stage.shell._lanes is None
