"""The functions that jobs have sent, so that workers can fetch them. The broker does not read them."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from zray.broker.records import Process
from zray.ids import function_id_of
from zray.named_tuples import NamedTuple
from zray.protocol.messages import FunctionBlob, FunctionGet, FunctionPut, ProtocolError


class _Function(NamedTuple):
    """``jobs``: those that have sent it."""

    name: str
    blob: bytes
    jobs: set[bytes]


class Functions:
    """The functions of all jobs, by identifier. ``jobs``: the jobs that are open; ``send(dest, message)``."""

    def __init__(self, jobs: Container[bytes], send: Callable[[bytes, Any], None]) -> None:
        self._jobs = jobs
        self._send = send
        self._functions: dict[bytes, _Function] = {}

    def __len__(self) -> int:
        return len(self._functions)

    def __contains__(self, function_id: bytes) -> bool:
        return function_id in self._functions

    def name(self, function_id: bytes) -> str:
        """The name of a function; empty if it is unknown."""
        function = self._functions.get(function_id)
        return "" if function is None else function.name

    def blob(self, function_id: bytes) -> FunctionBlob | None:
        """The message with a function; None if it is unknown."""
        function = self._functions.get(function_id)
        return (
            None if function is None else FunctionBlob(function_id, bool(function.blob), function.name, function.blob)
        )

    def on_put(self, source: Process, message: FunctionPut) -> None:
        """A process of a job sends a function."""
        if source.job_id not in self._jobs:
            return  # its job has ended: the process is about to be killed
        if function_id_of(message.blob) != message.function_id:
            raise ProtocolError("a function whose identifier is not its hash")
        function = self._functions.get(message.function_id)
        if function is None:
            function = self._functions[message.function_id] = _Function(message.name, message.blob, set())
        function.jobs.add(source.job_id)

    def restore(self, function_id: bytes, name: str, blob: bytes, job_id: bytes) -> None:
        """Brings back a function that a job has sent to an earlier run of the broker."""
        self._functions.setdefault(function_id, _Function(name, blob, set())).jobs.add(job_id)

    def on_get(self, source: Process, message: FunctionGet) -> None:
        """Answers a process that asks for a function."""
        unknown = FunctionBlob(message.function_id, False, "", b"")
        self._send(source.process_id, self.blob(message.function_id) or unknown)

    def forget_job(self, job_id: bytes) -> None:
        """A job is over: forgets the functions that no other job has sent."""
        for function_id, function in list(self._functions.items()):
            function.jobs.discard(job_id)
            if not function.jobs:
                del self._functions[function_id]

    def check(self) -> None:
        """Raises AssertionError if a function is kept for a job that is over; for tests."""
        for function in self._functions.values():
            assert function.jobs and all(job_id in self._jobs for job_id in function.jobs), "functions of ended jobs"
