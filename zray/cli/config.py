"""``zray config``: each setting, its present value, and the source of the value."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import os
import textwrap
from collections.abc import Mapping
from typing import Any

import click
from rich.text import Text

from zray.cli.screen import Column, clean, console, show_lines, table
from zray.config import Config, reading

COLUMNS = (Column("SETTING"), Column("VALUE", most=24), Column("FROM", most=24), Column("MEANING", wraps=True))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects instead of a table.")
def config(as_json: bool) -> None:
    """Show each setting: its value, the source of the value, its meaning.

    \b
    A later source overrides an earlier one:
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
    on = console()
    show_lines([f"file: {path}{'' if os.path.exists(path) else ' (not there)'}", ""], on)
    show_lines(table(on, COLUMNS, map(_cells, rows), indent=0), on)


def _rows() -> list[dict[str, Any]]:
    settings, origins = reading.read()
    values = dataclasses.asdict(settings)
    meanings = _meanings()
    return [
        {"setting": name, "value": values[name], "from": origins[name], "meaning": meanings[name]} for name in values
    ]


def _cells(row: Mapping[str, Any]) -> list[str | Text]:
    """Returns the cells of a setting; the source stands out if it is not the default."""
    origin = Text(clean(row["from"]), "" if row["from"] == reading.DEFAULT else "bold green")
    return [row["setting"], _shown(row["value"]), origin, row["meaning"]]


def _shown(value: object) -> str:
    if value in (None, "", {}, []):
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def _meanings() -> dict[str, str]:
    """Returns the docstring of each field of ``Config``, read from the source, since processes do not keep it."""
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
