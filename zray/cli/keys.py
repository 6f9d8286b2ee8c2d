"""``zray keys``: the keys that let machines and drivers reach a broker over TCP. Secret parts are never printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from rich.text import Text

from zray.cli.screen import Column, console, show_lines, table
from zray.config.reading import from_environment
from zray.transport.security.keys import BROKER, ROLES, AllowedKey, KeyDirectory, KeyFile


def _with_directory(function: Callable[..., None]) -> Callable[..., None]:
    help = "The key directory. Default: ZRAY_KEYS, or a directory in your configuration."
    return click.option("--keys", "keys_dir", default="", metavar="DIR", help=help)(function)


def _directory(keys_dir: str) -> KeyDirectory:
    return KeyDirectory(keys_dir or from_environment().keys)


@click.group()
def keys() -> None:
    """Manage the keys for TCP.

    A broker that listens on TCP accepts only processes with a key that it gave out: a "host" key for zray-worker, a
    "driver" key for programs that call zray.init(). All keys are made when the broker first starts. Processes of the
    same user find them; to other machines they must be copied, by the line that `zray keys show` prints.
    """


@keys.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_with_directory
def show(names: Sequence[str], keys_dir: str) -> None:
    """List the keys, and print the line that copies them to another machine.

    The line copies the keys NAME..., by default those called "host" and "driver". A machine that only runs drivers
    needs only "driver".
    """
    directory = _directory(keys_dir)
    held = {key.name: key for key in directory.held()}
    if not held:
        click.echo(f"No keys in {directory.path} yet. The first start of zray-broker on TCP makes them, or")
        click.echo("`zray keys create`. If the broker runs on another machine, copy them from there.")
    elif BROKER in held:
        _show_given_out(directory, held, names)
    else:
        click.echo(f"Keys in {directory.path}, copied from a broker's machine:\n")
        _show_table(["NAME", "ROLE", "PUBLIC KEY"], [[key.name, key.role, _text(key.public)] for key in held.values()])
        click.echo(
            "\nThe broker's public key, as they expect it: " + ", ".join({_text(k.server) for k in held.values()})
        )


def _show_given_out(directory: KeyDirectory, held: dict[str, KeyFile], names: Sequence[str]) -> None:
    broker = held[BROKER]
    click.echo(f"Keys in {directory.path}, given out by the broker of this machine:\n")
    rows: list[list[str | Text]] = [[BROKER, BROKER, "-", broker.created, _text(broker.public)]]
    rows += [[row.name, row.role, _state(row), row.created, _text(row.public)] for row in directory.allowed()]
    _show_table(["NAME", "ROLE", "STATE", "CREATED", "PUBLIC KEY"], rows)
    if names or any(role in held for role in ROLES):
        _show_copying(directory, names)


def _show_copying(directory: KeyDirectory, names: Sequence[str]) -> None:
    click.echo("\nTo let another machine join, put its name into this line and run it here:\n")
    click.echo(f"  {directory.copy_command(names=names)}")


def _show_table(heads: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Prints a table, uncut on any terminal: a part of a key is useless."""
    on = console()
    show_lines(table(on, [Column(head) for head in heads], rows), on)


def _state(row: AllowedKey) -> Text:
    return Text(f"revoked {row.revoked}", "red") if row.revoked else Text("allowed")


def _text(key: bytes) -> str:
    return key.decode("ascii")


@keys.command()
@click.option("--role", type=click.Choice(ROLES), help="What the key is for. Without it, the first keys are made.")
@click.option(
    "--name", default="", metavar="NAME", help="What to call it, e.g. after a machine. Default: like its role."
)
@_with_directory
def create(role: str | None, name: str, keys_dir: str) -> None:
    """Make the broker's keys, unless they exist; or with --role, one more key.

    A separate key for a machine or a person can be revoked without affecting the others.

    \b
      zray keys create --role driver --name alice
    """
    if name and role is None:
        raise click.UsageError("--name needs --role too")
    directory = _directory(keys_dir)
    directory.create()
    if role is None:
        click.echo(f"There are keys in {directory.path}; `zray keys show` lists them.")
        return
    made = directory.add(role, name or role)
    click.echo(f"Made the {role} key {made.name!r}: {_text(made.public)}")
    _show_copying(directory, [made.name])


@keys.command()
@click.argument("name")
@_with_directory
def rotate(name: str, keys_dir: str) -> None:
    """Replace the key NAME by a new one; "broker" replaces the broker's own."""
    directory = _directory(keys_dir)
    public = directory.rotate(name)
    click.echo(f"Replaced the key {name!r}; its public part is now {_text(public)}")
    if name == BROKER:
        click.echo("Restart the broker to use it. Every other machine then needs its keys copied again.")
        return
    click.echo("The old one is refused from now on, by a running broker too. Machines that use it need the new one.")
    _show_copying(directory, [name])


@keys.command()
@click.argument("name")
@_with_directory
def revoke(name: str, keys_dir: str) -> None:
    """Refuse the key NAME for good, wherever it was copied to.

    A running broker applies that within about a second: it declares dead the processes that joined with that key.
    Their connections may last a while; what comes in by them is refused.
    """
    _directory(keys_dir).revoke(name)
    click.echo(
        f"The key {name!r} is refused from now on. A running broker declares dead the processes that joined with it."
    )
