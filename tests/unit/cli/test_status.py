"""``zray status`` shows a cluster on one screen."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from zray.cli.screen import show_lines
from zray.cli.status import MAX_ROWS, _used, duration, plain_data, render
from zray.protocol.questions import (
    Amount,
    BrokerStatus,
    ClusterStatus,
    HostStatus,
    JobStatus,
    RunningStatus,
    WaitingStatus,
    WorkerCounts,
)
from zray.protocol.records import StoreUse

GIB = 2**30
HOST = bytes.fromhex("0123456789abcdef" * 2)
RESOURCES = {"CPU": Amount(64, 12.5), "memory": Amount(125 * GIB, 8 * GIB), "object_store_memory": Amount(40 * GIB, 0)}
WORKERS = WorkerCounts(starting=0, idle=3, busy=10, actors=2, ending=0)


def host(name: str = "node-a", **changes: Any) -> HostStatus:
    store = StoreUse(capacity=40 * GIB, used=12 * GIB, idle=2 * GIB, spilled=0)
    return HostStatus(HOST, name, 7, "s", 0.3, {}, RESOURCES, store, WORKERS, {})._replace(**changes)


def job(number: int = 1, **changes: Any) -> JobStatus:
    return JobStatus(
        number.to_bytes(4, "big"), "train", 4711, tasks_running=10, tasks_waiting=40, actors=2
    )._replace(**changes)  # fmt: skip


@pytest.fixture
def found() -> ClusterStatus:
    broker = BrokerStatus("tcp://0.0.0.0:6380", 4000.0, "0.1.0", "3.11", 8)
    states = {"PENDING_CREATION": 1, "ALIVE": 2, "RESTARTING": 0}
    return ClusterStatus(1, broker, [host()], [job()], states, [], [], {})


def runs(name: str = "fit", **changes: Any) -> RunningStatus:
    return RunningStatus("task", "", HOST, 99, 3 * GIB, True, [], name, 12.34)._replace(**changes)


def shown(found: ClusterStatus, width: int = 80) -> list[str]:
    """Returns what a terminal of that width shows."""
    file = io.StringIO()
    on = Console(file=file, width=width, markup=False, emoji=False, highlight=False)
    show_lines(render(found, "tcp://head:6380", on), on)
    return file.getvalue().splitlines()


def test_one_screen(found):
    found = found._replace(
        broker=found.broker._replace(refused={"no key": 1, "unknown key": 3}),
        waiting=[
            WaitingStatus("tasks", 40, {"CPU": 0.5}, can_be_placed=True),
            WaitingStatus("actors", 1, {"CPU": 1, "memory": 999 * GIB}, can_be_placed=False),
        ],
        waiting_for_arguments={"merge": 3, "plot": 1},
        running=[
            runs(waits_for=["load"]),
            runs("Model.fit", what="actor", actor="Model 'x'", seconds=None, answers=False),
            runs("", what="actor", actor="Model 'y'", seconds=None, memory_bytes=None),
        ],
    )
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
        "Connections refused: 4 times",
        "  unknown key: 3, no key: 1",
        "Frames dropped: none",
    ]


def test_the_journal(found):
    assert not any("journal" in line for line in shown(found, 120))
    found = found._replace(broker=found.broker._replace(journal="/var/lib/zray/journal"))
    assert "keeps the journal /var/lib/zray/journal" in shown(found, 120)
    found = found._replace(broker=found.broker._replace(journal_fault="the disk is full"))
    assert "keeps the journal /var/lib/zray/journal, which CANNOT BE WRITTEN: the disk is full" in shown(found, 120)


def test_json(found):
    """What programs read stays the same: names, their order, identifiers as text."""
    waiting = [WaitingStatus("tasks", 40, {"CPU": 0.5}, can_be_placed=True)]
    found = found._replace(hosts=[host(resources={"CPU": Amount(64, 12.5)}, labels={"a": "b"})], waiting=waiting)
    found = found._replace(running=[runs()], waiting_for_arguments={"merge": 3})
    expected = {
        "address": "tcp://0.0.0.0:6380", "uptime_s": 4000.0, "zray": "0.1.0", "python": "3.11", "protocol": 8,
        "refused": {}, "dropped_frames": 0, "journal": "", "journal_fault": "",
        "hosts": [{
            "host_id": HOST.hex(), "hostname": "node-a", "pid": 7, "session": "s", "heard_s": 0.3,
            "labels": {"a": "b"}, "resources": {"CPU": {"total": 64, "used": 12.5}},
            "store": {"capacity": 40 * GIB, "used": 12 * GIB, "idle": 2 * GIB, "spilled": 0},
            "workers": {"starting": 0, "idle": 3, "busy": 10, "actors": 2, "ending": 0}, "refused": {},
        }],
        "jobs": [{
            "job_id": "00000001", "namespace": "train", "driver_pid": 4711, "tasks_running": 10, "tasks_waiting": 40,
            "actors": 2,
        }],
        "actors": {"PENDING_CREATION": 1, "ALIVE": 2, "RESTARTING": 0},
        "waiting": [{"what": "tasks", "count": 40, "resources": {"CPU": 0.5}, "can_be_placed": True}],
        "running": [{
            "what": "task", "actor": "", "host_id": HOST.hex(), "pid": 99, "memory_bytes": 3 * GIB, "answers": True,
            "waits_for": [], "name": "fit", "seconds": 12.34,
        }],
        "waiting_for_arguments": {"merge": 3},
    }  # fmt: skip
    assert json.dumps(plain_data(found)) == json.dumps(expected)
    assert plain_data(found._replace(hosts=[host(store=None)]))["hosts"][0]["store"] is None


def test_nothing_runs(found):
    broker = found.broker._replace(address="tcp://head:6380")
    found = found._replace(broker=broker, hosts=[], jobs=[], actors={"ALIVE": 0})
    assert [line for line in shown(found) if line][1:] == [
        "Hosts: none",
        "Jobs: none",
        "Running: nothing",
        "Actors: none",
        "Waiting for a place: nothing",
        "Waiting for arguments: nothing",
        "Connections refused: never",
        "Frames dropped: none",
    ]


def test_hosts_that_differ(found):
    others = {"node:a": Amount(1, 0), "GPU": Amount(4, 1.5), "licence": Amount(2, 1)}
    odd = host(
        "x" * 70,
        labels={"zone": "a", "disk": "ssd"},
        resources=RESOURCES | others,
        workers=WORKERS._replace(starting=2),
    )
    lines = shown(found._replace(hosts=[host(), odd]))
    start = lines.index("Hosts: 2, heard in the last 2 s")
    assert max(map(len, lines)) <= 80
    head, first, second, extras, together = lines[start + 1 : start + 6]
    assert "GPUS" in head and "  -  " in first and " 1.5/4 " in second and "x…" in second
    assert extras == "      licence 1/2; disk=ssd, zone=a; 2 workers starting"
    assert together.split() == ["all", "25/128", "1.5/4", "16/250", "GiB", "20/80", "GiB", "6", "20", "4"]


def test_a_host_that_is_silent_or_does_not_answer_or_spills(found):
    spilled = StoreUse(capacity=40 * GIB, used=40 * GIB, idle=0, spilled=5 * GIB)
    hosts = [host(heard_s=4.2, store=None), host(store=spilled)]
    head, _, silent, why, full, extras = shown(found._replace(hosts=hosts))[3:9]
    assert head == "Hosts: 2, 1 of them silent" and why == "      NOT HEARD for 4 s" and " 40 GiB" in silent
    assert "40/40 GiB" in full and extras == "      5 GiB of objects on disk"


def test_many(found):
    hosts = [host(f"node-{number}") for number in range(1000)]
    jobs = [job(number) for number in range(MAX_ROWS + 3)]
    waiting = [WaitingStatus("tasks", 1, {}, can_be_placed=True)] * (MAX_ROWS + 2)
    lines = shown(found._replace(hosts=hosts, jobs=jobs, waiting=waiting))
    assert len(lines) < 5 * MAX_ROWS
    assert sum("more, which --json shows" in line for line in lines) == 3
    assert any(line.startswith("  ... and 980 more") for line in lines)
    assert any(line.split()[:2] == ["all", "12500/64000"] for line in lines)


def test_a_driver_that_left_and_names_that_steer_terminals(found):
    jobs = [job(driver_pid=None, namespace="\x1b[2Jbad")]
    hosts = [host("\x1b]0;title\x07", labels={"a": "\x9b1m"})]
    text = "\n".join(shown(found._replace(hosts=hosts, jobs=jobs)))
    assert " gone " in text and text.isprintable() is False and not {"\x1b", "\x07", "\x9b"} & set(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3661, "1 h 1 min"), (90_000, "1 d 1 h"), (86_400, "1 d 0 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_amounts():
    amounts = {"memory": Amount(12.34 * GIB, 0.0), "CPU": Amount(20.0, 0.0)}
    assert _used("memory", amounts) == "0/12.3 GiB"
    assert _used("CPU", amounts) == "0/20" and _used("GPU", amounts) == "-"
