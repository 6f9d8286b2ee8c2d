"""How the zygote forks, and the optimization ``bare-fork``.

``os.fork`` makes the child's interpreter ready to run (``PyOS_AfterFork_Child`` and the hooks of
``os.register_at_fork``), which writes to half a megabyte of shared pages. A bare fork calls the C library's ``fork``
between the interpreter's own preparations. The child makes itself ready when it gets work (``wake_up``). So a waiting
spare has copied almost no memory.

Depends on: ``PyOS_BeforeFork``, ``PyOS_AfterFork_Parent`` and ``PyOS_AfterFork_Child``, documented functions of
CPython's C interface, and on what a child may do before the last of them: run Python code in its one thread, without
starting threads and without imports. The latter is not documented. So a bare fork is used only on the versions on which
it was tested (``TRIED``). Gain: see "Optimizations that can be switched off" in ``docs/architecture.md``. Without it:
``os.fork``; a spare uses more memory, and nothing else differs.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Protocol

from zray.memory.optimizations import left_out

TRIED = ((3, 10), (3, 11), (3, 12), (3, 13))
"""Versions of CPython on which the tests of the zygote have passed with a bare fork."""


class Forking(Protocol):
    """A way to fork. The process must have one thread."""

    def fork(self) -> int:
        """Returns 0 in the child, its PID in the parent. Raises OSError."""

    def wake_up(self) -> None:
        """Makes the child ready; called before it starts a thread or imports anything."""


class PlainFork:
    """``os.fork``."""

    def fork(self) -> int:
        """Returns 0 in the child, its PID in the parent. Raises OSError."""
        return os.fork()

    def wake_up(self) -> None:
        """Does nothing: ``os.fork`` has made the child ready."""


class BareFork:
    """The C library's ``fork``.

    Raises AttributeError when the interpreter does not export the functions that it needs.
    """

    def __init__(self) -> None:
        python = ctypes.PyDLL(None, use_errno=True)  # unlike CDLL, PyDLL keeps the GIL during a call
        self._fork = python.fork
        self._before = python.PyOS_BeforeFork
        self._after_in_parent = python.PyOS_AfterFork_Parent
        self._after_in_child = python.PyOS_AfterFork_Child

    def fork(self) -> int:
        """Returns 0 in the child, its PID in the parent. Raises OSError."""
        self._before()
        pid: int = self._fork()
        if pid:
            number = ctypes.get_errno()
            self._after_in_parent()
            if pid < 0:
                raise OSError(number, os.strerror(number))
        return pid

    def wake_up(self) -> None:
        """Does what ``os.fork`` would have done in the child."""
        self._after_in_child()


def choose_forking(bare: bool) -> Forking:
    """Returns the way to fork. ``bare``: whether a bare fork is wanted.

    The plain one is used where a bare fork does not work.
    """
    if not bare:
        return PlainFork()
    version = sys.version_info[:2]
    if sys.implementation.name != "cpython" or version not in TRIED or "t" in sys.abiflags:
        left_out("bare-fork", f"it has not been tested on {sys.implementation.name} {sys.version.split()[0]}")
        return PlainFork()
    try:
        return BareFork()
    except AttributeError as error:  # a Python library that does not export its symbols
        left_out("bare-fork", str(error))
        return PlainFork()
