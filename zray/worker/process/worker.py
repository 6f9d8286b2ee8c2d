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
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from zray.accelerators import NVIDIA, Family
from zray.client.context import current_task
from zray.client.core.assignments import CALL, CONSTRUCTOR, TASK, Assignment
from zray.client.core.effects import Interrupt, Warn
from zray.client.core.payloads import INTERRUPTED, Return
from zray.client.session import Session
from zray.client.waiter import Waiter
from zray.config import MIB, ON, TUNE_MALLOC
from zray.exceptions import has_type
from zray.memory.malloc import give_back
from zray.protocol.messages import ProtocolError
from zray.system.processes import anonymous_bytes
from zray.system.streams import flush_streams, say
from zray.worker.process.call_arguments import CallArguments
from zray.worker.process.cpus import Pinning
from zray.worker.process.ending import Ending
from zray.worker.process.environment import Environment
from zray.worker.process.exits import Exits, exit_code
from zray.worker.process.interruption import Interruption
from zray.worker.process.outcomes import Outcomes, forget_frames
from zray.worker.process.runner import CallOptions, Runner, context_of, now_us, read_options
from zray.worker.process.served_actor import ServedActor, label_of
from zray.worker.recorder import Recorder

if TYPE_CHECKING:
    from zray.worker.process.async_calls import AsyncCalls
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
        self._streamer: Streamer | None = None
        self._pinning: Pinning | None = None
        if session.config.pin_cpus == ON:
            self._pinning = Pinning()
        self._actor = actor = ServedActor()
        self._arguments = CallArguments(self._runner, actor)
        self._outcomes = Outcomes(self._execution, self._runner, actor)
        self._interruption = Interruption(self._execution, actor)
        self._exits = Exits(self._execution, self._shell, actor, session.config.exit_timeout_s)
        self.spans: Spans | None = None  # records when tasks ran
        self._taken: Assignment | None = None  # the next task to run, if it has been taken already
        self._lost = False
        self._light_bytes = anonymous_bytes()
        session.core.execution.worth_keeping = self._worth_keeping
        session.handlers[Interrupt] = self._interruption.interrupt
        session.handlers[Warn] = lambda effect: say(f"zray: {effect.text}")
        session.on_lost = self._on_lost
        session.on_exit_actor = self._exits.end_actor
        session.shell.on_standby = self._on_standby
        if session.shell.lost:  # since the process joined
            self._on_lost(session.shell.lost)

    # ------------------------------------------------------------------ the loop

    def serve(self) -> int:
        """Works until the process has no reason to go on. Returns its exit code."""
        signal.signal(signal.SIGINT, self._interruption.on_signal)
        actor = self._actor
        while not self._lost:
            task = self._next()
            if task is None:
                if self._execution.may_exit():
                    break
                self._exits.limit_last_calls()
                continue
            options = self._options_of(task)
            if options is None:
                continue
            if actor.pool is not None and task.kind == CALL:
                actor.group_pools.get(options.group, actor.pool).submit(self._run, task, options)
            elif actor.loop is not None and task.kind == CALL:
                actor.group_loops.get(options.group, actor.loop).start(task, options)
            else:
                self._run(task, options)
        confirm_s = 0.0
        if not self._lost:
            self._end_program()
            self.session.tell_last_records("its owner, a worker, ended")
            # The host reports this process's end by another connection. That must not overtake the last answers.
            confirm_s = self.session.config.exit_timeout_s
        self.session.close([], confirm_s)
        return self._exits.code

    def _end_program(self) -> None:
        """Ends the user's program: see ``zray.worker.process.ending``. The session can still be used meanwhile."""
        with Ending(self.session.config.exit_timeout_s) as ending:
            if self._actor.instance is not None:
                ending.shut_down(self._actor.instance, self._actor.loop)
            ending.finish()
            self._actor.forget()
            self._runner.forget_functions()
            gc.collect()  # frees what is left of them, to run __del__
        flush_streams()

    def _options_of(self, task: Assignment) -> CallOptions | None:
        """Returns the options of a piece of work, or None if it is malformed; its sender is told."""
        if task.actor_start is not None:
            self._actor.class_name = task.actor_start.spec.short_name
        fault = task.fault
        if not fault:
            try:
                return read_options(task.payload.options, self._actor.class_name)
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
            room = execution.running < self._actor.concurrency
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
            execution.last_end_wakes = self._actor.pool is not None
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
        self._environment.show_title(self._actor.class_name or "IDLE")

    def _on_standby(self) -> None:
        # The background thread takes over since the main thread is busy. Its task is long, and other tasks may wait
        # behind it.
        if self._interruption.in_main:
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
            self._answer(task, options, *self._outcomes.timed_out(task, options, None), started_us)
            return
        if self.spans is not None:
            self.spans.ended(task, options, "CANCELLED", started_us)
        self._runner.discard(task)
        with self._shell.lock:
            self._execution.finish_cancelled(task)
            if self._actor.pool is not None:
                self._shell.submitted()
                self._execution.call_ended(self._actor.concurrency)
        task.keep.clear()
        self._shell.settle()

    def _end_forked_child(self, error: BaseException | None) -> None:
        """Ends a process that the task has forked: the connection, and the answer, belong to its parent."""
        if os.getpid() == self.session.pid:
            return
        if error is not None and not has_type(error, SystemExit):
            say("".join(traceback.format_exception(error)).rstrip())
        flush_streams()
        os._exit(exit_code(error))

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
        self._environment.show_name(options.name, self._actor.class_name)

    def begin_limited(self, task: Assignment, options: CallOptions) -> None:
        """Has the broker keep the time of a piece of work whose code is about to be called. The broker is told at once,
        because the code may keep the interpreter's lock."""
        with self._shell.lock:
            self._execution.begin_limited(task, options.timeout_s)
            self._shell.turn()
        self._shell.settle()

    def _call(self, task: Assignment, options: CallOptions) -> Any:
        in_main = self._actor.pool is None or task.kind != CALL
        if in_main:
            self._interruption.in_main = task.task_id
        try:
            if self._interruption.is_interrupted(task.task_id):
                raise KeyboardInterrupt
            if task.kind == TASK:
                function = self._runner.function(task.function_id)
                args, kwargs = self._arguments.load(task)
                if options.timeout_s:
                    self.begin_limited(task, options)
                value = function(*args, **kwargs)
            elif task.kind == CONSTRUCTOR:
                return self._construct(task)
            else:
                args, kwargs = self._arguments.load(task)
                if options.timeout_s:
                    self.begin_limited(task, options)
                value = self._actor.method(options)(*args, **kwargs)
            if task.producer is not None:
                return self.streamer.run(task, options, value)
            return self._runner.take_yielded(task, options, value) if type(value) is GeneratorType else value
        finally:
            if in_main:
                self._interruption.in_main = b""

    def _construct(self, task: Assignment) -> None:
        start = task.actor_start
        assert start is not None
        self._environment.set_actor(start)
        kind = self._runner.function(task.function_id)
        args, kwargs = self._arguments.load(task)
        actor = self._actor
        actor.construct(start.spec, kind, args, kwargs, self._async_calls, self._watch)
        self._environment.name_actor(actor.class_name, label_of(actor.instance, actor.class_name))

    def _async_calls(self) -> AsyncCalls:
        from zray.worker.process.async_calls import AsyncCalls  # few workers have an async actor

        return AsyncCalls(
            self.session,
            self._runner,
            self._environment,
            self._actor,
            self._arguments,
            self._outcomes,
            self._exits,
            self.spans,
            lambda: self.streamer,
            self.begin_limited,
        )

    def _watch(self, loops: list[EventLoop]) -> None:
        self.session.at_tick.extend(loop.check for loop in loops)

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
        retryable = error is not None and self._outcomes.retryable(options, error)
        leave = task.kind == TASK and self._runner.reached_max_calls(task, options)
        self.session.object_bytes.release_dropped()
        with self._shell.lock:
            self._core.collect(time.monotonic())
            if task.kind == CONSTRUCTOR:
                self._execution.constructed(task, self._outcomes.constructor_error(returns[0].data) if returns else b"")
            else:
                self._execution.finish(task, returns, retryable, now_us() - started_us)
            if leave:
                self._execution.leave(f"max_calls of {options.name}")
            if self._actor.pool is not None:
                self._shell.submitted()
                self._execution.call_ended(self._actor.concurrency)
            elif task.kind != CONSTRUCTOR and time.monotonic() - self._shell.last_flush < FLUSH_S:
                self._taken = self._execution.take()  # here, since to enter the section again takes as long
        task.keep.clear()  # pinned by now if needed; the assignment itself may stay until the next one
        self._shell.settle()

    def _failed(self, task: Assignment, options: CallOptions, error: BaseException, started_us: int) -> None:
        if has_type(error, SystemExit) and self._exits.leaves(task.task_id, error):
            return
        if self._execution.cancelled and self._execution.is_timed_out(task.task_id):
            returns, timeout = self._outcomes.timed_out(task, options, error)
            forget_frames(error)
            self._answer(task, options, returns, timeout, started_us)
            return
        if has_type(error, KeyboardInterrupt) and self._interruption.is_interrupted(task.task_id):
            if self.spans is not None:
                self.spans.ended(task, options, "CANCELLED", started_us)
            self._runner.discard(task)
            forget_frames(error)
            with self._shell.lock:
                self._execution.finish_cancelled(task, INTERRUPTED)
            return
        n_returns = 1 if task.kind == CONSTRUCTOR else options.n_returns
        returns = self._runner.pack_error(task, options.name, n_returns, error)
        self._answer(task, options, returns, error, started_us)
