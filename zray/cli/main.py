"""``zray``: commands for clusters. A sub-command is a module, loaded only when it is used."""

from __future__ import annotations

import importlib

import click

from zray.exceptions import ZrayError
from zray.system.processes import accept_signals_of_a_command
from zray.version import VERSION

COMMANDS = {
    "config": "zray.cli.config:config",
    "doctor": "zray.cli.doctor:doctor",
    "down": "zray.cli.up:down",
    "get": "zray.cli.state:get",
    "health-check": "zray.cli.status:health_check",
    "keys": "zray.cli.keys:keys",
    "list": "zray.cli.state:list_records",
    "logs": "zray.cli.logs:logs",
    "memory": "zray.cli.memory:memory",
    "stack": "zray.cli.stack:stack",
    "start": "zray.cli.start:start",
    "status": "zray.cli.status:status",
    "stop": "zray.cli.stop:stop",
    "summary": "zray.cli.state:summary",
    "timeline": "zray.cli.timeline:timeline",
    "top": "zray.cli.top:top",
    "up": "zray.cli.up:up",
    "why": "zray.cli.why:why",
}
"""``module:function`` of every sub-command."""


class LazyGroup(click.Group):
    """A group that imports a sub-command's module when it is used, and shows zray's errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), function)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        accept_signals_of_a_command()
        try:
            return super().invoke(ctx)
        except ZrayError as error:
            raise click.ClickException(str(error)) from None


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION)
def main() -> None:
    """Manage a zray cluster. zray-broker and zray-worker start brokers and hosts in the foreground."""


if __name__ == "__main__":
    main()
