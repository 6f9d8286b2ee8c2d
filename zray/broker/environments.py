"""The runtime environments of jobs: what they have announced, and what happens if one cannot be set up.

An environment is part of the shape of a task or actor, and of what a worker is (``Worker.pool``). So the scheduler
needs nothing from here: lines, idle workers and starting workers are kept apart by it. The broker does not read an
environment. It passes it on to the hosts that start workers in it.

What has been tried on each host is remembered, for ``zray.util.state``: a bounded number of records.

=====================  =====================================================================================
dies                   what happens
=====================  =====================================================================================
the job's driver       its packages are gone, and the job forgets its environments when it is over. Workers that
                       run in them go on
the worker, before it  the environment counts as failed: what waits for it fails with ``RuntimeEnvSetupError``.
has joined             Work that is submitted later tries again
the host               its workers and what it has installed; the work is tried on other hosts
=====================  =====================================================================================
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Mapping

from zray.broker.actors import Actors
from zray.broker.lines import Lines
from zray.broker.records import Envelope, Host, Process, Worker
from zray.broker.states import STARTING
from zray.broker.workers import Workers
from zray.failures import encode_failure
from zray.protocol.messages import DRIVER, EnvironmentPut
from zray.protocol.state_questions import EnvironmentRecord

SETUP_FAILED = "RuntimeEnvSetupError"
PREFIX = "Failed to set up runtime environment."
"""The beginning of the error, as in Ray."""
MAX_RECORDS = 2_000
"""How many records are kept of environments that hosts have tried to set up."""


class Environments:
    """The runtime environments of all jobs. ``fail(envelope, kind, message)`` ends a queued task with an error."""

    def __init__(
        self,
        hosts: Mapping[bytes, Host],
        lines: Lines,
        workers: Workers,
        actors: Actors,
        jobs: Container[bytes],
        fail: Callable[[Envelope, str, str], None],
    ) -> None:
        self._hosts = hosts
        self._lines = lines
        self._workers = workers
        self._actors = actors
        self._jobs = jobs
        self._fail = fail
        self._records: OrderedDict[tuple[bytes, bytes], EnvironmentRecord] = OrderedDict()  # by host and environment
        self._forgotten = 0

    def on_put(self, source: Process, message: EnvironmentPut) -> None:
        """A process of a job announces an environment."""
        if source.job_id not in self._jobs:
            return  # its job has ended: the process is about to be killed
        self._workers.environments[source.job_id, message.environment_id] = message.environment
        if message.eager and source.kind == DRIVER:
            for host in self._hosts.values():
                self._workers.start(host, job_id=source.job_id, environment_id=message.environment_id)

    def forget_job(self, job_id: bytes) -> None:
        """A job is over: workers that are being started in an environment that only it has announced are not needed."""
        environments = self._workers.environments
        for key in [key for key in environments if key[0] == job_id]:
            del environments[key]
        announced = {environment_id for _, environment_id in environments}
        for worker in list(self._workers.workers.values()):
            if worker.state is STARTING and worker.environment_id and worker.environment_id not in announced:
                self._workers.kill(worker, "its job has ended")

    def blames(self, worker: Worker, kind: str) -> bool:
        """Whether the death of a worker means that its environment cannot be set up. The worker has its record yet."""
        return bool(worker.environment_id) and worker.never_joined and kind not in ("NodeDiedError", "OutOfMemoryError")

    def succeeded(self, worker: Worker, now: float) -> None:
        """A worker has joined. Notes how long its environment took to set up, if the host had no worker in it yet."""
        if worker.environment_id:
            known = self._records.get((worker.host.host_id, worker.environment_id))
            if known is None or not known.succeeded:
                self._note(worker, succeeded=True, setup_s=max(0.0, now - worker.asked_at), error="")

    def records(self) -> tuple[list[EnvironmentRecord], int]:
        """The environments that hosts have tried to set up, and how many more there were."""
        workers = Counter((worker.host.host_id, worker.environment_id) for worker in self._workers.workers.values())
        rows = [record._replace(workers=workers[key]) for key, record in self._records.items()]
        return rows, self._forgotten

    def _note(self, worker: Worker, succeeded: bool, setup_s: float | None, error: str) -> None:
        key = worker.host.host_id, worker.environment_id
        environments = self._workers.environments
        text = next((each.text for (_, name), each in environments.items() if name == worker.environment_id), "")
        self._records[key] = EnvironmentRecord(worker.host.host_id, text, succeeded, setup_s, 0, error)
        if len(self._records) > MAX_RECORDS:
            self._records.popitem(last=False)
            self._forgotten += 1

    def failed(self, worker: Worker, message: str) -> None:
        """The environment of a worker could not be set up: fails what waits for it, except actors without a place."""
        self._note(worker, succeeded=False, setup_s=None, error=message)
        text = f"{PREFIX}\n{message}"
        if worker.actor is not None:
            worker.actor.worker = None
            self._actors.end(worker.actor, text, encode_failure(SETUP_FAILED, text))
        for envelope in self._lines.queued_in(worker.environment_id):
            self._fail(envelope, SETUP_FAILED, text)
