"""``zray timeline``: when tasks ran, as a trace for Perfetto or Chrome."""

from __future__ import annotations

import json
import time

import click

from zray.cli.cluster import Cluster, takes_cluster
from zray.protocol.records import HostState
from zray.util.timeline import NOT_RECORDED, Span, events_of

STDOUT = "-"


@click.command(short_help="Write when tasks ran, as a trace for Perfetto.")
@click.option(
    "-o", "--output", metavar="FILE", default="",
    help="Where to write the trace; - is stdout. Default: zray-timeline-DATE-TIME.json.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The same as --output -.")
@takes_cluster
def timeline(cluster: Cluster, output: str, as_json: bool) -> None:
    """Write when the tasks and calls of a cluster ran, as events in the format of Chrome's traces.

    Open the file in https://ui.perfetto.dev or chrome://tracing. There is one row for each worker. It has the last
    2,000 tasks and calls of each process that submits some, to about a millisecond; of a cluster that was started with
    ZRAY_PROFILING=1, all tasks, exactly. zray.timeline() in a program does the same.

    \b
    Exit codes:
      0  the trace is written, perhaps without events: then a message says so
      1  the file cannot be written
      2  no cluster answers, or an option cannot be used
    """
    if as_json and output not in ("", STDOUT):
        raise click.UsageError(f"--json prints to stdout: leave out --output {output}")
    path = STDOUT if as_json else output or time.strftime("zray-timeline-%Y%m%d-%H%M%S.json")
    with cluster.source() as (_, source):
        events = events_of(source, cluster.timeout_s, _tell_of_far)
    text = json.dumps(events)
    if not events:
        click.echo(f"warning: {NOT_RECORDED.removeprefix('timeline(): ')}", err=True)
    if path == STDOUT:
        click.echo(text)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise click.ClickException(f"--output {path!r} cannot be written: {error.strerror}") from None
    click.echo(f"{len(events):,} events are written to {path}: open it in https://ui.perfetto.dev")


def _tell_of_far(far: list[HostState]) -> list[tuple[str, Span]]:
    names = ", ".join(host.info.hostname for host in far)
    click.echo(
        f"of hosts on other machines ({names}), the trace has what the owners of tasks know. What ZRAY_PROFILING=1 has "
        "recorded there, zray.timeline() in a program reads",
        err=True,
    )
    return []
