"""What a thread waits with: for objects, for an answer, or for room."""

from __future__ import annotations

import threading
from typing import Protocol


class Alerter(Protocol):
    """What reaches a waiting thread: the shell, see ``ClientShell.alert``."""

    def alert(self, waiter: Waiter) -> None:
        """Makes a waiting thread check its condition again. Under the lock."""


class Waiter:
    """A thread that waits: until ``left`` is zero (``ready`` counts it down) or ``woken`` is set."""

    __slots__ = ("_shell", "_signal", "entered", "left", "polls", "thread", "woken")

    def __init__(self, shell: Alerter, left: int = 1) -> None:
        self._shell = shell
        self._signal = threading.Lock()
        self._signal.acquire()
        self.left = left
        self.woken = False
        self.entered = False  # it leads, or is in the queue to lead
        self.thread = 0  # the thread that entered
        self.polls = False  # the thread is in poll()

    def is_done(self) -> bool:
        """Whether the wait is over."""
        return self.left <= 0 or self.woken

    def ready(self, object_id: bytes) -> None:
        """Counts an object that is ready. Called under the shell's lock."""
        self.left -= 1
        if self.left == 0:
            self._shell.alert(self)

    def wake(self) -> None:
        """Ends the wait. Called under the shell's lock."""
        self.woken = True
        self._shell.alert(self)

    def signal(self) -> None:
        """Makes the waiting thread check its condition again."""
        if self._signal.locked():
            self._signal.release()

    def sleep(self, timeout_s: float) -> None:
        """Waits for ``signal``."""
        self._signal.acquire(timeout=timeout_s)
