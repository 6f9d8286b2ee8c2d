"""Records when each task and call of a worker ran, for ``zray.timeline``: a line of JSON each, in a file.

The file is among the logs of the worker's host. Each line is written when its call ends, in one piece, so the file is
complete however the process ends. Only clusters with the setting ``profiling`` have such files.
"""

from __future__ import annotations

import json
import os
import threading
import time

from zray.client.core.assignments import Assignment
from zray.worker.process.runner import CallOptions, now_us

PREFIX, SUFFIX = "timeline-", ".jsonl"
FINISHED, FAILED, CANCELLED = "FINISHED", "FAILED", "CANCELLED"


class Spans:
    """The file of one worker. Any thread may use it.

    ``directory``: of its host's logs; ``max_bytes``: the size from which on a new file is begun; one older one is kept.
    """

    def __init__(self, directory: str, worker_id: bytes, max_bytes: int) -> None:
        self._path = os.path.join(directory, f"{PREFIX}{worker_id.hex()[:12]}{SUFFIX}")
        self._worker_id = worker_id.hex()
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._begun: dict[bytes, int] = {}  # when calls of an event loop began
        self._fd = -1
        self._size = 0

    def begin(self, task_id: bytes) -> None:
        """An async call begins."""
        self._begun[task_id] = now_us()

    def ended(
        self, task: Assignment, options: CallOptions, state: str = FINISHED, started_us: int | None = None
    ) -> None:
        """A task or call has ended. ``started_us``: when it began (``now_us``); None for an async call."""
        if started_us is None:
            started_us = self._begun.pop(task.task_id, now_us())
        took_us = now_us() - started_us
        line = {
            "name": options.name,
            "ts": time.time_ns() // 1000 - took_us,
            "dur": took_us,
            "task": task.task_id.hex(),
            "attempt": task.attempt,
            "state": state,
            "worker": self._worker_id,
            "pid": os.getpid(),
        }
        data = json.dumps(line).encode() + b"\n"
        with self._lock:
            self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            if self._fd < 0 or self._size + len(data) > self._max_bytes:
                self._begin_file()
            self._size += os.write(self._fd, data)
        except OSError:  # the disk is full, or the directory was removed: the work goes on without a record
            self._size = self._max_bytes

    def _begin_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            os.replace(self._path, f"{self._path}.1")
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._size = 0
