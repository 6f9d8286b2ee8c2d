"""The client's shell: one socket, one lock, and the choice of the thread that waits for the socket.

The lock guards core and socket. It is held for microseconds, and never while a thread waits. A thread waits for the
socket on its file descriptor, outside the lock, so any thread can send meanwhile. At most one thread does this, the
*leader*. A thread that blocks in ``get`` drives the socket itself: to hand it each answer from an I/O thread would cost
a third of a synchronous call. The other threads wait on locks of their own. One of them becomes the leader when the
leader leaves. While no user thread leads, a background thread does. It takes the lead ``GRACE_S`` after the last user
thread left, so that a loop of short ``get`` calls never pays for a hand-over.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

from zray.client.core.client_core import ClientCore
from zray.client.core.effects import Callback, LaneEffect, Warn
from zray.client.lane_sockets import LaneSockets, refuse
from zray.client.lock import ClientLock
from zray.client.poller import Poller
from zray.client.states import CLOSED, CONNECTION, LOST, OPEN
from zray.client.waiter import Waiter
from zray.protocol.contract import BROKER, TICK_S
from zray.protocol.messages import ProtocolError
from zray.protocol.routing import through_broker
from zray.system.threads import signals_taken, start_thread
from zray.transport.connection import Connection

GRACE_S = 0.005
PARK_AFTER_S = GRACE_S
"""After a leader has led for this long, in seconds, the background thread sleeps until it is called: the leader is not
in a loop of short calls."""
PAUSE_S = 1.5
"""If a tick is this many seconds late, this process or the machine was stopped."""
REST_S = 4 * TICK_S
"""A process that has nothing to do wakes up once in this time, in seconds."""
LOST_LEAD_S = 6 * TICK_S
"""A leader that has not taken a turn for this long, in seconds, loses the lead."""
BURST_S = 0.0002
"""Submissions within this time, in seconds, are sent together."""


class ClientShell:
    """Threads and I/O of one client. ``on_lost`` is called when the broker is gone.

    ``state``: of the connection, see ``zray.client.states``. ``lost``: why the broker is gone; empty if it is not.

    ``on_effects(effects)`` is called without the lock, while signal handlers are held back. It returns the effects that
    run user code. If they arise in the main thread, the background thread completes them, because a signal handler
    could interrupt them in the main thread.
    """

    def __init__(
        self,
        core: ClientCore,
        connection: Connection,
        on_effects: Callable[[list[Any]], list[Callback]],
        on_lost: Callable[[str], None],
        lifeline: int = -1,
    ) -> None:
        self.core = core
        self.connection = connection
        self.lock = ClientLock()
        self.state = OPEN
        self.lost = ""
        self._on_effects = on_effects
        self._on_lost = on_lost
        self._poller = Poller(connection.socket.fileno(), lifeline, self.lock)
        self._unchecked = True  # the socket was used: its descriptor says nothing until it was asked again
        self.lane_path = ""
        """Where this process listens for callers of its actor; empty: it makes no lanes."""
        self._lanes: LaneSockets | None = None  # made when the first is needed
        self._leader: Waiter | None = None
        self._led_since = 0.0
        self._driven_at = time.monotonic()  # the background thread leads only if nobody else does in the next moments
        self._polling = False  # the leader is in poll(), or about to call it
        self._followers: deque[Waiter] = deque()
        self._background = Waiter(self)
        self._parked = False
        self._last_tick = 0.0
        self.last_flush = 0.0  # when everything pending was last sent
        self._effects: list[Any] = []
        self._unsent: dict[bytes, list[Any]] = {}  # by destination
        self._callbacks: deque[Callback] = deque()
        self._waiting_for_room: list[Waiter] = []  # threads that wait for room on the link
        self._main_ident = threading.main_thread().ident
        self._loss_unreported = False
        self._tick_due = False
        self.on_tick: Callable[[], None] = lambda: None
        """Called some times a second, without the lock. It must not wait, and must not run user code."""
        self.on_standby: Callable[[], None] | None = None
        self._background_ended = _thread.allocate_lock()
        self._background_ended.acquire()
        self._background_ident = start_thread(self._run_background)

    def _enter_state(self, state: int) -> None:
        """Changes the state. Raises IllegalTransition if ``state`` may not follow. Under the lock."""
        self.state = CONNECTION.after[self.state][state]

    @property
    def closed(self) -> bool:
        """Whether the session has ended."""
        return self.state is CLOSED

    # ------------------------------------------------------------------ turns

    def turn(self, expected: bool = False, looks: bool = True, by_lanes: bool = False) -> None:
        """Receives, handles and sends everything pending. Under the lock; call ``settle`` after releasing it.

        ``expected``: the broker's descriptor was ready. ``by_lanes``: that of the lanes was. ``looks``: look whether
        something has come even if neither was. A thread that is about to poll the descriptors need not.
        """
        core, connection = self.core, self.connection
        now = self._driven_at = time.monotonic()
        core.collect(now)
        if self.state is not OPEN:
            self._take_output()
            return
        if core.has_output or self._unsent:  # send first, because the socket must be checked after a send
            self._send()
            self.last_flush = now
        nothing_came = not (expected or looks or by_lanes or self._unchecked)
        if nothing_came and now - self._last_tick < TICK_S and not connection.link.rejected:
            return
        while self.state is OPEN:
            messages: Sequence[Any] = ()
            asked = expected or looks or self._unchecked
            if asked:
                messages = connection.receive(expected=expected)
                self._unchecked = False
            if self._lanes is not None and (by_lanes or looks or messages):
                self._lanes.receive(now)  # before these messages are handled, see zray.client.core.lanes
            for message in messages:
                try:
                    core.receive(BROKER, message, now)
                except ProtocolError:
                    connection.dropped_frames += 1
            now = time.monotonic()
            core.collect(now)
            if now - self._last_tick >= TICK_S:
                self._tick(now)
            self.last_flush = now
            if core.has_output or self._unsent:
                self._send()
            elif (asked or connection.link.pending) and connection.flush([]):
                self._unchecked = True
            expected = by_lanes = looks = False
            if connection.link.rejected:
                self._reject(now)
            elif self._unchecked and connection.readable:
                expected = True
            else:
                self._unchecked = False
                break
        if self._waiting_for_room and not connection.link.congested:
            waiters, self._waiting_for_room = self._waiting_for_room, []
            for waiter in waiters:
                waiter.wake()
        if core.has_output:
            self._take_output()

    def _take_output(self) -> None:
        """Takes the core's output. Messages wait for the next turn, effects for ``settle``."""
        output = self.core.take_output()
        self._effects.extend(output.effects)
        output.add_sends_to(self._unsent)

    def _send(self) -> None:
        """Sends everything pending."""
        if self._unsent:
            self._take_output()
            sends, self._unsent = self._unsent, {}
        else:
            output = self.core.take_output()
            self._effects.extend(output.effects)
            sends = output.sends
        messages = through_broker(sends) if self._lanes is None else self._send_by_lanes(sends)
        if (messages or self.connection.link.pending) and self.connection.flush(messages):
            self._unchecked = True

    def _send_by_lanes(self, sends: dict[bytes, list[Any]]) -> list[Any]:
        """Sends what lanes carry. Returns the messages for the broker. First come the frames that a lane did not take:
        nothing that this process says later may overtake them."""
        assert self._lanes is not None
        left = self._lanes.send(sends)
        if not left:
            return through_broker(sends) if sends else []
        for name, frames in left.items():
            self.core.lanes.overflowed(name, frames, time.monotonic())
        output = self.core.take_output()
        self._effects.extend(output.effects)
        return [*through_broker(output.sends), *through_broker(sends)]

    def _reject(self, now: float) -> None:
        rejected, self.connection.link.rejected = self.connection.link.rejected, []
        for message, reason in rejected:
            self.core.rejected(message, reason, now)

    def _tick(self, now: float) -> None:
        if self._last_tick and now - self._last_tick > PAUSE_S:
            self.connection.link.restart_silence(now)
        self._last_tick = now
        self._tick_due = True
        self.core.tick(now)
        if self._lanes is not None:
            self._lanes.tick(now)
        refused = self.connection.refused
        if refused is not None:
            self._lose(f"the broker has declared this process dead: {refused.reason}")
        elif not self.connection.link.tick(now):
            self._lose("the broker has not been heard for too long: it is dead or cannot be reached")

    def _lose(self, reason: str) -> None:
        self.lost = reason
        self._enter_state(LOST)
        self._poller.choose(self._lanes, bool(self.lost))
        self.core.lose_cluster(reason, time.monotonic())
        for waiter in self._waiting_for_room:
            waiter.wake()
        self._loss_unreported = True

    def perform_for_lanes(self, effect: LaneEffect) -> None:
        """Opens or closes a lane. Without the lock; effects that follow are settled by the caller."""
        with self.lock:
            if self.state is not OPEN:
                return
            now = time.monotonic()
            if self._lanes is None:
                with contextlib.suppress(OSError):  # no descriptors are left: calls go through the broker
                    self._lanes = LaneSockets(self.core, self.lane_path, self.connection.max_message_bytes)
                    self._poller.choose(self._lanes, bool(self.lost))
            if self._lanes is not None:
                self._lanes.perform(effect, now)
            else:
                refuse(self.core, effect, now)
            self.submitted()

    def lose(self, reason: str) -> None:
        """Ends every wait, because the cluster is gone."""
        with self.lock:
            if self.state is OPEN:
                self._lose(reason)
        self.settle()

    def settle(self) -> None:
        """Performs the effects of earlier turns, without the lock."""
        if not self._effects and not self._loss_unreported and not self._tick_due:
            return
        self.lock.shield()  # effects that were taken from the list must be performed
        try:
            self._settle_tick()
            while self._effects or self._loss_unreported:
                with self.lock:
                    effects, self._effects = self._effects, []
                    untold, self._loss_unreported = self._loss_unreported, False
                if effects:
                    self._callbacks.extend(self._on_effects(effects))
                if untold:
                    self._on_lost(self.lost)
        finally:
            self.lock.unshield()
        if self._callbacks:
            self._call_back()

    def _settle_tick(self) -> None:
        """Calls ``on_tick`` if a tick was made. A leader does so itself, and keeps the lead."""
        if self._tick_due:
            self._tick_due = False
            self.on_tick()

    def _call_back(self) -> None:
        """Completes callbacks; in the main thread, leaves them to the background thread."""
        if get_ident() == self._main_ident and not self.closed:
            with self.lock:
                self.alert(self._background)
            return
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # another thread has taken the last one
                return
            with signals_taken() if get_ident() == self._background_ident else contextlib.nullcontext():
                callback.complete()

    def submitted(self, now: float | None = None) -> None:
        """Makes sure that the core's messages are sent soon. Called under the lock, after the core was given work.
        ``now``: the time, if the caller has it.

        The first message of a burst is sent at once. Those that follow within ``BURST_S`` are left to a thread that
        waits, or to the background thread. A message for the broker is left to the leader, if there is one, because a
        send may consume the signal that the leader polls for. Lanes have no such signal. What is urgent for a lane is
        sent at once: the peer works on it while this thread goes on.
        """
        if self.state is CLOSED:
            return
        lanes = self.core.lanes
        if self._leader is not None:
            if self._polling and not (lanes.due and self._sent_by_lanes(lanes.is_urgent)):
                self._polling = False
                os.eventfd_write(self._poller.wake_fd, 1)
        elif lanes.is_urgent and self.state is OPEN:
            self._send()
            self.last_flush = time.monotonic()
        elif (time.monotonic() if now is None else now) - self.last_flush > BURST_S:
            self.turn()

    def _sent_by_lanes(self, is_urgent: bool) -> bool:
        """Sends calls and answers by lanes, unless this is a burst. Returns whether nothing else is left to be done."""
        now = time.monotonic()
        if self.state is not OPEN or not (is_urgent or now - self.last_flush > BURST_S):
            return False
        self._send()
        self.last_flush = now
        return not (self._unchecked or self._effects or self.connection.link.rejected)

    def collect(self) -> None:
        """Counts the references that are gone. Under the lock; call ``settle`` after releasing it.

        Wakes no thread unless there is something to send: waking a thread costs as much as writing half a megabyte.
        """
        self.core.collect(time.monotonic())
        self._take_output()
        if self._unsent:
            self.submitted()

    def wait_for_room(self) -> None:
        """Waits while the link to the broker is congested, so that this process must not add to it.

        For threads that make calls, without the lock. The background thread does not wait: it would wait for itself.
        """
        while self.connection.link.congested and self.state is OPEN:
            if get_ident() == self._background_ident:
                return
            waiter = Waiter(self)
            with self.lock:
                self._waiting_for_room.append(waiter)
            self.wait(waiter, None)

    def run(self, action: Callable[[], Any]) -> Any:
        """Calls ``action`` under the lock, and sends the messages that result. Returns the action's result."""
        with self.lock:
            result = action()
            self.submitted()
        self.settle()
        return result

    # ------------------------------------------------------------------ waiting

    def alert(self, waiter: Waiter) -> None:
        """Makes a waiting thread check its condition again. Under the lock."""
        if self.state is CLOSED:
            waiter.signal()
            return
        if waiter is self._leader:
            if self._polling:
                self._polling = False
                os.eventfd_write(self._poller.wake_fd, 1)
        else:
            waiter.signal()

    def wait(self, waiter: Waiter, timeout_s: float | None) -> bool:
        """Waits until ``waiter.is_done()``. Drives the socket if no other thread does. Returns False at the timeout.

        Takes a turn first, unless the waiter has entered already.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.lock.shield()  # a window is open while this thread sleeps
        try:
            if not waiter.entered:
                self._turn_and_enter(waiter, looks=timeout_s == 0)
            while not waiter.is_done() and self.state is not CLOSED:
                if self._effects or self._loss_unreported:
                    self._settle_aside(waiter)
                    continue
                self._settle_tick()
                pause_s = self._pause_s()
                left_s = pause_s if deadline is None else min(pause_s, deadline - time.monotonic())
                if waiter is self._leader:
                    self._wait_for_socket(waiter, max(0.0, left_s))
                else:
                    self.lock.open_window()
                    waiter.sleep(max(0.0, left_s))
                    self.lock.shut_window()
                    self._succeed(waiter)
                if deadline is not None and time.monotonic() >= deadline:
                    break
            return waiter.is_done()
        finally:
            if waiter.entered:
                with self.lock:
                    self._leave(waiter)
            self.settle()
            self.lock.unshield()

    def _pause_s(self) -> float:
        """How long a leader may wait, in seconds. An idle worker has no heartbeat to send, and waits longer."""
        link = self.connection.link
        return REST_S if link.is_at_rest and self.core.is_at_rest else TICK_S

    def enter(self, waiter: Waiter) -> None:
        """Makes a waiter the leader, or queues it behind the leader. Under the lock, directly after a turn."""
        waiter.entered = True
        waiter.thread = get_ident()
        leader = self._leader
        if leader is None or leader is self._background:
            self._lead(waiter)
        elif leader.thread == waiter.thread:
            # A signal handler waits, in the leader's thread, which it has interrupted. The old leader goes on after it.
            self._followers.appendleft(leader)
            self._lead(waiter)
        else:
            self._followers.append(waiter)

    def _turn_and_enter(self, waiter: Waiter, looks: bool = False) -> None:
        with self.lock:
            self.turn(looks=looks or self._lanes is None)
            if not waiter.is_done() and self.state is not CLOSED:
                self.enter(waiter)

    def _settle_aside(self, waiter: Waiter) -> None:
        """Settles after the waiter has left: code called there, such as a future's callback, may itself wait."""
        with self.lock:
            self._leave(waiter)
        self.settle()
        self._turn_and_enter(waiter)  # the callback may have submitted something that a waiting thread has to send

    def _succeed(self, waiter: Waiter) -> None:
        """Called for a waiter that did not lead when it slept. Takes a turn if it has become the leader meanwhile.

        Takes the lead if the leader has taken no turn for ``LOST_LEAD_S``, for example because its signal handler does
        not end.
        """
        with self.lock:
            if waiter is self._leader:
                self._turn_as_leader(waiter, expected=False)
            elif time.monotonic() - self._driven_at > LOST_LEAD_S:
                self._lead(waiter)

    def _lead(self, waiter: Waiter) -> None:
        if waiter in self._followers:
            self._followers.remove(waiter)
        self._leader = waiter
        self._polling = True
        self._led_since = time.monotonic()

    def _leave(self, waiter: Waiter) -> None:
        """Removes a waiter. If it led, another one takes the lead."""
        waiter.entered = False
        if waiter is not self._leader:
            if waiter in self._followers:
                self._followers.remove(waiter)
            return
        self._driven_at = time.monotonic()
        self._leader = None
        self._polling = False
        if self._followers:
            follower = self._followers.popleft()
            self._lead(follower)
            follower.signal()
            if follower.polls:  # a signal handler interrupted its poll(), and it may be done by now
                os.eventfd_write(self._poller.wake_fd, 1)
        elif self._parked:
            self._parked = False
            self._background.signal()

    def _wait_for_socket(self, waiter: Waiter, timeout_s: float) -> None:
        """Waits for the socket, then takes a turn, unless another thread has taken the lead meanwhile."""
        ready = dict(self._poller.poll(waiter, timeout_s, waiter is self._background))
        with self.lock:
            if self.state is CLOSED:
                return
            if self._poller.lifeline in ready:
                self._lose_lifeline()
            if waiter is not self._leader:
                return  # only the leader may consume the signal
            if self._poller.wake_fd in ready:
                os.eventfd_read(self._poller.wake_fd)
            by_lanes = self._lanes is not None and self._lanes.fileno() in ready
            self._turn_as_leader(waiter, self._poller.socket_fd in ready, by_lanes)

    def _turn_as_leader(self, waiter: Waiter, expected: bool, by_lanes: bool = False) -> None:
        self._polling = False  # no wake-up is needed: the turn handles whatever becomes ready now
        self.turn(expected, looks=False, by_lanes=by_lanes)
        if waiter.is_done():
            self._leave(waiter)
        else:
            self._polling = True

    def _lose_lifeline(self) -> None:
        self._poller.lifeline = -1
        self._poller.choose(self._lanes, bool(self.lost))
        if self.state is OPEN:
            self._lose("the processes of the local cluster are gone: its host or broker was killed, or has failed")

    # ------------------------------------------------------------------ the background thread

    def _run_background(self) -> None:
        try:
            while not self.closed:
                try:
                    self._stand_by()
                except BaseException:  # raised by user code, such as a callback; the heartbeats must continue
                    self._on_effects([Warn(f"in the background thread of zray:\n{traceback.format_exc().rstrip()}")])
        finally:
            self._background_ended.release()

    def _stand_by(self) -> None:
        me = self._background
        while not self.closed:
            with self.lock:
                now = time.monotonic()
                if now - self._driven_at >= (GRACE_S if self._leader is None else LOST_LEAD_S):
                    self._lead(me)
                leads = self._leader is me
                pause_s = GRACE_S
                if not leads and self._leader is not None and now - self._led_since > PARK_AFTER_S:
                    self._parked = True
                    pause_s = 4 * TICK_S
            if self._callbacks:
                self._call_back()
            if not leads:
                me.sleep(pause_s)
                continue
            if self.on_standby is not None:
                self.on_standby()
            self._background_turn()
            self._wait_for_socket(me, TICK_S)
            self.settle()
        with self.lock:
            if self._leader is me:
                self._leader = None

    def _background_turn(self) -> None:
        with self.lock:
            if not self.closed:
                self.turn()
        self.settle()

    # ------------------------------------------------------------------ the end

    def close(self, last_messages: list[Any], confirm_s: float = 0.0) -> None:
        """Stops the thread, sends what is left and then ``last_messages``, and closes the socket.

        ``confirm_s``: how long to wait until the broker has received what is left.
        """
        with self.lock:
            if self.closed:
                return
            was_open = self.state is OPEN
            self._enter_state(CLOSED)
            for waiter in (*self._followers, self._leader):
                if waiter is not None and waiter is not self._background:
                    waiter.woken = True
                    waiter.signal()
            os.eventfd_write(self._poller.wake_fd, 1)
            self._background.signal()
        if get_ident() != self._background_ident:
            self._background_ended.acquire(timeout=2.0)
        with self.lock:
            if was_open:
                self._take_output()
                unsent = self._unsent
                messages = through_broker(unsent) if self._lanes is None else self._send_by_lanes(unsent)
                self.connection.flush(messages)
                if confirm_s:
                    self.connection.confirm(confirm_s)
                self.connection.flush(last_messages)
            self.connection.close()
            if self._lanes is not None:
                self._lanes.close()
            os.close(self._poller.wake_fd)
