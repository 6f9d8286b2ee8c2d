"""``zray status`` puts a cluster on one screen."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from zray.cli.screen import show_lines
from zray.cli.status import MAX_ROWS, _duration, _used, render

GIB = 2**30


def host(name: str = "node-a", **changes: Any) -> dict[str, Any]:
    resources = {"CPU": (64, 12.5), "memory": (125 * GIB, 8 * GIB), "object_store_memory": (40 * GIB, 0)}
    return {
        "hostname": name,
        "host_id": "0123456789abcdef" * 2,
        "labels": {},
        "heard_s": 0.3,
        "store": {"capacity": 40 * GIB, "used": 12 * GIB, "idle": 2 * GIB, "spilled": 0},
        "resources": {key: {"total": total, "used": used} for key, (total, used) in resources.items()},
        "workers": {"starting": 0, "idle": 3, "busy": 10, "actors": 2, "ending": 0},
        "refused": {},
        **changes,
    }


def job(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {"job_id": f"{number:08x}", "namespace": "train", "driver_pid": 4711, "tasks_running": 10,
            "tasks_waiting": 40, "actors": 2, **changes}  # fmt: skip


@pytest.fixture
def found() -> dict[str, Any]:
    return {
        "address": "tcp://0.0.0.0:6380", "uptime_s": 4000.0, "zray": "0.1.0", "python": "3.11", "protocol": 1,
        "refused": {}, "dropped_frames": 0, "hosts": [host()], "jobs": [job()], "waiting": [],
        "actors": {"PENDING_CREATION": 1, "ALIVE": 2, "RESTARTING": 0}, "running": [], "waiting_for_arguments": {},
    }  # fmt: skip


def runs(name: str = "fit", **changes: Any) -> dict[str, Any]:
    return {"what": "task", "actor": "", "name": name, "host_id": "0123456789abcdef" * 2, "pid": 99, "seconds": 12.34,
            "memory_bytes": 3 * GIB, "answers": True, "waits_for": [], **changes}  # fmt: skip


def shown(found: dict[str, Any], width: int = 80) -> list[str]:
    """What a terminal of that width shows."""
    file = io.StringIO()
    on = Console(file=file, width=width, markup=False, emoji=False, highlight=False)
    show_lines(render(found, "tcp://head:6380", on), on)
    return file.getvalue().splitlines()


def test_one_screen(found):
    found["waiting"] = [
        {"what": "tasks", "count": 40, "resources": {"CPU": 0.5}, "can_be_placed": True},
        {"what": "actors", "count": 1, "resources": {"CPU": 1, "memory": 999 * GIB}, "can_be_placed": False},
    ]
    found["refused"] = {"no key": 1, "unknown key": 3}
    found["waiting_for_arguments"] = {"merge": 3, "plot": 1}
    found["running"] = [
        runs(waits_for=["load"]),
        runs("Model.fit", what="actor", actor="Model 'x'", seconds=None, answers=False),
        runs("", what="actor", actor="Model 'y'", seconds=None, memory_bytes=None),
    ]
    assert shown(found) == [
        "zray 0.1.0 (Python 3.11) at tcp://head:6380, up 1 h 6 min",
        "listens at tcp://0.0.0.0:6380",
        "",
        "Hosts: 1, heard in the last 2 s",
        "  NAME    ID           CPUS     MEMORY      STORE  IDLE  BUSY  ACTORS",
        "  node-a  01234567  12.5/64  8/125 GiB  10/40 GiB     3    10       2",
        "",
        "Jobs: 1",
        "  ID        DRIVER    NAMESPACE  RUNNING  WAITING  ACTORS",
        "  00000001  pid 4711  train           10       40       2",
        "",
        "Running: 3",
        "  WHAT            HOST             PID    SECONDS  MEMORY",
        "  fit             node-a 01234567   99       12.3   3 GiB",
        "      waits for load",
        "  Model 'x': fit  node-a 01234567   99  no answer   3 GiB",
        "  Model 'y'       node-a 01234567   99       idle       ?",
        "",
        "Actors: 2 alive, 1 pending",
        "",
        "Waiting for a place: 41",
        "  1 actor of {CPU: 1, memory: 999 GiB} - cannot be placed: no host has that much",
        "  40 tasks of {CPU: 0.5}",
        "Waiting for arguments: 4",
        "  3 merge, 1 plot",
        "",
        "Strangers turned away: 4 times",
        "  unknown key: 3, no key: 1",
        "Frames dropped: none",
    ]


def test_nothing_runs(found):
    found.update(hosts=[], jobs=[], actors={"ALIVE": 0}, address="tcp://head:6380")
    assert [line for line in shown(found) if line][1:] == [
        "Hosts: none",
        "Jobs: none",
        "Running: nothing",
        "Actors: none",
        "Waiting for a place: nothing",
        "Waiting for arguments: nothing",
        "Strangers turned away: never",
        "Frames dropped: none",
    ]


def test_hosts_that_differ(found):
    plain, odd = host(), host("x" * 70, labels={"zone": "a", "disk": "ssd"})
    odd["resources"] |= {
        "node:a": {"total": 1, "used": 0},
        "GPU": {"total": 4, "used": 1.5},
        "licence": {"total": 2, "used": 1},
    }
    odd["workers"] = {**odd["workers"], "starting": 2}
    found["hosts"] = [plain, odd]
    lines = shown(found)
    start = lines.index("Hosts: 2, heard in the last 2 s")
    assert max(map(len, lines)) <= 80
    head, first, second, extras, together = lines[start + 1 : start + 6]
    assert "GPUS" in head and "  -  " in first and " 1.5/4 " in second and "x…" in second
    assert extras == "      licence 1/2; disk=ssd, zone=a; 2 workers starting"
    assert together.split() == ["all", "25/128", "1.5/4", "16/250", "GiB", "20/80", "GiB", "6", "20", "4"]


def test_a_host_that_is_silent_or_does_not_answer_or_spills(found):
    spilled = {"capacity": 40 * GIB, "used": 40 * GIB, "idle": 0, "spilled": 5 * GIB}
    found["hosts"] = [host(heard_s=4.2, store=None), host(store=spilled)]
    head, _, silent, why, full, extras = shown(found)[3:9]
    assert head == "Hosts: 2, 1 of them silent" and why == "      NOT HEARD for 4 s" and " 40 GiB" in silent
    assert "40/40 GiB" in full and extras == "      5 GiB of objects on disk"


def test_many(found):
    found["hosts"] = [host(f"node-{number}") for number in range(1000)]
    found["jobs"] = [job(number) for number in range(MAX_ROWS + 3)]
    row = {"what": "tasks", "count": 1, "resources": {}, "can_be_placed": True}
    found["waiting"] = [copy.copy(row) for _ in range(MAX_ROWS + 2)]
    lines = shown(found)
    assert len(lines) < 5 * MAX_ROWS
    assert sum("more, which --json shows" in line for line in lines) == 3
    assert any(line.startswith("  ... and 980 more") for line in lines)
    assert any(line.split()[:2] == ["all", "12500/64000"] for line in lines)


def test_a_driver_that_left_and_names_that_steer_terminals(found):
    found["jobs"] = [job(driver_pid=None, namespace="\x1b[2Jbad")]
    found["hosts"] = [host("\x1b]0;title\x07", labels={"a": "\x9b1m"})]
    text = "\n".join(shown(found))
    assert " gone " in text and text.isprintable() is False and not {"\x1b", "\x07", "\x9b"} & set(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3661, "1 h 1 min"), (90_000, "1 d 1 h"), (86_400, "1 d 0 h")],
)
def test_durations(seconds, text):
    assert _duration(seconds) == text


def test_amounts():
    amounts = {"memory": {"total": 12.34 * GIB, "used": 0.0}, "CPU": {"total": 20.0, "used": 0.0}}
    assert _used("memory", amounts) == "0/12.3 GiB"
    assert _used("CPU", amounts) == "0/20" and _used("GPU", amounts) == "-"
