"""``zray start``: a broker and a host in the background, under the options of ``ray start``.

``zray-broker`` and ``zray-worker`` run in the foreground, as service managers want it. This command starts them for
people and scripts: it returns when they are ready, and ``zray stop`` ends them. With ``--block`` it stays, and they end
with it.

Options of Ray that are about parts that zray does not have are accepted, so that scripts need no change. One line of
the output names those that were given.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from zray.api.addresses import own_form
from zray.cli.background import launch, written
from zray.config import Config
from zray.config.reading import from_environment, variable_of
from zray.exceptions import ZrayError
from zray.system.machine import ip_address
from zray.system.processes import end_orderly
from zray.transport.sockets import check_address

DEFAULT_PORT, CLIENTS_PORT = 6379, 10001
"""Ray's: of the head, and of its server for ``ray://``."""
WITHOUT_MEANING = (
    "node-name", "redis-username", "redis-password", "redis-shard-ports", "object-manager-port", "node-manager-port",
    "min-worker-port", "max-worker-port", "worker-port-list", "dashboard-host",
    "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port",
    "plasma-directory", "system-config", "metrics-export-port", "tracing-startup-hook", "include-dashboard",
    "include-log-monitor", "log-style", "log-color", "logging-level", "logging-format", "proxy-server-url",
)  # fmt: skip
"""Options of ``ray start`` that take a value, and have no meaning here."""
FLAGS_WITHOUT_MEANING = (
    "no-redirect-output", "enable-object-reconstruction", "no-monitor", "ray-debugger-external", "disable-usage-stats",
)  # fmt: skip
_ANYWHERE = "tcp://8.8.8.8:53"
"""An address that the kernel has to route out of this machine. Nothing is sent to it."""
_JOIN_EXTRA_S = 5.0
"""Extra time for a host beyond its attempts to reach the broker, so that it reports a failure before it is ended."""
_LOOK_S = 0.2
_END_S = 10.0
"""How long a process may take to end in order, in seconds."""


def _accept_others(command: Callable[..., None]) -> Callable[..., None]:
    for name in reversed(WITHOUT_MEANING):
        command = click.option(f"--{name}", hidden=True)(command)
    for name in reversed(FLAGS_WITHOUT_MEANING):
        command = click.option(f"--{name}", is_flag=True, default=None, hidden=True)(command)
    return command


@click.command(short_help="Start a broker and a host, or a host, in the background.")
@click.option("--head", is_flag=True, help="Start a new cluster here: a broker, and a host.")
@click.option("--address", default="", metavar="ADDRESS", help="Join this cluster: HOST:PORT, or tcp://HOST:PORT.")
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="PORT",
    help=f"Where the broker listens, with --head. 0: any free port. Default: {DEFAULT_PORT}.",
)  # fmt: skip
@click.option(
    "--ray-client-server-port", "clients_port", type=click.IntRange(0, 65535), metavar="PORT",
    help=f"Where the broker listens too, for ray://HOST:PORT. Default: {CLIENTS_PORT}, if that port is free.",
)  # fmt: skip
@click.option("--node-ip-address", metavar="IP", help="The address of this machine. Default: of its route to others.")
@click.option("--num-cpus", metavar="NUMBER", help="CPUs to offer. Default: those this process may use.")
@click.option("--num-gpus", metavar="NUMBER", help="GPUs to offer. Default: those this process may use.")
@click.option("--memory", metavar="BYTES", help="Memory to offer. Default: 70% of the available memory.")
@click.option("--resources", metavar="JSON", help="""Other resources, e.g. '{"x": 2}'.""")
@click.option("--labels", metavar="KEY=VALUE,...", help="Labels of this host, e.g. zone=a,disk=ssd.")
@click.option("--object-store-memory", metavar="BYTES", help="Size of the object store. Default: 30% of the memory.")
@click.option("--object-spilling-directory", metavar="DIRECTORY", help="Where objects go when the store is full.")
@click.option(
    "--temp-dir", metavar="DIRECTORY",
    help="Where sockets and logs are. Set ZRAY_TMPDIR to it for zray stop, and for zray.init().",
)  # fmt: skip
@click.option("--journal", metavar="FILE", help="Where the broker keeps what outlives it, with --head.")
@click.option("--block", is_flag=True, help="Stay in the foreground. What was started ends with this command.")
@click.option("--keys", metavar="DIRECTORY", help="Where the keys for TCP are. Default: ~/.config/zray/keys.")
@click.option("--insecure", is_flag=True, help="TCP without keys: everyone who reaches the port can run code as you.")
@click.option("-v", "--verbose", is_flag=True, default=None, hidden=True)
@_accept_others
def start(
    head: bool,
    address: str,
    port: int | None,
    clients_port: int | None,
    node_ip_address: str | None,
    object_spilling_directory: str | None,
    temp_dir: str | None,
    journal: str | None,
    block: bool,
    keys: str | None,
    insecure: bool,
    **others: Any,
) -> None:
    """Start a cluster here, or join one with this machine, and return when it is ready.

    \b
    On the first machine:    zray start --head
    On the others:           zray start --address HOST:6379
    To end both:             zray stop

    Programs on this machine find the cluster by themselves; zray.init("HOST:6379") joins it from anywhere. Other
    machines need the cluster's keys: `zray keys --help`. Options of `ray start` about parts that zray does not have
    are accepted, and named in the output.
    """
    end_orderly()  # what was started so far ends then, too
    offers = {name: others.pop(name) for name in _OFFERS}
    environ = _environment(temp_dir, object_spilling_directory, keys)
    config = from_environment(environ)
    target = _target(head, address or ("" if head else config.address), port, node_ip_address)
    if not head:
        others |= {"node_ip_address": node_ip_address, "ray_client_server_port": clients_port}
    if ignored := sorted(f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None):
        click.echo(f"without a meaning in zray: {', '.join(ignored)}")
    if journal and not head:
        raise click.UsageError("--journal is for --head: the broker keeps the journal")
    security = ["--insecure"] if insecure else []
    started: list[subprocess.Popen[bytes]] = []
    try:
        if head:
            ip = node_ip_address or ip_address(_ANYWHERE) or "127.0.0.1"
            binds = ["--bind", target, *_for_clients(target, clients_port)]
            kept = ["--journal", os.path.abspath(journal)] if journal else []
            target = _start_broker(ip, [*binds, *kept], security, environ, config, started)
        options = [text for name, value in offers.items() if value is not None for text in (_option(name), value)]
        patience_s = max(config.start_timeout_s, config.join_timeout_s + _JOIN_EXTRA_S)
        _launch("zray.cli.worker", ["--address", target, *options, *security], environ, patience_s, started)
        _tell(head, target, insecure)
        if block:
            _stay(started)
    except BaseException:
        _end(started)
        raise


