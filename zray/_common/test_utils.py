"""Helpers for tests of programs: waiting for a condition, actors that hold others back, and drivers from a text."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from zray.api.decorator import remote

__all__ = ["Semaphore", "SignalActor", "async_wait_for_condition", "run_string_as_driver", "wait_for_condition"]

DRIVER_TIMEOUT_S = 300.0


class _Patience:
    """Whether there is time left, and the last error of the condition, for the message."""

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s
        self.error: Exception | None = None

    def is_over(self) -> bool:
        return time.monotonic() > self._end

    def failure(self) -> RuntimeError:
        reason = "" if self.error is None else f" Last exception: {self.error!r}"
        failure = RuntimeError(f"The condition wasn't met before the timeout expired.{reason}")
        failure.__cause__ = self.error
        return failure


def wait_for_condition(
    condition_predictor: Callable[..., bool],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    raise_exceptions: bool = False,
    **kwargs: Any,
) -> None:
    """Calls ``condition_predictor`` until it returns something true.

    Args:
        condition_predictor: the condition. It counts as not met while it raises.
        timeout: how long, in seconds.
        retry_interval_ms: the time between two calls, in milliseconds.
        raise_exceptions: let an exception of the condition end the wait.
        kwargs: arguments of the condition.

    Raises:
        RuntimeError: the condition was not met in time. The message has its last exception.
    """
    patience = _Patience(timeout)
    while not patience.is_over():
        try:
            if condition_predictor(**kwargs):
                return
        except Exception as error:
            if raise_exceptions:
                raise
            patience.error = error
        time.sleep(retry_interval_ms / 1000)
    raise patience.failure()


async def async_wait_for_condition(
    condition_predictor: Callable[..., bool] | Callable[..., Awaitable[bool]],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    **kwargs: Any,
) -> None:
    """The same in a coroutine. The condition may be a coroutine function.

    Raises:
        RuntimeError: the condition was not met in time.
    """
    patience = _Patience(timeout)
    while not patience.is_over():
        try:
            met = condition_predictor(**kwargs)
            if await met if inspect.isawaitable(met) else met:
                return
        except Exception as error:
            patience.error = error
        await asyncio.sleep(retry_interval_ms / 1000)
    raise patience.failure()


@remote(num_cpus=0)
class SignalActor:
    """Holds those back that ``wait`` at it, until another process calls ``send``."""

    def __init__(self) -> None:
        self._ready = asyncio.Event()
        self._waiters = 0

    def send(self, clear: bool = False) -> None:
        """Lets all that wait go on. ``clear``: later ones wait again."""
        self._ready.set()
        if clear:
            self._ready.clear()

    async def wait(self, should_wait: bool = True) -> None:
        """Waits for ``send``."""
        if should_wait:
            self._waiters += 1
            await self._ready.wait()
            self._waiters -= 1

    async def cur_num_waiters(self) -> int:
        """How many wait."""
        return self._waiters


@remote(num_cpus=0)
class Semaphore:
    """A semaphore that processes share."""

    def __init__(self, value: int = 1) -> None:
        self._semaphore = asyncio.Semaphore(value)

    async def acquire(self) -> None:
        """Takes one, or waits for it."""
        await self._semaphore.acquire()

    async def release(self) -> None:
        """Gives one back."""
        self._semaphore.release()

    async def locked(self) -> bool:
        """Whether ``acquire`` would wait."""
        return self._semaphore.locked()


def run_string_as_driver(
    driver_script: str,
    env: dict[str, str] | None = None,
    encode: str = "utf-8",
    timeout: float | None = DRIVER_TIMEOUT_S,
) -> str:
    """Runs a program in a process of its own, and returns what it prints to stdout and stderr.

    Args:
        driver_script: the program's source.
        env: its environment; default: that of this process.
        encode: the encoding of the source and of the output.
        timeout: how long it may take, in seconds; None: without limit.

    Raises:
        subprocess.CalledProcessError: it ended with another exit code than 0. What it printed is shown.
        subprocess.TimeoutExpired: it took too long, and was killed.
    """
    done = subprocess.run(
        [sys.executable, "-"],
        input=driver_script.encode(encode),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        timeout=timeout,
        check=False,
    )
    output = done.stdout.decode(encode, errors="replace")
    if done.returncode:
        print(output)
        raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout)
    return output
