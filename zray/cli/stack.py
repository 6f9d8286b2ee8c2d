"""``zray stack``: the Python stacks of workers on this machine, which py-spy reads."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from zray.cli.cluster import Cluster, takes_cluster
from zray.cli.findings import is_meant
from zray.cli.screen import clean, console, show_lines
from zray.cli.status import what_runs
from zray.exceptions import ZrayError
from zray.protocol import questions as q
from zray.protocol import state_questions as sq
from zray.protocol.records import HostState
from zray.system.machine import machine_id

PY_SPY = "py-spy"
PATIENCE_S = 15.0
"""How long py-spy may take for one process."""
MAX_PID_DIGITS = 7
"""Kernels number processes up to 4,194,304; longer numbers are the beginning of identifiers."""
PTRACE_SCOPE = "/proc/sys/kernel/yama/ptrace_scope"
REFUSALS = ("Permission denied", "Operation not permitted", "EPERM")
"""What py-spy writes if the kernel does not let it read the memory of a process."""
OWN = "zray/"
STARTERS = ("threading.py", "<string>", "<frozen ")
"""Files whose outermost frames start a thread or a process."""
BAD, QUIET = "bold red", "dim"


@dataclasses.dataclass(frozen=True)
class Frame:
    """A line of a stack."""

    function: str
    file: str
    line: int


@dataclasses.dataclass(frozen=True)
class Thread:
    """A thread of a process. ``frames``: innermost first; ``active``: it uses a CPU; ``owns_gil``: it has the GIL."""

    name: str
    active: bool
    owns_gil: bool
    frames: list[Frame]


@dataclasses.dataclass(frozen=True)
class Stack:
    """The stack of a worker, or the reason why it could not be read (``error``). ``runs``: the task or call, and since
    when; empty if it is idle."""

    pid: int
    worker_id: str
    host: str
    runs: str
    threads: list[Thread]
    error: str = ""


@click.command(short_help="Show the Python stacks of workers on this machine.")
@click.argument("targets", nargs=-1, metavar="[PID | ACTOR]...")
@click.option("--full", is_flag=True, help="Show all threads, and the frames of zray below those of tasks.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects, with all threads and frames.")
@takes_cluster
def stack(cluster: Cluster, targets: tuple[str, ...], full: bool, as_json: bool) -> None:
    """Show the Python stacks of workers on this machine: of all, or of those with a PID, or of an ACTOR.

    An ACTOR is the ID, the name or the class of an actor. A driver's stack is shown if its PID is given.

    It needs py-spy (pip install 'zray[stack]'), which stops a process for a few milliseconds and reads its memory. The
    kernel permits this to root, and to other users as far as ptrace is permitted.

    \b
    Exit codes:
      0  all stacks were read, or no worker runs here
      1  py-spy is missing, a stack could not be read, or no worker is meant
      2  no cluster answers, or an option cannot be used
    """
    program = find_py_spy()
    with cluster.source() as (observer, source):
        hosts = source.hosts(cluster.timeout_s)
        workers = [row for row in source.workers(cluster.timeout_s).workers if row.ended_s is None and row.pid]
        actors = source.actors(cluster.timeout_s).actors
        status: q.ClusterStatus = observer.ask(q.StatusQuery, cluster.timeout_s)
    chosen = _chosen(workers, hosts, actors, targets)
    names = {host.host_id: host.info.hostname for host in hosts}
    running = {(row.host_id, row.pid): _runs(row) for row in reversed(status.running)}
    stacks = [
        _read(program, row, names.get(row.host, "driver"), running.get((row.host, row.pid), ""))
        for row in sorted(chosen, key=lambda row: row.pid)
    ]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in stacks], indent=2))
    else:
        on = console()
        show_lines(render(stacks, full, on), on)
    if failed := [each for each in stacks if each.error]:
        raise click.ClickException(f"{len(failed)} of {len(stacks)} stacks could not be read: {failed[0].error}")


def find_py_spy() -> str:
    """Returns the path of py-spy: beside this Python, or on the PATH. Raises ZrayError if it is not there."""
    beside = os.path.join(os.path.dirname(sys.executable), PY_SPY)
    found = beside if os.access(beside, os.X_OK) else shutil.which(PY_SPY)
    if found is None:
        raise ZrayError(
            "py-spy, which reads the stacks, is not installed: `pip install 'zray[stack]'`, or `pip install py-spy`, "
            "in the environment of this command"
        )
    return found


# ---- choosing


def _chosen(
    workers: list[sq.WorkerRecord], hosts: list[HostState], actors: list[sq.ActorRecord], targets: Sequence[str]
) -> list[sq.WorkerRecord]:
    here = {host.host_id for host in hosts if host.info.machine_id == machine_id()}
    if not targets:
        return [row for row in workers if row.host in here and not row.is_driver]
    found: dict[bytes, sq.WorkerRecord] = {}
    for target in targets:
        meant = _meant(target, workers, actors)
        if not meant:
            raise ZrayError(
                f"{target!r}: no worker that runs has this PID, or is that of such an actor; `zray list workers` and "
                "`zray list actors` show what there is"
            )
        near = [row for row in meant if row.host in here or (row.is_driver and os.path.exists(f"/proc/{row.pid}"))]
        if not near:
            names = {host.host_id: f"{host.info.hostname} ({host.info.ip})" for host in hosts}
            raise ZrayError(f"{target!r} is on the machine {names.get(meant[0].host, '?')}: run `zray stack` there")
        found.update({row.worker_id: row for row in near})
    return list(found.values())


def _meant(target: str, workers: list[sq.WorkerRecord], actors: list[sq.ActorRecord]) -> list[sq.WorkerRecord]:
    if target.isdecimal() and len(target) <= MAX_PID_DIGITS:
        return [row for row in workers if row.pid == int(target)]
    of = {row.worker for row in actors if row.worker and is_meant(target, row.actor_id, row.name, row.class_name)}
    return [row for row in workers if row.worker_id in of or is_meant(target, row.worker_id)]


def _runs(row: q.RunningStatus) -> str:
    seconds = f" for {row.seconds:.1f} s" if row.seconds is not None else ""
    return f"{what_runs(row)}{seconds}"


# ---- reading


def _read(program: str, row: sq.WorkerRecord, host: str, runs: str) -> Stack:
    about = Stack(row.pid, row.worker_id.hex(), host, runs, [])
    try:
        done = subprocess.run(
            [program, "dump", "--json", "--pid", str(row.pid)], capture_output=True, text=True, errors="replace",
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return dataclasses.replace(about, error=f"py-spy did not end within {PATIENCE_S:g} s; is the process stopped?")
    except OSError as error:
        return dataclasses.replace(about, error=f"{program} cannot be run: {error.strerror}")
    if done.returncode:
        return dataclasses.replace(about, error=explain_failure(row.pid, done.stderr))
    try:
        return dataclasses.replace(about, threads=threads_of(json.loads(done.stdout)))
    except (ValueError, KeyError, TypeError) as error:
        text = f"{program} printed something else than stacks ({error!r}): is its version older than 0.4?"
        return dataclasses.replace(about, error=text)


def threads_of(printed: list[dict[str, Any]]) -> list[Thread]:
    """Returns the threads that ``py-spy dump --json`` has printed. Raises KeyError or TypeError for another format."""
    return [
        Thread(
            each["thread_name"] or f"thread {each['os_thread_id']}",
            bool(each["active"]),
            bool(each["owns_gil"]),
            [Frame(frame["name"], frame["short_filename"] or frame["filename"], frame["line"])
             for frame in each["frames"]],
        )
        for each in printed
    ]  # fmt: skip


def explain_failure(pid: int, stderr: str) -> str:
    """Returns why py-spy could not read a process, and the remedy."""
    if not os.path.exists(f"/proc/{pid}"):
        return f"pid {pid} has ended meanwhile"
    said = next((line.strip() for line in stderr.splitlines() if line.strip()), "it said nothing")
    if not any(word in stderr for word in REFUSALS):
        return f"py-spy could not read pid {pid}: {said}"
    try:
        with open(PTRACE_SCOPE) as file:
            scope = f" ({PTRACE_SCOPE} is {file.read().strip()}; 0 permits it to the same user)"
    except OSError:
        scope = ""
    return (
        f"the kernel does not permit to read pid {pid}{scope}: run this as root (sudo), or, in a container, start that "
        "with the capability SYS_PTRACE (docker run --cap-add SYS_PTRACE)"
    )


# ---- showing


def user_frames(thread: Thread) -> list[Frame]:
    """Returns the frames of a thread without the outermost ones, which start the thread, or are zray's."""
    frames = list(thread.frames)
    while frames and frames[-1].file.startswith((*STARTERS, OWN)):
        frames.pop()
    return frames


def render(stacks: Sequence[Stack], full: bool, on: Console) -> Iterator[str | Text]:
    """Yields the lines to print. ``full``: all threads and frames."""
    if not stacks:
        yield "no worker runs on this machine"
    for number, each in enumerate(stacks):
        if number:
            yield ""
        yield Text(clean(f"pid {each.pid} on {each.host}: {each.runs or 'idle'}"), "bold")
        if each.error:
            yield Text(clean(f"  {each.error}"), BAD)
            continue
        shown = [(thread, thread.frames if full else user_frames(thread)) for thread in each.threads]
        shown = [(thread, frames) for thread, frames in shown if frames]
        for thread, frames in shown:
            state = "has the GIL" if thread.owns_gil else "on a CPU" if thread.active else "waits"
            yield f"  {thread.name} ({state})"
            yield from (f"    {frame.function} ({frame.file}:{frame.line})" for frame in frames)
        if not shown:
            yield Text("  no code of a task runs; --full shows the threads of zray", QUIET)
