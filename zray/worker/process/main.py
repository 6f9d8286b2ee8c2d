"""The first steps of a forked worker: connects, opens the store, serves."""

from __future__ import annotations

import mmap
import os
import sys
from typing import TYPE_CHECKING, Any

from zray import object_ref
from zray.client import session as sessions
from zray.client.session import Session
from zray.config import Config
from zray.exceptions import ClusterUnavailableError, ZrayError
from zray.protocol.messages import WORKER
from zray.protocol.records import EnvironmentSpec, JobSettings, JoinInfo
from zray.system import signals
from zray.transport.connection import Connection, connect
from zray.transport.lanes import socket_path
from zray.transport.sockets import is_listened_at
from zray.worker.process.worker import Worker
from zray.worker.start import INSTALLER, EnvironmentStart, WorkerStart

if TYPE_CHECKING:
    from zray.worker.process.runtime_env import Applied


def worker_main(payload: bytes, fds: list[int]) -> None:
    """Runs in the child that the zygote forked; raises SystemExit.

    ``fds``: of a worker, the flight recorder, and the file with its runtime environment if it has one; of a process
    that installs a part of an environment, the file with its order.
    """
    if payload == INSTALLER:
        from zray.worker.installing.main import install  # few processes need it

        install(fds[0])
    start = WorkerStart.from_bytes(payload)
    applied: Applied | None = None
    environment = EnvironmentSpec()
    if len(fds) > 1:
        from zray.worker.process.runtime_env import apply

        found = EnvironmentStart.from_file(fds[1])
        applied, environment = apply(found, payload, fds[0]), found.spec
    page = mmap.mmap(fds[0], 0)
    os.close(fds[0])
    config, worker_id = start.config, start.worker_id
    try:
        connection = _connect(start.address, worker_id, config)
    except ZrayError as error:  # the cluster may be ending; if not, this output explains the worker's end
        print(f"zray: this worker cannot join the cluster: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    session = Session(connection, worker_id, start.host_id, JobSettings(), config)
    session.environment = environment
    session.shell.lane_path = socket_path(start.directory, worker_id)
    sessions.set_current(session)
    object_ref.set_tracker(session)
    signals.install(session.shell.lock)
    sys.breakpointhook = _no_terminal
    worker = Worker(session, page, start.log_secret, applied, start.gpus)
    if start.spans:
        from zray.worker.process.spans import Spans  # few clusters record when tasks run

        worker.spans = Spans(start.spans, start.worker_id, start.config.log_file_max_bytes)
    sys.exit(worker.serve())


def _connect(address: str, worker_id: bytes, config: Config) -> Connection:
    """Connects to the broker. As a busy machine may take any time, it tries while the address is listened at."""
    info = JoinInfo(pid=os.getpid())
    while True:
        try:
            return connect(address, WORKER, worker_id, info, config)
        except ClusterUnavailableError:
            if not is_listened_at(address):
                raise


def _no_terminal(*args: Any, **kwargs: Any) -> Any:
    """Replaces ``breakpoint()``: a debugger would find no terminal, and its error would not say so."""
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*args, **kwargs)
    raise RuntimeError(
        "breakpoint(): a worker has no terminal. zray.init(local_mode=True) runs everything in the program's own "
        "process; or name a debugger that is reached by other means in PYTHONBREAKPOINT"
    )
