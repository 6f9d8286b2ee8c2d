"""``zray memory``: the references that the processes of a cluster hold, as in Ray's command."""

from __future__ import annotations

import click

from zray.exceptions import ZrayError
from zray.util.state.exception import RayStateApiException
from zray.util.state.memory import GROUP_KEYS, SORT_KEYS, UNITS, memory_summary


@click.command(short_help="List references to objects, and what holds them.")
@click.option("--address", metavar="ADDRESS", help="The broker's address. Default: as for zray.init('auto').")
@click.option(
    "--group-by", type=click.Choice(sorted(GROUP_KEYS), case_sensitive=False), default="NODE_ADDRESS",
    show_default=True, help="STACK_TRACE: zray records no call sites, so all are in one group.",
)  # fmt: skip
@click.option(
    "--sort-by", type=click.Choice(sorted(SORT_KEYS), case_sensitive=False), default="OBJECT_SIZE", show_default=True
)
@click.option("--units", type=click.Choice(list(UNITS), case_sensitive=False), default="B", show_default=True)
@click.option("--no-format", is_flag=True, hidden=True, help="Ray's. Lines are not wrapped in any case.")
@click.option("--stats-only", is_flag=True, help="Show only the counts at the end.")
@click.option("-n", "--num-entries", type=click.IntRange(0), help="The most lines of a group. Default: all.")
def memory(
    address: str | None,
    group_by: str,
    sort_by: str,
    units: str,
    no_format: bool,
    stats_only: bool,
    num_entries: int | None,
) -> None:
    """List the references that processes hold, with the size of the object and what holds it."""
    try:
        text = memory_summary(address, group_by, sort_by, units, not no_format, stats_only, num_entries)
    except RayStateApiException as error:
        raise ZrayError(str(error)) from error
    click.echo(text, nl=False)
