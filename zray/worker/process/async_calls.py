"""Runs the calls of an async actor for its event loops: what comes before the method, and the answers after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from zray.client.core.assignments import Assignment
from zray.client.core.payloads import INTERRUPTED, Return
from zray.client.session import Session
from zray.exceptions import has_type
from zray.worker.process.call_arguments import CallArguments
from zray.worker.process.environment import Environment
from zray.worker.process.exits import Exits
from zray.worker.process.outcomes import Outcomes
from zray.worker.process.runner import CallOptions, Runner, context_of, now_us, read_options
from zray.worker.process.served_actor import ServedActor

if TYPE_CHECKING:
    from zray.worker.process.spans import Spans
    from zray.worker.process.streams import Streamer

Ended = tuple[Assignment, list[Return], bool, int]
"""An async call that has ended: its return values, whether it may be tried again, and how long packing took (us)."""


class AsyncCalls:
    """The calls of one async actor (``Calls`` of ``zray.worker.process.event_loop``)."""

    def __init__(
        self,
        session: Session,
        runner: Runner,
        environment: Environment,
        actor: ServedActor,
        arguments: CallArguments,
        outcomes: Outcomes,
        exits: Exits,
        spans: Spans | None,
        streamer: Callable[[], Streamer],
        begin_limited: Callable[[Assignment, CallOptions], None],
    ) -> None:
        self._session = session
        self._core = session.core
        self._shell = session.shell
        self._execution = session.core.execution
        self._runner = runner
        self._environment = environment
        self._actor = actor
        self._outcomes = outcomes
        self._exits = exits
        self._spans = spans
        self._streamer = streamer
        self.begin_limited = begin_limited
        self.arguments_are_here = runner.arguments_are_here
        self.call_arguments = arguments.load
        self.method = actor.method
        self.leave = exits.leave

    @property
    def streamer(self) -> Streamer:
        """Sends the items of streams."""
        return self._streamer()

    def begin_call(self, options: CallOptions) -> None:
        """An async method is about to run."""
        self._environment.show_name(options.name, self._actor.class_name)

    def is_timed_out(self, task: Assignment) -> bool:
        """Whether a running call has run as long as it may."""
        return self._execution.is_timed_out(task.task_id)

    def context(self, task: Assignment, options: CallOptions) -> Any:
        """Returns the context that an async call runs in, as the call begins."""
        if self._spans is not None:
            self._spans.begin(task.task_id)
        return context_of(task, options, self._environment)

    def end_call(self, task: Assignment, options: CallOptions, value: Any, error: BaseException | None) -> Ended | None:
        """An async call has returned or raised. Returns what ``flush`` answers it with; None if it gets no answer."""
        if error is not None and has_type(error, SystemExit) and self._exits.leaves(task.task_id, error):
            return None
        if not self._execution.is_running(task.task_id):
            return None  # the actor has exited meanwhile
        started_us = now_us()
        returns: list[Return] = []
        if self._execution.cancelled and self.is_timed_out(task):
            returns, error = self._outcomes.timed_out(task, options, error)
        elif error is None:
            try:
                if type(value) is GeneratorType:
                    value = self._runner.take_yielded(task, options, value)
                returns, error = self._runner.pack_results(task, options, value)
            except BaseException as packing:
                error = packing
                if has_type(error, SystemExit) and self._exits.leaves(task.task_id, error):
                    return None
        if error is not None and not returns:
            returns = self._runner.pack_error(task, options.name, options.n_returns, error)
        retryable = error is not None and self._outcomes.retryable(options, error)
        if self._spans is not None:
            self._spans.ended(task, options, "FINISHED" if error is None else "FAILED")
        return task, returns, retryable, now_us() - started_us

    def end_cancelled(self, task: Assignment) -> None:
        """An async call was cancelled."""
        if self._spans is not None:
            self._spans.ended(task, read_options(task.payload.options, self._actor.class_name), "CANCELLED")
        with self._shell.lock:
            if self._execution.is_running(task.task_id):
                self._execution.finish_cancelled(task, INTERRUPTED)

    def flush(self, ended: list[Ended]) -> None:
        """Answers the calls that have ended in a turn of an event loop."""
        self._session.object_bytes.release_dropped()
        with self._shell.lock:
            self._core.collect(time.monotonic())
            for task, returns, retryable, run_us in ended:
                if self._execution.is_running(task.task_id):
                    self._execution.finish(task, returns, retryable, run_us)
            self._shell.turn(looks=False)  # the main thread waits
            self._execution.call_ended(self._actor.concurrency)
        for task, *_ in ended:
            task.keep.clear()
        if self._core.dropped:  # the main thread, which would count them, may not wake for long
            with self._shell.lock:
                self._shell.collect()
        self._shell.settle()
