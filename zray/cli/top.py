"""``zray top``: a cluster at a glance, again and again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterable, Iterator

import click
from rich.console import Console
from rich.text import Text

from zray.cli.cluster import Cluster, takes_cluster
from zray.cli.screen import Column, console, show_lines, table
from zray.cli.status import duration, host_lines, in_bytes, plain_data, titled, what_runs
from zray.exceptions import ZrayError
from zray.protocol.questions import ClusterStatus, RunningStatus, StatusQuery
from zray.system.processes import end_orderly
from zray.util.state.sources import Tasks

INTERVAL_S = 2.0
MOST_ROWS = 15
"""The most rows of a table on a terminal."""
STATES = {
    "RUNNING": "running", "RUNNING_IN_RAY_GET": "running", "PENDING_ARGS_AVAIL": "waiting",
    "PENDING_NODE_ASSIGNMENT": "waiting", "SUBMITTED_TO_WORKER": "waiting", "FINISHED": "finished", "FAILED": "failed",
}  # fmt: skip
"""The field of a ``Function`` that counts a task or call, by Ray's name of its state."""
FUNCTION_COLUMNS = (Column("TASK OR CALL", cut=True), *(
    Column(head, right=True) for head in ("RUNNING", "WAITING", "FINISHED", "FAILED", "LONGEST", "MEMORY")
))  # fmt: skip
ACTOR_COLUMNS = (
    Column("ACTOR", cut=True), Column("HOST"), *(Column(head, right=True) for head in ("PID", "SECONDS", "MEMORY"))
)  # fmt: skip
ENDS = ("q", "Q")
"""The keys that end it."""
HINT = "q or Ctrl-C ends"


