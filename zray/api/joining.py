"""Joining a cluster as a driver: connection, session, output and hooks of this process."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray import object_ref
from zray.api import runtime as runtimes
from zray.api.cluster_context import Context, context_of
from zray.api.error_hints import show_hints
from zray.api.job_settings import job_settings
from zray.client import session as sessions
from zray.client.core.effects import Unhandled, Warn
from zray.client.session import Session
from zray.config import Config
from zray.protocol.messages import DRIVER, LogsTaken
from zray.protocol.records import JoinInfo
from zray.sessions.directories import SessionPaths
from zray.system import signals
from zray.system.streams import show_fatal_errors
from zray.transport.connection import connect

if TYPE_CHECKING:
    from zray.api.driver_output import DriverOutput
    from zray.api.init_arguments import JobArguments
    from zray.local_cluster.launch import LocalCluster
    from zray.transport.security.keys import ClientCredentials


@dataclasses.dataclass
class Driver:
    """The cluster that this process has started or joined.

    ``process``: the local cluster; ``paths``: its session; ``sweep``: the thread that removes what dead sessions left.
    """

    session: Session
    context: Context
    output: DriverOutput
    process: LocalCluster | None = None
    paths: SessionPaths | None = None
    sweep: threading.Thread | None = None
    undo_hint: Callable[[], None] = lambda: None


def join(
    address: str,
    given: dict[str, Any],
    config: Config,
    job: JobArguments,
    own_directory: bool,
    shutdown: Callable[[], None],
    process: LocalCluster | None = None,
    credentials: ClientCredentials | None = None,
) -> Driver:
    """Joins the cluster at ``address``: this process gets a session, and shows output and errors.

    ``given``: arguments of ``init`` that only a new cluster can have. ``own_directory``: see ``job_settings``.
    ``shutdown``: leaves the cluster, for the context. ``process``: the local cluster, if this process has started it.

    Raises ValueError for arguments that have no meaning here, and the errors of ``connect``.
    """
    useless = [name for name, value in given.items() if value is not None]
    if useless:
        raise ValueError(
            f"{', '.join(useless)} cannot be set when joining a cluster (at {address}): its hosts say what they have. "
            "Use address='local' to start a cluster of your own"
        )
    from zray.api import sigterm  # not at the top: workers import this module too, and need neither of these
    from zray.api.driver_output import DriverOutput

    process_id = os.urandom(16)
    settings = job_settings(job, config, own_directory)
    info = JoinInfo(pid=os.getpid(), job=settings, shows_logs=config.log_to_driver)
    connection = connect(address, DRIVER, process_id, info, config, credentials)
    lifeline = process.lifeline if process is not None else -1
    session = Session(connection, process_id, b"", settings, config, lifeline)
    output = DriverOutput(config.log_to_driver, lambda size_bytes: _tell_taken(session, size_bytes), config.dedup_logs)
    session.show_logs_by(output.show)
    session.handlers[Warn] = output.warn
    session.handlers[Unhandled] = lambda effect: None if config.ignore_unhandled_errors else output.error(effect)
    sessions.set_current(session)
    object_ref.set_tracker(session)
    runtimes.set_runtime(None)
    context = context_of(session, connection.cluster.hosts, shutdown)
    if job.logging_config is not None:
        from zray.client.log_context import log_context

        job.logging_config.apply(lambda: log_context(session) if sessions.current() is session else {})
    signals.install(session.shell.lock)
    sigterm.end_in_order()
    show_fatal_errors()
    return Driver(session, context, output, undo_hint=show_hints())


def _tell_taken(session: Session, size_bytes: int) -> None:
    """Tells the broker that lines were taken. Called by the thread that shows lines.

    If this takes a turn, other threads perform the turn's effects.
    """
    with session.shell.lock:
        session.core.to_broker(LogsTaken(size_bytes))
        session.shell.submitted()
