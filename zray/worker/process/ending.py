"""The end of the program in a worker that ends in order: what an interpreter does then, bounded in time.

A worker is a fork of the zygote and ends with ``_exit``, so nothing of this would happen by itself. The order is
Python's: the actor's ``__ray_shutdown__`` (Ray's hook) first, then threads that are no daemons are waited for, then
``atexit``, and at last what only the actor and the functions have kept goes (``__del__``).
"""

from __future__ import annotations

import atexit
import faulthandler
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray.methods import method_of
from zray.system.streams import say

if TYPE_CHECKING:
    from zray.worker.process.event_loop import EventLoop


class Ending:
    """A context: the process is killed, with the tracebacks of its threads, when it takes longer than ``timeout_s``."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def __enter__(self) -> Ending:
        # By a thread in C, which needs no lock of the interpreter's. Descriptor 2, whatever sys.stderr is by now.
        faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=2)
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()

    def shut_down(self, actor: Any, loop: EventLoop | None) -> None:
        """Calls the actor's ``__ray_shutdown__``, if it has one; on its loop, if that is a coroutine function."""
        if hasattr(type(actor), "__ray_shutdown__"):
            hook = method_of(actor, "__ray_shutdown__")
            _call(lambda: hook() if loop is None else loop.finish(hook))

    def finish(self) -> None:
        """Threads, then ``atexit``."""
        for wake in reversed(getattr(threading, "_threading_atexits", ())):  # pools of threads are told to end
            _call(wake)
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
        _call(atexit._run_exitfuncs)


def _call(function: Callable[[], object]) -> None:
    """Calls a function of the program's; what it raises is shown, and keeps nothing else from being done."""
    try:
        function()
    except BaseException:
        say(traceback.format_exc().rstrip())
