"""Runs the generators whose values are a stream, and sends each value as it comes.

The rules are those of ``zray.client.core.streams``. A step of a generator begins only when there is room for what it
yields. An attempt that is not the first leaves out the items that the owner has already.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Iterator
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from zray.client.core.assignments import Assignment
from zray.client.core.payloads import Return
from zray.client.core.producers import Listener, Producer
from zray.client.core.streams import item_id
from zray.client.session import Session
from zray.client.waiter import Waiter
from zray.ids import return_id
from zray.object_ref import DynamicObjectRefGenerator, ObjectRef
from zray.worker.process.runner import NONE, CallOptions, Packed, Runner


class Streamer:
    """Sends the items of one worker's streams. Any thread may use it."""

    def __init__(self, session: Session, runner: Runner) -> None:
        self._shell = session.shell
        self._execution = session.core.execution
        self._session = session
        self._runner = runner

    # ------------------------------------------------------------------ in a thread

    def run(self, task: Assignment, options: CallOptions, values: Any) -> Packed:
        """Runs a generator to its end. Returns the completion, or the error that the generator raised."""
        steps = _steps(values, options)
        seen = 0
        try:
            while True:
                self._wait_for_room(task, options)
                try:
                    value = next(steps)
                except StopIteration:
                    break
                if os.getpid() != self._session.pid:  # the caller ends a forked child
                    break
                seen = self._send(task, options, value, seen)
                del value
        except Exception as error:
            return self._raised(task, options, error)
        return Packed(self._completion(task, options), None)

    def _wait_for_room(self, task: Assignment, options: CallOptions) -> None:
        while options.most_untaken or not _producer(task).has_room:
            waiter = Waiter(self._shell)
            if self._has_room(task, options, waiter):
                break
            self._shell.wait(waiter, None)
        if self._session.is_congested:
            self._shell.wait_for_room()

    def _has_room(self, task: Assignment, options: CallOptions, listener: Listener) -> bool:
        with self._shell.lock:
            has_room = self._execution.has_room(task, options.most_untaken, listener)
            if self._session.core.has_output:
                self._shell.submitted()
        self._shell.settle()
        return has_room

    # ------------------------------------------------------------------ on an event loop

    async def run_on_loop(self, task: Assignment, options: CallOptions, values: Any) -> Packed:
        """As ``run``, for a method of an async actor: its generator may be an async one."""
        seen = 0
        try:
            async with contextlib.aclosing(_async_steps(values, options)) as steps:
                while True:
                    await self._room(task, options)
                    try:
                        value = await anext(steps)
                    except StopAsyncIteration:
                        break
                    seen = self._send(task, options, value, seen)
                    del value
        except Exception as error:
            return self._raised(task, options, error)
        return Packed(self._completion(task, options), None)

    async def _room(self, task: Assignment, options: CallOptions) -> None:
        while options.most_untaken or not _producer(task).has_room:
            listener = _LoopListener()
            if self._has_room(task, options, listener):
                break
            await listener.woken
        if self._session.is_congested:
            await asyncio.to_thread(self._shell.wait_for_room)

    # ------------------------------------------------------------------ items

    def _send(self, task: Assignment, options: CallOptions, value: Any, seen: int) -> int:
        """Sends what a generator has yielded. ``seen``: the number of items before. Returns the number behind it."""
        values = (value,) if options.per_yield == 1 else _split(value, options)
        producer = _producer(task)
        new = values[max(0, producer.skip - seen) :]
        if new:
            kept = len(task.keep)
            items = [
                self._runner.pack_item(task, options, item_id(task.task_id, producer.sent + offset), each)
                for offset, each in enumerate(new)
            ]
            self._send_packed(task, items)
            del task.keep[kept:]
        return seen + len(values)

    def _send_packed(self, task: Assignment, items: list[Return]) -> None:
        with self._shell.lock:
            self._execution.send_items(task, items)
            self._shell.submitted()
        self._shell.settle()

    def _completion(self, task: Assignment, options: CallOptions) -> list[Return]:
        if not options.dynamic:
            return [NONE]
        # These references are pickled, and not held: the owner adds them to those that its completion holds.
        ids = [item_id(task.task_id, position) for position in range(_producer(task).sent)]
        value = DynamicObjectRefGenerator([ObjectRef._make(object_id, self._session) for object_id in ids])
        packed = self._runner.pack_item(task, options, return_id(task.task_id, 1), value)
        return [packed._replace(inner=())]

    def _raised(self, task: Assignment, options: CallOptions, error: Exception) -> Packed:
        if options.dynamic and not self._runner.retryable(options, error):
            self._runner.discard(task)
            items = self._runner.pack_error_item(task, options.name, item_id(task.task_id, _producer(task).sent), error)
            self._send_packed(task, items)
            return Packed(self._completion(task, options), None)
        return Packed(self._runner.pack_error(task, options.name, 1, error), error)


class _LoopListener:
    """Resumes a coroutine that waits for room."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.woken = self._loop.create_future()

    def wake(self) -> None:
        self._loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


def _producer(task: Assignment) -> Producer:
    assert task.producer is not None
    return task.producer


def _steps(values: Any, options: CallOptions) -> Iterator[Any]:
    if not isinstance(values, GeneratorType):
        raise TypeError(f"{options.name} has a stream of return values, but returned a {type(values).__name__}")
    return values


async def _async_steps(values: Any, options: CallOptions) -> AsyncGenerator[Any, None]:
    """Yields what a generator of either kind yields. Other calls run between the steps of a plain one."""
    if isinstance(values, AsyncGeneratorType):
        async with contextlib.aclosing(values):
            async for value in values:
                yield value
        return
    steps = _steps(values, options)
    for value in steps:
        yield value
        await asyncio.sleep(0)


def _split(value: Any, options: CallOptions) -> tuple[Any, ...]:
    """Returns the objects in what a generator with ``_num_objects_per_yield`` has yielded."""
    try:
        values = tuple(value)
    except TypeError:
        values = ()
    if len(values) != options.per_yield:
        raise ValueError(
            f"{options.name} has _num_objects_per_yield={options.per_yield}, but yielded {value!r:.100}: yield a tuple "
            f"of {options.per_yield} values"
        )
    return values
