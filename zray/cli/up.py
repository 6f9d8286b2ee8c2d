"""``zray up`` and ``zray down``: start and stop workers on a list of machines through the system's ssh.

The list is checked here before any machine is contacted. Then one ssh for each machine runs, all at once. It runs
``zray.cli.remote`` with the machine's own Python and passes the orders through stdin. So a remote shell reads only the
path of that Python and one constant. A machine that fails is reported and does not stop the others.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import json
import shlex
import subprocess
from collections.abc import Callable
from typing import Any

import click

from zray.cli.remote import REPLY_MARK
from zray.cli.screen import clean, progress
from zray.config import Config, reading
from zray.exceptions import ConfigError
from zray.system.interpreter import FORGET_WORKING_DIRECTORY

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
"""Never prompts: there may be hundreds at once."""
_REMOTE = f"{FORGET_WORKING_DIRECTORY}; from zray.cli.remote import main; sys.exit(main())"
"""The program to run there. A login starts in the user's directory, which may contain any module."""
MAX_AT_ONCE = 64
SHOWN_LINES = 5
"""The number of last lines of a machine's stderr that are shown."""

_COMMON = ("address", "python", "insecure", "ssh", "settings", "environment", "hosts")
_PER_HOST = ("host", "python", "ssh", "settings", "environment")


