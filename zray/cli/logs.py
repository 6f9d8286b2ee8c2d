"""``zray logs``: the files in which brokers, hosts and workers keep what they log and print."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

from zray.api.situations import actor_label
from zray.cli.cluster import Cluster, NoAnswer, cluster_options
from zray.cli.findings import is_meant
from zray.cli.log_files import ERR, ID_DIGITS, OUT, Follower, LogFile, Place, chosen, ended_places, files_in
from zray.cli.screen import Column, console, show_lines, table
from zray.cli.stop import own_roots
from zray.config import Config
from zray.config.reading import from_environment
from zray.logs.display import escape_controls
from zray.protocol import state_questions as sq
from zray.sessions.directories import brokers
from zray.system.machine import machine_id
from zray.util.state.sources import Tasks, logs_directory

FOLLOW_S = 0.2
"""Seconds between looks at files that are followed."""
ALIVE_TURNS = 5
"""After how many looks it is found out whether the sessions go on."""
COLUMNS = (
    Column("HOST", cut=True), Column("FILE"), Column("BYTES", right=True), Column("WRITTEN", right=True),
    Column("WHAT", cut=True),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Known:
    """What a cluster tells; without a cluster, only places. ``tasks``: only if they were asked for."""

    places: list[Place]
    workers: list[sq.WorkerRecord] = dataclasses.field(default_factory=list)
    actors: list[sq.ActorRecord] = dataclasses.field(default_factory=list)
    tasks: Tasks | None = None


@click.command(short_help="List log files, and show what workers have printed.")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--task", default="", metavar="ID|NAME", help="Of the workers that ran a task.")
@click.option("--actor", default="", metavar="ID|NAME", help="Of the workers of an actor.")
@click.option("--worker", default="", metavar="ID", help="Of a worker: its ID or the beginning of it.")
@click.option("--pid", type=int, metavar="PID", help="Of the worker with that PID.")
@click.option("--host", default="", metavar="ID|NAME", help="Only of this host: its ID, name or IP address.")
@click.option("--out", "only_out", is_flag=True, help="Only what workers print to stdout. Default: both.")
@click.option("--err", "only_err", is_flag=True, help="Only what workers print to stderr.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Only the last N lines of each file.")
@click.option("-f", "--follow", is_flag=True, help="Go on as files grow, until Ctrl-C or the end of the cluster.")
@click.option("--json", "as_json", is_flag=True, help="Print the list of the files as JSON, not what is in them.")
@cluster_options
def logs(
    files: tuple[str, ...],
    task: str,
    actor: str,
    worker: str,
    pid: int | None,
    host: str,
    only_out: bool,
    only_err: bool,
    tail: int | None,
    follow: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """List log files, and show what is in them.

    Without a FILE, task, actor, worker or PID it lists them. A FILE is a name from the list, or a pattern such as
    'worker-*.err'. Without a running cluster it shows files of the last sessions that have ended on this machine.

    A worker's files have the output of all tasks and actors that it ran. Files of hosts on other machines can only be
    read there: a message names the machine and the directory. Older files (".1") are shown if they are named.

    \b
    Exit codes:
      0  also after Ctrl-C
      1  there is no such file, task, actor, worker or host, or it is on
         another machine
      2  no cluster answers, or an option cannot be used
    """
    options = {"--task": task, "--actor": actor, "--worker": worker, "--pid": pid, "FILE": files}
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise click.UsageError(f"give only one of {', '.join(options)}, not {' and '.join(given)}")
    if only_out and only_err:
        raise click.UsageError("--out and --err exclude each other: leave both out to see both")
    if (follow or tail is not None) and not given:
        raise click.UsageError(f"--follow and --tail need one of {', '.join(options)}")
    streams = [OUT] if only_out else [ERR] if only_err else [OUT, ERR]
    known = _ask(where, bool(task), needs_cluster=bool(task or actor or pid or host))
    places = [place for place in known.places if not host or host in (place.host, place.ip) or _begins(place, host)]
    if host and not places:
        there = ", ".join(f"{place.host} ({place.host_id[:8]})" for place in known.places if place.host_id) or "none"
        raise click.ClickException(
            f"--host {host!r}: no host of the cluster has this ID, name or IP address; it has {there}"
        )
    if given and not files:
        found = _of_workers(_workers(known, task, actor, worker, pid), known, places, streams)
    else:
        found = chosen([file for place in places for file in _readable(place)], files, streams)
    if files and not found:
        raise click.ClickException(f"no log file here fits {' or '.join(files)}: `zray logs` lists what there is")
    if as_json or not given:
        _list([file for file in found if os.path.exists(file.path)], known, as_json)
    else:
        _show(found, tail, follow)


# ---- what there is


def _ask(where: dict[str, Any], wants_tasks: bool, needs_cluster: bool) -> Known:
    """Asks the cluster. Without one: the sessions that have ended, if that is enough."""
    try:
        cluster = Cluster(**where)
        with cluster.source() as (_, source):
            timeout_s = cluster.timeout_s
            hosts, workers = source.hosts(timeout_s), source.workers(timeout_s).workers
            actors = source.actors(timeout_s).actors
            tasks = source.tasks(timeout_s) if wants_tasks else None
    except NoAnswer as error:
        if needs_cluster or where["address"]:
            raise
        click.echo(f"{error.message}. These are the logs of the last sessions that have ended here.", err=True)
        return Known(ended_places(own_roots(from_environment())))
    places = []
    for host in hosts:
        info = host.info
        root = os.path.dirname(os.path.dirname(logs_directory(info)))
        machine = info.hostname if info.machine_id != machine_id() or not os.path.isdir(root) else ""
        places.append(Place(info.hostname, host.host_id.hex(), root, info.session, machine, info.ip))
    return Known([*_of_broker(cluster.address, places, cluster.config), *places], workers, actors, tasks)


def _of_broker(address: str, places: list[Place], config: Config) -> list[Place]:
    """The place of a broker that was started by hand on this machine."""
    sessions = {place.session for place in places}
    return [
        Place("broker", "", root, broker.session)
        for root in own_roots(config)
        for broker in brokers(root)
        if broker.address == address and broker.session not in sessions
    ]


def _begins(place: Place, host: str) -> bool:
    return is_meant(host, bytes.fromhex(place.host_id)) if place.host_id else False


def _readable(place: Place) -> list[LogFile]:
    if place.machine:
        click.echo(f"not shown: the files of host {place.host}, {_elsewhere(place)}", err=True)
        return []
    return files_in(place)


def _elsewhere(place: Place) -> str:
    return (
        f"which lie on the machine {place.machine}{f' ({place.ip})' if place.ip else ''}, in {place.directory}: "
        f"run `zray logs` there"
    )


# ---- choosing


def _workers(known: Known, task: str, actor: str, worker: str, pid: int | None) -> list[str]:
    """Returns the identifiers of the workers that are meant, in hexadecimal. Raises ClickException if none is."""
    if task:
        assert known.tasks is not None
        calls = [state for row, state in known.tasks.calls if is_meant(task, row.task_id, row.name, row.function)]
        ran = [state.worker_id for state in calls if state.worker_id]
        if calls and not ran:
            raise click.ClickException(
                f"--task {task!r}: no worker has it yet; `zray why {task}` says what it waits for"
            )
        what, lists, found = f"--task {task!r}: no task", "tasks", ran
    elif actor:
        meant = [row for row in known.actors if is_meant(actor, row.actor_id, row.name, row.class_name)]
        ran = [row.worker.hex() for row in meant if row.worker]
        if meant and not ran:
            raise click.ClickException(
                f"--actor {actor!r}: it has no worker yet; `zray why {actor}` says what it waits for"
            )
        what, lists, found = f"--actor {actor!r}: no actor", "actors", ran
    elif pid is not None:
        living_first = sorted(known.workers, key=lambda row: row.ended_s or 0.0)
        rows = [row.worker_id.hex() for row in living_first if row.pid == pid and not row.is_driver]
        what, lists, found = f"--pid {pid}: no worker", "workers", rows[:1]
    else:
        digits = worker.lower()
        rows = [row.worker_id.hex() for row in known.workers if row.worker_id.hex().startswith(digits)]
        rows += [file.worker for place in known.places if not place.machine for file in files_in(place)
                 if file.worker and (file.worker.startswith(digits) or digits.startswith(file.worker))]  # fmt: skip
        what, lists, found = f"--worker {worker!r}: no worker", "workers", rows
    if not found:
        raise click.ClickException(f"{what} is known that it means; `zray list {lists}` shows what there is")
    return list(dict.fromkeys(each[:ID_DIGITS] for each in found))


def _of_workers(workers: Iterable[str], known: Known, places: list[Place], streams: Sequence[str]) -> list[LogFile]:
    """Returns the files of workers, whether they exist or not. Raises ClickException if they are on another machine."""
    found = []
    hosts = {row.worker_id.hex()[:ID_DIGITS]: row.host.hex() for row in known.workers}
    old = [*places, *ended_places(own_roots(from_environment()), [place.directory for place in known.places])]
    for worker in workers:
        names = [f"worker-{worker}.{stream}" for stream in streams]
        place = next((place for place in places if place.host_id and place.host_id == hosts.get(worker)), None)
        if place is None:  # its host has ended
            place = next((each for each in old if not each.machine and any(_has(each, name) for name in names)), None)
        if place is None:
            raise click.ClickException(
                f"worker {worker} was on a host that has ended, or is not meant by --host, and this machine has no "
                "files of it"
            )
        if place.machine:
            raise click.ClickException(f"worker {worker} is on host {place.host}: see its files, {_elsewhere(place)}")
        found += [LogFile(place, name) for name in names]
    return found


def _has(place: Place, name: str) -> bool:
    return os.path.exists(LogFile(place, name).path)


# ---- showing


def _list(files: Sequence[LogFile], known: Known, as_json: bool) -> None:
    workers = {row.worker_id.hex()[:ID_DIGITS]: row for row in known.workers}
    labels = {row.worker.hex()[:ID_DIGITS]: actor_label(row) for row in known.actors if row.worker}
    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            status = os.stat(file.path)
        except FileNotFoundError:  # removed meanwhile
            continue
        worker = workers.get(file.worker)
        rows.append({
            "host": file.place.host, "host_id": file.place.host_id, "session": file.place.session, "name": file.name,
            "path": file.path, "kind": file.kind, "bytes": status.st_size, "modified_s": status.st_mtime,
            "worker_id": worker.worker_id.hex() if worker is not None else file.worker,
            "pid": worker.pid if worker is not None else None, "actor": labels.get(file.worker, ""),
        })  # fmt: skip
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    on, now = console(), time.time()
    for directory in dict.fromkeys(file.place.directory for file in files):
        click.echo(f"in {directory}:")
        here = [row for row in rows if os.path.dirname(row["path"]) == directory]
        show_lines(table(on, COLUMNS, [_cells(row, now) for row in here]), on)
    if not rows:
        click.echo("no log files")


def _cells(row: dict[str, Any], now: float) -> list[str]:
    what = row["kind"]
    if row["pid"]:
        what += f", pid {row['pid']}"
    if row["actor"]:
        what += f", {row['actor']}"
    return [
        row["host"] or "-",
        row["name"],
        f"{row['bytes']:,}",
        f"{max(0.0, now - row['modified_s']):,.0f} s ago",
        what,
    ]


def _show(files: Sequence[LogFile], tail: int | None, follow: bool) -> None:
    """Prints what is in files, with a heading for each if there are several; and what is added, if ``follow``."""
    there = files if follow else [file for file in files if os.path.exists(file.path)]
    if not there:
        click.echo(f"nothing was printed: there is no {' or '.join(file.name for file in files)}", err=True)
        return
    printer = _Printer(several=len(there) > 1)
    followers = {file: Follower(file.path, tail) for file in there}
    try:
        if follow:
            _follow(followers, printer)
        for file, follower in followers.items():
            printer.show(file, follower.finish())
        if follow:
            click.echo("the cluster has ended", err=True)
    except KeyboardInterrupt:  # the usual end of --follow
        sys.exit(0)


def _follow(followers: dict[LogFile, Follower], printer: _Printer) -> None:
    """Prints what is added until all sessions have ended."""
    turn = 0
    places = {file.place for file in followers}
    while turn % ALIVE_TURNS or any(place.is_alive() for place in places):
        for file, follower in followers.items():
            printer.show(file, follower.read())
        turn += 1
        time.sleep(FOLLOW_S)


class _Printer:
    """Prints lines of files on stdout; control characters of foreign text do nothing at a terminal."""

    def __init__(self, several: bool) -> None:
        self._several = several
        self._last: LogFile | None = None
        self._out = sys.stdout.buffer
        self._at_terminal = sys.stdout.isatty()

    def show(self, file: LogFile, lines: Iterable[bytes]) -> None:
        for line in lines:
            if self._several and self._last != file:
                self._out.write(f"{os.linesep if self._last else ''}==> {file.path} <==\n".encode())
            self._last = file
            if self._at_terminal:
                line = escape_controls(line.decode(errors="backslashreplace").rstrip("\r\n")).encode() + b"\n"
            self._out.write(line)
        self._out.flush()
