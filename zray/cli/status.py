"""``zray status``: a cluster on one screen.

It joins as an observer and exchanges a single question and answer over a bare connection, without a driver's session.
So it has no job, and leaves nothing behind.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from zray.cli.cluster import targets
from zray.cli.screen import Column, clean, console, show_lines, table, wrapped
from zray.client.observer import ask_broker
from zray.config import Config
from zray.config.reading import from_environment
from zray.exceptions import ZrayError
from zray.protocol.questions import (
    Amount,
    ClusterStatus,
    HostStatus,
    JobStatus,
    RunningStatus,
    StatusQuery,
    WaitingStatus,
    WorkerCounts,
)
from zray.protocol.records import StoreUse
from zray.scheduling.constraint import NODE_ID_LABEL
from zray.transport.security.dialer import credentials_for

MAX_ROWS = 20
"""The most rows of a table, so that all tables fit on one screen."""
SILENT_S = 2.0
"""Hosts without messages send a ping every one and a half seconds."""
HOST_COLUMNS = (Column("NAME", cut=True), Column("ID"), *(
    Column(head, right=True) for head in ("CPUS", "MEMORY", "STORE", "IDLE", "BUSY", "ACTORS")
))  # fmt: skip
GPUS_COLUMN = 3
"""The place of the column of GPUs, if there are any."""
RUNNING_COLUMNS = (
    Column("WHAT", cut=True), Column("HOST"), *(Column(head, right=True) for head in ("PID", "SECONDS", "MEMORY"))
)  # fmt: skip
JOB_COLUMNS = (Column("ID"), Column("DRIVER"), Column("NAMESPACE", cut=True), *(
    Column(head, right=True) for head in ("RUNNING", "WAITING", "ACTORS")
))  # fmt: skip
BAD = "bold red"
WANTED = "yellow"
QUIET = "dim"
"""Styles on a terminal: errors, requests that cannot be placed, idle processes."""
ACTOR_STATES = {"ALIVE": "alive", "PENDING_CREATION": "pending", "RESTARTING": "restarting"}
PASSING = ("starting", "ending")
"""States of workers that have no column."""
STORE = "object_store_memory"
IN_BYTES = ("memory", STORE)
NOTHING = Amount(0.0, 0.0)
BYTE_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
TIME_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@click.command()
@click.option("--address", default="", metavar="ADDRESS", help="The broker's address. Default: as for zray.init().")
@click.option("--keys", metavar="DIR", help="Where the keys for TCP are. Default: ~/.config/zray/keys.")
@click.option("--insecure", is_flag=True, help="Ask a broker on TCP that was started with --insecure.")
@click.option("-v", "--verbose", is_flag=True, hidden=True, help="Ray's. Everything is shown without it.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as a JSON object, for programs.")
def status(address: str, keys: str | None, insecure: bool, verbose: bool, as_json: bool) -> None:
    """Show a cluster: hosts, jobs, running and waiting tasks, and refused connections.

    Without --address it shows the one that ZRAY_ADDRESS or the configuration names, else yours on this machine: of a
    broker, or of a program that has called zray.init(). If there are several, they are listed.
    IDLE, BUSY and ACTORS are a host's worker processes. The exit code is 2 if no broker answers.
    """
    try:
        config = from_environment(keys=keys)
        found_at = targets(address or config.address, config)
        if len(found_at) > 1:
            _list(found_at, config, insecure, as_json)
            return
        (target,) = found_at
        found = ask(target, config, insecure)
    except ZrayError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps(plain_data(found), indent=2))
        return
    on = console()
    show_lines(render(found, target, on), on)


@click.command("health-check", short_help="Ask whether a cluster's broker answers.")
@click.option("--address", default="", metavar="ADDRESS", help="The broker's address. Default: as for zray.init().")
@click.option("--keys", metavar="DIR", help="Where the keys for TCP are. Default: ~/.config/zray/keys.")
@click.option("--insecure", is_flag=True, help="Ask a broker on TCP that was started with --insecure.")
@click.option("--component", hidden=True, help="Ray's. There is one broker.")
@click.option("--skip-version-check", is_flag=True, hidden=True, help="Ray's.")
def health_check(
    address: str, keys: str | None, insecure: bool, component: str | None, skip_version_check: bool
) -> None:
    """Ask whether the broker answers: the exit code is 0 if it does, and 1 if not.

    Without --address, each cluster of yours on this machine is asked, and all have to answer.
    """
    try:
        config = from_environment(keys=keys)
        for target in targets(address or config.address, config):
            ask(target, config, insecure)
    except ZrayError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


def _list(found_at: Sequence[str], config: Config, insecure: bool, as_json: bool) -> None:
    rows: list[tuple[str, ClusterStatus | str]] = []
    for target in found_at:
        try:
            rows.append((target, ask(target, config, insecure)))
        except ZrayError as error:
            rows.append((target, str(error)))
    if as_json:
        clusters = [
            {"reached_at": target, **({"error": found} if isinstance(found, str) else plain_data(found))}
            for target, found in rows
        ]
        click.echo(json.dumps({"clusters": clusters}, indent=2))
        return
    click.echo(f"{len(rows)} clusters of yours run on this machine; `zray status --address ADDRESS` shows one:")
    for target, found in rows:
        click.echo(f"  {target}\n    {clean(found) if isinstance(found, str) else _in_short(found)}")


def _in_short(found: ClusterStatus) -> str:
    drivers = ", ".join(str(job.driver_pid) for job in found.jobs if job.driver_pid is not None)
    hosts = f"{len(found.hosts)} host{'s' if len(found.hosts) != 1 else ''}"
    return f"up {duration(found.broker.uptime_s)}, {hosts}, drivers: {f'pid {drivers}' if drivers else 'none'}"


def plain_data(found: ClusterStatus) -> dict[str, Any]:
    """Returns what ``--json`` prints: the fields of the answer by name, identifiers in hexadecimal."""
    fields = found._asdict()
    del fields["request"]
    data: dict[str, Any] = _plain(fields.pop("broker")._asdict() | fields)
    return data


def _plain(value: Any) -> Any:
    """Returns a value in the types of JSON."""
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.hex() if isinstance(value, bytes) else value


# ---- asking


def ask(address: str, config: Config, insecure: bool = False) -> ClusterStatus:
    """Returns the status of the cluster of the broker at ``address``.

    Raises ZrayError if it does not answer or refuses.
    """
    credentials = credentials_for(address, "driver", config.keys, insecure)
    status: ClusterStatus = ask_broker(address, StatusQuery, config, credentials)
    return status


# ---- showing


def render(found: ClusterStatus, reached_at: str, on: Console) -> Iterator[str | Text]:
    """Yields the lines to print for the answer of a broker that was reached at an address."""
    broker = found.broker
    yield f"zray {broker.zray} (Python {broker.python}) at {reached_at}, up {duration(broker.uptime_s)}"
    if broker.address != reached_at:
        yield f"listens at {broker.address}"
    silent = sum(host.heard_s >= SILENT_S for host in found.hosts)
    heard = f", {silent} of them silent" if silent else f", heard in the last {SILENT_S:.0f} s" if found.hosts else ""
    yield ""
    yield titled("Hosts", f"{len(found.hosts) or 'none'}{heard}", BAD if silent else "")
    yield from host_lines(found.hosts, on)
    yield ""
    yield titled("Jobs", len(found.jobs) or "none")
    if found.jobs:
        yield from table(on, JOB_COLUMNS, map(_job, found.jobs[:MAX_ROWS]))
        yield from _more(found.jobs)
    yield from _running(found, on)
    actors = [f"{count} {name}" for state, name in ACTOR_STATES.items() if (count := found.actors.get(state, 0))]
    yield ""
    yield titled("Actors", ", ".join(actors) or "none")
    yield ""
    yield titled("Waiting for a place", sum(row.count for row in found.waiting) or "nothing")
    waiting = sorted(found.waiting, key=lambda row: (row.can_be_placed, -row.count))
    for row in waiting[:MAX_ROWS]:
        yield from wrapped(on, _waits(row), "" if row.can_be_placed else WANTED)
    yield from _more(waiting)
    arguments = found.waiting_for_arguments
    yield titled("Waiting for arguments", sum(arguments.values()) or "nothing")
    yield from wrapped(on, ", ".join(f"{count} {name}" for name, count in arguments.items()))
    counts = Counter(broker.refused)
    for host in found.hosts:
        counts.update(host.refused)
    refused = counts.most_common()
    times = sum(count for _, count in refused)
    yield ""
    yield titled("Connections refused", "never" if not times else "once" if times == 1 else f"{times} times")
    yield from wrapped(on, ", ".join(f"{reason}: {count}" for reason, count in refused))
    yield titled("Frames dropped", broker.dropped_frames or "none")


def titled(title: str, text: object, style: str = "") -> Text:
    """Returns the first line of a section."""
    return Text.assemble((f"{title}:", "bold"), " ", (str(text), style))


def host_lines(hosts: Sequence[HostStatus], on: Console) -> Iterator[str | Text]:
    """Yields the table of hosts, with the sum of several; nothing if there is none."""
    if not hosts:
        return
    total = _total(hosts)
    gpus = "GPU" in total.resources
    columns = list(HOST_COLUMNS)
    if gpus:
        columns.insert(GPUS_COLUMN, Column("GPUS", right=True))
    header, *lines, last = table(on, columns, [_host(host, gpus) for host in [*hosts[:MAX_ROWS], total]])
    yield header
    for line, host in zip(lines, hosts, strict=False):
        yield line
        yield from wrapped(on, _extras(host), BAD if host.heard_s >= SILENT_S else "", indent=6)
    yield from _more(hosts)
    if len(hosts) > 1:
        yield last


def _total(hosts: Sequence[HostStatus]) -> HostStatus:
    """Returns the sums over all hosts, as one host."""
    resources: dict[str, Amount] = {}
    for host in hosts:
        for name, (total, used) in host.resources.items():
            before = resources.get(name, NOTHING)
            resources[name] = Amount(before.total + total, before.used + used)
    stores = [host.store for host in hosts if host.store is not None]
    return HostStatus(
        b"", "all", 0, "", 0.0, {}, resources,
        store=StoreUse(*map(sum, zip(*stores, strict=True))) if stores and len(stores) == len(hosts) else None,
        workers=WorkerCounts(*map(sum, zip(*(host.workers for host in hosts), strict=True))),
        refused={},
    )  # fmt: skip


def _host(host: HostStatus, gpus: bool) -> list[str]:
    resources, workers = host.resources, host.workers
    return [
        host.hostname,
        host.host_id.hex()[:8],
        _used("CPU", resources),
        *([_used("GPU", resources)] if gpus else []),
        _used("memory", resources),
        _fill(host),
        *map(str, (workers.idle, workers.busy, workers.actors)),
    ]


def _fill(host: HostStatus) -> str:
    """Returns how full a store is; only its capacity if its host has not reported its use."""
    store = host.store
    if store is None:
        return _amount(STORE, host.resources.get(STORE, NOTHING).total)
    unit, size = _unit(store.capacity)
    return f"{_number((store.used - store.idle) / size, 1)}/{_number(store.capacity / size, 1)} {unit}"


def _running(found: ClusterStatus, on: Console) -> Iterator[str | Text]:
    rows = found.running
    yield ""
    yield titled("Running", len(rows) or "nothing")
    if not rows:
        return
    names = {host.host_id: f"{host.hostname} {host.host_id.hex()[:8]}" for host in found.hosts}
    cells = [[what_runs(row), names.get(row.host_id, "?"), str(row.pid), *_figures(row)] for row in rows[:MAX_ROWS]]
    header, *lines = table(on, RUNNING_COLUMNS, cells)
    yield header
    for line, row in zip(lines, rows, strict=False):
        yield line
        if row.waits_for:
            yield from wrapped(on, f"waits for {', '.join(row.waits_for[:3])}", indent=6)
    yield from _more(rows)


def what_runs(row: RunningStatus) -> str:
    """Returns the task, or the actor with its call, for people."""
    if row.what == "task":
        return row.name or "a task"
    return f"{row.actor}: {row.name.rpartition('.')[2]}" if row.name else row.actor


def _figures(row: RunningStatus) -> list[str | Text]:
    idle = row.what == "actor" and not row.name
    seconds = Text("idle", QUIET) if idle else Text("?" if row.seconds is None else f"{row.seconds:.1f}")
    if not row.answers:
        seconds = Text("no answer", BAD)
    return [seconds, _amount("memory", row.memory_bytes) if row.memory_bytes else "?"]


def _extras(host: HostStatus) -> str:
    """Returns what few hosts have: other resources, labels, workers that start or end."""
    spilled = host.store.spilled if host.store is not None else 0
    on_disk = [f"{_amount('memory', spilled)} of objects on disk"] if spilled else []
    silent = [f"NOT HEARD for {host.heard_s:.0f} s"] if host.heard_s >= SILENT_S else []
    resources = [
        f"{name} {_used(name, host.resources)}"
        for name, amount in sorted(host.resources.items())
        if name not in ("CPU", "GPU", *IN_BYTES) and (amount.used or not name.startswith("node:"))
    ]
    labels = [f"{key}={value}" for key, value in sorted(host.labels.items()) if key != NODE_ID_LABEL]
    moving = [f"{count} workers {state}" for state in PASSING if (count := getattr(host.workers, state))]
    return "; ".join(", ".join(group) for group in (silent, resources, labels, moving, on_disk) if group)


_OF_ITS_OWN = re.compile(r"([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?")
"""The namespaces of jobs that name none, see ``zray.api.init_arguments.new_namespace``: no one gives such names."""


def _job(job: JobStatus) -> list[str]:
    driver = "gone" if job.driver_pid is None else f"pid {job.driver_pid}"
    counts = map(str, (job.tasks_running, job.tasks_waiting, job.actors))
    return [job.job_id.hex(), driver, "-" if _OF_ITS_OWN.fullmatch(job.namespace) else job.namespace, *counts]


def _waits(row: WaitingStatus) -> str:
    asked = ", ".join(f"{name}: {_amount(name, amount)}" for name, amount in sorted(row.resources.items()))
    what = row.what if row.count != 1 else row.what.removesuffix("s")
    never = "" if row.can_be_placed else " - cannot be placed: no host has that much"
    return f"{row.count} {what} of {{{asked}}}{never}"


# ---- lines and amounts


def _more(rows: Sequence[object]) -> Iterator[str]:
    if len(rows) > MAX_ROWS:
        yield f"  ... and {len(rows) - MAX_ROWS} more, which --json shows"


def _used(name: str, resources: Mapping[str, Amount]) -> str:
    total, used = resources.get(name, NOTHING)
    if not total:
        return "-"
    if name not in IN_BYTES:
        return f"{_number(used)}/{_number(total)}"
    unit, size = _unit(total)
    return f"{_number(used / size, 1)}/{_number(total / size, 1)} {unit}"


def _amount(name: str, amount: float) -> str:
    if name not in IN_BYTES:
        return _number(amount)
    unit, size = _unit(amount)
    return f"{_number(amount / size, 1)} {unit}"


def in_bytes(amount: float) -> str:
    """Returns an amount of bytes, for people."""
    return _amount("memory", amount)


def _unit(amount: float) -> tuple[str, int]:
    return next(((unit, size) for unit, size in BYTE_UNITS if amount >= size), ("B", 1))


def _number(value: float, digits: int = 4) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """Returns the two largest of days, hours, minutes and seconds."""
    rest = int(seconds)
    parts: list[str] = []
    for size, unit in TIME_UNITS:
        count, rest = divmod(rest, size)
        if count or parts or size == 1:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
