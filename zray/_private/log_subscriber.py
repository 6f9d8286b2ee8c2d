"""What workers print, as records that a driver's test can wait for, under the names of Ray's helpers.

A driver gets the lines that it shows. So nothing comes if ``log_to_driver`` is off.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

from zray.api.cluster import current_driver
from zray.api.runtime_context import get_runtime_context
from zray.exceptions import ZrayError
from zray.protocol.records import PrintedLines
from zray.system.queues import take

__all__ = [
    "LogSubscriber",
    "get_log_batch",
    "get_log_data",
    "get_log_message",
    "get_log_sources",
    "init_log_pubsub",
]


class LogSubscriber:
    """Takes what workers print from its making on.

    Raises:
        ZrayError: this process is no driver.
    """

    def __init__(self) -> None:
        driver = current_driver()
        if driver is None:
            raise ZrayError("only a driver gets the output of workers: call zray.init() first")
        self._queue: queue.SimpleQueue[PrintedLines] = queue.SimpleQueue()
        self._job = get_runtime_context().get_job_id()
        self._subscribers = driver.output.subscribers
        self._subscribers.append(self._queue.put)

    def poll(self, timeout: float | None = None) -> dict[str, Any] | None:
        """Waits for lines of one process, at most ``timeout`` seconds. Returns None if there are none by then.

        Returns:
            A dictionary with Ray's keys: lines, pid, is_err, job, and the name of the task or actor as task_name and
            actor_name.
        """
        try:
            printed = take(self._queue, timeout)
        except queue.Empty:
            return None
        return {
            "lines": list(printed.lines),
            "pid": str(printed.pid),
            "is_err": printed.stream == "stderr",
            "job": self._job,
            "task_name": printed.name,
            "actor_name": printed.name,
        }

    def close(self) -> None:
        """Takes no more lines. May be called again."""
        if self._queue.put in self._subscribers:
            self._subscribers.remove(self._queue.put)


def init_log_pubsub() -> LogSubscriber:
    """Begins to take what workers print. Raises ZrayError if this process is no driver."""
    return LogSubscriber()


def get_log_batch(
    subscriber: LogSubscriber,
    num: float = 1e6,
    timeout: float = 20,
    job_id: str | None = None,
    matcher: Callable[[dict[str, Any]], bool] | None = None,
) -> list[dict[str, Any]]:
    """Waits for ``num`` records, at most ``timeout`` seconds. Returns those that have come.

    Args:
        subscriber: what ``init_log_pubsub`` has returned.
        num: how many.
        timeout: how long, in seconds.
        job_id: only of this job.
        matcher: only records for which it returns true.
    """
    end = time.monotonic() + timeout
    found: list[dict[str, Any]] = []
    while len(found) < num:
        record = subscriber.poll(end - time.monotonic())
        if record is None:
            break
        if (not job_id or job_id == record["job"]) and (matcher is None or matcher(record)):
            found.append(record)
    return found


def get_log_data(
    subscriber: LogSubscriber,
    num: float = 1e6,
    timeout: float = 20,
    job_id: str | None = None,
    matcher: Callable[[str], bool] | None = None,
) -> list[dict[str, Any]]:
    """The same, but ``matcher`` is asked about single lines: one of a record has to match."""
    any_line = None if matcher is None else lambda record: any(map(matcher, record["lines"]))
    return get_log_batch(subscriber, num, timeout, job_id, any_line)


def get_log_message(
    subscriber: LogSubscriber,
    num: float = 1e6,
    timeout: float = 20,
    job_id: str | None = None,
    matcher: Callable[[str], bool] | None = None,
) -> list[list[str]]:
    """The lines of what ``get_log_data`` returns."""
    return [record["lines"] for record in get_log_data(subscriber, num, timeout, job_id, matcher)]


def get_log_sources(
    subscriber: LogSubscriber,
    num: float = 1e6,
    timeout: float = 20,
    job_id: str | None = None,
    matcher: Callable[[str], bool] | None = None,
) -> set[str]:
    """The processes of what ``get_log_data`` returns, by PID, as texts."""
    return {record["pid"] for record in get_log_data(subscriber, num, timeout, job_id, matcher)}
