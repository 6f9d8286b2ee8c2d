"""What ``zray top`` makes of the state of a cluster."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from zray.cli.screen import show_lines
from zray.cli.top import MOST_ROWS, Function, Snapshot, _cut, functions_of, render
from zray.protocol.questions import ClusterStatus, RunningStatus, WaitingStatus
from zray.util.state.sources import Tasks

from .test_findings import call
from .test_status import GIB, HOST, host, runs
from .test_status import found as found  # a fixture

MIB = 1 << 20


def shown(snapshot: Snapshot, width: int = 80, hint: str = "") -> list[str]:
    file = io.StringIO()
    on = Console(file=file, width=width, markup=False, emoji=False, highlight=False)
    show_lines(render(snapshot, "tcp://head:6380", on, hint), on)
    return file.getvalue().splitlines()


def tasks(*calls: Any) -> Tasks:
    return Tasks(list(calls), [], [], "")


def actor(name: str = "", **changes: Any) -> RunningStatus:
    return runs(name, what="actor", actor="Model 'x'", **changes)


def test_tasks_by_name() -> None:
    calls = [
        call(1, "fit", "RUNNING"), call(2, "fit", "RUNNING_IN_RAY_GET"), call(3, "fit", "FINISHED"),
        call(4, "merge", "PENDING_ARGS_AVAIL"), call(5, "merge", "PENDING_NODE_ASSIGNMENT"), call(6, "merge", "FAILED"),
        call(7, "odd", "NIL"),
    ]  # fmt: skip
    running = [
        runs(seconds=2.0, memory_bytes=MIB), runs(seconds=None, memory_bytes=None), runs(memory_bytes=MIB),
        runs("of another owner"),
    ]  # fmt: skip
    assert functions_of(tasks(*calls), running) == [
        Function("fit", running=2, finished=1, longest_s=12.34, memory_bytes=2 * MIB),
        Function("merge", waiting=2, failed=1),
        Function("odd"),
    ]


def test_a_look(found: ClusterStatus) -> None:
    found = found._replace(
        running=[actor("Model.fit", memory_bytes=GIB), actor(answers=False), actor(seconds=None, memory_bytes=None)],
        waiting=[WaitingStatus("tasks", 4, {}, True), WaitingStatus("tasks", 1, {}, False)],
    )
    functions = [Function("Model.fit", running=1, failed=2, longest_s=12.34, memory_bytes=GIB), Function("fit")]
    assert shown(Snapshot(found, functions), hint="q ends") == [
        "zray 0.1.0 at tcp://head:6380, up 1 h 6 min; q ends",
        "",
        "Hosts: 1",
        "  NAME    ID           CPUS     MEMORY      STORE  IDLE  BUSY  ACTORS",
        "  node-a  01234567  12.5/64  8/125 GiB  10/40 GiB     3    10       2",
        "",
        "Tasks and calls: 1 running, 0 waiting, 0 finished, 2 failed",
        "  TASK OR CALL  RUNNING  WAITING  FINISHED  FAILED  LONGEST  MEMORY",
        "  Model.fit           1        0         0       2   12.3 s   1 GiB",
        "  fit                 0        0         0       0        -       -",
        "",
        "Actors: 1 pending creation, 2 alive",
        "  ACTOR           HOST    PID    SECONDS  MEMORY",
        "  Model 'x': fit  node-a   99       12.3   1 GiB",
        "  Model 'x'       node-a   99  no answer   3 GiB",
        "  Model 'x'       node-a   99       idle       ?",
        "",
        "Waiting for a place: 5, of them 1 that no host can take; `zray why` says for what",
    ]


def test_an_idle_cluster(found: ClusterStatus) -> None:
    lines = shown(Snapshot(found._replace(hosts=[], actors={}), []))
    assert lines[2:] == [
        "Hosts: none",
        "",
        "Tasks and calls: none",
        "",
        "Actors: none",
        "",
        "Waiting for a place: nothing",
    ]


def test_many_rows(found: ClusterStatus) -> None:
    functions = [Function(f"f{number}") for number in range(MOST_ROWS + 3)]
    lines = shown(Snapshot(found._replace(running=[actor()] * (MOST_ROWS + 1)), functions))
    assert "  ... and 3 more, which --json shows" in lines and "  ... and 1 more, which --json shows" in lines


def test_foreign_text_does_nothing_to_the_terminal(found: ClusterStatus) -> None:
    lines = shown(Snapshot(found._replace(hosts=[host("a\x1b[2J")]), [Function("f\x1b[2J")]))
    assert "\x1b" not in "".join(lines) and any("f?[2J" in line for line in lines)


def test_a_low_terminal() -> None:
    lines: list[Any] = [f"line {number}" for number in range(10)]
    on = Console(width=80, height=4, force_terminal=True)
    assert _cut(lines, on).plain.splitlines() == [
        "line 0", "line 1", "line 2", "... and 7 lines more, for which this terminal is too low",
    ]  # fmt: skip
    assert _cut(lines[:4], on).plain.splitlines() == lines[:4]


def test_the_host_of_an_actor_that_is_gone(found: ClusterStatus) -> None:
    snapshot = Snapshot(found._replace(running=[actor(host_id=HOST[::-1])]), [])
    assert any(line.startswith("  Model 'x'  ?") for line in shown(snapshot))
