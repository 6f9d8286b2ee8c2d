"""``zray-worker``: makes this machine a host of a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

import click

import zray
import zray.worker.process.main  # first, see zray.local_cluster.process

# isort: split
from zray.config import WARM_UP, Config
from zray.config.reading import read
from zray.exceptions import ClusterUnavailableError, ConfigError, ZrayError
from zray.logs.process_log import HOST_LOG, start_log
from zray.memory.forks import prepare_for_forks
from zray.protocol import rows
from zray.sessions.directories import (
    SessionPaths,
    choose_broker,
    new_name,
    new_session,
    remove_session,
    runtime_root,
    sweep_dead_sessions,
)
from zray.sessions.lock import SessionLock
from zray.system import interpreter
from zray.system.demotion import Demotion
from zray.system.machine import host_resources
from zray.system.processes import accept_signals_of_a_command, end_orderly, set_title
from zray.system.streams import write_nowhere
from zray.transport.security.dialer import credentials_for, insecurity
from zray.transport.security.keys import ClientCredentials, KeyDirectory
from zray.transport.sockets import check_address
from zray.version import VERSION
from zray.worker.host.start import HostOptions, prepare_zygote, run_host
from zray.worker.process.warm_up import warm_up

KeyFinder = Callable[[str], ClientCredentials | None]
"""Returns the key for a broker's address; None where none is needed."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--address", metavar="ADDRESS", help="The broker's address. Default: your broker on this machine.")
@click.option("--num-cpus", metavar="NUMBER", help="CPUs to offer. Default: those this process may use.")
@click.option("--num-gpus", metavar="NUMBER", help="GPUs to offer. Default: those this process may use.")
@click.option("--pin-cpus", metavar="auto|on|off", help="Limit tasks to their num_cpus. Default: auto.")
@click.option("--memory", metavar="BYTES", help="Memory to offer. Default: 70% of the available memory.")
@click.option("--resources", metavar="JSON", help="""Other resources, e.g. '{"x": 2}'.""")
@click.option("--labels", metavar="KEY=VALUE,...", help="Labels of this host, e.g. zone=a,disk=ssd.")
@click.option("--object-store-memory", metavar="BYTES", help="Size of the object store. Default: 30% of the memory.")
@click.option("--spill-dir", metavar="DIRECTORY", help="Where objects go when the store is full.")
@click.option(
    "--idle-timeout", "idle_timeout_s", metavar="SECONDS",
    help="How long a worker process may idle before it is ended; one per CPU stays if it has loaded much. Default: 5.",
)  # fmt: skip
@click.option("--keys", metavar="DIRECTORY", help="Where the keys for TCP are. Default: ~/.config/zray/keys.")
@click.option("--user", metavar="NAME", help="The user to run as, if started by root: then tasks cannot read the key.")
@click.option("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR. Default: INFO.")
@click.option(
    "--insecure", is_flag=True, help="TCP without keys: everyone on the network path can read the traffic and run code."
)
@click.option("--quiet", is_flag=True, help="Once ready, write nothing more to stdout and stderr: the log file has it.")
@click.version_option(VERSION)
def main(insecure: bool, quiet: bool, **options: str | None) -> None:
    """Make this machine a host of a zray cluster: it runs worker processes and keeps objects.

    It runs in the foreground until Ctrl-C, SIGTERM or SIGHUP, or until the broker is gone. All its processes end with
    it.
    Each option can also be set in the environment or in a file: see `zray config`.
    """
    try:
        sys.exit(_run(insecure, quiet, options))
    except ZrayError as error:
        click.echo(f"zray-worker: {error}", err=True)
        sys.exit(2)


