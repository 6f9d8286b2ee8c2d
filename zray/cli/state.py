"""``zray list``, ``zray get`` and ``zray summary``: the records of ``zray.util.state``, as in Ray's commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import click

from zray.cli.screen import Column, console, show_lines, table
from zray.exceptions import ZrayError
from zray.util.state.client import StateApiClient
from zray.util.state.common import (
    DEFAULT_LIMIT,
    DEFAULT_RPC_TIMEOUT,
    Filter,
    GetApiOptions,
    ListApiOptions,
    StateResource,
    StateSchema,
    SummaryApiOptions,
    SummaryResource,
)
from zray.util.state.exception import RayStateApiException

KINDS = {kind.value.replace("_", "-"): kind for kind in StateResource}
"""What can be listed, as it is written on the command line."""
_FILTER = re.compile(r"(\w+)\s*(!?=)\s*(.*)", re.DOTALL)

_address = click.option("--address", metavar="ADDRESS", help="The broker's address. Default: as for zray.init('auto').")
_timeout = click.option(
    "--timeout", default=float(DEFAULT_RPC_TIMEOUT), show_default=True, metavar="SECONDS", help="How long to wait."
)


@click.command("list", short_help="List actors, tasks, objects, hosts and others.")
@click.argument("resource", type=click.Choice(sorted(KINDS)))
@click.option(
    "--format", "form", type=click.Choice(["default", "table", "json", "yaml"]), default="default",
    help="A table, or JSON, which is YAML, too. Default: a table.",
)  # fmt: skip
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Or KEY!=VALUE. May be repeated.")
@click.option("--limit", default=DEFAULT_LIMIT, show_default=True, help="The most records that are shown.")
@click.option("--detail", is_flag=True, help="Show all fields.")
@_timeout
@_address
def list_records(
    resource: str, form: str, filters: tuple[str, ...], limit: int, detail: bool, timeout: float, address: str | None
) -> None:
    """List the records of a kind, such as actors or tasks: those that live, and the last ones that have ended."""
    options = ListApiOptions(limit, timeout, detail, [_filter(text) for text in filters])
    rows = _asked(lambda: StateApiClient(address).list(KINDS[resource], options, False, True))
    if form in ("json", "yaml"):
        shown = rows if detail else [{key: row[key] for key in _fields(row, detail)} for row in rows]
        click.echo(_json([row.asdict() if isinstance(row, StateSchema) else row for row in shown]))
        return
    click.echo(f"{len(rows)} {resource}")
    if rows:
        names = _fields(rows[0], detail)
        cells = [[_cell(row[name]) for name in names] for row in rows]
        on = console()
        show_lines(table(on, [Column(name.upper(), cut=True) for name in names], cells), on)


@click.command(short_help="Show one actor, task, object, host or other.")
@click.argument("resource", type=click.Choice(sorted(KINDS)))
@click.argument("identifier", metavar="ID")
@_timeout
@_address
def get(resource: str, identifier: str, timeout: float, address: str | None) -> None:
    """Show the record with an ID, as JSON. An object may have several: one of each process that refers to it."""
    found = _asked(lambda: StateApiClient(address).get(KINDS[resource], identifier, GetApiOptions(timeout)))
    if not found:
        raise click.ClickException(f"there is no record of {resource} with the ID {identifier}")
    click.echo(_json([row.asdict() for row in found] if isinstance(found, list) else found.asdict()))


@click.command(short_help="Count tasks, actors or objects by their state.")
@click.argument("resource", type=click.Choice([kind.value for kind in SummaryResource]))
@_timeout
@_address
def summary(resource: str, timeout: float, address: str | None) -> None:
    """Count the tasks, actors or objects of a cluster by name and state, as JSON."""
    kind, options = SummaryResource(resource), SummaryApiOptions(timeout)
    client = _asked(lambda: StateApiClient(address))
    click.echo(_json(_asked(lambda: client.summary(kind, options=options, raise_on_missing_output=False))))


def _asked(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (RayStateApiException, ValueError) as error:
        raise ZrayError(str(error)) from error


def _filter(text: str) -> Filter:
    match = _FILTER.fullmatch(text.strip())
    if match is None:
        raise click.UsageError(f"--filter {text!r}: needed: KEY=VALUE or KEY!=VALUE")
    return match[1], match[2], match[3]


def _fields(row: StateSchema, detail: bool) -> list[str]:
    hidden = set() if detail else row.columns() - row.base_columns()
    return [name for name in row.asdict() if name not in hidden]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return json.dumps(value, default=str) if isinstance(value, (dict, list)) else str(value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)
