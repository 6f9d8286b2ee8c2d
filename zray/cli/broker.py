"""``zray-broker``: the process that schedules for a cluster, and that all its processes connect to."""

from __future__ import annotations

import os
import shlex
import socket
import sys

import click

from zray.broker.shell import run_broker
from zray.config import Config
from zray.config.reading import from_environment
from zray.exceptions import ConfigError, ZrayError
from zray.logs.process_log import BROKER_LOG, start_log, write
from zray.sessions.directories import (
    Current,
    SessionPaths,
    clear_current,
    new_session,
    remove_session,
    runtime_root,
    sweep_dead_sessions,
)
from zray.sessions.lock import SessionLock
from zray.sessions.upkeep import SessionUpkeep
from zray.system.processes import accept_signals_of_a_command, end_orderly, set_title
from zray.system.streams import write_nowhere
from zray.transport.security.dialer import insecurity
from zray.transport.security.keys import KeyDirectory, default_directory
from zray.transport.sockets import check_address
from zray.version import VERSION


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--bind",
    "binds",
    multiple=True,
    metavar="ADDRESS",
    help="Where to listen, e.g. tcp://127.0.0.1:6380. It may be given again, for more addresses on TCP. Default: a "
    "socket in a directory that only you can enter.",
)
@click.option("--bind-if-free", "if_free", multiple=True, metavar="ADDRESS", hidden=True)
@click.option("--keys", metavar="DIRECTORY", help="Where the keys for TCP are. Default: ~/.config/zray/keys.")
@click.option("--insecure", is_flag=True, help="TCP without keys: everyone who reaches the port can run code as you.")
@click.option(
    "--journal", metavar="FILE",
    help="Keep detached actors, placement groups that outlive their job, and the key-value store in this file. A "
    "broker that is started with the same file brings them back. Default: they end with the broker.",
)  # fmt: skip
@click.option("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR. Default: INFO.")
@click.option("--quiet", is_flag=True, help="Once ready, write nothing more to stdout and stderr: the log file has it.")
@click.version_option(VERSION)
def main(
    binds: tuple[str, ...],
    if_free: tuple[str, ...],
    keys: str | None,
    insecure: bool,
    journal: str | None,
    log_level: str | None,
    quiet: bool,
) -> None:
    """Start a zray cluster: the broker, to which workers and drivers connect.

    \b
    On one machine:
      zray-broker &
      zray-worker &
      python -c 'import zray; zray.init("auto"); ...'

    \b
    On several: it makes keys when it first listens on TCP, and prints the line that copies them to other machines.
      zray-broker --bind tcp://0.0.0.0:6380

    It runs in the foreground until Ctrl-C, SIGTERM or SIGHUP. Workers end when it ends. On stderr, and in a
    file, it logs which processes join, which are refused, and what fails.
    """
    try:
        sys.exit(_run(binds or ("",), if_free, keys, insecure, journal, log_level, quiet))
    except ZrayError as error:
        click.echo(f"zray-broker: {error}", err=True)
        sys.exit(2)


def _run(
    binds: tuple[str, ...],
    if_free: tuple[str, ...],
    keys: str | None,
    insecure: bool,
    journal: str | None,
    log_level: str | None,
    quiet: bool,
) -> int:
    accept_signals_of_a_command()
    bind = binds[0]
    for each in filter(None, binds):
        check_address(each)
    config = from_environment(keys=keys, log_level=log_level, journal=journal)
    directory = KeyDirectory(config.keys) if bind.startswith("tcp://") and not insecure else None
    root = runtime_root(config.tmpdir)
    sweep_dead_sessions(root)
    end_orderly()
    paths, lock = new_session(root)
    try:
        return _serve(config, paths, lock, binds, if_free, directory, insecure, quiet)
    finally:
        clear_current(root, paths.name)
        remove_session(paths)
        lock.close()


def _serve(
    config: Config,
    paths: SessionPaths,
    lock: SessionLock,
    binds: tuple[str, ...],
    if_free: tuple[str, ...],
    keys: KeyDirectory | None,
    insecure: bool,
    quiet: bool,
) -> int:
    upkeep = SessionUpkeep(paths, lock)

    def ready(address: str) -> None:
        upkeep.show(Current(address, paths.name, os.getpid()))
        click.echo(f"zray broker is ready at {address}")
        if warning := insecurity(address, insecure):
            click.echo(f"zray-broker: warning: {warning}", err=True)
        _tell_how_to_join(address, keys, insecure)
        sys.stdout.flush()
        if quiet:
            write_nowhere()

    set_title(f"zray: broker {paths.name}")
    start_log(config.log_level or "INFO", f"{paths.logs}/{BROKER_LOG}", to_stderr=True)
    address, *more = binds
    kept = None
    if config.journal:
        from zray.broker.journal import Journal  # SQLite is 2 MB, which brokers without a journal save

        kept = Journal(config.journal, config.journal_sync, write)
    where = address or f"ipc://{paths.broker_socket}"
    return run_broker(where, config, ready, keys, upkeep.check, more, if_free, kept)


def _tell_how_to_join(address: str, keys: KeyDirectory | None, insecure: bool) -> None:
    reached = address.replace("//0.0.0.0:", f"//{socket.gethostname()}:")
    flag, argument = "", ""
    if insecure and address.startswith("tcp://"):
        flag, argument = " --insecure", ", insecure=True"
    elsewhere = keys is not None and not _is_default(keys)
    if keys is not None and elsewhere:
        flag = f" --keys {shlex.quote(str(keys.path))}"
    click.echo(f"  workers:  zray-worker --address {reached}{flag}")
    click.echo(f'  drivers:  zray.init("{reached}"{argument}), or zray.init("auto"{argument}) on this machine')
    if keys is None:
        return
    if elsewhere:
        click.echo(f"            with ZRAY_KEYS={shlex.quote(str(keys.path))}")
    click.echo("  other machines need keys, which this line copies:")
    click.echo(f"    {keys.copy_command()}")


def _is_default(keys: KeyDirectory) -> bool:
    try:
        return keys.path == default_directory()
    except ConfigError:  # a user without a home
        return False


if __name__ == "__main__":
    main()
