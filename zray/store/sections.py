"""The critical sections of a store: the lock between the threads of a process, and the lock between processes.

The user's code, started by a signal or the garbage collector, must not run in one. It could raise and leave a change
half done, or call the store and wait for its own thread. A ``Shield`` keeps it out.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from zray.exceptions import SystemFailure
from zray.store.ledger import Ledger
from zray.store.ledger_file import LedgerFile


class Shield(Protocol):
    """Keeps the user's code, such as signal handlers and finalizers, out of critical sections."""

    def enter_section(self) -> None:
        """Keeps the user's code out of this thread from now on: a lock of the store is about to be taken."""

    def leave_section(self, quietly: bool = False) -> None:
        """Undoes one ``enter_section``. ``quietly``: what was held back is neither called nor raised here."""

    def shield(self) -> None:
        """Holds back signal handlers, which could raise and so leave a claim held."""

    def unshield(self) -> None:
        """Undoes one ``shield``; the last one calls what was held back."""

    def open_window(self) -> None:
        """Lets handlers run, unless more than one ``shield`` is on: no lock is held."""

    def shut_window(self) -> None:
        """Undoes ``open_window``."""


class _NoShield:
    """For processes without user code."""

    def enter_section(self) -> None:
        return

    def leave_section(self, quietly: bool = False) -> None:
        return

    def shield(self) -> None:
        return

    def unshield(self) -> None:
        return

    def open_window(self) -> None:
        return

    def shut_window(self) -> None:
        return


NO_SHIELD = _NoShield()


class Locked:
    """The lock between the threads of a process, while the store can be used.

    Attributes: unusable, why the store cannot be used any more; empty if it can. ended, the pins and maps that are
    over. settle, which processes these: entering and leaving the section calls it.
    """

    def __init__(self, path: str, shield: Shield) -> None:
        self.shield = shield
        self.lock = threading.Lock()
        self.unusable = ""
        self.ended: deque[Any] = deque()
        self._path = path
        self.settle: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        self.shield.enter_section()
        if self.ended:  # first: it may be the room
            self.settle()
        self.lock.acquire()
        if self.unusable:
            self.__exit__()
            raise SystemFailure(f"the object store {self._path} {self.unusable}")

    def __exit__(self, *error: object) -> None:
        self.lock.release()
        try:
            if self.ended:
                self.settle()
        finally:
            self.shield.leave_section()


class Changing:
    """Both locks, and the ledger."""

    def __init__(self, locked: Locked, ledger_file: LedgerFile) -> None:
        self._locked = locked
        self._ledger_file = ledger_file

    def __enter__(self) -> Ledger:
        self._locked.__enter__()
        try:
            return self._ledger_file.open()
        except BaseException:
            self._locked.__exit__()
            raise

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self._ledger_file.shut(complete=kind is None)
        finally:
            self._locked.__exit__()
