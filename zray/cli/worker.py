"""``zray-worker``: makes this machine a host of a cluster."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from zray.cli.broker import check_tcp
from zray.config import Config
from zray.exceptions import ClusterUnavailableError, ZrayError
from zray.util.machine import host_resources
from zray.util.processes import TITLE_PADDING, set_title
from zray.util.sessions import SessionPaths, lock_session, new_session, read_current, runtime_root, sweep_dead_sessions
from zray.version import VERSION
from zray.worker.host.node import HostOptions, prepare_zygote, run_host


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--address", default="", metavar="ADDRESS", help="The broker's address. Default: your broker on this machine."
)
@click.option("--num-cpus", type=click.FloatRange(min=0), help="CPUs to offer. Default: those this process may use.")
@click.option("--num-gpus", type=click.IntRange(min=0), help="GPUs to offer. Default: 0.")
@click.option("--memory", type=click.IntRange(min=0), help="Memory to offer, in bytes. Default: 70% of what there is.")
@click.option("--resources", default="", metavar="JSON", help="""Other resources, e.g. '{"x": 2}'.""")
@click.option(
    "--object-store-memory", type=click.IntRange(min=1 << 20), default=None, help="Size of the object store in bytes."
)
@click.option(
    "--spill-dir", default="", type=click.Path(file_okay=False), help="Where objects go when the store is full."
)
@click.option("--insecure", is_flag=True, help="Allow TCP without encryption.")
@click.version_option(VERSION)
def main(**options: Any) -> None:
    """Make this machine a host of a zray cluster: it runs worker processes and keeps objects.

    It runs in the foreground until Ctrl-C or SIGTERM, or until the broker is gone; all its processes end with it.
    """
    try:
        sys.exit(_run(**options))
    except ZrayError as error:
        click.echo(f"zray-worker: {error}", err=True)
        sys.exit(2)


def _read_resources(text: str) -> dict[str, float]:
    if not text:
        return {}
    try:
        resources = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not JSON: {error}", param_hint="--resources") from None
    if not isinstance(resources, dict):
        raise click.BadParameter(f"{text!r} is not a JSON object", param_hint="--resources")
    for name, amount in resources.items():
        if name in ("CPU", "GPU", "memory"):
            raise click.BadParameter(f"use the option for {name}", param_hint="--resources")
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or amount < 0:
            raise click.BadParameter(
                f"the amount of {name!r} is a number from 0 on, got {amount!r}", param_hint="--resources"
            )
    return resources


def _run(
    address: str,
    num_cpus: float | None,
    num_gpus: int | None,
    memory: int | None,
    resources: str,
    object_store_memory: int | None,
    spill_dir: str,
    insecure: bool,
) -> int:
    amounts = host_resources(num_cpus, num_gpus, memory, _read_resources(resources))
    config = Config.from_environment()
    root = runtime_root(config.tmpdir)
    target = address or config.address
    if not target:
        current = read_current(root)
        if current is None:
            raise ClusterUnavailableError("no zray-broker of yours runs on this machine: start one, or give --address")
        target = current.address
    else:
        check_tcp(target, insecure)
    paths = _session(root)
    lock = lock_session(paths)
    zygote = prepare_zygote(paths, lock)
    set_title(f"zray: host {paths.name}")
    cpus = amounts.get("CPU", 0) / 10_000

    def ready() -> None:
        click.echo(f"zray host is ready: {cpus:g} CPUs for the cluster at {target}; logs in {paths.logs}")
        sys.stdout.flush()

    options = HostOptions(target, amounts, object_store_memory or 0, spill_dir)
    try:
        reason = run_host(options, config, paths, zygote, [], ready)
    finally:
        zygote.close()
        zygote.wait(5.0)
        lock.close()
        sweep_dead_sessions(root)  # a broker that was killed leaves its directory behind
    click.echo(f"zray host ends: {reason}")
    return 0 if reason.startswith("signal") else 1


def _session(root: Any) -> SessionPaths:
    """The session of this host. Its processes are found by a variable that they have had since their exec."""
    name = os.environ.get("ZRAY_SESSION", "")
    started = os.environ.get("ZRAY_WORKER_STARTED", "")
    if name and started == str(os.getpid()):
        return SessionPaths(name, root)
    sweep_dead_sessions(root)
    paths = new_session(root)
    os.environ.update(ZRAY_SESSION=paths.name, SPT_NOENV="1", ZRAY_WORKER_STARTED=str(os.getpid()))
    os.execv(sys.executable, [sys.executable, TITLE_PADDING, "-m", "zray.cli.worker", *sys.argv[1:]])


if __name__ == "__main__":
    main()
