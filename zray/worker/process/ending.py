"""The orderly end of a worker: what an interpreter does at its end, bounded in time.

A worker is a fork of the zygote and ends with ``_exit``, so none of this would happen by itself. The order is Python's:
first the actor's ``__ray_shutdown__`` (Ray's hook), then joining threads that are not daemons, then ``atexit``. At last
what only the actor and the functions have referenced is freed (``__del__``).
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
    """A context manager that kills the process if its end takes more than ``timeout_s``.

    The tracebacks of its threads are printed first.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def __enter__(self) -> Ending:
        # A thread in C does it, which needs no lock of the interpreter. It writes to descriptor 2: sys.stderr may be
        # replaced.
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
        """Ends the threads, then calls the functions of ``atexit``."""
        for wake in reversed(getattr(threading, "_threading_atexits", ())):  # tells pools of threads to end
            _call(wake)
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
        _call(atexit._run_exitfuncs)


def _call(function: Callable[[], object]) -> None:
    """Calls a function of the program. Shows an exception that it raises, and goes on."""
    try:
        function()
    except BaseException:
        say(traceback.format_exc().rstrip())
