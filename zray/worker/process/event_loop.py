"""The event loop of an async actor: many calls at once, in one thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from zray.client.context import current_task
from zray.client.core.assignments import Assignment
from zray.exceptions import ActorExit, TaskError, has_type
from zray.system.streams import say

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from zray.worker.process.runner import CallOptions
    from zray.worker.process.streams import Streamer


BLOCKED_WARN_S = 1.0
MAX_FETCHES = 64
"""The most calls that wait at once for arguments that are not on this host."""


class Calls(Protocol):
    """What runs calls for the loop: the worker. The loop's thread may call these methods."""

    @property
    def streamer(self) -> Streamer:
        """Sends the items of streams."""

    def begin_call(self, options: CallOptions) -> None:
        """An async method is about to run."""

    def begin_limited(self, task: Assignment, options: CallOptions) -> None:
        """The code of a call that may run for a limited time is about to be called."""

    def is_timed_out(self, task: Assignment) -> bool:
        """Whether a running call has run as long as it may."""

    def context(self, task: Assignment, options: CallOptions) -> Any:
        """Returns the context that an async call runs in."""

    def method(self, options: CallOptions) -> Any:
        """Returns the actor's method that a call names."""

    def arguments_are_here(self, task: Assignment) -> bool:
        """Whether ``call_arguments`` returns without waiting."""

    def call_arguments(self, task: Assignment) -> tuple[list[Any], dict[str, Any]]:
        """Returns the arguments of a call. Raises what loading them raises."""

    def end_call(self, task: Assignment, options: CallOptions, value: Any, error: BaseException | None) -> Any:
        """An async call has returned or raised. Returns what ``flush`` needs to answer it; None: no answer is due."""

    def end_cancelled(self, task: Assignment) -> None:
        """An async call was cancelled."""

    def flush(self, ended: list[Any]) -> None:
        """Answers the calls that have ended in a turn of the event loop. ``ended``: results of ``end_call``."""

    def leave(self, error: SystemExit) -> None:
        """A background task of an async actor has raised SystemExit."""


