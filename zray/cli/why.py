"""``zray why``: what waits in a cluster, for what, and what would have to change."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.text import Text

from zray.cli.cluster import Cluster, takes_cluster
from zray.cli.findings import Finding, RecordedFacts, Records, named, waiting
from zray.cli.screen import clean, console, show_lines, wrapped
from zray.client.explain import Inquiry
from zray.client.observer import Observer
from zray.exceptions import ClusterUnavailableError
from zray.protocol import questions as q
from zray.user_warnings import warn_user

LIMIT = 20
"""How many findings are shown, if no other number is given: each takes a question or two."""
UNPLACEABLE = "a host that has all of this must join"
GOOD, BAD = "green", "bold red"


@click.command(short_help="Say what waits, for what, and what would have to change.")
@click.argument("target", metavar="[ID | NAME]", default="")
@click.option("--limit", default=LIMIT, show_default=True, type=click.IntRange(1), help="How many findings to show.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects instead of text.")
@takes_cluster
def why(cluster: Cluster, target: str, limit: int, as_json: bool) -> None:
    """Say what waits, for what, and what would have to change: tasks, calls, actors, placement groups.

    What waits for the same is shown once, with its number. With an ID or a NAME: everything that it names, also what
    runs or has ended. An ID is that of a task, object, actor or placement group, or at least eight digits of its
    beginning; a NAME is that of a task, function, method, actor, class or placement group.

    It asks the owners of tasks, the broker and the workers; zray.explain() in a program says the same of one object.

    \b
    Exit codes:
      0  it has told all, or nothing waits
      1  nothing has the ID or NAME
      2  no cluster answers, or an option cannot be used
    """
    with cluster.source() as (observer, source):
        records = Records(source.tasks(cluster.timeout_s), source.groups(cluster.timeout_s))
        facts = RecordedFacts(records.tasks.calls, _asks(observer))
        inquiry = Inquiry(facts, cluster.timeout_s)
        if target:
            found, left_out = named(records, target, inquiry, limit)
        else:
            found, left_out = waiting(records, inquiry, limit)
    if records.tasks.missing:
        warn_user(f"not all tasks are known: {records.tasks.missing}")
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    else:
        on = console()
        show_lines(render(found, left_out, target, on), on)
    if target and not found:
        raise click.ClickException(
            f"no task, actor or placement group is called {target!r}, or has an ID that begins so: `zray list tasks`, "
            "`zray list actors` and `zray list placement-groups` show what there is"
        )


def _asks(observer: Observer) -> Callable[..., q.Explanation | None]:
    def answer(question: Callable[[int], q.ExplainTask | q.ExplainActor], timeout_s: float) -> q.Explanation | None:
        try:
            found = observer.ask(question, timeout_s)
        except ClusterUnavailableError:  # the time is over: the finding says less
            return None
        return found if isinstance(found, q.Explanation) else None

    return answer


def render(found: list[Finding], left_out: int, target: str, on: Console) -> Iterator[str | Text]:
    """Yields the lines to print."""
    if not found:
        if not target:
            yield Text("nothing waits", GOOD)
        return
    for number, each in enumerate(found):
        if number:
            yield ""
        yield _heading(each)
        if each.why:
            yield from wrapped(on, f"why: {each.why}")
        if each.remedy:
            yield from wrapped(on, f"what would have to change: {each.remedy}")
        yield from wrapped(on, f"ID: {each.id}", "dim")
    if left_out:
        yield ""
        yield f"... and {left_out} more, which --limit {len(found) + left_out} shows"


def _heading(each: Finding) -> Text:
    plural = "s" if each.count != 1 else ""
    what = f"{each.count} {each.kind}{plural} {each.what}"
    style = BAD if each.remedy.startswith(UNPLACEABLE) or "deadlock" in each.remedy else "bold"
    text = Text.assemble((clean(what), "bold"), ": ", (each.state, style))
    if each.seconds is not None:
        text.append(f" for {each.seconds:.1f} s")
    if each.where:
        text.append(f" ({clean(each.where)})")
    return text
