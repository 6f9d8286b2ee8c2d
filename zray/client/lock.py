"""The client's lock. No user code runs while it is held.

Three things can run the user's code in the middle of a critical section, in the same thread: a signal handler, a
finalizer (``__del__``, the callback of a weak reference) that the cyclic garbage collector calls, and a finalizer of an
object whose last reference is dropped. Such code may call zray, which would then wait for its own thread. Or it may
raise, which would leave the core half changed. So there are three rules:

- Signal handlers wait until the section ends (``zray/system/signals.py``).
- The collector does not start while a thread is in a section: the threshold of the youngest generation is 0 meanwhile.
  (``gc.disable`` would have the same effect. But programs save and restore that switch around code of their own, and
  could save and restore the state that zray has set. And the threshold shows if the program has changed it meanwhile.)
- No code in a section drops the last reference to an object of the user. If that happens all the same, a call of zray
  in the finalizer raises an error and does not wait.

A *shield* holds back signal handlers of the main thread without the lock, for sections that may take long. Within a
shield, a *window* lets them run again. After a handler has raised, the others wait until all shields are gone, so that
the next handler does not interrupt the cleanup after the exception.
"""

from __future__ import annotations

import threading
from gc import get_threshold, set_threshold
from threading import get_ident

from zray.exceptions import ZrayError
from zray.system import signals

_deferred = signals.deferred


class ClientLock:
    """A lock, used as ``with lock:``. A thread that holds it must not enter it again."""

    __slots__ = ("_busy", "_lock", "_main", "_sections", "_shields", "_threshold", "_window")

    def __init__(self) -> None:
        # Reentrant, because it knows its owner. A finalizer may run after the lock is taken and before the first
        # change: its thread has the lock and the state is consistent, so it may go on.
        self._lock = threading.RLock()
        self._busy = False  # the owner is changing the state
        self._main = threading.main_thread().ident
        self._threshold = 0  # the collector's threshold, to restore
        self._sections = 0  # number of critical sections under other locks
        self._shields = 0  # number of shields of the main thread
        self._window = 0  # handlers may run while it equals the number of shields

    # ------------------------------------------------------------------ the lock

    # A call enters two to four of these sections, and a put two of the others. So their common code is repeated in
    # each: a function call would cost as much as the code itself.

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._busy:
            self._lock.release()
            raise ZrayError(
                "zray was called by a finalizer that ran in the middle of another call to zray, in the same thread: "
                "keep the object alive until that call has returned"
            )
        threshold = get_threshold()[0]
        if threshold:
            set_threshold(0)
            self._threshold = threshold
        self._busy = True

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._busy = False
        if self._threshold and not self._sections:
            if not get_threshold()[0]:  # otherwise the program has set another threshold meanwhile
                set_threshold(self._threshold)
            self._threshold = 0
        self._lock.release()
        if _deferred:
            signals.run_deferred()

    def left_behind_by_fork(self) -> None:
        """Resets the lock in a forked child, which has none of the parent's other threads and their sections."""
        self._sections = 0
        self._busy = False
        if self._threshold and not get_threshold()[0]:
            set_threshold(self._threshold)
        self._threshold = 0

    # ------------------------------------------------------------------ sections under other locks

    def enter_section(self) -> None:
        """Begins a critical section under another lock, shortly before that is taken. No user code runs in this thread
        until ``leave_section``."""
        if get_ident() == self._main:
            self._shields += 1
        self._lock.acquire()
        threshold = get_threshold()[0]
        if threshold:
            set_threshold(0)
            self._threshold = threshold
        self._sections += 1
        self._lock.release()

    def leave_section(self, quietly: bool = False) -> None:
        """Undoes one ``enter_section``. ``quietly``: do not call handlers here, because an exception would be lost."""
        self._lock.acquire()
        self._sections -= 1
        if self._threshold and not self._sections and not self._busy:
            if not get_threshold()[0]:
                set_threshold(self._threshold)
            self._threshold = 0
        self._lock.release()
        self.unshield(quietly)

    # ------------------------------------------------------------------ shields

    def shield(self) -> None:
        """Holds signal handlers back until ``unshield``. Does nothing in other threads, which run no handlers."""
        if get_ident() == self._main:
            self._shields += 1

    def unshield(self, quietly: bool = False) -> None:
        """Undoes one ``shield``. The last one calls the handlers that were held back, and raises what they raise."""
        if get_ident() != self._main:
            return
        self._shields -= 1
        if not self._shields or self._window > self._shields:
            self._window = self._shields
        if _deferred:
            if quietly:
                signals.deliver_deferred_later()
            else:
                signals.run_deferred()

    def open_window(self) -> None:
        """Lets handlers run although there is a shield, unless there is an outer shield without a window.

        Raises what handlers raise that were held back.
        """
        if get_ident() == self._main and self._window == self._shields - 1:
            self._window = self._shields
            if _deferred:
                signals.run_deferred()

    def shut_window(self) -> None:
        """Undoes ``open_window``."""
        if get_ident() == self._main and self._window == self._shields:
            self._window = self._shields - 1

    # ------------------------------------------------------------------ for zray.system.signals

    def holds(self) -> bool:
        """Whether the main thread is in a section or behind a shield. Only the main thread calls this."""
        return self._window != self._shields or self._lock._is_owned()  # type: ignore[attr-defined]

    def raised(self) -> None:
        """Notes that a handler has raised. No other handler interrupts the cleanup until the last shield is gone."""
        if self._shields:
            self._window = -1
