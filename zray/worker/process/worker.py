"""The worker: takes work from the core, runs it, answers.

The main thread runs plain tasks and the methods of ordinary actors, since signals (a cancellation) arrive there. It
also drives the socket while it has nothing to do. Actors with ``max_concurrency`` above one get a pool of threads.
Actors with ``async def`` methods get an event loop in a thread of its own.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import traceback
from types import FunctionType, GeneratorType
from typing import TYPE_CHECKING, Any

from zray.accelerators import NVIDIA, Family
from zray.client.context import current_task
from zray.client.core.effects import Interrupt, Warn
from zray.client.core.execution import CALL, CONSTRUCTOR, TASK, Assignment
from zray.client.core.payloads import INTERRUPTED, Return
from zray.client.core.states import ERROR
from zray.client.core.tasks import TIMED_OUT
from zray.client.session import Session
from zray.client.shell import Waiter
from zray.config import MIB, ON, TUNE_MALLOC
from zray.exceptions import NAMELESS, ActorExit, DeserializationError, has_type
from zray.failures import encode_failure, error_text
from zray.memory.malloc import give_back
from zray.methods import method_of
from zray.protocol.messages import ProtocolError
from zray.signatures import name_of_parameter
from zray.system.processes import anonymous_bytes
from zray.system.streams import flush_streams, say
from zray.worker.process.cpus import Pinning
from zray.worker.process.ending import Ending
from zray.worker.process.environment import Environment
from zray.worker.process.runner import CallOptions, Runner, context_of, now_us, read_options
from zray.worker.recorder import Recorder

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from zray.worker.process.event_loop import EventLoop
    from zray.worker.process.runtime_env import Applied
    from zray.worker.process.spans import Spans
    from zray.worker.process.streams import Streamer

FLUSH_S = 0.001
"""The shortest time between two sends of answers while there is work. Ready answers leave when the next task begins."""
IDLE_TITLE_S = 0.02
"""A worker that has waited this long sets its title to idle. Two titles per call would cost a tenth of a call."""
WORTH_KEEPING_BYTES = 4 * MIB
"""A worker whose memory has grown by this much has loaded something that the next worker would have to load again.