@dataclasses.dataclass(frozen=True)
class Machine:
    """One machine, and the worker to run there."""

    host: str
    """The machine's name for ssh: a name, user@name, or an alias of ~/.ssh/config."""
    address: str
    """The broker's."""
    python: str = "python3"
    """The interpreter there that has zray; ``~/`` is the user's directory there."""
    insecure: bool = False
    ssh: tuple[str, ...] = ()
    """More options of ssh."""
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of the worker; settings are in it as ``ZRAY_*``."""

    def command(self) -> list[str]:
        """Returns the ssh command that runs the remote half."""
        home = self.python.startswith("~/")
        python = '"$HOME"/' + shlex.quote(self.python[2:]) if home else shlex.quote(self.python)
        return [*SSH, *self.ssh, "--", self.host, f"{python} -c {shlex.quote(_REMOTE)}"]

    def orders(self, action: str) -> str:
        """Returns what is written to its stdin."""
        return json.dumps({
            "action": action, "host": self.host, "address": self.address, "insecure": self.insecure,
            "environment": self.environment,
        })  # fmt: skip


@click.command(short_help="Start workers on a list of machines.")
@click.argument("hosts", type=click.Path(), metavar="HOSTS.TOML")
@click.option("--down", "down_", is_flag=True, help="End the workers instead, as zray down does.")
@click.option("--timeout", default=90.0, show_default=True, metavar="SECONDS", help="How long each machine may take.")
def up(hosts: str, down_: bool, timeout: float) -> None:
    """Start a worker on each machine of a list, through ssh.

    \b
    The list is a TOML file:
      address = "tcp://head:6380"       # where zray-broker listens
      python = "~/venv/bin/python"      # the Python there that has zray; default: python3
      [settings]                        # as in config.toml, see `zray config`
      labels = {zone = "a"}
      [environment]                     # of the workers
      OMP_NUM_THREADS = "1"
      [[hosts]]
      host = "node1"                    # what ssh is called with
      [[hosts]]
      host = "me@node2"                 # each may have a python, settings, environment of its own
      settings = {num_gpus = 2}
      ssh = ["-p", "2222"]              # more options of ssh

    ssh must log in without a prompt (keys or an agent), and the machines need zray and the cluster's keys. A machine
    that runs its worker already is left unchanged. If a machine fails, the others are started; the exit code is 1.
    """
    _on_all(read_hosts(hosts), "stop" if down_ else "start", timeout)


@click.command(short_help="End the workers that zray up has started.")
@click.argument("hosts", type=click.Path(), metavar="HOSTS.TOML")
@click.option("--timeout", default=90.0, show_default=True, metavar="SECONDS", help="How long each machine may take.")
def down(hosts: str, timeout: float) -> None:
    """End the workers that `zray up` has started on the machines of a list, and nothing else there."""
    _on_all(read_hosts(hosts), "stop", timeout)


def _on_all(machines: list[Machine], action: str, timeout_s: float) -> None:
    width = max(len(machine.host) for machine in machines)
    failures = 0
    doing = "starting workers" if action == "start" else "ending workers"
    with (
        progress(doing, len(machines)) as advance,
        concurrent.futures.ThreadPoolExecutor(min(MAX_AT_ONCE, len(machines))) as pool,
    ):
        pending = {pool.submit(order, machine, action, timeout_s): machine for machine in machines}
        for done in concurrent.futures.as_completed(pending):
            ok, text, last_lines = done.result()
            failures += not ok
            click.echo(f"{pending[done].host:{width}}  {clean(text)}", err=not ok)
            for line in last_lines:
                click.echo(f"{'':{width}}  | {clean(line)}", err=not ok)
            advance()
    if failures:
        click.echo(f"{failures} of {len(machines)} machines failed", err=True)
        raise SystemExit(1)


def order(machine: Machine, action: str, timeout_s: float) -> tuple[bool, str, list[str]]:
    """Sends one machine its orders. Returns whether that succeeded, what happened, and the last lines of stderr."""
    try:
        done = subprocess.run(
            machine.command(), input=machine.orders(action), capture_output=True, text=True, errors="replace",
            timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        stderr = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
        return False, f"FAILED: no answer within {timeout_s:g} s", _last_lines(stderr)
    except OSError as error:
        return False, f"FAILED: {SSH[0]} cannot be run: {error.strerror}", []
    last_lines = _last_lines(done.stderr)
    for line in done.stdout.splitlines():  # a login may print too
        if line.startswith(REPLY_MARK):
            reply = json.loads(line.removeprefix(REPLY_MARK))
            ok = "done" in reply
            return ok, reply["done"] if ok else f"FAILED: {reply['failed']}", last_lines
    if done.returncode == 255:
        return False, "FAILED: ssh could not log in", last_lines
    return False, f"FAILED: {machine.python} there ended with exit code {done.returncode}", last_lines


def _last_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()][-SHOWN_LINES:]


# ---- the list


def read_hosts(path: str) -> list[Machine]:
    """Returns the machines of a list. Raises ConfigError, naming file, machine and key, for a malformed value."""
    try:
        table = reading.load_toml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    _known(table, _COMMON, path)
    address = _value(table, "address", str, "", path)
    if not address.startswith("tcp://"):
        raise ConfigError(f"{path}: address = {address!r} cannot be used: needed: the broker's tcp://HOST:PORT")
    rows = _value(table, "hosts", list, [], path)
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path} lists no machines: needed: a table [[hosts]] with a line host = ... for each")
    machines = [_machine(table, row, f"{path}: host {number}") for number, row in enumerate(rows, 1)]
    names = collections.Counter(machine.host for machine in machines)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"{path}: {', '.join(twice)} is listed more than once")
    return machines


def _machine(common: dict[str, Any], row: dict[str, Any], where: str) -> Machine:
    _known(row, _PER_HOST, where)
    host = _value(row, "host", str, "", where)
    if not host or host.startswith("-") or any(letter.isspace() for letter in host):
        raise ConfigError(
            f"{where}: host = {host!r} cannot be used: needed: a name that ssh knows, such as node1 or me@node1"
        )
    where = f"{where} ({host})"

    def either(key: str, kind: type[Any], default: Any) -> Any:
        return _value(row, key, kind, _value(common, key, kind, default, where), where)

    def both(key: str) -> dict[str, Any]:
        return {**_value(common, key, dict, {}, where), **_value(row, key, dict, {}, where)}

    environment = both("environment")
    ssh = either("ssh", list, [])
    for key, texts in (("environment", environment.values()), ("ssh", ssh)):
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{where}: {key} has a value that is not text (put it in quotes)")
    return Machine(
        host,
        common["address"],
        either("python", str, "python3"),
        _value(common, "insecure", bool, False, where),
        tuple(ssh),
        {**environment, **_as_variables(both("settings"), where)},
    )


def _as_variables(settings: dict[str, Any], where: str) -> dict[str, str]:
    """Returns settings in the form of the environment. They are checked here, where their author reads the error."""
    known = dataclasses.asdict(Config())
    _known(settings, [name for name in known if name != "address"], f"{where}: settings")
    variables = {}
    for name, given in settings.items():
        value = reading.check(name, given, f"{where}: {name} =", blank=" ")
        write: Callable[[Any], str] = str
        if name == "labels":
            value = ",".join(f"{key}={text}" for key, text in value.items())
        elif isinstance(value, list):
            write = ",".join
        elif isinstance(value, dict | bool):
            write = json.dumps
        variables[reading.variable_of(name)] = write(value)
    return variables


def _known(table: dict[str, Any], names: Any, where: str) -> None:
    for name in table:
        if name not in names:
            raise ConfigError(f"{where}: {name} is not known{reading.nearest(name, names)}")


def _value(table: dict[str, Any], key: str, kind: type[Any], default: Any, where: str) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind):
        needed = {str: "text", bool: "true or false", list: "a list", dict: "a table"}[kind]
        raise ConfigError(f"{where}: {key} = {value!r} cannot be used: needed: {needed}")
    return value
