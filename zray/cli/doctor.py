"""``zray doctor``: whether this machine has what zray needs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator

import click
import psutil
from rich.text import Text

from zray.api.addresses import own_form
from zray.cli import checkup
from zray.cli.checkup import FAIL, OK, WARN, Check
from zray.cli.cluster import targets
from zray.cli.screen import Column, clean, console, show_lines, table
from zray.cli.status import ask
from zray.config import Config
from zray.config.reading import from_environment
from zray.exceptions import ZrayError
from zray.sessions.directories import MAX_ROOT_BYTES, runtime_root
from zray.store.location import SHARED_MEMORY, TINY_BYTES, default_capacity
from zray.system.processes import cpu_count, memory_limit_bytes
from zray.transport.security.dialer import can_encrypt, libzmq_version
from zray.transport.security.keys import KeyDirectory
from zray.transport.sockets import check_address

STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}
COLUMNS = (Column("STATE"), Column("CHECK"), Column("FINDING", wraps=True))
SYSTEM_CALLS: dict[str, Callable[[], int]] = {
    "memfd_create": lambda: os.memfd_create("zray-doctor"),
    "pidfd_open": lambda: os.pidfd_open(os.getpid()),
    "eventfd": lambda: os.eventfd(0),
}
"""Each returns a descriptor."""


@click.command(short_help="Check whether this machine has what zray needs.")
@click.option("--address", default="", metavar="ADDRESS", help="Also check whether the broker at ADDRESS answers.")
@click.option(
    "--bind", default="", metavar="ADDRESS", help="Also check whether a broker could listen at tcp://HOST:PORT."
)
@click.option("--keys", metavar="DIR", help="Where the keys for TCP are. Default: ~/.config/zray/keys.")
@click.option("--insecure", is_flag=True, help="Ask a broker on TCP that was started with --insecure.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects instead of a table.")
def doctor(address: str, bind: str, keys: str | None, insecure: bool, as_json: bool) -> None:
    """Check whether this machine has what zray needs: memory, directories, limits, keys, libraries, the kernel.

    Each check has a state: "ok", "warn" (it works, with a drawback) or "fail", with the reason and the remedy. Limits
    are those of this command: run it where a broker or host will run, such as in the container or the batch job.
    A cluster of yours on this machine, or the one that ZRAY_ADDRESS names, is asked, too.

    \b
    Exit codes:
      0  no check fails
      1  a check fails
      2  an option or the configuration cannot be used
    """
    try:
        config = from_environment(keys=keys)
        if bind:
            check_address(own_form(bind))
            if not bind.startswith("tcp://"):
                raise ZrayError(f"--bind {bind!r}: needed: tcp://HOST:PORT")
    except ZrayError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    checks = list(examine(config, address, bind, insecure))
    if as_json:
        click.echo(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        on = console()
        show_lines(table(on, COLUMNS, map(_cells, checks), indent=0), on)
        counts = {state: sum(check.state == state for check in checks) for state in (OK, WARN, FAIL)}
        click.echo(", ".join(f"{count} {state}" for state, count in counts.items()))
    sys.exit(1 if any(check.state == FAIL for check in checks) else 0)


def _cells(check: Check) -> list[str | Text]:
    remedy = f". What to do: {check.remedy}" if check.remedy else ""
    return [Text(check.state, STYLES[check.state]), check.name, clean(check.finding) + clean(remedy)]


def examine(config: Config, address: str, bind: str, insecure: bool) -> Iterator[Check]:
    """Yields the results of all checks."""
    yield checkup.python(tuple(sys.version_info[:3]))
    yield _libraries()
    yield checkup.encryption(can_encrypt(), libzmq_version())
    yield checkup.kernel(os.uname().release, [name for name, call in SYSTEM_CALLS.items() if not _works(call)])
    yield checkup.cpus(cpu_count(), os.cpu_count() or 1)
    machine = psutil.virtual_memory()
    yield checkup.memory(memory_limit_bytes(), machine.total, machine.available)
    yield _shared_memory(SHARED_MEMORY, config.object_store_memory or default_capacity(memory_limit_bytes()))
    yield from _directories(config)
    yield checkup.open_files(*map(_limit, resource.getrlimit(resource.RLIMIT_NOFILE)))
    yield checkup.processes(_limit(resource.getrlimit(resource.RLIMIT_NPROC)[0]))
    yield _keys(config)
    yield checkup.clock(time.time())
    yield _cluster(config, address, insecure)
    if bind:
        yield checkup.port(bind, _why_taken(bind))


def _libraries() -> Check:
    try:
        required = importlib.metadata.requires("zray") or []
    except importlib.metadata.PackageNotFoundError:  # it runs from its source
        required = []
    installed = {each.name: each.version for each in importlib.metadata.distributions() if each.name}
    return checkup.libraries(required, installed)


def _works(call: Callable[[], int]) -> bool:
    try:
        os.close(call())
    except OSError:
        return False
    return True


def _shared_memory(directory: str, wanted: int) -> Check:
    try:
        space = shutil.disk_usage(directory)
    except OSError as error:
        return checkup.shared_memory(directory, 0, 0, wanted, TINY_BYTES, f"cannot be used: {error.strerror}")
    fault = "" if os.access(directory, os.W_OK | os.X_OK) else "is not writable"
    return checkup.shared_memory(directory, space.total, space.free, wanted, TINY_BYTES, fault)


def _directories(config: Config) -> Iterator[Check]:
    try:
        root = runtime_root(config.tmpdir)
    except ZrayError as error:
        yield Check("sessions", FAIL, str(error), "set ZRAY_TMPDIR to a directory with a short path, which is yours")
        return
    yield checkup.sockets(root, MAX_ROOT_BYTES)
    yield from _space("sessions", root)
    if config.spill_dir:
        yield from _space("spilled objects", config.spill_dir)


def _space(name: str, directory: str) -> Iterator[Check]:
    try:
        space = shutil.disk_usage(directory)
    except OSError as error:
        remedy = "make the directory, or choose another one (settings tmpdir, spill_dir)"
        yield Check(name, FAIL, f"{directory} cannot be used: {error.strerror}", remedy)
        return
    yield checkup.space(name, directory, space.total, space.free)


def _limit(limit: int) -> int:
    return -1 if limit == resource.RLIM_INFINITY else limit


def _keys(config: Config) -> Check:
    directory = config.keys
    try:
        held = KeyDirectory(config.keys)
        directory = str(held.path)
        return checkup.keys(directory, [key.name for key in held.held()])
    except (ZrayError, OSError) as error:
        return checkup.keys(directory, [], str(error))


def _cluster(config: Config, address: str, insecure: bool) -> Check:
    given = address or config.address
    try:
        *_, target = targets(given, config)
    except ZrayError as error:
        is_named = given not in ("", "auto", "local")
        return checkup.cluster(given if is_named else "", str(error) if is_named else "", "")
    try:
        found = ask(target, config, insecure)
    except ZrayError as error:
        return checkup.cluster(target, str(error), "")
    hosts = f"{len(found.hosts)} host{'s' if len(found.hosts) != 1 else ''}"
    return checkup.cluster(target, "", f"zray {found.broker.zray}, {hosts}")


def _why_taken(address: str) -> str:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as libzmq does
        try:
            probe.bind(("" if host == "*" else host, int(port)))
        except OSError as error:
            return error.strerror or str(error)
    return ""
