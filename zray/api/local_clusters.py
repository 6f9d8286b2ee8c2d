"""The local cluster of a driver: its start, and its end with all of its processes and files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from zray.config import Config
from zray.exceptions import ConfigError, SystemFailure, ZrayError
from zray.sessions.directories import new_session, remove_session, runtime_root, sweep_dead_sessions
from zray.system.processes import describe_error, kill_session
from zray.system.threads import signals_left_to_main

if TYPE_CHECKING:
    from zray.api.init_arguments import JobArguments
    from zray.api.joining import Driver

SWEEP_END_S = 2.0
"""How long a program that ends waits for the removal of sessions that earlier programs left, in seconds."""


def start(
    resources: dict[str, int],
    store_bytes: int,
    config: Config,
    job: JobArguments,
    own_directory: bool,
    shutdown: Callable[[], None],
) -> Driver:
    """Starts a cluster on this machine and joins it; see ``join`` for ``own_directory`` and ``shutdown``.

    ``resources``: of its host, in ten-thousandths. ``store_bytes``: the capacity of its object store.

    Raises SystemFailure if it cannot be started, and the errors of ``join``.
    """
    from zray.local_cluster.launch import LocalCluster  # workers import this module too, and do not need it

    root = runtime_root(config.tmpdir)
    paths, lock = new_session(root)
    process = None
    try:
        with contextlib.closing(lock):  # from here on the subprocess holds it
            process = LocalCluster(paths, lock, resources, store_bytes, _with_absolute_paths(config))
        # Loaded while the cluster starts: what joins it, and what the program will use next.
        from zray.api import decorator, driver_output, objects, sigterm  # noqa: F401
        from zray.api.joining import join

        address = process.wait_until_ready(config.start_timeout_s)
        driver = join(address, {}, config, job, own_directory, shutdown, process)
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
    from zray.api.job_settings import working_directory

    here = working_directory()
    if not here:
        raise ConfigError(
            f"spill_dir {config.spill_dir!r} is relative to a working directory that has been removed: "
            "set ZRAY_SPILL_DIR to an absolute path"
        )
    return dataclasses.replace(config, spill_dir=os.path.join(here, config.spill_dir))


def end(driver: Driver) -> None:
    """Ends the cluster that this process has started, and removes its processes and files; one that it has joined
    goes on."""
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
