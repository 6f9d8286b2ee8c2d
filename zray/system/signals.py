"""Python's signal handlers, held back while the main thread is in a critical section.

Python runs a handler in the main thread between any two bytecodes. In the middle of a critical section, a handler that
raises or calls zray would find state half changed, or a lock that its own thread holds. So while a session is open,
each handler that the program sets or has set is wrapped. The wrapper asks the ``Holder``. Inside a section it notes the
call in ``deferred``, and ``run_deferred`` makes it when the section ends. Outside it calls the handler at once.

A program does not see the wrapping: ``signal.signal`` and ``signal.getsignal`` take and return its own handlers. Both
are Python functions over the C module ``_signal``. Its functions are replaced here, so it does not matter whether a
program has imported ``signal.signal`` by name before.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import functools
import signal
import sys
from collections import deque
from collections.abc import Callable
from threading import get_ident, main_thread
from types import FrameType, TracebackType
from typing import Any, Protocol

from zray.system.threads import start_thread

_Handler = Callable[[int, "FrameType | None"], Any]


class Holder(Protocol):
    """Knows whether the main thread is in a critical section. Called in the main thread only."""

    def holds(self) -> bool:
        """Whether handlers have to wait."""

    def raised(self) -> None:
        """A handler has raised an exception: the next ones wait until cleanup after it is done."""


deferred: deque[tuple[_Handler, int]] = deque()
"""Calls that wait for the end of the main thread's section.

They get the frame in which they are finally made: keeping the interrupted frame would keep its variables.
"""

_c_signal: Any = signal.signal.__globals__["_signal"]  # typeshed does not know the module
_set_handler = _c_signal.signal
_get_handler = _c_signal.getsignal
_traceback_of: Any = vars(BaseException)["__traceback__"].__get__  # not affected by the exception's class
_holder: Holder | None = None


class _Deferrable:
    """Wraps a handler of the program."""

    __slots__ = ("handler",)

    def __init__(self, handler: _Handler) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _holder is not None and _holder.holds():
            deferred.append((self.handler, number))
            return
        try:
            _call(self.handler, number, frame)
        finally:
            run_deferred()


def _call(handler: _Handler, number: int, frame: FrameType | None) -> None:
    try:
        handler(number, frame)
    except BaseException:
        if _holder is not None:
            _holder.raised()
        raise


def _unwrapped(handler: Any) -> Any:
    return handler.handler if type(handler) is _Deferrable else handler


def _wrapped(handler: Any) -> Any:
    return _Deferrable(handler) if callable(handler) and type(handler) is not _Deferrable else handler


def _set_wrapped(number: int, handler: Any, /) -> Any:
    """Replaces ``signal.signal`` while handlers are wrapped."""
    return _unwrapped(_set_handler(number, _wrapped(handler)))


def _get_unwrapped(number: int, /) -> Any:
    """Replaces ``signal.getsignal`` while handlers are wrapped."""
    return _unwrapped(_get_handler(number))


def install(holder: Holder) -> None:
    """Wraps the present handlers, and those that are set from now on.

    Only the main thread can exchange handlers. When another thread calls this, the main thread does it between two
    bytecodes.
    """
    global _holder
    _holder = holder
    _c_signal.signal = _set_wrapped
    _c_signal.getsignal = _get_unwrapped
    if get_ident() == main_thread().ident:
        _exchange(_wrapped)
    else:
        ctypes.pythonapi.Py_AddPendingCall(_pending_call(), None)


def uninstall(holder: Holder) -> None:
    """Undoes ``install``, unless another holder has been installed since.

    When another thread than the main one calls it, the wrappers stay, without effect.
    """
    global _holder
    if _holder is not holder:
        return
    _holder = None
    if get_ident() == main_thread().ident:
        _c_signal.signal = _set_handler
        _c_signal.getsignal = _get_handler
        _exchange(_unwrapped)
        run_deferred()


def _exchange(change: Callable[[Any], Any]) -> None:
    for number in _c_signal.valid_signals():  # as numbers: making enums of them raises a hundred exceptions
        handler = _get_handler(number)
        if not callable(handler):  # nearly all have none; to ask here costs a third of a call, in each worker
            continue
        changed = change(handler)
        if changed is not handler:
            _set_handler(number, changed)


@functools.cache  # made only when needed, and kept, since it is called later
def _pending_call() -> Any:
    def wrap(_: Any) -> int:
        if _holder is not None:
            _exchange(_wrapped)
        return 0

    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(wrap)


def run_deferred() -> None:
    """Calls the handlers that were held back, in order, if this is the main thread and nothing holds them.

    Raises what a handler raises. The handlers after it are called all the same. Of several exceptions the last one is
    raised, with the others as its context.
    """
    if not deferred or get_ident() != main_thread().ident or (_holder is not None and _holder.holds()):
        return
    handler, number = deferred.popleft()
    try:
        _call(handler, number, sys._getframe())
    finally:
        run_deferred()


def deliver_deferred_later() -> None:
    """Like ``run_deferred``, for places where an exception would be lost, as in ``__del__``.

    It raises the signals again, soon.
    """
    if deferred and get_ident() == main_thread().ident:
        with contextlib.suppress(RuntimeError):  # the interpreter is ending
            start_thread(_deliver)


def _deliver() -> None:
    while deferred:
        with contextlib.suppress(IndexError):
            _thread.interrupt_main(deferred.popleft()[1])  # type: ignore[arg-type]  # real-time signals have no name


def came_from_handler(error: BaseException) -> bool:
    """Whether a signal handler has raised ``error``, and not the code that it interrupted."""
    traceback: TracebackType | None = _traceback_of(error)
    while traceback is not None:
        if traceback.tb_frame.f_code is _call.__code__:
            return True
        traceback = traceback.tb_next
    return False