_OFFERS = ("num_cpus", "num_gpus", "memory", "resources", "labels", "object_store_memory")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _environment(temp_dir: str | None, spill_dir: str | None, keys: str | None) -> dict[str, str]:
    """Returns the environment of what is started: settings without an option of both programs are variables."""
    given = {"tmpdir": temp_dir, "spill_dir": spill_dir, "keys": keys}
    settings = {variable_of(name): os.path.abspath(path) for name, path in given.items() if path}
    return {**os.environ, **settings}


def _target(head: bool, address: str, port: int | None, ip: str | None) -> str:
    """Returns where the broker is to listen, or which one to join."""
    if head:
        if address:
            raise click.UsageError("--head starts a new cluster, and --address joins one: give one of them")
        return f"tcp://{ip or '0.0.0.0'}:{DEFAULT_PORT if port is None else port}"
    if port is not None:
        raise click.UsageError("--port is for --head; a host needs none")
    if not address:
        raise click.UsageError("give --head to start a cluster, or --address HOST:PORT to join one")
    target = own_form(address)
    if target != "auto":
        check_address(target)
    return target


def _for_clients(target: str, port: int | None) -> list[str]:
    """Returns the broker's options for the address of ``ray://``, where programs expect a server beside the head. The
    usual one is left out if it is in use."""
    host = target.removeprefix("tcp://").rpartition(":")[0]
    address = f"tcp://{host}:{CLIENTS_PORT if port is None else port}"
    return [] if address == target else ["--bind-if-free" if port is None else "--bind", address]


def _start_broker(
    ip: str,
    binds: list[str],
    security: list[str],
    environ: Mapping[str, str],
    config: Config,
    started: list[subprocess.Popen[bytes]],
) -> str:
    """Starts the broker, and returns the address by which others reach it."""
    text = _launch("zray.cli.broker", [*binds, *security], environ, config.start_timeout_s, started)
    port = text.partition(" is ready at ")[2].split()[0].rpartition(":")[2]
    return f"tcp://{ip}:{port}"


def _launch(
    module: str,
    options: list[str],
    environ: Mapping[str, str],
    timeout_s: float,
    started: list[subprocess.Popen[bytes]],
) -> str:
    """Starts a program, and returns what it has written. Once it is ready, it writes to its log file only."""
    with tempfile.TemporaryFile() as log:
        started.append(launch(module, [*options, "--quiet"], environ, log, timeout_s))
        return written(log)


def _tell(head: bool, target: str, insecure: bool) -> None:
    address = target.removeprefix("tcp://")
    flag, argument = (" --insecure", ", insecure=True") if insecure else ("", "")
    click.echo("zray runtime started.")
    if head:
        click.echo("  to add another machine:")
        click.echo(f"    zray start --address='{address}'{flag}")
        click.echo("  to connect a program:")
        click.echo(f'    zray.init("{target}"{argument}), or zray.init("auto"{argument}) on this machine')
    click.echo("  to end it: zray stop")
    sys.stdout.flush()


def _stay(started: list[subprocess.Popen[bytes]]) -> None:
    """Waits until a signal comes. Raises ZrayError if a process ends before."""
    click.echo("--block: this command stays until Ctrl-C, SIGTERM or SIGHUP")
    sys.stdout.flush()
    while all(each.poll() is None for each in started):
        time.sleep(_LOOK_S)
    ended = ", ".join(f"pid {each.pid}, exit code {each.returncode}" for each in started if each.poll() is not None)
    raise ZrayError(f"a process of this cluster has ended ({ended}), and so the others here; its log tells why")


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    """Ends the host, and then the broker, in order."""
    for each in reversed(started):
        each.terminate()
        try:
            each.wait(_END_S)
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()
