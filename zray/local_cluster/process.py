"""A local cluster in one subprocess of the driver: imports once, then forks broker, zygote and workers.

It can join the broker of another such cluster instead of having its own: then it is one more host of that cluster.

Process tree: driver -> this process, which becomes the host -> broker, zygote -> workers. The driver holds the other
end of this process's stdin: when that closes, for any reason, the cluster ends. When this process is killed, the broker
dies with it and the zygote cleans up. This process reports to the driver with one line of JSON through a pipe.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import zray
import zray.worker.process.main  # first: what workers write to then lies together, and each copies fewer pages

# isort: split
from zray.broker.shell import run_broker
from zray.config import WARM_UP, Config
from zray.exceptions import ZrayError
from zray.local_cluster.settings import Settings
from zray.logs.process_log import BROKER_LOG, HOST_LOG, start_log
from zray.memory.forks import prepare_for_forks
from zray.protocol import rows
from zray.sessions.directories import SessionPaths
from zray.sessions.lock import SessionLock
from zray.system.processes import accept_signals, set_parent_death_signal, set_title
from zray.worker.host.shell import WATCHED_IS_GONE
from zray.worker.host.start import HostOptions, prepare_zygote, run_host
from zray.worker.process.warm_up import warm_up

zray._load()


def main() -> int:
    """Runs a local cluster until its driver has ended. The argument is the descriptor of its settings, in JSON."""
    with open(int(sys.argv[1]), "rb") as file:
        settings = Settings.from_json(file.read())
    config, report_fd = settings.config, settings.report
    for fd in (report_fd, *settings.lock):
        os.set_inheritable(fd, False)
    paths = SessionPaths(settings.session, settings.root)
    accept_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock = SessionLock(paths.directory, settings.lock)
    address = settings.broker or f"ipc://{paths.broker_socket}"
    set_title(f"zray: host {paths.name}")  # before the forks, which share what it imports
    rows.prepare()
    if config.optimizes(WARM_UP):
        warm_up()
    prepare_for_forks(config.disabled_optimizations)
    watched = [0]  # closes when the driver ends
    broker = 0
    if not settings.broker:
        bound_read, bound_write = os.pipe()
        broker = _fork_broker(address, config, paths.logs, bound_write, [*lock.filenos(), report_fd, bound_read])
        os.close(bound_write)
        watched.append(bound_read)  # closes when the broker dies
    zygote = prepare_zygote(
        paths, [*lock.filenos(), report_fd], settings.resources, disabled=config.disabled_optimizations
    )
    start_log(config.log_level or "WARNING", f"{paths.logs}/{HOST_LOG}")  # after the zygote: its children have no log
    if broker and not os.read(bound_read, 1):
        return _report(report_fd, error="the broker did not start")
    options = HostOptions(address, settings.resources, settings.store_bytes)

    def ready() -> None:
        _report(report_fd, address=address, host_id=options.host_id.hex())

    try:
        reason = run_host(options, config, paths, lock, zygote, watched, ready)
        if reason != WATCHED_IS_GONE:
            print(f"zray: the local cluster ends: {reason}", file=sys.stderr, flush=True)
    except ZrayError as error:
        return _report(report_fd, error=str(error))
    finally:
        if broker:
            _end(broker)
        lock.close()
    return 0


def _fork_broker(address: str, config: Config, logs: str, bound_fd: int, close: list[int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        set_parent_death_signal(signal.SIGKILL, parent)
        for fd in (0, *close):
            os.close(fd)
        set_title("zray: broker")
        start_log(config.log_level or "WARNING", f"{logs}/{BROKER_LOG}")

        def bound(_: str) -> None:
            os.write(bound_fd, b"\1")

        code = run_broker(address, config, bound)
    finally:
        os._exit(code)


def _end(broker: int) -> None:
    try:
        os.kill(broker, signal.SIGKILL)
        os.waitpid(broker, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def _report(fd: int, **what: Any) -> int:
    try:
        os.write(fd, json.dumps(what).encode() + b"\n")
    except OSError:  # the driver is gone: stdin reports it too
        return 1
    return 1 if "error" in what else 0


if __name__ == "__main__":
    sys.exit(main())
