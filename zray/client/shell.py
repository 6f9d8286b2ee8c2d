"""The client's shell: one socket, one lock, and the question of which thread waits for the socket.

The lock guards core and socket; it is held for microseconds and never while waiting. Whoever waits for the socket does
so on its file descriptor, outside of the lock, so any thread can send meanwhile. At most one thread does this, the
*leader*: a thread that blocks in ``get`` drives the socket itself, since handing each answer from an I/O thread to it
would cost a third of a synchronous call. The others wait on locks of their own and are promoted when the leader leaves.
While no user thread leads, a background thread does; it stands by for ``GRACE_S`` after the last one left, so that a
loop of short ``get`` calls never pays for a hand-over.
"""

from __future__ import annotations

import _thread
import os
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any

from zray.client.core.client_core import ClientCore
from zray.client.core.effects import Callback, Warn
from zray.client.lock import ClientLock
from zray.client.states import CLOSED, CONNECTION, LOST, OPEN
from zray.protocol.contract import BROKER, TICK_S
from zray.protocol.messages import ProtocolError
from zray.protocol.routing import through_broker
from zray.transport.connection import Connection

GRACE_S = 0.005
PARK_AFTER_S = 0.02
"""A leader that has been waiting for so long is in no tight loop: the background thread sleeps until it is called."""
PAUSE_S = 1.5
"""A tick that comes so much late says that this process, or the machine, stood still."""
REST_S = 4 * TICK_S
"""A process that has nothing to do looks around so often. Half of what an idle actor costs are its wake-ups."""
LOST_LEAD_S = 6 * TICK_S
"""A leader that has not turned for so long is none any more."""
BURST_S = 0.0002
"""Submissions closer to each other than this are sent together."""


