"""The descriptors that a client polls: those of its socket and lanes, a wake-up by other threads, and a lifeline."""

from __future__ import annotations

import os
import select

from zray.client.lane_sockets import LaneSockets
from zray.client.lock import ClientLock
from zray.client.waiter import Waiter


class Poller:
    """Polls for the thread that leads. ``lifeline``: a descriptor that reads end-of-file when the local cluster is
    gone; -1 if there is none. ``lock``: of the shell, which is not held meanwhile."""

    def __init__(self, socket_fd: int, lifeline: int, lock: ClientLock) -> None:
        self.socket_fd = socket_fd
        self.lifeline = lifeline
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = lock
        self._fds: list[int] = []
        # Two pollers, because a user thread may take the lead while the background thread is still in poll().
        self._user_poll: select.poll | None = None
        self._background_poll = select.poll()
        self.choose(None, False)

    def choose(self, lane_sockets: LaneSockets | None, lost: bool) -> None:
        """Sets the descriptors to poll. The socket is left out once it is lost, because it would always be ready."""
        socket = [] if lost else [self.socket_fd]
        lanes = [lane_sockets.fileno()] if lane_sockets is not None and not lost else []
        self._fds = [*socket, self.wake_fd, *lanes, *([self.lifeline] if self.lifeline >= 0 else [])]
        self._user_poll = _poller(self._fds)
        self._background_poll = _poller(self._fds)

    def poll(self, waiter: Waiter, timeout_s: float, in_background: bool) -> list[tuple[int, int]]:
        """Waits for a descriptor; returns those that are ready. Without the lock.

        ``in_background``: for the background thread, which takes no interrupts.
        """
        if in_background:
            return self._background_poll.poll(timeout_s * 1000)
        fds = self._fds
        poll, self._user_poll = self._user_poll, None
        if poll is None:  # this is a signal handler that has interrupted poll(), which uses the other object
            poll = _poller(fds)
        waiter.polls = True
        try:
            self._lock.open_window()
            ready = poll.poll(timeout_s * 1000)
            self._lock.shut_window()
            return ready
        finally:
            waiter.polls = False
            if fds is self._fds:
                self._user_poll = poll


def _poller(fds: list[int]) -> select.poll:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return poll