def _run(insecure: bool, quiet: bool, given: dict[str, str | None]) -> int:
    accept_signals_of_a_command()
    started = os.environ.get("ZRAY_WORKER_STARTED", "") == str(os.getpid())
    config = read(options=given, warn=not started).config
    amounts = host_resources(config.num_cpus, config.num_gpus, config.memory, config.resources)
    demotion = _demotion(config, insecure) if config.user else None
    find_key = _key_finder(config, insecure)
    if not started:
        target = _broker(config, say=True)
        find_key(target)  # an error with the key is reported first
        _start_anew()
    if demotion is not None:
        demotion.step_down()
    root = runtime_root(config.tmpdir)
    sweep_dead_sessions(root)
    target = _broker(config)
    if warning := insecurity(target, insecure):
        click.echo(f"zray-worker: warning: {warning}", err=True)
    end_orderly()
    paths, lock = new_session(root, os.environ["ZRAY_SESSION"])
    try:
        reason = _serve(config, paths, lock, target, amounts, find_key, demotion, quiet)
    finally:
        remove_session(paths)
        lock.close()
        sweep_dead_sessions(root)  # a broker that was killed leaves its directory behind
    click.echo(f"zray host ends: {reason}")
    return 0 if reason.startswith("signal") else 1


def _demotion(config: Config, insecure: bool) -> Demotion:
    if insecure or not config.address.startswith("tcp://"):
        raise ConfigError(
            f"user = {config.user!r} keeps the host's key from tasks, and there is a key only for an address on TCP "
            "without --insecure: leave the setting out, or give such an --address"
        )
    return Demotion(config.user)


def _key_finder(config: Config, insecure: bool) -> KeyFinder:
    directory = str(KeyDirectory(config.keys).path) if config.user else config.keys  # found while root

    def say_that_it_waits(why: str) -> None:
        patience = f"It waits for the key for {config.join_timeout_s:g} s (join_timeout_s)"
        click.echo(f"zray-worker: {why}. {patience}.", err=True)

    return lambda target: credentials_for(target, "host", directory, insecure, config.join_timeout_s, say_that_it_waits)


def _broker(config: Config, say: bool = False) -> str:
    if config.address and config.address != "auto":
        check_address(config.address)
        return config.address
    current, warning = choose_broker(runtime_root(config.tmpdir))
    if warning and say:
        click.echo(f"zray-worker: warning: {warning}", err=True)
    if current is None:
        raise ClusterUnavailableError("no zray-broker of yours runs on this machine: start one, or give --address")
    return current.address


def _serve(
    config: Config,
    paths: SessionPaths,
    lock: SessionLock,
    target: str,
    amounts: dict[str, int],
    find_key: KeyFinder,
    demotion: Demotion | None,
    quiet: bool,
) -> str:
    """Runs the host; returns why it ended."""
    set_title(f"zray: host {paths.name}")
    zray._load()
    rows.prepare()
    if config.optimizes(WARM_UP):
        warm_up()
    prepare_for_forks(config.disabled_optimizations)
    zygote = prepare_zygote(paths, lock.filenos(), amounts, demotion, config.disabled_optimizations)
    # After the zygote: its children have no log.
    start_log(config.log_level or "INFO", f"{paths.logs}/{HOST_LOG}", to_stderr=True)
    try:
        # Not earlier: memory of this process at the fork of the zygote is in every worker.
        credentials = _read_as_root(demotion, find_key, target) if demotion is not None else find_key(target)
        options = HostOptions(target, amounts, config.object_store_memory, credentials)

        def ready() -> None:
            _say_ready(paths, target, amounts, demotion)
            if quiet:
                write_nowhere()

        return run_host(options, config, paths, lock, zygote, [], ready)
    finally:
        zygote.close()
        zygote.wait(5.0)


def _read_as_root(demotion: Demotion, find_key: KeyFinder, target: str) -> ClientCredentials | None:
    demotion.regain()
    try:
        return find_key(target)
    finally:
        demotion.complete(visible=False)


def _say_ready(paths: SessionPaths, target: str, amounts: dict[str, int], demotion: Demotion | None) -> None:
    cpus = amounts.get("CPU", 0) / 10_000
    user = f" as user {demotion.name}" if demotion is not None else ""
    click.echo(f"zray host is ready{user}: {cpus:g} CPUs for the cluster at {target}; logs in {paths.logs}")
    sys.stdout.flush()


def _start_anew() -> NoReturn:
    """Replaces this process: processes of a session are found by a variable that is set at their exec."""
    variables = {"ZRAY_SESSION": new_name(), "SPT_NOENV": "1", "ZRAY_WORKER_STARTED": str(os.getpid())}
    command = interpreter.command("zray.cli.worker", *sys.argv[1:])
    os.execve(sys.executable, command, interpreter.environment(os.environ, **variables))


if __name__ == "__main__":
    main()
