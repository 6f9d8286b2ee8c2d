"""``zray config``: each setting, its value here and now, and where that comes from."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import os
import textwrap
from typing import Any

import click

from zray.config import Config, reading


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects instead of a table.")
def config(as_json: bool) -> None:
    """Show each setting: its value, where that comes from, what it means.

    \b
    The later wins:
      1. the default
      2. a TOML file: $XDG_CONFIG_HOME/zray/config.toml, else ~/.config/zray/config.toml, or the file that
         ZRAY_CONFIG names; with lines such as    heartbeat_s = 0.5
      3. the environment: ZRAY_HEARTBEAT_S=0.5
      4. the options of zray-worker and zray-broker, the arguments of zray.init()
    """
    rows = _rows()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    path = reading.config_file(os.environ)
    click.echo(f"file: {path}{'' if os.path.exists(path) else ' (not there)'}\n")
    widths = {column: max(len(column), *(len(_shown(row[column])) for row in rows)) for column in rows[0]}
    for row in [{column: column.upper() for column in widths}, *rows]:
        click.echo("  ".join(_shown(row[column]).ljust(width) for column, width in widths.items()).rstrip())


def _rows() -> list[dict[str, Any]]:
    settings, origins = reading.read()
    values = dataclasses.asdict(settings)
    meanings = _meanings()
    return [
        {"setting": name, "value": values[name], "from": origins[name], "meaning": meanings[name]} for name in values
    ]


def _shown(value: object) -> str:
    if value in (None, "", {}):
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def _meanings() -> dict[str, str]:
    """The line below each field of ``Config``: documentation that processes do not carry about, so from the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(Config))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(line.value.value.split())
        for field, line in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    }