class EventLoop:
    """Runs calls as asyncio tasks.

    Calls that arrive together cost one wake-up. Answers that are ready together cost one send.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._loop = asyncio.new_event_loop()
        self._fetchers: ThreadPoolExecutor | None = None
        self._inbox: deque[tuple[Assignment, CallOptions, contextvars.Context]] = deque()
        # The loop's own way to be woken costs five times as much: a handle for each call, and a pipe read to its end.
        self._inbox_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop.add_reader(self._inbox_fd, self._on_start)
        self._running: dict[bytes, tuple[asyncio.Task[None], Assignment]] = {}
        self._ended_calls: list[Any] = []  # results of ``end_call`` that ``flush`` has not got yet
        self._flush_due = False
        self._turned = True
        self._asked_at = 0.0
        self._warned = False
        self._own_task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._serve, name="zray-actor-loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(_complain)
        while True:
            try:
                return self._loop.run_forever()
            except SystemExit as error:  # from a task that a method has started: asyncio lets it through
                self._calls.leave(error)
            except KeyboardInterrupt:  # likewise; no code in this thread expects it
                say(traceback.format_exc().rstrip())

    def is_at(self, task_id: bytes) -> bool:
        """Whether the running code belongs to the call, and not to another task that the call has started on the loop.

        A thread that has the call's context belongs to the call.
        """
        if threading.get_ident() != self._thread.ident:
            return True
        running, _ = self._running.get(task_id, (None, None))
        return running is not None and running is asyncio.current_task()

    def construct(self, kind: type, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Makes the actor on the loop, while the calling thread waits. Raises what the constructor raises."""

        async def make() -> Any:
            if not inspect.iscoroutinefunction(kind.__init__):  # type: ignore[misc]  # of this very class
                return kind(*args, **kwargs)
            made = kind.__new__(kind, *args, **kwargs)
            await kind.__init__(made, *args, **kwargs)  # type: ignore[misc]
            return made

        return self._run(make)

    def finish(self, hook: Callable[[], Any]) -> None:
        """Calls ``hook`` on the loop and awaits its result if it is awaitable, while the calling thread waits."""

        async def call() -> None:
            value = hook()
            if inspect.isawaitable(value):
                await value

        self._run(call)

    def _run(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Runs a coroutine on the loop in this thread's context. Returns or raises what it does."""
        context = contextvars.copy_context()
        over = threading.Event()
        outcome: list[Any] = [None, None]

        async def run() -> None:
            try:
                outcome[0] = await function()
            except BaseException as error:  # SystemExit would end the loop
                outcome[1] = error
            over.set()

        self._loop.call_soon_threadsafe(lambda: context.run(self._keep, run()))
        over.wait()
        value, error = outcome
        outcome.clear()
        if error is not None:
            raise error
        return value

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._own_task = self._loop.create_task(coroutine)  # asyncio itself holds a task only weakly

    def start(self, task: Assignment, options: CallOptions) -> None:
        """Begins a call. May be called from any thread."""
        self._inbox.append((task, options, contextvars.copy_context()))
        if len(self._inbox) == 1:
            os.eventfd_write(self._inbox_fd, 1)

    def _on_start(self) -> None:
        os.eventfd_read(self._inbox_fd)
        self._take_inbox()

    def _take_inbox(self) -> None:
        while self._inbox:
            task, options, context = self._inbox[0]
            self._running[task.task_id] = context.run(self._loop.create_task, self._call(task, options)), task
            self._inbox.popleft()

    async def _call(self, task: Assignment, options: CallOptions) -> None:
        calls = self._calls
        error: BaseException | None = None
        value: Any = None
        try:
            calls.begin_call(options)
            current_task.set(calls.context(task, options))
            args, kwargs = calls.call_arguments(task) if calls.arguments_are_here(task) else await self._fetch(task)
            if options.timeout_s:
                calls.begin_limited(task, options)
            value = calls.method(options)(*args, **kwargs)
            del args, kwargs
            if isinstance(value, Coroutine) or asyncio.isfuture(value):  # a plain method may return a reference
                value = await value
            if task.producer is not None:
                value = await calls.streamer.run_on_loop(task, options, value)
        except BaseException as raised:
            error = raised
        if error is not None and _says_cancelled(error) and not calls.is_timed_out(task):
            calls.end_cancelled(task)
        else:
            ended = calls.end_call(task, options, value, error)
            if ended is not None:
                self._ended_calls.append(ended)
        del value, error
        self._ended(task)

    async def _fetch(self, task: Assignment) -> tuple[list[Any], dict[str, Any]]:
        """Loads arguments that are not on this host, in another thread, so that other calls go on."""
        if self._fetchers is None:
            from concurrent.futures import ThreadPoolExecutor  # which most actors never need

            self._fetchers = ThreadPoolExecutor(MAX_FETCHES, thread_name_prefix="zray-arguments")
        context = contextvars.copy_context()
        fetch = self._loop.run_in_executor(self._fetchers, context.run, self._calls.call_arguments, task)
        try:
            return await asyncio.shield(fetch)
        except asyncio.CancelledError:
            # The thread counts references for the call. They are given back when the call ends, which must be after the
            # thread.
            while not fetch.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait((fetch,))
            fetch.exception()  # mark the exception as retrieved
            raise

    def _ended(self, task: Assignment) -> None:
        self._running.pop(task.task_id, None)
        if self._flush_due:
            return
        if not self._running and not self._inbox:  # no other answer can be ready in this turn of the loop
            self._flush()
        else:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        ended, self._ended_calls = self._ended_calls, []
        self._calls.flush(ended)

    def check(self) -> None:
        """Warns once when a method blocks the loop. Called from time to time, from another thread."""
        now = time.monotonic()
        if self._turned:
            self._turned = False
            self._asked_at = now
            self._loop.call_soon_threadsafe(self._turn)
        elif now - self._asked_at > BLOCKED_WARN_S and not self._warned:
            self._warned = True
            say(
                f"zray: a method of this async actor has blocked its event loop for {BLOCKED_WARN_S:g} s; no other "
                f"call can run meanwhile. Use await in it, or hand blocking work to asyncio.to_thread()."
            )

    def _turn(self) -> None:
        self._turned = True

    def cancel(self, task_id: bytes) -> None:
        """Cancels a call that was started. May be called from any thread."""

        def cancel() -> None:
            self._take_inbox()  # the call may be in it
            if task_id in self._running:
                running, task = self._running[task_id]
                running.cancel()
                running.add_done_callback(lambda _: self._cancelled(task))

        self._loop.call_soon_threadsafe(cancel)

    def _cancelled(self, task: Assignment) -> None:
        """A cancelled call is over. If it had not begun, asyncio ran none of its code, so it is answered here."""
        self._calls.end_cancelled(task)
        self._ended(task)


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handles an error as asyncio does by default, except in tasks that have ended the actor."""
    if not has_type(context.get("exception"), ActorExit):
        loop.default_exception_handler(context)


def _says_cancelled(error: BaseException) -> bool:
    """Whether the call itself was cancelled, rather than a task that it waited for."""
    return has_type(error, asyncio.CancelledError) and not has_type(error, TaskError)
