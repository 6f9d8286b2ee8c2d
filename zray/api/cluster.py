"""``init`` and ``shutdown``, and questions to a cluster (``nodes``, ``cluster_resources``, ...)."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray import object_ref
from zray.api import runtime as runtimes
from zray.api.cluster_context import Context, context_of
from zray.client import session as sessions
from zray.client.core.effects import Unhandled, Warn
from zray.client.session import Session
from zray.config import Config
from zray.exceptions import ConfigError, SystemFailure, ZrayError
from zray.options.given import check_text
from zray.protocol.messages import DRIVER, Goodbye, LogsTaken
from zray.protocol.questions import FlushOutput
from zray.protocol.records import HostInfo, HostState, JobSettings, JoinInfo
from zray.protocol.state_questions import HostRecord
from zray.serialization import hint_for
from zray.sessions.directories import (
    SessionPaths,
    new_session,
    remove_session,
    runtime_root,
    sweep_dead_sessions,
)
from zray.system import signals
from zray.system.machine import host_resources
from zray.system.processes import describe_error, kill_session
from zray.system.streams import show_fatal_errors
from zray.system.threads import signals_left_to_main
from zray.transport.connection import connect

if TYPE_CHECKING:
    from zray.api.driver_output import DriverOutput
    from zray.api.init_arguments import JobArguments
    from zray.job_config import JobConfig
    from zray.local_cluster.launch import LocalCluster
    from zray.logs.job_logging import LoggingConfig
    from zray.transport.security.keys import ClientCredentials

SWEEP_END_S = 2.0
"""How long a program that ends waits for the removal of sessions that earlier programs left, in seconds."""
LAST_OUTPUT_S = 0.2
"""How long ``shutdown`` waits for the last output of workers, in seconds."""

_lock = threading.RLock()
_driver: _Driver | None = None


@dataclasses.dataclass
class _Driver:
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


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    insecure: bool = False,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str = "127.0.0.1",
    dashboard_port: int | None = None,
    job_config: JobConfig | None = None,
    configure_logging: bool = True,
    logging_level: int | str = "INFO",
    logging_format: str | None = None,
    logging_config: LoggingConfig | None = None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    enable_resource_isolation: bool = False,
    cgroup_path: str | None = None,
    system_reserved_cpu: float | None = None,
    system_reserved_memory: int | None = None,
    proxy_server_url: str | None = None,
    **kwargs: Any,
) -> Context:
    """Starts a cluster on this machine, or joins one.

    Args:
        address: where a broker listens (``ipc://PATH``, ``tcp://HOST:PORT``; Ray's ``HOST:PORT`` and
            ``ray://HOST:PORT`` mean the same as the second); "auto": the cluster that ``ZRAY_ADDRESS`` or
            ``RAY_ADDRESS`` names, else the ``zray-broker`` that this user runs here, else a cluster that another
            program of this user has started here; "local": start a cluster, even if a broker runs here or the
            environment names one. Default: the first two of "auto", and if there is none, "local".
        num_cpus: CPUs that the new cluster offers; default: the CPUs that this process may use.
        num_gpus: GPUs that it offers; default: those that this process may use.
        memory: bytes that it offers to tasks; default: 70% of the memory that this process may use.
        resources: amounts of other resources that it offers, by name.
        labels: labels of its host, values by key.
        object_store_memory: capacity of its object store in bytes; default: 30% of the memory, at most what /dev/shm
            can hold.
        insecure: join a broker on TCP that was started with ``--insecure``; otherwise keys are required, see
            ``zray keys``. Default: no.
        local_mode: run everything in this process, serially, for debugging. Ray has removed it.
        ignore_reinit_error: return the present context when called again, instead of raising RuntimeError.
        include_dashboard: True logs a warning: there is no dashboard yet.
        dashboard_host: has no meaning without a dashboard.
        dashboard_port: has no meaning without a dashboard.
        job_config: a ``zray.job_config.JobConfig``: the namespace and other settings of the job, where the arguments
            here do not say them.
        configure_logging: set up the logger "zray" by ``logging_level`` and ``logging_format``.
        logging_level: a level of the module ``logging``, by name or number.
        logging_format: the form of the lines of the logger "zray" in this process, as in ``logging.Formatter``.
        logging_config: a ``zray.LoggingConfig``: the root logger of this process and of the job's workers.
        log_to_driver: show the output of workers; default: the setting ``log_to_driver``, which is yes by default.
        namespace: the namespace of this job's actors; default: a new one of its own.
        runtime_env: the runtime environment of the job's tasks and actors: a dictionary, or a ``RuntimeEnv``, which
            describes the fields. Its folders and files are uploaded.
        enable_resource_isolation: must be False: zray does not use cgroups.
        cgroup_path: must be None.
        system_reserved_cpu: must be None.
        system_reserved_memory: must be None.
        proxy_server_url: has no meaning without a dashboard.
        kwargs: of what Ray does not document, ``_temp_dir`` is the directory for sockets, logs and spilled objects (as
            the setting ``tmpdir``), ``object_spilling_directory`` where a full store puts objects (``spill_dir``), and
            ``_memory`` the same as ``memory``. Other names that begin with an underscore have no meaning here.

    SIGTERM ends the program the way Python itself ends, ``atexit`` included, unless the program has a handler for that
    signal.

    Returns:
        The address of the cluster and other facts about it; also a context manager that calls ``shutdown``.

    Raises:
        RuntimeError: it was called twice without ``ignore_reinit_error``, or with an argument of an unknown name; or
            ``uv run`` started this process, and workers cannot have its environment.
        ClusterUnavailableError: no broker answers within ``connect_timeout_s`` (5 seconds).
        VersionMismatchError: the cluster has another version of Python or zray.
        SystemFailure: the new cluster could not start.
        ConfigError: a setting, a label or the address cannot be used.
        NotImplementedError: ``enable_resource_isolation`` was given.
        RuntimeEnvSetupError: a folder of ``runtime_env`` cannot be uploaded, or zray cannot carry out a field of it.
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range, or resources were given for a cluster that is joined.
    """
    global _driver
    from zray.api import init_arguments as arguments  # workers import this module too, and do not need it

    for name, value in (
        ("num_cpus", num_cpus), ("num_gpus", num_gpus), ("memory", memory), ("object_store_memory", object_store_memory)
    ):  # fmt: skip
        arguments.check_amount(name, value)
    arguments.check_resources(resources)
    arguments.check_isolation(
        enable_resource_isolation,
        cgroup_path=cgroup_path,
        system_reserved_cpu=system_reserved_cpu,
        system_reserved_memory=system_reserved_memory,
    )
    hidden = arguments.read_hidden(kwargs)
    job = arguments.job_arguments(job_config, namespace, runtime_env, logging_config)
    own_directory = _check_environment(job.runtime_env)
    if job.namespace is not None and job.namespace != "":
        check_text(job.namespace, "zray.init()", "namespace")
    _forget_in_children()
    with _lock:
        if is_initialized():
            if ignore_reinit_error:
                return _present_context()
            raise RuntimeError(
                "Maybe you called ray.init twice by accident? Call zray.shutdown() before zray.init(), or pass "
                "'ignore_reinit_error=True'"
            )
        if configure_logging:
            arguments.set_up_logger(logging_level, logging_format)
        arguments.check_dashboard(include_dashboard, dashboard_host, dashboard_port, proxy_server_url)
        from zray.config.reading import from_environment  # workers import this module but are sent their settings

        config = arguments.with_arguments(from_environment(), hidden, log_to_driver, labels)
        job = job._replace(namespace=job.namespace or arguments.new_namespace())
        if local_mode:
            return _start_local_mode(job)
        if memory is None:
            memory = hidden.memory
        given: dict[str, Any] = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "memory": memory,
            "resources": resources,
            "object_store_memory": object_store_memory,
        }
        from zray.api.addresses import broker_of, credentials_of
        from zray.api.uv_run import environment_of_job

        target = broker_of(address, config)
        if target:
            if config.uv_run:
                job = job._replace(runtime_env=environment_of_job(job.runtime_env))
                own_directory = _check_environment(job.runtime_env)
            given.update(labels=labels, **dict.fromkeys(hidden.for_new_clusters, True))
            credentials = credentials_of(target, config, insecure)
            _driver = _join(target, given, config, job, own_directory, credentials=credentials)
        else:
            offer: dict[str, Any] = {name: getattr(config, name) for name in given}
            offer.update({name: value for name, value in given.items() if value is not None})
            store_bytes = offer.pop("object_store_memory")
            _driver = _start(host_resources(**offer), store_bytes, config, job, own_directory)
        if job.runtime_env:
            _begin_environment(job.runtime_env)
        return _driver.context


def _check_environment(given: Any) -> bool:
    """Checks the argument ``runtime_env``. Returns whether workers get a working directory of their own."""
    if not given:
        return False
    from zray.api.environments import check_of_job  # few programs need it

    return check_of_job(given)


def _begin_environment(given: Any) -> None:
    """Sets the job's runtime environment. If that fails, the cluster is left again."""
    try:
        runtimes.runtime().begin_job_environment(given)
    except BaseException:
        shutdown()
        raise


def _present_context() -> Context:
    """Returns the context of the cluster that this process, a driver or a worker, belongs to."""
    if _driver is not None:
        return _driver.context
    session = sessions.current()
    if session is None:
        return Context(shutdown, address="local_mode", namespace=runtimes.runtime().namespace)
    return context_of(session, runtimes.runtime().hosts(), shutdown)


def _start_local_mode(job: JobArguments) -> Context:
    from zray.api.local_mode import LocalRuntime

    assert job.namespace is not None
    if job.runtime_env:
        from zray.api.init_arguments import logger

        logger.warning("runtime_env has no effect in local mode: everything runs in this process as it is")
    local = LocalRuntime(job.namespace)
    object_ref.set_tracker(local)
    runtimes.set_runtime(local)
    if job.logging_config is not None:
        job.logging_config.apply(dict)
    return Context(shutdown, address="local_mode", namespace=job.namespace)


# ------------------------------------------------------------------------------------------------ joining


def _job_settings(job: JobArguments, config: Config, own_directory: bool) -> JobSettings:
    """Returns what the job's workers need: namespace, search path, working directory, ...

    ``own_directory``: workers run in a copy of a directory, and import from it. As in Ray, they then import neither
    from this process's working directory nor from its script's.
    """
    path = _search_path()
    path[:0] = [directory for directory in map(os.path.abspath, job.code_search_path) if directory not in path]
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    directory = os.path.dirname(os.path.abspath(main)) if main else ""
    if own_directory:
        path = [entry for entry in path if entry not in (directory, _working_directory())]
    elif directory and directory not in path:
        path.insert(0, directory)
    assert job.namespace is not None
    ray_name = sys.modules.get("zray.ray_name")  # loaded by ``install_as_ray`` only
    return JobSettings(
        job.namespace,
        path,
        _working_directory(),
        config.ignore_unhandled_errors,
        job.actors_are_detached,
        "" if job.logging_config is None else job.logging_config.to_json(),
        ray_name is not None and ray_name.is_installed(),
    )


def _working_directory() -> str:
    """The working directory; empty if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _search_path() -> list[str]:
    """The driver's search path, made absolute, so that other processes can use it."""
    here = _working_directory()
    return [os.path.join(here, entry) if here else entry for entry in sys.path if entry or here]


def _join(
    address: str,
    given: dict[str, Any],
    config: Config,
    job: JobArguments,
    own_directory: bool,
    process: LocalCluster | None = None,
    credentials: ClientCredentials | None = None,
) -> _Driver:
    useless = [name for name, value in given.items() if value is not None]
    if useless:
        raise ValueError(
            f"{', '.join(useless)} cannot be set when joining a cluster (at {address}): its hosts say what they have. "
            "Use address='local' to start a cluster of your own"
        )
    from zray.api import sigterm  # not at the top: workers import this module too, and need neither of these
    from zray.api.driver_output import DriverOutput

    process_id = os.urandom(16)
    settings = _job_settings(job, config, own_directory)
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
    return _Driver(session, context, output, undo_hint=_hint_for())


def _tell_taken(session: Session, size_bytes: int) -> None:
    """Tells the broker that lines were taken. Called by the thread that shows lines.

    If this takes a turn, other threads perform the turn's effects.
    """
    with session.shell.lock:
        session.core.to_broker(LogsTaken(size_bytes))
        session.shell.submitted()


# ------------------------------------------------------------------------------------------------ starting


def _start(
    resources: dict[str, int], store_bytes: int, config: Config, job: JobArguments, own_directory: bool
) -> _Driver:
    from zray.local_cluster.launch import LocalCluster  # workers import this module too, and do not need it

    root = runtime_root(config.tmpdir)
    paths, lock = new_session(root)
    process = None
    try:
        with contextlib.closing(lock):  # from here on the subprocess holds it
            process = LocalCluster(paths, lock, resources, store_bytes, _with_absolute_paths(config))
        address = process.wait_until_ready(config.start_timeout_s)
        driver = _join(address, {}, config, job, own_directory, process)
    except BaseException as error:
        if process is not None:
            process.kill()
        remove_session(paths)
        if isinstance(error, OSError) and not isinstance(error, ZrayError):
            raise SystemFailure(f"the local cluster could not be started: {describe_error(error)}") from error
        raise
    driver.process = process
    driver.paths = paths
    driver.context["session_dir"] = paths.directory
    driver.context["logs_dir"] = paths.logs
    driver.sweep = threading.Thread(target=sweep_dead_sessions, args=(root,), name="zray-sweep", daemon=True)
    with signals_left_to_main():
        driver.sweep.start()
    return driver


def _with_absolute_paths(config: Config) -> Config:
    """Returns the settings for processes with another working directory.

    Raises ConfigError if a path is relative and this process's working directory has been removed.
    """
    if not config.spill_dir or os.path.isabs(config.spill_dir):
        return config
    here = _working_directory()
    if not here:
        raise ConfigError(
            f"spill_dir {config.spill_dir!r} is relative to a working directory that has been removed: "
            "set ZRAY_SPILL_DIR to an absolute path"
        )
    return dataclasses.replace(config, spill_dir=os.path.join(here, config.spill_dir))


def _hint_for() -> Callable[[], None]:
    """Installs hooks that print a hint after an uncaught error about a read-only value, in notebooks too.

    Returns a function that removes them.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        before(kind, error, trace)
        tell(error)

    def tell(error: BaseException | None) -> None:
        if error is not None and (hint := hint_for(error)):
            print(hint, file=sys.stderr)

    def after_cell(result: Any) -> None:
        tell(result.error_in_exec)

    notebook = sys.modules.get("IPython")
    shell = notebook.get_ipython() if notebook is not None else None
    if shell is not None:  # IPython shows errors itself, without sys.excepthook
        shell.events.register("post_run_cell", after_cell)

    def undo() -> None:
        if sys.excepthook is hook:
            sys.excepthook = before
        if shell is not None:
            with contextlib.suppress(ValueError):  # the user has unregistered it
                shell.events.unregister("post_run_cell", after_cell)

    sys.excepthook = hook
    return undo


# ------------------------------------------------------------------------------------------------ the end


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """Leaves the cluster. If ``init`` started the cluster, ends it and removes all of its processes and files.

    Args:
        wait_for_processes: has no meaning here: zray always waits until the processes have ended.
        _exiting_interpreter: has no meaning here.

    May be called any number of times, and in any thread. A wait for a value in another thread then raises
    ClusterUnavailableError.
    """
    global _driver
    with _lock:
        if runtimes.is_local_mode():
            runtimes.set_runtime(None)
            object_ref.set_tracker(None)
        driver, _driver = _driver, None
        if driver is None or driver.session.pid != os.getpid():
            return
        if sessions.current() is driver.session:
            sessions.set_current(None)
            object_ref.set_tracker(None)
        with contextlib.ExitStack() as end:  # runs every step, last one first, even if one is interrupted
            end.callback(signals.uninstall, driver.session.shell.lock)
            end.callback(_end_cluster, driver)
            end.callback(driver.undo_hint)
            end.callback(driver.output.close)
            end.callback(driver.session.close, [Goodbye("the driver shut down")])
            if driver.session.config.log_to_driver:
                _await_last_output(driver.session)


def _end_cluster(driver: _Driver) -> None:
    if driver.sweep is not None:
        driver.sweep.join(SWEEP_END_S)
    if driver.process is not None:
        exit_code = driver.process.end()
        if driver.paths is not None:
            if exit_code != 0:  # the guardian that cleans up may have been killed too
                kill_session(driver.paths.name)
            remove_session(driver.paths)
    elif driver.session.shell.lost:  # processes that were killed may have left files behind
        sweep_dead_sessions(runtime_root(driver.session.config.tmpdir))


def _await_last_output(session: Session) -> None:
    """Waits for workers' output. It takes another path than results, so lines printed before the end may still come."""
    with contextlib.suppress(ZrayError):
        session.ask(lambda answer: session.core.query(FlushOutput, answer), LAST_OUTPUT_S)


def _at_exit() -> None:
    global _ending
    _ending = True
    shutdown()


_ending = False
atexit.register(_at_exit)


@functools.cache
def _forget_in_children() -> None:
    """Makes child processes that this process forks from now on start without a cluster."""

    def forget() -> None:
        global _driver, _lock
        _driver = None
        _lock = threading.RLock()

    os.register_at_fork(after_in_child=forget)


# ------------------------------------------------------------------------------------------------ questions


def is_initialized() -> bool:
    """Whether this process is part of a cluster, or in local mode."""
    return sessions.current() is not None or runtimes.is_local_mode()


def nodes() -> list[dict[str, Any]]:
    """The hosts: those that live, and the last 2,000 that are gone.

    Returns:
        A dictionary for each host, with Ray's keys: NodeID (hexadecimal), Alive, NodeManagerHostname,
        NodeManagerAddress (IP address by which the host reaches the broker), NodeName (the same),
        ObjectStoreSocketName (the path of its store), RayletSocketName (the path of its socket), Resources (amounts by
        name; memory in bytes; none if it is gone), Labels, DeathReason (0 if it lives, 1 if it has ended in order, else
        2), DeathReasonMessage. Ports are -1: hosts have none of Ray's.

    Raises:
        ClusterUnavailableError: the broker is gone.
    """
    living = [_row_of(host) for host in runtimes.runtime().hosts()]
    ended = [_row_of_ended(host) for host in runtimes.runtime().ended_hosts()]
    gone = {row["NodeID"] for row in ended}  # one of them may have died between the two questions
    return [row for row in living if row["NodeID"] not in gone] + ended


def _row_of(host: HostState) -> dict[str, Any]:
    return {
        "NodeID": host.host_id.hex(),
        "Alive": True,
        "NodeManagerAddress": host.info.ip,
        "NodeManagerHostname": host.info.hostname,
        "NodeManagerPort": -1,
        "ObjectManagerPort": -1,
        "ObjectStoreSocketName": host.info.store,
        "RayletSocketName": host.info.fetch,
        "MetricsExportPort": -1,
        "MetricsAgentPort": -1,
        "DashboardAgentListenPort": -1,
        "NodeName": host.info.ip,
        "RuntimeEnvAgentPort": -1,
        "DeathReason": 0,
        "DeathReasonMessage": "",
        "alive": True,
        "Resources": host.total,
        "Labels": host.info.labels,
    }


def _row_of_ended(host: HostRecord) -> dict[str, Any]:
    info = HostInfo(hostname=host.hostname, ip=host.ip, labels=host.labels)
    return {
        **_row_of(HostState(host.host_id, info, {}, {}, 0)),
        "Alive": False,
        "alive": False,
        "DeathReason": 1 if host.in_order else 2,
        "DeathReasonMessage": host.reason,
    }


def cluster_resources() -> dict[str, float]:
    """The resources of all hosts together: amounts by name; memory in bytes.

    Raises:
        ClusterUnavailableError: the broker is gone.
    """
    total: dict[str, float] = runtimes.runtime().resources(free=False)
    return total


def available_resources() -> dict[str, float]:
    """The resources of all hosts together that are not in use at the moment: amounts by name; memory in bytes.

    Raises:
        ClusterUnavailableError: the broker is gone.
    """
    free: dict[str, float] = runtimes.runtime().resources(free=True)
    return free


def _auto_init() -> None:
    with _lock:
        if _ending:
            raise ZrayError("the interpreter is ending: zray has been shut down")
        if not is_initialized():
            init()


runtimes.auto_init = _auto_init
