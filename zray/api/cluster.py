"""``init`` and ``shutdown``, and questions to a cluster (``nodes``, ``cluster_resources``, ...)."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import math
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray import object_ref
from zray.api import runtime as runtimes
from zray.client import session as sessions
from zray.client.core.effects import Unhandled, Warn
from zray.client.session import Session
from zray.config import Config
from zray.exceptions import ClusterUnavailableError, ConfigError, SystemFailure, ZrayError
from zray.options import check_text
from zray.protocol.messages import DRIVER, Goodbye, LogsTaken
from zray.protocol.questions import FlushOutput
from zray.protocol.records import JobSettings, JoinInfo
from zray.serialization import hint_for
from zray.sessions.directories import (
    SessionPaths,
    choose_broker,
    new_session,
    remove_session,
    runtime_root,
    sweep_dead_sessions,
)
from zray.system import signals
from zray.system.machine import host_resources
from zray.system.processes import describe_error, kill_session
from zray.system.streams import say, show_fatal_errors
from zray.transport.connection import connect
from zray.transport.sockets import check_address

if TYPE_CHECKING:
    import logging

    from zray.api.driver_output import DriverOutput
    from zray.local_cluster.launch import LocalCluster
    from zray.transport.security.keys import ClientCredentials

SWEEP_END_S = 2.0
"""How long a program that ends waits for the removal of sessions that earlier programs left, in seconds."""
LAST_OUTPUT_S = 0.2
"""How long ``shutdown`` waits for the last output of workers, in seconds."""
INFO = 20
"""The value of ``logging.INFO``. A constant, so that this module need not load ``logging``."""

_lock = threading.RLock()
_driver: _Driver | None = None


class Context(dict[str, Any]):
    """The result of ``init``: addresses by name, and a context manager that calls ``shutdown`` at its end."""

    @property
    def address_info(self) -> dict[str, Any]:
        """The same, as a plain dictionary."""
        return dict(self)

    @property
    def dashboard_url(self) -> str:
        """Empty: there is no dashboard yet."""
        return ""

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        shutdown()

    def disconnect(self) -> None:
        """Calls ``zray.shutdown()``."""
        shutdown()


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
    object_store_memory: int | None = None,
    insecure: bool = False,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    configure_logging: bool = True,
    logging_level: int | str = "INFO",
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    **unknown: Any,
) -> Context:
    """Starts a cluster on this machine, or joins one.

    Args:
        address: where a broker listens (``ipc://...``, ``tcp://host:port``); "auto": the ``zray-broker`` that this
            user runs here; "local": start a cluster, even if a broker runs here or the environment names one. Default:
            ``ZRAY_ADDRESS`` or ``RAY_ADDRESS``, else the ``zray-broker`` that this user runs here, else "local".
        num_cpus: CPUs that the new cluster offers; default: the CPUs that this process may use.
        num_gpus: GPUs that it offers; default: the NVIDIA GPUs that this process may use.
        memory: bytes that it offers to tasks; default: 70% of the memory that this process may use.
        resources: amounts of other resources that it offers, by name.
        object_store_memory: capacity of its object store in bytes; default: 30% of the memory, at most what /dev/shm
            can hold.
        insecure: join a broker on TCP that was started with ``--insecure``; otherwise keys are required, see
            ``zray keys``. Default: no.
        local_mode: run everything in this process, serially, for debugging.
        ignore_reinit_error: return the present context when called again, instead of raising RuntimeError.
        include_dashboard: must not be True: there is no dashboard yet.
        configure_logging: set the level of the logger "zray" to ``logging_level``.
        logging_level: a level of the module ``logging``, by name or number.
        log_to_driver: show the output of workers; default: the setting ``log_to_driver``, which is yes by default.
        namespace: the namespace of this job's actors; default: a new one of its own.
        runtime_env: the runtime environment of the job's tasks and actors: a dictionary, or a ``RuntimeEnv``, which
            describes the fields. Its folders and files are uploaded.
        unknown: any other argument raises TypeError.

    SIGTERM ends the program the way Python itself ends, ``atexit`` included, unless the program has a handler for that
    signal.

    Returns:
        The address of the cluster and other facts about it; also a context manager that calls ``shutdown``.

    Raises:
        RuntimeError: it was called twice without ``ignore_reinit_error``.
        ClusterUnavailableError: no broker answers within ``connect_timeout_s`` (5 seconds).
        VersionMismatchError: the cluster has another version of Python or zray.
        SystemFailure: the new cluster could not start.
        ConfigError: a setting, or the address, cannot be used.
        NotImplementedError: ``include_dashboard=True`` was given.
        RuntimeEnvSetupError: a folder of ``runtime_env`` cannot be uploaded, or zray cannot carry out a field of it.
        TypeError: an argument has a wrong type, or zray does not know it.
        ValueError: an argument is out of range, or resources were given for a cluster that is joined.
    """
    global _driver
    _check_arguments(num_cpus, num_gpus, memory, resources, object_store_memory, include_dashboard, unknown)
    if namespace is not None and namespace != "":
        check_text(namespace, "zray.init()", "namespace")
    _forget_in_children()
    with _lock:
        if is_initialized():
            if ignore_reinit_error:
                return _driver.context if _driver is not None else Context()
            raise RuntimeError(
                "zray.init() was called twice: call zray.shutdown() first, or pass ignore_reinit_error=True"
            )
        if configure_logging:
            _logger().setLevel(logging_level)
        from zray.config.reading import from_environment  # workers import this module but are sent their settings

        config = from_environment()
        if log_to_driver is not None:
            config = dataclasses.replace(config, log_to_driver=log_to_driver)
        space = namespace or os.urandom(8).hex()
        own_directory = _check_environment(runtime_env)
        if local_mode:
            from zray.api.local_mode import LocalRuntime

            if runtime_env:
                _logger().warning("runtime_env has no effect in local mode: everything runs in this process as it is")
            local = LocalRuntime(space)
            object_ref.set_tracker(local)
            runtimes.set_runtime(local)
            return Context(address="local_mode", namespace=space)
        given = {"num_cpus": num_cpus, "num_gpus": num_gpus, "memory": memory, "resources": resources,
                 "object_store_memory": object_store_memory}  # fmt: skip
        target = _resolve(address or config.address, config, told=address is not None)
        if target:
            credentials = _credentials(target, config, insecure)
            _driver = _join(target, given, config, space, own_directory, credentials=credentials)
        else:
            offer: dict[str, Any] = {name: getattr(config, name) for name in given}
            offer.update({name: value for name, value in given.items() if value is not None})
            store_bytes = offer.pop("object_store_memory")
            _driver = _start(host_resources(**offer), store_bytes, config, space, own_directory)
        if runtime_env:
            _begin_environment(runtime_env)
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


def _check_arguments(
    num_cpus: Any, num_gpus: Any, memory: Any, resources: Any, store: Any, dashboard: Any, unknown: Any
) -> None:
    if unknown:
        raise TypeError(f"zray.init() does not know {', '.join(sorted(unknown))}; see help(zray.init)")
    for name, value in (
        ("num_cpus", num_cpus),
        ("num_gpus", num_gpus),
        ("memory", memory),
        ("object_store_memory", store),
    ):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if value < 0 or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    if resources is not None:
        if not isinstance(resources, dict):
            raise TypeError(f"resources must be a dict of amounts by name, got {resources!r}")
        for name, value in resources.items():
            if name in ("CPU", "GPU", "memory"):
                option = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(name, name)
                raise ValueError(f"resources may not contain {name!r}: use {option}=")
            if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                raise ValueError(f"resources must be a dict of amounts >= 0 by name, got {name!r}: {value!r}")
    if dashboard:
        raise NotImplementedError("include_dashboard=True: there is no dashboard yet")


def _resolve(address: str, config: Config, told: bool) -> str:
    """Returns the address of the broker to join; empty: start a cluster instead. ``told``: the program itself gave the
    address."""
    if address == "local":
        return ""
    if address not in ("", "auto"):
        try:
            check_address(address)
        except ConfigError as error:
            from zray.config.reading import sources  # loaded only where settings are read

            raise error if told else ConfigError(f"{sources()['address']}: {error}") from None
        return address
    current, warning = choose_broker(runtime_root(config.tmpdir))
    if warning:
        _logger().warning(warning)
    if current is not None:
        if not address and _logger().isEnabledFor(INFO):
            say(f"zray: joining the cluster that runs on this machine, at {current.address}")
        return current.address
    if not address:
        return ""
    raise ClusterUnavailableError(
        "address='auto': no zray-broker of this user runs on this machine (start one with zray-broker, or call "
        "zray.init() without an address)"
    )


def _credentials(address: str, config: Config, insecure: bool) -> ClientCredentials | None:
    if not address.startswith("tcp://"):
        return None
    from zray.transport.security.dialer import credentials_for, insecurity

    if warning := insecurity(address, insecure):
        _logger().warning(warning)
    return credentials_for(address, "driver", config.keys, insecure, config.connect_timeout_s)


# ------------------------------------------------------------------------------------------------ joining


def _job_settings(namespace: str, config: Config, own_directory: bool) -> JobSettings:
    """Returns what the job's workers need: namespace, search path, working directory.

    ``own_directory``: workers run in a copy of a directory, and import from it. As in Ray, they then import neither
    from this process's working directory nor from its script's.
    """
    path = _search_path()
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    directory = os.path.dirname(os.path.abspath(main)) if main else ""
    if own_directory:
        path = [entry for entry in path if entry not in (directory, _working_directory())]
    elif directory and directory not in path:
        path.insert(0, directory)
    return JobSettings(namespace, path, _working_directory(), config.ignore_unhandled_errors)


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
    namespace: str,
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
    info = JoinInfo(
        pid=os.getpid(), job=_job_settings(namespace, config, own_directory), shows_logs=config.log_to_driver
    )
    connection = connect(address, DRIVER, process_id, info, config, credentials)
    lifeline = process.lifeline if process is not None else -1
    session = Session(connection, process_id, b"", namespace, config, lifeline)
    output = DriverOutput(config.log_to_driver, lambda size_bytes: _tell_taken(session, size_bytes), config.dedup_logs)
    session.show_logs_by(output.show)
    session.handlers[Warn] = output.warn
    session.handlers[Unhandled] = lambda effect: None if config.ignore_unhandled_errors else output.error(effect)
    sessions.set_current(session)
    object_ref.set_tracker(session)
    runtimes.set_runtime(None)
    context = Context(
        address=address, namespace=namespace, node_id=session.stores.home.hex(), job_id=session.job_id.hex()
    )
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


def _start(resources: dict[str, int], store_bytes: int, config: Config, namespace: str, own_directory: bool) -> _Driver:
    from zray.local_cluster.launch import LocalCluster  # workers import this module too, and do not need it

    root = runtime_root(config.tmpdir)
    paths, lock = new_session(root)
    process = None
    try:
        with contextlib.closing(lock):  # from here on the subprocess holds it
            process = LocalCluster(paths, lock, resources, store_bytes, _with_absolute_paths(config))
        address = process.wait_until_ready(config.start_timeout_s)
        driver = _join(address, {}, config, namespace, own_directory, process)
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


def _logger() -> logging.Logger:
    import logging  # workers import this module too, and do not need it

    return logging.getLogger("zray")


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


def shutdown() -> None:
    """Leaves the cluster. If ``init`` started the cluster, ends it and removes all of its processes and files.

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
    """The live hosts.

    Returns:
        A dictionary for each host, with Ray's keys: NodeID (hexadecimal), Alive, NodeManagerHostname,
        NodeManagerAddress (IP address by which the host reaches the broker), ObjectStoreSocketName (the path of its
        store), Resources (amounts by name; memory in bytes), Labels.

    Raises:
        ClusterUnavailableError: the broker is gone.
    """
    return [
        {
            "NodeID": host.host_id.hex(),
            "Alive": True,
            "NodeManagerHostname": host.info.hostname,
            "NodeManagerAddress": host.info.ip,
            "ObjectStoreSocketName": host.info.store,
            "Resources": host.total,
            "alive": True,
            "Labels": host.info.labels,
        }
        for host in runtimes.runtime().hosts()
    ]


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
