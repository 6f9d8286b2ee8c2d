"""``init`` and ``shutdown``: the cluster that this process belongs to, from the arguments to the end.

``import zray`` loads this module, and not the client's code, which takes half as long as a cluster takes to start.
``local_clusters`` loads that code while the cluster starts. So this module imports it within functions.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
from typing import TYPE_CHECKING, Any

from zray import object_ref
from zray.api import auto_init, local_clusters
from zray.api.cluster_context import Context, context_of
from zray.exceptions import ZrayError
from zray.system.machine import host_resources

if TYPE_CHECKING:
    from zray.api.init_arguments import JobArguments
    from zray.api.joining import Driver
    from zray.client.session import Session
    from zray.job_config import JobConfig
    from zray.logs.job_logging import LoggingConfig

LAST_OUTPUT_S = 0.2
"""How long ``shutdown`` waits for the last output of workers, in seconds."""
LAST_WORK_S = 2.0
"""How long ``shutdown`` waits until the broker has received the last work, such as a detached actor, in seconds."""

_lock = threading.RLock()
_driver: Driver | None = None


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
        from zray.options.given import check_text

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
            from zray.api.joining import join

            _driver = join(target, given, config, job, own_directory, shutdown, credentials=credentials)
        else:
            offer: dict[str, Any] = {name: getattr(config, name) for name in given}
            offer.update({name: value for name, value in given.items() if value is not None})
            store_bytes = offer.pop("object_store_memory")
            _driver = local_clusters.start(host_resources(**offer), store_bytes, config, job, own_directory, shutdown)
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
    from zray.api.runtime import runtime

    try:
        runtime().begin_job_environment(given)
    except BaseException:
        shutdown()
        raise


def _present_context() -> Context:
    """Returns the context of the cluster that this process, a driver or a worker, belongs to."""
    if _driver is not None:
        return _driver.context
    from zray.api.runtime import runtime
    from zray.client import session as sessions

    session = sessions.current()
    if session is None:
        return Context(shutdown, address="local_mode", namespace=runtime().namespace)
    return context_of(session, runtime().hosts(), shutdown)


def _start_local_mode(job: JobArguments) -> Context:
    from zray.api.local_mode import LocalRuntime
    from zray.api.runtime import set_runtime

    assert job.namespace is not None
    if job.runtime_env:
        from zray.api.init_arguments import logger

        logger.warning("runtime_env has no effect in local mode: everything runs in this process as it is")
    local = LocalRuntime(job.namespace)
    object_ref.set_tracker(local)
    set_runtime(local)
    if job.logging_config is not None:
        job.logging_config.apply(dict)
    return Context(shutdown, address="local_mode", namespace=job.namespace)


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
        if _driver is None and not is_initialized():
            return
        from zray.api import runtime as runtimes
        from zray.client import session as sessions
        from zray.system import signals

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
            end.callback(local_clusters.end, driver)
            end.callback(driver.undo_hint)
            end.callback(driver.output.close)
            end.callback(_leave, driver.session, driver.process is None)
            if driver.session.config.log_to_driver:
                _await_last_output(driver.session)


def current_driver() -> Driver | None:
    """This process as a driver; None if it is none at the moment."""
    return _driver


def _leave(session: Session, stays: bool) -> None:
    """Leaves a cluster. ``stays``: the cluster does, with the detached actors of this driver."""
    from zray.protocol.messages import Goodbye

    reason = "the driver shut down"
    if stays:
        session.tell_last_records(reason)
    if not session.close([Goodbye(reason)], LAST_WORK_S if stays else 0.0):
        import logging

        logging.getLogger("zray").warning(
            "the broker has not confirmed this driver's last work within %g s, for it is stopped or busy: a detached "
            "actor that was created last may be missing",
            LAST_WORK_S,
        )


def _await_last_output(session: Session) -> None:
    """Waits for workers' output. It takes another path than results, so lines printed before the end may still come."""
    from zray.protocol.questions import FlushOutput

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


def is_initialized() -> bool:
    """Whether this process is part of a cluster, or in local mode."""
    return object_ref.has_tracker()


def _auto_init() -> None:
    with _lock:
        if _ending:
            raise ZrayError("the interpreter is ending: zray has been shut down")
        if not is_initialized():
            init()


auto_init.start = _auto_init
