"""The client's lock, in which no code of the user's runs.

Three things can run the user's code in the middle of a critical section, in the very thread that is in it: a signal
handler, a finalizer (``__del__``, the callback of a weak reference) that the cyclic garbage collector calls, and a
finalizer of an object whose last reference goes. Such code may call zray, which then waits for its own thread, or may
raise, which leaves the core half changed. So

- signal handlers wait until the section ends (``zray/system/signals.py``);
- the collector does not start while a thread is in a section: the threshold of the youngest generation is 0 meanwhile.
  (``gc.disable`` would do the same. But programs save and restore that switch around code of their own, and would
  restore what they saw of ours. And the threshold tells us if the program has changed it meanwhile.)
- nothing in a section drops the last reference to an object of the user's. If that happens after all, what its
  finalizer calls raises an error and does not wait.

*Shields* hold back signal handlers of the main thread alone, without the lock, for sections that may take long; within
one, a *window* lets them through again. When a handler has raised, the others wait until all shields are gone: the
cleaning up that the exception causes is not interrupted by the next one.
"""

from __future__ import annotations

import threading
from gc import get_threshold, set_threshold
from threading import get_ident

from zray.exceptions import ZrayError
from zray.system import signals

_deferred = signals.deferred


class ClientLock:
    """A lock to be used as ``with lock:``. Not to be entered by a thread that is in it."""

    __slots__ = ("_busy", "_lock", "_main", "_sections", "_shields", "_threshold", "_window")

    def __init__(self) -> None:
        # It knows its owner. A finalizer that runs between taking it and the first change finds it taken by its own
        # thread and the state whole, and may go on.
        self._lock = threading.RLock()
        self._busy = False  # the owner is changing the state
        self._main = threading.main_thread().ident
        self._threshold = 0  # the collector's, to be restored
        self._sections = 0  # other critical sections of this process
        self._shields = 0  # of the main thread
        self._window = 0  # handlers may run while it equals the number of shields

    # ------------------------------------------------------------------ the lock

    # A call enters two to four of these sections, and a put two of the others. So what they have in common is written
    # out in each: a function of its own would cost as much as what it does.

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
            if not get_threshold()[0]:  # else the program has set another one meanwhile
                set_threshold(self._threshold)
            self._threshold = 0
        self._lock.release()
        if _deferred:
            signals.run_deferred()

    def left_behind_by_fork(self) -> None:
        """In a forked child, which has no other threads: undoes what those of the parent were in."""
        self._sections = 0
        self._busy = False
        if self._threshold and not get_threshold()[0]:
            set_threshold(self._threshold)
        self._threshold = 0

    # ------------------------------------------------------------------ sections under other locks

    def enter_section(self) -> None:
        """A critical section under another lock begins, or is about to: no user code runs in this thread."""
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
        """Undoes one ``enter_section``. ``quietly``: handlers are not called here, where an exception would be lost."""
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
        """Holds signal handlers back until ``unshield``, in the main thread; elsewhere there are none."""
        if get_ident() == self._main:
            self._shields += 1

    def unshield(self, quietly: bool = False) -> None:
        """Undoes one ``shield``; the last one calls what was held back, and raises what that raises."""
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
        """Lets handlers through although there is a shield, unless there is another one around it without a window.

        May raise what those that were held back raise.
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
        """Whether the main thread, which calls this, is in a section or behind a shield."""
        return self._window != self._shields or self._lock._is_owned()  # type: ignore[attr-defined]

    def raised(self) -> None:
        """A handler has raised: until the last shield is gone, no other one interrupts the cleaning up."""
        if self._shields:
            self._window = -1
