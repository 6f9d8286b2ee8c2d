"""``zray.timeline``: when the tasks of a cluster ran, as events for Perfetto (https://ui.perfetto.dev).

The owners of tasks know when the last ones ran (``zray.client.core.records``). In clusters with the setting
``profiling``, workers also write a line for each task that has ended (``zray.worker.process.spans``), into a directory
of their host. Files of other machines are read by a task there. What a worker has written comes first: it is
more exact.
"""

from __future__ import annotations

import glob
import json
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

from zray.protocol import state_questions as q
from zray.protocol.records import HostState
from zray.util.state.sources import Source

PATTERN = "timeline-*.jsonl*"
MOST_BYTES = 256 * 2**20
"""The most bytes of files of one host that are read; of the newest files."""
COLOURS = {"FINISHED": "thread_state_running", "FAILED": "terrible", "CANCELLED": "grey"}
"""Names of colours in the format of Chrome's traces."""
TIMEOUT_S = 30.0
NOT_RECORDED = "timeline(): no task has ended yet, of which the time is known"

Span = dict[str, Any]
"""What a worker has written of a task, see ``zray.worker.process.spans``."""
logger = logging.getLogger("zray")


def timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """Returns when the tasks and calls of the cluster ran, as events in the format of Chrome's traces.

    Open the file in https://ui.perfetto.dev or chrome://tracing. There is one row for each worker, and another for each
    call that an actor ran beside others. An event has the name of its task, and its identifier, state (FINISHED, FAILED
    or CANCELLED) and attempt. Tasks that still run, or whose worker was killed, have none.

    Known are the last 2,000 tasks and calls of each living process that submits some, to about a millisecond. A cluster
    that was started with ZRAY_PROFILING=1 (or RAY_PROFILING=1) records all tasks, exactly, and actors' constructors.

    Args:
        filename: write the events there, as JSON; default: return them.

    Returns:
        The events, or None if they were written. Times (``ts``, ``dur``) are in microseconds; ``ts`` since 1970.

    Raises:
        RuntimeError: this process is in no cluster.
        GetTimeoutError: a host on another machine had no room for the task that reads its files.
    """
    from zray.api.cluster import is_initialized

    if not is_initialized():
        raise RuntimeError("timeline(): this process is in no cluster: call zray.init() before")
    source = Source(None)
    events = events_of(source, TIMEOUT_S, _spans_of_far_hosts)
    if not events:
        logger.warning(NOT_RECORDED)
    if filename is None:
        return events
    with open(filename, "w", encoding="utf-8") as file:
        json.dump(events, file)
    return None


def events_of(
    source: Source, timeout_s: float, read_far: Callable[[list[HostState]], list[tuple[str, Span]]]
) -> list[dict[str, Any]]:
    """Returns the events of a cluster. ``read_far``: returns what workers of hosts on other machines have written."""
    written = _written_spans(source, timeout_s, read_far)
    known = {(span["task"], span["attempt"]) for _, span in written}
    owned = [(ip, span) for ip, span in owned_spans(*source.ended_tasks(timeout_s))
             if (span["task"], span["attempt"]) not in known]  # fmt: skip
    return to_events([*written, *owned])


def owned_spans(rows: Iterable[q.TaskRow], workers: Iterable[q.WorkerRecord]) -> list[tuple[str, Span]]:
    """Makes spans of what the owners of tasks know, with the IP address of each one's host.

    A worker answers for several small tasks at once. So those that it seems to have run at the same time ran one after
    the other, unless they are calls of an actor.
    """
    by_id = {worker.worker_id: worker for worker in workers}
    next_began: dict[bytes, float] = {}
    found = []
    timed = [row for row in rows if row.worker and row.started_s is not None and row.ended_s is not None]
    for row in sorted(timed, key=lambda row: row.ended_s or 0.0, reverse=True):
        began, ended = row.started_s or 0.0, row.ended_s or 0.0
        if not row.actor:
            late = max(0.0, ended - next_began.get(row.worker, ended))
            began, ended = began - late, ended - late
            next_began[row.worker] = began
        worker = by_id.get(row.worker)
        state = "CANCELLED" if row.error_type == "TASK_CANCELLED" else row.state
        span = {"name": row.name, "ts": int(began * 1e6), "dur": int(ended * 1e6) - int(began * 1e6),
                "task": row.task_id.hex(), "attempt": row.attempt, "state": state, "worker": row.worker.hex(),
                "pid": worker.pid if worker is not None else 0}  # fmt: skip
        found.append((worker.ip if worker is not None else "", span))
    return found