@dataclasses.dataclass
class Function:
    """The tasks or calls of one name. ``finished``, ``failed``: of those that their owners still have records of;
    ``longest_s``: for how long the longest runs, in seconds, 0 if none does; ``memory_bytes``: of their workers."""

    name: str
    running: int = 0
    waiting: int = 0
    finished: int = 0
    failed: int = 0
    longest_s: float = 0.0
    memory_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A cluster at one moment."""

    status: ClusterStatus
    functions: list[Function]


def functions_of(tasks: Tasks, running: Iterable[RunningStatus]) -> list[Function]:
    """Returns the tasks and calls by name: those of which most run first, then those of which most wait."""
    found: dict[str, Function] = {}
    for row, state in tasks.calls:
        function = found.setdefault(row.name, Function(row.name))
        if field := STATES.get(state.state):
            setattr(function, field, getattr(function, field) + 1)
    for running_row in running:
        if function_of := found.get(running_row.name):
            function_of.longest_s = max(function_of.longest_s, running_row.seconds or 0.0)
            function_of.memory_bytes += running_row.memory_bytes or 0
    return sorted(found.values(), key=lambda each: (-each.running, -each.waiting, -each.finished, each.name))


@click.command(short_help="Show hosts, tasks and actors, again and again.")
@click.option(
    "--interval", "interval_s", default=INTERVAL_S, show_default=True, type=click.FloatRange(0.2), metavar="SECONDS",
    help="How long one look is shown.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one look as a JSON object.")
@takes_cluster
def top(cluster: Cluster, interval_s: float, as_json: bool) -> None:
    """Show hosts, their stores, tasks and calls by name, and actors, again and again; q or Ctrl-C ends it.

    Without a terminal it shows one look. FINISHED and FAILED count what the processes that submitted tasks still have
    records of: the last 2,000 of each. LONGEST is for how long the longest of them runs.

    \b
    Exit codes:
      0  also after q and Ctrl-C
      2  no cluster answers (any more), or an option cannot be used
    """
    snapshot = look(cluster)
    if as_json:
        data = plain_data(snapshot.status)
        data["functions"] = [dataclasses.asdict(each) for each in snapshot.functions]
        click.echo(json.dumps(data, indent=2))
        return
    on = console()
    if not on.is_terminal:
        show_lines(render(snapshot, cluster.address, on), on)
        return
    end_orderly()  # so that the terminal is restored
    with contextlib.suppress(KeyboardInterrupt):
        _show_live(cluster, snapshot, interval_s, on)


def look(cluster: Cluster) -> Snapshot:
    """Asks a cluster. Raises NoAnswer if it does not answer."""
    with cluster.source() as (observer, source):
        status = observer.ask(StatusQuery, cluster.timeout_s)
        if not isinstance(status, ClusterStatus):
            raise ZrayError(f"the broker has answered with {type(status).__name__}")
        return Snapshot(status, functions_of(source.tasks(cluster.timeout_s), status.running))


def _show_live(cluster: Cluster, snapshot: Snapshot, interval_s: float, on: Console) -> None:
    from rich.live import Live  # only a terminal needs it

    with _keys() as keys, Live(console=on, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            lines = [*render(snapshot, cluster.address, on, HINT)]
            live.update(_cut(lines, on), refresh=True)
            if _ended(keys, interval_s):
                return
            snapshot = look(cluster)


def _cut(lines: list[str | Text], on: Console) -> Text:
    """Returns the lines that fit the height of the terminal; the last one says how many are left out."""
    if len(lines) > on.height > 1:
        left_out = len(lines) - on.height + 1
        lines = [*lines[: on.height - 1], f"... and {left_out} lines more, for which this terminal is too low"]
    return Text("\n", no_wrap=True, overflow="crop").join(
        line if isinstance(line, Text) else Text(line) for line in lines
    )


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """Yields stdin, which gives each key at once while the block runs; None if it is no terminal."""
    if not sys.stdin.isatty():
        yield None
        return
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    tty.setcbreak(stdin)
    try:
        yield stdin
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _ended(keys: int | None, wait_s: float) -> bool:
    """Waits, and returns whether the user has ended it."""
    deadline = time.monotonic() + wait_s
    while (left_s := deadline - time.monotonic()) > 0:
        if keys is None:
            time.sleep(left_s)
        elif select.select([keys], [], [], left_s)[0]:
            pressed = os.read(keys, 1024).decode(errors="replace")
            if not pressed or any(key in pressed for key in ENDS):  # empty: the terminal is gone
                return True
    return False


# ---- showing


def render(snapshot: Snapshot, reached_at: str, on: Console, hint: str = "") -> Iterator[str | Text]:
    """Yields the lines to print. ``hint``: what else the first line says."""
    status, functions = snapshot.status, snapshot.functions
    up = f"zray {status.broker.zray} at {reached_at}, up {duration(status.broker.uptime_s)}"
    yield Text(f"{up}; {hint}" if hint else up, no_wrap=True, overflow="ellipsis")
    yield ""
    yield titled("Hosts", len(status.hosts) or "none")
    yield from host_lines(status.hosts, on)
    yield ""
    sums = [f"{sum(getattr(each, field) for each in functions):,} {field}" for field in dict.fromkeys(STATES.values())]
    yield titled("Tasks and calls", ", ".join(sums) if functions else "none")
    if functions:
        yield from table(on, FUNCTION_COLUMNS, map(_function, functions[:MOST_ROWS]))
        yield from _more(len(functions))
    actors = [row for row in status.running if row.what == "actor"]
    counts = [f"{count:,} {state.lower().replace('_', ' ')}" for state, count in status.actors.items() if count]
    yield ""
    yield titled("Actors", ", ".join(counts) or "none")
    if actors:
        names = {host.host_id: host.hostname for host in status.hosts}
        yield from table(on, ACTOR_COLUMNS, [_actor(row, names) for row in actors[:MOST_ROWS]])
        yield from _more(len(actors))
    waiting = sum(row.count for row in status.waiting)
    never = sum(row.count for row in status.waiting if not row.can_be_placed)
    yield ""
    text = f"{waiting:,}{f', of them {never:,} that no host can take' if never else ''}; `zray why` says for what"
    yield titled("Waiting for a place", text if waiting else "nothing", "yellow" if never else "")


def _function(each: Function) -> list[str | Text]:
    return [
        each.name, *(f"{count:,}" for count in (each.running, each.waiting, each.finished)),
        Text(f"{each.failed:,}", "red" if each.failed else ""),
        f"{each.longest_s:.1f} s" if each.longest_s else "-", in_bytes(each.memory_bytes) if each.memory_bytes else "-",
    ]  # fmt: skip


def _actor(row: RunningStatus, hosts: dict[bytes, str]) -> list[str | Text]:
    seconds = "idle" if not row.name else "?" if row.seconds is None else f"{row.seconds:.1f}"
    memory = in_bytes(row.memory_bytes) if row.memory_bytes else "?"
    last = Text(seconds, "dim" if not row.name else "") if row.answers else Text("no answer", "bold red")
    return [what_runs(row), hosts.get(row.host_id, "?"), str(row.pid), last, memory]


def _more(count: int) -> Iterator[str]:
    if count > MOST_ROWS:
        yield f"  ... and {count - MOST_ROWS} more, which --json shows"