class Waiter:
    """A thread that waits: until ``left`` is zero (``ready`` counts it down) or ``woken`` is set."""

    __slots__ = ("_shell", "_signal", "entered", "left", "polls", "thread", "woken")

    def __init__(self, shell: ClientShell, left: int = 1) -> None:
        self._shell = shell
        self._signal = threading.Lock()
        self._signal.acquire()
        self.left = left
        self.woken = False
        self.entered = False  # it leads, or stands behind the one who does
        self.thread = 0  # which thread, since it entered
        self.polls = False  # it is in poll()

    def is_done(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self.left <= 0 or self.woken

    def ready(self, object_id: bytes) -> None:
        """One of the objects is ready (called under the shell's lock)."""
        self.left -= 1
        if self.left == 0:
            self._shell.alert(self)

    def wake(self) -> None:
        """Ends the wait (called under the shell's lock)."""
        self.woken = True
        self._shell.alert(self)

    def signal(self) -> None:
        """Makes the waiting thread look again."""
        if self._signal.locked():
            self._signal.release()

    def sleep(self, timeout_s: float) -> None:
        """Waits for ``signal``."""
        self._signal.acquire(timeout=timeout_s)


class ClientShell:
    """Threads and I/O of one client. ``on_lost`` is called when the broker is gone.

    ``state``: of the connection, see ``zray.client.states``; ``lost``: why the broker is gone, if it is.

    ``on_effects(effects)`` is called without the lock, with signal handlers held back; it returns those effects that
    run code of the user's. These are completed by the background thread if they come up in the main thread, where a
    signal handler could end them half-way.
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
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lifeline = lifeline  # its end says that the local cluster is gone
        self._socket_fd = connection.socket.fileno()
        self._fds: list[int] = []
        # Two, since a user's thread may take the lead while the background thread is still in poll().
        self._user_poll: select.poll | None = None
        self._background_poll = select.poll()
        self._choose_fds()
        self._leader: Waiter | None = None
        self._led_since = 0.0
        self._driven_at = 0.0
        self._polling = False  # the leader is, or is about to be, in poll()
        self._followers: deque[Waiter] = deque()
        self._background = Waiter(self)
        self._parked = False
        self._last_tick = 0.0
        self.last_flush = 0.0  # when everything there was to send was sent last
        self._effects: list[Any] = []
        self._unsent: dict[bytes, list[Any]] = {}  # by destination
        self._callbacks: deque[Callback] = deque()
        self._crowd: list[Waiter] = []  # threads that wait for room on the link
        self._main_ident = threading.main_thread().ident
        self._loss_unreported = False
        self._tick_due = False
        self.on_tick: Callable[[], None] = lambda: None
        """What is to be done now and then, without the lock."""
        self.on_standby: Callable[[], None] | None = None
        # Not threading.Thread: what it keeps for each thread is 140 KB in every worker.
        self._background_ended = _thread.allocate_lock()
        self._background_ended.acquire()
        self._background_ident = _thread.start_new_thread(self._run_background, ())

    def _enter_state(self, state: int) -> None:
        """Changes the state; raises IllegalTransition if it is none that may follow. Under the lock."""
        self.state = CONNECTION.after[self.state][state]

    @property
    def closed(self) -> bool:
        """Whether the session has ended."""
        return self.state is CLOSED

    # ------------------------------------------------------------------ turns

    def turn(self, expected: bool = False) -> None:
        """Receives, handles and sends everything there is. Under the lock; call ``settle`` after releasing it.
        ``expected``: the socket's descriptor was ready."""
        core, connection = self.core, self.connection
        now = self._driven_at = time.monotonic()
        core.collect(now)
        if self.state is not OPEN:
            self._take_output()
            return
        if core.has_output or self._unsent:  # first: after a send the socket has to be looked at once more
            self._send()
        while self.state is OPEN:
            for message in connection.receive(expected=expected):
                try:
                    core.receive(BROKER, message, now)
                except ProtocolError:
                    connection.dropped_frames += 1
            now = time.monotonic()
            core.collect(now)
            if now - self._last_tick >= TICK_S:
                self._tick(now)
            self.last_flush = now
            flushed = self._send() if core.has_output or self._unsent else connection.flush([])
            expected = False
            if connection.link.rejected:
                self._reject(now)
            elif flushed and connection.readable:
                expected = True
            else:
                break
        if self._crowd and not connection.link.congested:
            crowd, self._crowd = self._crowd, []
            for waiter in crowd:
                waiter.wake()
        if core.has_output:
            self._take_output()

    def _take_output(self) -> None:
        """What is to be sent waits for the next turn, effects for ``settle``."""
        output = self.core.take_output()
        self._effects.extend(output.effects)
        output.add_sends_to(self._unsent)

    def _send(self) -> bool:
        """Sends everything there is; whether anything went out."""
        if self._unsent:
            self._take_output()
            sends, self._unsent = self._unsent, {}
        else:
            output = self.core.take_output()
            self._effects.extend(output.effects)
            sends = output.sends
        return self.connection.flush(through_broker(sends))

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
        refused = self.connection.refused
        if refused is not None:
            self._lose(f"the broker has declared this process dead: {refused.reason}")
        elif not self.connection.link.tick(now):
            self._lose("the broker has not been heard for too long: it is dead or cannot be reached")

    def _lose(self, reason: str) -> None:
        self.lost = reason
        self._enter_state(LOST)
        self._choose_fds()
        self.core.lose_cluster(reason, time.monotonic())
        for waiter in self._crowd:
            waiter.wake()
        self._loss_unreported = True

    def lose(self, reason: str) -> None:
        """Ends every wait: the cluster is gone."""
        with self.lock:
            if self.state is OPEN:
                self._lose(reason)
        self.settle()

    def settle(self) -> None:
        """Does what turns have left to do, without the lock."""
        if not self._effects and not self._loss_unreported and not self._tick_due:
            return
        self.lock.shield()  # what has been taken from the list must be done
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
        """Has done what is to be done now and then. It runs no user code and does not wait: a leader stays one."""
        if self._tick_due:
            self._tick_due = False
            self.on_tick()

    def _call_back(self) -> None:
        """Completes callbacks, or has the background thread do so."""
        if get_ident() == self._main_ident and not self.closed:
            with self.lock:
                self.alert(self._background)
            return
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # another thread has taken the last one
                return
            callback.complete()

    def submitted(self) -> None:
        """Called under the lock after the core was given something to send: sees to it that it leaves soon.

        The first of a burst goes at once; what follows closely is left to a thread that waits, or to the background.
        """
        if self.state is CLOSED:
            return
        if self._leader is not None:
            if self._polling:
                self._polling = False
                os.eventfd_write(self._wake_fd, 1)
        elif time.monotonic() - self.last_flush > BURST_S:
            self.turn()

    def collect(self) -> None:
        """Counts the references that are gone. Under the lock; call ``settle`` after releasing it.

        Nobody is woken unless there is something to send: to wake a thread costs as much as to write half a megabyte.
        """
        self.core.collect(time.monotonic())
        self._take_output()
        if self._unsent:
            self.submitted()

    def wait_for_room(self) -> None:
        """Waits while so much is under way to the broker that this process must not add to it.

        For threads that make calls, without the lock. The background thread, which would wait for itself, does not.
        """
        while self.connection.link.congested and self.state is OPEN:
            if get_ident() == self._background_ident:
                return
            waiter = Waiter(self)
            with self.lock:
                self._crowd.append(waiter)
            self.wait(waiter, None)

    def run(self, action: Callable[[], Any]) -> Any:
        """Does something with the core, and sends what comes of it."""
        with self.lock:
            result = action()
            self.submitted()
        self.settle()
        return result

    # ------------------------------------------------------------------ waiting

    def alert(self, waiter: Waiter) -> None:
        """Makes a waiting thread look again; under the lock."""
        if self.state is CLOSED:
            waiter.signal()
            return
        if waiter is self._leader:
            if self._polling:
                self._polling = False
                os.eventfd_write(self._wake_fd, 1)
        else:
            waiter.signal()

    def wait(self, waiter: Waiter, timeout_s: float | None) -> bool:
        """Waits until ``waiter.is_done()``, driving the socket if nobody else does. False: timed out.

        Turns first, unless the waiter has been entered already.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.lock.shield()  # opened where this thread sleeps
        try:
            if not waiter.entered:
                self._turn_and_enter(waiter)
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
        """How long a leader may wait: at rest longer, where no heartbeat is due, as in workers."""
        link = self.connection.link
        return REST_S if link.is_at_rest and self.core.is_at_rest else TICK_S

    def enter(self, waiter: Waiter) -> None:
        """A waiter takes the lead, or stands behind the one who has it. Under the lock, right after a turn."""
        waiter.entered = True
        waiter.thread = get_ident()
        leader = self._leader
        if leader is None or leader is self._background:
            self._lead(waiter)
        elif leader.thread == waiter.thread:
            # A signal handler waits, in the thread of the leader that it has interrupted. That one goes on afterwards.
            self._followers.appendleft(leader)
            self._lead(waiter)
        else:
            self._followers.append(waiter)

    def _turn_and_enter(self, waiter: Waiter) -> None:
        with self.lock:
            self.turn()
            if not waiter.is_done() and self.state is not CLOSED:
                self.enter(waiter)

    def _settle_aside(self, waiter: Waiter) -> None:
        """Settles without any role: what is called there, such as the callback of a future, may wait itself."""
        with self.lock:
            self._leave(waiter)
        self.settle()
        self._turn_and_enter(waiter)  # it may also have submitted something, and relied on those who wait

    def _succeed(self, waiter: Waiter) -> None:
        """Of one who does not lead, or did not: turns if it has been promoted, and takes the lead if the leader has not
        turned for long, such as one whose signal handler runs on and on."""
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
        """A waiter leaves; if it led, somebody else has to."""
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
            if follower.polls:  # it was interrupted there, and may be done by now
                os.eventfd_write(self._wake_fd, 1)
        elif self._parked:
            self._parked = False
            self._background.signal()

    def _wait_for_socket(self, waiter: Waiter, timeout_s: float) -> None:
        """Waits for the socket, and turns, if the lead was not taken over meanwhile."""
        ready = dict(self._poll(waiter, timeout_s))
        with self.lock:
            if self._lifeline in ready:
                self._lose_lifeline()
            if waiter is not self._leader or self.state is CLOSED:
                return  # with the lead goes the right to consume the signal
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            self._turn_as_leader(waiter, self._socket_fd in ready)

    def _poll(self, waiter: Waiter, timeout_s: float) -> list[tuple[int, int]]:
        if waiter is self._background:
            return self._background_poll.poll(timeout_s * 1000)
        fds = self._fds
        poll, self._user_poll = self._user_poll, None
        if poll is None:  # a signal handler waits, and has interrupted this very call
            poll = _poller(fds)
        waiter.polls = True
        try:
            self.lock.open_window()
            ready = poll.poll(timeout_s * 1000)
            self.lock.shut_window()
            return ready
        finally:
            waiter.polls = False
            if fds is self._fds:
                self._user_poll = poll

    def _choose_fds(self) -> None:
        """What is polled: not the socket once it is lost, as it would be ready for ever."""
        socket = [] if self.lost else [self._socket_fd]
        self._fds = [*socket, self._wake_fd, *([self._lifeline] if self._lifeline >= 0 else [])]
        self._user_poll = _poller(self._fds)
        self._background_poll = _poller(self._fds)

    def _turn_as_leader(self, waiter: Waiter, expected: bool) -> None:
        self._polling = False  # what becomes ready now, it will see without being woken
        self.turn(expected)
        if waiter.is_done():
            self._leave(waiter)
        else:
            self._polling = True

    def _lose_lifeline(self) -> None:
        self._lifeline = -1
        self._choose_fds()
        if self.state is OPEN:
            self._lose("the processes of the local cluster are gone: its host or broker was killed, or has failed")

    # ------------------------------------------------------------------ the background thread

    def _run_background(self) -> None:
        try:
            while not self.closed:
                try:
                    self._stand_by()
                except BaseException:  # of the user's code, such as a callback: the heartbeats must go on
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

    def close(self, last_words: list[Any]) -> None:
        """Sends ``last_words``, stops the thread and closes the socket."""
        with self.lock:
            if self.closed:
                return
            was_open = self.state is OPEN
            self._enter_state(CLOSED)
            for waiter in (*self._followers, self._leader):
                if waiter is not None and waiter is not self._background:
                    waiter.woken = True
                    waiter.signal()
            os.eventfd_write(self._wake_fd, 1)
            self._background.signal()
        if get_ident() != self._background_ident:
            self._background_ended.acquire(timeout=2.0)
        with self.lock:
            if was_open:
                self._take_output()
                self.connection.flush([*through_broker(self._unsent), *last_words])
            self.connection.close()
            os.close(self._wake_fd)


def _poller(fds: list[int]) -> select.poll:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return poll