def _written_spans(
    source: Source, timeout_s: float, read_far: Callable[[list[HostState]], list[tuple[str, Span]]]
) -> list[tuple[str, Span]]:
    """What workers have written on all hosts, with the IP address of each."""
    found: list[tuple[str, Span]] = []
    far = []
    for host in source.hosts(timeout_s):
        directory = source.logs_of(host)
        if directory and os.path.isdir(directory):
            found += [(host.info.ip, span) for span in read_spans(directory)]
        else:
            far.append(host)
    return found + read_far(far) if far else found


def _spans_of_far_hosts(far: list[HostState]) -> list[tuple[str, Span]]:
    """Reads them by a task on each host."""
    from zray.api.decorator import remote
    from zray.api.objects import get
    from zray.scheduling.node_affinity import NodeAffinitySchedulingStrategy

    read = remote(num_cpus=0)(read_spans_of_session)
    refs = [
        read.options(scheduling_strategy=NodeAffinitySchedulingStrategy(host.host_id.hex(), soft=False)).remote(
            host.info.fetch, host.info.session
        )
        for host in far
    ]
    found = zip(far, get(refs, timeout=TIMEOUT_S), strict=True)
    return [(host.info.ip, span) for host, spans in found for span in spans]


def read_spans_of_session(fetch: str, session: str) -> list[Span]:
    """Returns what the workers of a host have recorded; runs on its machine."""
    root = os.path.dirname(os.path.dirname(fetch))
    return read_spans(os.path.join(root, "logs", session))


def read_spans(directory: str) -> list[Span]:
    """Returns what is recorded in a directory. A line that is being written is left out."""
    paths = sorted(glob.glob(os.path.join(glob.escape(directory), PATTERN)), key=os.path.getmtime, reverse=True)
    spans: list[Span] = []
    room = MOST_BYTES
    for path in paths:
        room -= os.path.getsize(path)
        if room < 0:
            break
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    spans.append(json.loads(line))
                except ValueError:
                    continue
    return spans


def to_events(spans: Iterable[tuple[str, Span]]) -> list[dict[str, Any]]:
    """Makes events of spans, the earliest first. ``spans``: each with the IP address of its host."""
    events = []
    lanes: dict[str, list[float]] = {}  # of each worker: when the last event of each of its rows ends
    for ip, span in sorted(spans, key=lambda each: (each[1]["ts"], -each[1]["dur"])):
        ends = lanes.setdefault(span["worker"], [])
        begins, end = span["ts"], span["ts"] + span["dur"]
        lane = next((lane for lane, busy_until in enumerate(ends) if busy_until <= begins), len(ends))
        ends[lane : lane + 1] = [end]
        events.append(
            {
                "cat": f"task::{span['name']}",
                "name": span["name"],
                "pid": ip,
                "tid": f"worker:{span['worker']}{f' ({lane + 1})' if lane else ''}",
                "ts": begins,
                "dur": span["dur"],
                "ph": "X",
                "cname": COLOURS[span["state"]],
                "args": {
                    "name": span["name"],
                    "task_id": span["task"],
                    "attempt": span["attempt"],
                    "state": span["state"],
                    "pid": span["pid"],
                },
            }
        )
    return events