A task of plain Python leaves some hundred KiB behind; numpy alone is 10 MiB.
"""


Ended = tuple[Assignment, list[Return], bool, int]
"""An async call that has ended: its return values, whether it may be tried again, and how long packing took (us)."""


class Worker:
    """One worker process.

    ``page``: the page of the flight recorder, which the host reads after the worker's death. ``log_secret``: the secret
    in the markers of its output. ``applied``: the runtime environment that it runs in; None for none. ``gpus``: the
    family of the host's GPUs.
    """

    def __init__(
        self,
        session: Session,
        page: Any,
        log_secret: str = "",
        applied: Applied | None = None,
        gpus: Family = NVIDIA,
    ) -> None:
        self.session = session
        self._core = session.core
        self._shell = session.shell
        self._execution = session.core.execution
        self._recorder = Recorder(page)
        self._runner = Runner(session, self._recorder)
        self._environment = Environment(log_secret, applied, gpus)
        self._pinning: Pinning | None = None
        if session.config.pin_cpus == ON:
            self._pinning = Pinning()
        self._actor: Any = None
        self._methods: dict[str, Any] = {}  # those that have been called, bound
        self._actor_class = ""
        self._concurrency = 1
        self._pool: ThreadPoolExecutor | None = None
        self._loop: EventLoop | None = None
        self._streamer: Streamer | None = None
        self._group_pools: dict[str, ThreadPoolExecutor] = {}  # by concurrency group; calls in none use ``_pool``
        self._group_loops: dict[str, EventLoop] = {}  # likewise
        self.spans: Spans | None = None  # records when tasks ran
        self._main_thread = threading.get_ident()
        self._in_main = b""  # the task that the main thread runs
        self._cancelled = b""
        self._taken: Assignment | None = None  # the next task to run, if it has been taken already
        self._lost = False
        self._exit_code = 0
        self._last_calls_until = 0.0  # the deadline of an ending actor's calls
        self._light_bytes = anonymous_bytes()
        session.core.execution.worth_keeping = self._worth_keeping
        session.handlers[Interrupt] = self._interrupt
        session.handlers[Warn] = lambda effect: say(f"zray: {effect.text}")
        session.on_lost = self._on_lost
        session.on_exit_actor = self.end_actor
        session.shell.on_standby = self._on_standby
        if session.shell.lost:  # since the process joined
            self._on_lost(session.shell.lost)

    # ------------------------------------------------------------------ the loop

    def serve(self) -> int:
        """Works until the process has no reason to go on. Returns its exit code."""
        signal.signal(signal.SIGINT, self._on_signal)
        while not self._lost:
            task = self._next()
            if task is None:
                if self._execution.may_exit():
                    break
                self._limit_last_calls()
                continue
            options = self._options_of(task)
            if options is None:
                continue
            if self._pool is not None and task.kind == CALL:
                self._group_pools.get(options.group, self._pool).submit(self._run, task, options)
            elif self._loop is not None and task.kind == CALL:
                self._group_loops.get(options.group, self._loop).start(task, options)
            else:
                self._run(task, options)
        if not self._lost:
            self._end_program()
        self.session.close([])
        return self._exit_code

    def _end_program(self) -> None:
        """Ends the user's program: see ``zray.worker.process.ending``. The session can still be used meanwhile."""
        with Ending(self.session.config.exit_timeout_s) as ending:
            if self._actor is not None:
                ending.shut_down(self._actor, self._loop)
            ending.finish()
            self._actor = self._pool = None
            self._group_pools.clear()
            self._methods.clear()
            self._runner.forget_functions()
            gc.collect()  # frees what is left of them, to run __del__
        flush_streams()

    def _options_of(self, task: Assignment) -> CallOptions | None:
        """Returns the options of a piece of work, or None if it is malformed; its sender is told."""
        if task.actor_start is not None:
            self._actor_class = task.actor_start.spec.short_name
        fault = task.fault
        if not fault:
            try:
                return read_options(task.payload.options, self._actor_class)
            except ProtocolError as error:
                fault = str(error)
        with self._shell.lock:
            self._execution.refuse(task, fault)
        self._shell.settle()
        return None

    def _next(self) -> Assignment | None:
        """Returns the next piece of work, or None after a wait in which something may have changed."""
        task, self._taken = self._taken, None
        if task is not None:
            return task
        execution, shell = self._execution, self._shell
        with shell.lock:
            room = execution.running < self._concurrency
            task = execution.take() if room else None
            if task is not None and time.monotonic() - shell.last_flush < FLUSH_S:
                return task
            shell.turn(looks=task is not None)  # otherwise it is about to wait
            if task is None and room:
                task = execution.take()  # it may have arrived just now; else this asks for its function
            if task is not None:
                return task
            if self._lost or execution.may_exit():
                return None
            waiter = execution.idle = Waiter(shell)
            shell.enter(waiter)
            execution.last_end_wakes = self._pool is not None
        if not shell.wait(waiter, IDLE_TITLE_S):
            with shell.lock:
                execution.last_end_wakes = calls_run = execution.running > 0
            if not calls_run:
                self._show_idle()
            shell.wait(waiter, 0.1 if execution.leaving else None)
        execution.idle = None
        return None

    def _worth_keeping(self) -> bool:
        """Whether it has loaded much, or runs a thread of the user's. First gives free memory back."""
        if self.session.config.optimizes(TUNE_MALLOC):
            give_back()
        grown = anonymous_bytes() - self._light_bytes
        return grown >= WORTH_KEEPING_BYTES or threading.active_count() > 1

    def _show_idle(self) -> None:
        flush_streams()  # a line without an end, which the last task has printed
        self._environment.show_title(self._actor_class or "IDLE")

    def _on_standby(self) -> None:
        # The background thread takes over since the main thread is busy. Its task is long, and other tasks may wait
        # behind it.
        if self._in_main:
            with self._shell.lock:
                self._execution.hand_back()
                self._execution.tell_started()

    def _on_lost(self, reason: str) -> None:
        self._lost = True
        # There is no cluster left to work for, and what runs may never end.
        os._exit(1)

    @property
    def streamer(self) -> Streamer:
        """Sends the items of streams. Its module is loaded by the first stream."""
        if self._streamer is None:
            from zray.worker.process.streams import Streamer

            self._streamer = Streamer(self.session, self._runner)
        return self._streamer

    # ------------------------------------------------------------------ one piece of work

    def _run(self, task: Assignment, options: CallOptions) -> None:
        """Runs a task, constructor or method in this thread."""
        started_us = now_us()
        token = current_task.set(context_of(task, options, self._environment))
        try:
            self._enter(task, options)
            value = self._call(task, options)
            self._end_forked_child(None)
            if self._execution.cancelled and self._execution.gives_up_value(task):
                self._give_up(task, options, started_us)
                return
            returns: list[Return] = []
            failed: BaseException | None = None
            if task.kind != CONSTRUCTOR:
                returns, failed = self._runner.pack_results(task, options, value)
            self._answer(task, options, returns, failed, started_us)
        except BaseException as error:
            self._end_forked_child(error)
            self._failed(task, options, error, started_us)
        finally:
            current_task.reset(token)

    def _give_up(self, task: Assignment, options: CallOptions, started_us: int) -> None:
        """Answers a piece of work that has returned, after it was cancelled or its time was over."""
        if self._execution.is_timed_out(task.task_id):
            self._answer(task, options, *self._timed_out(task, options, None), started_us)
            return
        if self.spans is not None:
            self.spans.ended(task, options, "CANCELLED", started_us)
        self._runner.discard(task)
        with self._shell.lock:
            self._execution.finish_cancelled(task)
            if self._pool is not None:
                self._shell.submitted()
                self._execution.call_ended(self._concurrency)
        task.keep.clear()
        self._shell.settle()

    def _end_forked_child(self, error: BaseException | None) -> None:
        """Ends a process that the task has forked: the connection, and the answer, belong to its parent."""
        if os.getpid() == self.session.pid:
            return
        if error is not None and not has_type(error, SystemExit):
            say("".join(traceback.format_exception(error)).rstrip())
        flush_streams()
        os._exit(_exit_code(error))

    def _enter(self, task: Assignment, options: CallOptions) -> None:
        if task.kind == TASK:
            self._recorder.begins(task.task_id)
        job = self._execution.job
        has_new_job = job is not None and self._environment.apply_job(job, self.session)
        if self._pinning is not None:
            self._pinning.apply(self._execution.cpus, for_life=task.kind != TASK)
        self._environment.apply_task(task)
        if has_new_job:
            self._environment.call_hook()
        if options.captures:
            self.session.captures = True
            self._environment.actor_captures = task.kind == CONSTRUCTOR
        self._environment.show_name(options.name, self._actor_class)

    def begin_limited(self, task: Assignment, options: CallOptions) -> None:
        """Has the broker keep the time of a piece of work whose code is about to be called. The broker is told at once,
        because the code may keep the interpreter's lock."""
        with self._shell.lock:
            self._execution.begin_limited(task, options.timeout_s)
            self._shell.turn()
        self._shell.settle()

    def _call(self, task: Assignment, options: CallOptions) -> Any:
        in_main = self._pool is None or task.kind != CALL
        if in_main:
            self._in_main = task.task_id
        try:
            if self._is_interrupted(task.task_id):
                raise KeyboardInterrupt
            if task.kind == TASK:
                function = self._runner.function(task.function_id)
                args, kwargs = self.call_arguments(task)
                if options.timeout_s:
                    self.begin_limited(task, options)
                value = function(*args, **kwargs)
            elif task.kind == CONSTRUCTOR:
                return self._construct(task)
            else:
                args, kwargs = self.call_arguments(task)
                if options.timeout_s:
                    self.begin_limited(task, options)
                value = self.method(options)(*args, **kwargs)
            if task.producer is not None:
                return self.streamer.run(task, options, value)
            return self._runner.take_yielded(task, options, value) if type(value) is GeneratorType else value
        finally:
            if in_main:
                self._in_main = b""

    def method(self, options: CallOptions) -> Any:
        """Returns the actor's method that a call names."""
        method = self._methods.get(options.method)
        if method is None:
            method = self._methods[options.method] = method_of(self._actor, options.method)
        return method

    def _construct(self, task: Assignment) -> None:
        start = task.actor_start
        assert start is not None
        self._environment.set_actor(start)
        kind = self._runner.function(task.function_id)
        args, kwargs = self.call_arguments(task)
        if start.spec.has_coroutines:
            # Imported here: asyncio is 3 MB, which workers without an async actor save. Likewise threads below.
            from zray.worker.process.event_loop import EventLoop

            loop = self._loop = EventLoop(self)
            self._actor = loop.construct(kind, args, kwargs)
            self._group_loops = {group: EventLoop(self) for group in start.spec.groups}
            self.session.at_tick.extend(each.check for each in self._loops())
        else:
            self._actor = kind(*args, **kwargs)
        concurrency, groups = max(1, start.spec.max_concurrency), start.spec.groups
        self._concurrency = concurrency + sum(groups.values())
        if self._loop is None and self._concurrency > 1:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="zray-actor")
            self._group_pools = {
                group: ThreadPoolExecutor(limit, thread_name_prefix=f"zray-actor-{group}")
                for group, limit in groups.items()
            }
        self._environment.name_actor(self._actor_class, label_of(self._actor, self._actor_class))

    def _loops(self) -> list[EventLoop]:
        """The event loops of an async actor: one for each concurrency group, and one for all other calls."""
        return [self._loop, *self._group_loops.values()] if self._loop is not None else []

    # ------------------------------------------------------------------ outcomes

    def _answer(
        self,
        task: Assignment,
        options: CallOptions,
        returns: list[Return],
        error: BaseException | None,
        started_us: int,
    ) -> None:
        if self.spans is not None:
            self.spans.ended(task, options, "FINISHED" if error is None else "FAILED", started_us)
        retryable = error is not None and self._retryable(options, error)
        leave = task.kind == TASK and self._runner.reached_max_calls(task, options)
        self.session.stores.settle()  # the call's arguments are free: others may use their room
        self.session.checked.forget()  # the call is over, and what it has dropped must not seem to be held
        with self._shell.lock:
            self._core.collect(time.monotonic())
            if task.kind == CONSTRUCTOR:
                self._execution.constructed(task, self._constructor_error(returns[0].data) if returns else b"")
            else:
                self._execution.finish(task, returns, retryable, now_us() - started_us)
            if leave:
                self._execution.leave(f"max_calls of {options.name}")
            if self._pool is not None:
                self._shell.submitted()
                self._execution.call_ended(self._concurrency)
            elif task.kind != CONSTRUCTOR and time.monotonic() - self._shell.last_flush < FLUSH_S:
                self._taken = self._execution.take()  # here, since to enter the section again takes as long
        task.keep.clear()  # pinned by now if needed; the assignment itself may stay until the next one
        self._shell.settle()

    def _timed_out(
        self, task: Assignment, options: CallOptions, interrupted: BaseException | None
    ) -> tuple[list[Return], BaseException]:
        """Returns the outcome of a piece of work whose time was over, and the error itself."""
        from zray.worker.process.time_limits import timeout_error  # few calls need it

        self._runner.discard(task)
        error = timeout_error(options.name, task.attempt, options.timeout_s, interrupted)
        data = encode_failure(TIMED_OUT, str(error))
        return [Return(ERROR, data, len(data), ())] * options.n_returns, error

    def _retryable(self, options: CallOptions, error: BaseException) -> bool:
        try:
            return self._runner.retryable(options, error)
        except BaseException:  # the submitter's types cannot be loaded here: answer anyway
            say(traceback.format_exc().rstrip())
            return False

    def _constructor_error(self, error: bytes) -> bytes:
        text = (
            f"The actor died because of an error raised in its creation task: "
            f"the constructor of {self._actor_class} raised:\n{error_text(error)}"
        )
        return encode_failure("ActorDiedError", text, self._execution.actor_id, in_constructor=True)

    def _failed(self, task: Assignment, options: CallOptions, error: BaseException, started_us: int) -> None:
        if has_type(error, SystemExit) and self._leaves(task.task_id, error):
            return
        if self._execution.cancelled and self._execution.is_timed_out(task.task_id):
            returns, timeout = self._timed_out(task, options, error)
            _forget_frames(error)
            self._answer(task, options, returns, timeout, started_us)
            return
        if has_type(error, KeyboardInterrupt) and self._is_interrupted(task.task_id):
            if self.spans is not None:
                self.spans.ended(task, options, "CANCELLED", started_us)
            self._runner.discard(task)
            _forget_frames(error)
            with self._shell.lock:
                self._execution.finish_cancelled(task, INTERRUPTED)
            return
        n_returns = 1 if task.kind == CONSTRUCTOR else options.n_returns
        returns = self._runner.pack_error(task, options.name, n_returns, error)
        self._answer(task, options, returns, error, started_us)

    def _leaves(self, task_id: bytes, error: BaseException) -> bool:
        """Does what a SystemExit asks for: ends the actor without a restart, or the process, if there is an exit code.

        The host reports the end of the process. Returns whether the piece of work that raised it, if any, gets no
        answer from here.
        """
        code = _exit_code(error)
        if self._execution.actor_id and (not code or self._execution.ends_actor):
            reason = str(error) if has_type(error, ActorExit) else ""
            self.end_actor(reason or "sys.exit() was called: the worker ended with exit code 0", task_id)
            return False
        with self._shell.lock:
            self._exit_code = code
            self._execution.exit_process(task_id)
            self._shell.submitted()
        self._shell.settle()
        return True

    def leave(self, error: SystemExit) -> None:
        """A background task of an async actor has raised SystemExit."""
        self._leaves(b"", error)

    def end_actor(self, reason: str, ender: bytes) -> None:
        """Ends the actor as soon as nothing runs. May be called from any thread.

        ``ender``: the call whose code asked for it, or whose code started the thread or task that asked.
        """
        if not all(loop.is_at(ender) for loop in self._loops()):
            ender = b""
        with self._shell.lock:
            self._execution.end_actor(reason, ender)
            self._shell.submitted()
        self._shell.settle()

    def _limit_last_calls(self) -> None:
        """Bounds the last calls of an actor that ends.

        A call of an ending async actor may wait for an event that never comes. After ``sys.exit``, any call may go on
        running.
        """
        if not (self._execution.must_exit or (self._loop is not None and self._execution.leaving)):
            return
        now = time.monotonic()
        self._last_calls_until = self._last_calls_until or now + self.session.config.exit_timeout_s
        if now > self._last_calls_until:
            with self._shell.lock:
                self._execution.abandon_all()
                self._shell.submitted()

    # ------------------------------------------------------------------ cancellation

    def _interrupt(self, effect: Interrupt) -> None:
        if self._loop is not None:
            for loop in self._loops():  # only the one that runs the call does something
                loop.cancel(effect.task_id)
            return
        if self._execution.actor_id and not self._execution.is_timed_out(effect.task_id):
            return
        self._cancelled = effect.task_id  # also looked at before the task begins
        if self._in_main == effect.task_id:
            # Signal that thread itself: otherwise a system call that it is in would not be interrupted.
            signal.pthread_kill(self._main_thread, signal.SIGINT)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._in_main and self._is_interrupted(self._in_main):
            raise KeyboardInterrupt

    def _is_interrupted(self, task_id: bytes) -> bool:
        """Whether the present attempt of a task is to be interrupted. An earlier one may have been, in this process."""
        return self._cancelled == task_id and task_id in self._execution.cancelled

    # ------------------------------------------------------------------ for the event loop

    def begin_call(self, options: CallOptions) -> None:
        """An async method is about to run."""
        self._environment.show_name(options.name, self._actor_class)

    def is_timed_out(self, task: Assignment) -> bool:
        """Whether a running call has run as long as it may."""
        return self._execution.is_timed_out(task.task_id)

    def arguments_are_here(self, task: Assignment) -> bool:
        """Whether ``call_arguments`` returns without waiting."""
        return self._runner.arguments_are_here(task)

    def call_arguments(self, task: Assignment) -> tuple[list[Any], dict[str, Any]]:
        """Returns the arguments of a task or call. Raises what loading them raises, with the name of the argument."""
        try:
            return self._runner.arguments(task)
        except DeserializationError as error:
            if error.what != NAMELESS:
                raise
            raise error.about(self._name_of_argument(task, error.argument)) from error.__cause__

    def _name_of_argument(self, task: Assignment, argument: str) -> str:
        options = read_options(task.payload.options, self._actor_class)
        function = options.name
        if argument.isdecimal():
            called = self.method(options) if task.kind == CALL else self._runner.function(task.function_id)
            argument = name_of_parameter(called, int(argument)) or argument
        return (
            f"argument {argument if argument.isdecimal() else repr(argument)} of {function}"
            if argument
            else (f"an argument of {function}")
        )

    def context(self, task: Assignment, options: CallOptions) -> Any:
        """Returns the context that an async call runs in, as the call begins."""
        if self.spans is not None:
            self.spans.begin(task.task_id)
        return context_of(task, options, self._environment)

    def end_call(self, task: Assignment, options: CallOptions, value: Any, error: BaseException | None) -> Ended | None:
        """An async call has returned or raised. Returns what ``flush`` answers it with; None if it gets no answer."""
        if error is not None and has_type(error, SystemExit) and self._leaves(task.task_id, error):
            return None
        if not self._execution.is_running(task.task_id):
            return None  # the actor has exited meanwhile
        started_us = now_us()
        returns: list[Return] = []
        if self._execution.cancelled and self.is_timed_out(task):
            returns, error = self._timed_out(task, options, error)
        elif error is None:
            try:
                if type(value) is GeneratorType:
                    value = self._runner.take_yielded(task, options, value)
                returns, error = self._runner.pack_results(task, options, value)
            except BaseException as packing:
                error = packing
                if has_type(error, SystemExit) and self._leaves(task.task_id, error):
                    return None
        if error is not None and not returns:
            returns = self._runner.pack_error(task, options.name, options.n_returns, error)
        retryable = error is not None and self._retryable(options, error)
        if self.spans is not None:
            self.spans.ended(task, options, "FINISHED" if error is None else "FAILED")
        return task, returns, retryable, now_us() - started_us

    def end_cancelled(self, task: Assignment) -> None:
        """An async call was cancelled."""
        if self.spans is not None:
            self.spans.ended(task, read_options(task.payload.options, self._actor_class), "CANCELLED")
        with self._shell.lock:
            if self._execution.is_running(task.task_id):
                self._execution.finish_cancelled(task, INTERRUPTED)

    def flush(self, ended: list[Ended]) -> None:
        """Answers the calls that have ended in a turn of an event loop."""
        self.session.stores.settle()
        self.session.checked.forget()
        with self._shell.lock:
            self._core.collect(time.monotonic())
            for task, returns, retryable, run_us in ended:
                if self._execution.is_running(task.task_id):
                    self._execution.finish(task, returns, retryable, run_us)
            self._shell.turn(looks=False)  # the main thread waits
            self._execution.call_ended(self._concurrency)
        for task, *_ in ended:
            task.keep.clear()
        if self._core.dropped:  # the main thread, which would count them, may not wake for long
            with self._shell.lock:
                self._shell.collect()
        self._shell.settle()


def label_of(actor: Any, class_name: str) -> str:
    """Returns the name of an actor's output.

    This is the first line of its ``repr``, if its class defines one, else the class.
    """
    own = type(actor).__repr__
    if not isinstance(own, FunctionType):  # else object's or a container's, which may be very long
        return class_name
    try:
        text = own(actor)
        return text.strip().partition("\n")[0] or class_name
    except BaseException as error:  # the user's code may raise anything
        say(f"zray: output of {class_name} is named by its class, as its __repr__ raised {type(error).__name__}")
        return class_name


def _forget_frames(error: BaseException) -> None:
    """Releases the frames of an interrupted task, and so the references that they hold.

    They would otherwise stay until a garbage collection: a frame that raises an exception which it was given holds that
    exception, too.
    """
    left: BaseException | None = error
    while left is not None:
        BaseException.with_traceback(left, None)
        left = left.__context__


def _exit_code(error: BaseException | None) -> int:
    """Returns the code that the interpreter would exit with."""
    if error is None:
        return 0
    code = vars(SystemExit)["code"].__get__(error) if has_type(error, SystemExit) else 1
    return code if isinstance(code, int) else 0 if code is None else 1
