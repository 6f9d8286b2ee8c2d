"""``zray-broker``: the one process per cluster that schedules, and that everybody connects to."""

from __future__ import annotations

import os
import sys

import click

from zray.broker.shell import run_broker
from zray.config import Config
from zray.exceptions import ZrayError
from zray.protocol.sockets import check_address
from zray.util.processes import set_title
from zray.util.sessions import (
    Current,
    clear_current,
    lock_session,
    new_session,
    remove_session,
    runtime_root,
    sweep_dead_sessions,
    write_current,
)
from zray.version import VERSION


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--bind",
    default="",
    metavar="ADDRESS",
    help="Where to listen, e.g. tcp://127.0.0.1:6380. Default: a socket in a directory that only you can enter.",
)
@click.option(
    "--insecure", is_flag=True, help="Allow TCP without encryption: whoever reaches the port can run code as you."
)
@click.version_option(VERSION)
def main(bind: str, insecure: bool) -> None:
    """Start a zray cluster: the broker, to which workers and drivers connect.

    \b
    On one machine:
      zray-broker &
      zray-worker &
      python -c 'import zray; zray.init("auto"); ...'

    It runs in the foreground until Ctrl-C or SIGTERM. Workers end when it does.
    """
    try:
        sys.exit(_run(bind, insecure))
    except ZrayError as error:
        click.echo(f"zray-broker: {error}", err=True)
        sys.exit(2)


def check_tcp(address: str, insecure: bool) -> None:
    """Raises ConfigError for what is no address, UsageError if it is open to strangers and that was not asked for."""
    check_address(address)
    if address.startswith("tcp://") and not insecure:
        raise click.UsageError(
            "TCP is refused: there are no keys yet, so everybody who can reach the port, other users of this machine "
            "included, could run code as you. Use the default (a socket in your own directory), or pass --insecure."
        )


def _run(bind: str, insecure: bool) -> int:
    if bind:
        check_tcp(bind, insecure)
    config = Config.from_environment()
    root = runtime_root(config.tmpdir)
    sweep_dead_sessions(root)
    paths = new_session(root)
    lock = lock_session(paths)
    set_title(f"zray: broker {paths.name}")

    def ready(address: str) -> None:
        write_current(root, Current(address, paths.name, os.getpid()))
        click.echo(f"zray broker is ready at {address}")
        insecurely = " --insecure" if address.startswith("tcp://") else ""
        click.echo(f"  workers:  zray-worker --address {address}{insecurely}")
        click.echo(f'  drivers:  zray.init("{address}"), or zray.init("auto") on this machine')
        sys.stdout.flush()

    try:
        return run_broker(bind or f"ipc://{paths.broker_socket}", config, ready)
    finally:
        clear_current(root, paths.name)
        remove_session(paths)
        lock.close()


if __name__ == "__main__":
    main()
