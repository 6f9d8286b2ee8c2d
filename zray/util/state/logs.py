"""``list_logs`` and ``get_log``: the files in which a host keeps what its workers print.

The files are read on the machine of the caller. Files of hosts on other machines cannot be read yet.
"""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections.abc import Iterator

from zray.util.state.common import DEFAULT_RPC_TIMEOUT, StateResource, TaskState
from zray.util.state.exception import RayStateApiException
from zray.util.state.sources import Source

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_BLOCK_BYTES = 1 << 16
FOLLOW_S = 0.2
"""Seconds between looks at a file that is followed, by default."""


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: float = DEFAULT_RPC_TIMEOUT,
) -> dict[str, list[str]]:
    """The names of a host's log files, by kind: ``worker_out``, ``worker_err``, ``internal``.

    Args:
        address: see ``StateApiClient``.
        node_id: the host.
        node_ip: its IP address, instead of its identifier.
        glob_filter: only files whose names fit this pattern, for instance ``*worker*``.
        timeout: seconds to wait for the cluster's answer.

    Raises:
        AssertionError: neither ``node_id`` nor ``node_ip`` is given, as in Ray.
        RayStateApiException: there is no such host, or it is on another machine.
    """
    assert node_id is not None or node_ip is not None, "give the node_id or the node_ip of a host"
    directory = _directory(Source(address), node_id, node_ip, timeout)
    found: dict[str, list[str]] = {}
    for name in sorted(fnmatch.filter(os.listdir(directory), glob_filter or "*")):
        found.setdefault(_kind(name), []).append(name)
    return found


def _kind(name: str) -> str:
    """Ray's name of the kind of a log file."""
    if name.startswith("worker-"):
        return "worker_err" if ".err" in name else "worker_out"
    return "internal"


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = -1,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str = "strict",
    submission_id: str | None = None,
    attempt_number: int = 0,
    _interval: float | None = None,
    filter_ansi_code: bool = False,
) -> Iterator[str | bytes]:
    """Yields pieces of a log file: by its name, or of the worker of an actor, a task or a PID.

    A worker's file has the output of all tasks that it has run.

    Args:
        address: see ``StateApiClient``.
        node_id: the host of ``filename`` or ``pid``.
        node_ip: its IP address, instead of its identifier.
        filename: a file in the directory that ``list_logs`` lists.
        actor_id: the actor whose worker printed.
        task_id: the task whose worker printed.
        pid: the worker that printed.
        follow: go on as the file grows, until the iterator is closed.
        tail: only the last so many lines; -1: all.
        timeout: seconds to wait for the cluster's answer.
        suffix: "out" or "err", if no file is named.
        encoding: None: yield bytes.
        errors: how to treat bytes that do not fit the encoding, see ``bytes.decode``.
        submission_id: a submitted job. zray has none: it must be None.
        attempt_number: the attempt of ``task_id``.
        _interval: seconds between looks at a file that is followed.
        filter_ansi_code: leave out the codes for colours.

    Raises:
        ValueError: the arguments do not say which file is meant.
        RayStateApiException: there is no such file, actor, task or worker, or the file is on another machine.
    """
    if submission_id is not None:
        raise ValueError("submission_id: zray has no job submission")
    if suffix not in ("out", "err"):
        raise ValueError(f'suffix must be "out" or "err", got {suffix!r}')
    if node_id and node_ip:
        raise ValueError("give node_id or node_ip, not both")
    if not (node_id or node_ip or actor_id or task_id):
        raise ValueError("give node_id or node_ip, unless actor_id or task_id is given")
    if not (filename or actor_id or task_id or pid):
        raise ValueError("give one of filename, actor_id, task_id and pid")
    source = Source(address)
    if filename:
        path = os.path.join(_directory(source, node_id, node_ip, timeout), os.path.basename(filename))
    else:
        path = _path_of_worker(source, node_id, node_ip, actor_id, task_id, attempt_number, pid, suffix, timeout)
    if not os.path.isfile(path):
        if filename:
            raise RayStateApiException(f"there is no file {path}")
        return  # the worker has printed nothing
    for block in _blocks(path, tail, follow, FOLLOW_S if _interval is None else _interval):
        if encoding is None:
            yield block
        else:
            text = block.decode(encoding, errors)
            yield _ANSI.sub("", text) if filter_ansi_code else text


def _path_of_worker(
    source: Source, node_id: str | None, node_ip: str | None, actor_id: str | None, task_id: str | None, attempt: int,
    pid: int | None, suffix: str, timeout: float,
) -> str:  # fmt: skip
    if actor_id or task_id:
        kind, field, wanted = StateResource.ACTORS, "actor_id", actor_id
        if not actor_id:
            kind, field, wanted = StateResource.TASKS, "task_id", task_id
        rows = [row for row in source.records(kind, timeout).rows if row[field] == wanted]
        rows = [row for row in rows if not isinstance(row, TaskState) or row.attempt_number == attempt]
        if not rows:
            raise RayStateApiException(f"there is no record with {field} {wanted!r}")
        node_id, node_ip = rows[0]["node_id"], None
        pid = rows[0]["pid" if actor_id else "worker_pid"]
        if not node_id or not pid:
            raise RayStateApiException(f"{field} {wanted!r} has no worker yet, or the worker is not known any more")
    directory = _directory(source, node_id, node_ip, timeout)
    for worker in source.records(StateResource.WORKERS, timeout).rows:
        if worker["pid"] == pid and worker["worker_type"] == "WORKER" and node_id in (None, worker["node_id"]):
            return os.path.join(directory, f"worker-{worker['worker_id'][:12]}.{suffix}")
    raise RayStateApiException(f"no worker with pid {pid} is known there")


def _directory(source: Source, node_id: str | None, node_ip: str | None, timeout: float) -> str:
    """The directory of a host's log files. Raises RayStateApiException if it cannot be read here."""
    hosts = source.hosts(timeout)
    found = [host for host in hosts if host.host_id.hex() == node_id or (node_ip and host.info.ip == node_ip)]
    if not found:
        raise RayStateApiException(f"no living host has the node_id {node_id!r} or the node_ip {node_ip!r}")
    for host in found:
        directory = source.logs_of(host)
        if directory and os.path.isdir(directory):
            return directory
    raise RayStateApiException(
        f"the log files of host {found[0].info.hostname!r} are on another machine: run this there, or look into the "
        f"directory logs_dir of its session {found[0].info.session!r}"
    )


def _blocks(path: str, tail: int, follow: bool, interval_s: float) -> Iterator[bytes]:
    with open(path, "rb") as file:
        if tail >= 0:
            file.seek(start_of_tail(path, tail))
        while True:
            block = file.read(_BLOCK_BYTES)
            if block:
                yield block
            elif follow:
                time.sleep(interval_s)
            else:
                return


def start_of_tail(path: str, n_lines: int) -> int:
    """Where the last ``n_lines`` lines of a file begin."""
    with open(path, "rb") as file:
        data = file.read()
    end = len(data) - data.endswith(b"\n")
    for _ in range(n_lines):
        end = data.rfind(b"\n", 0, max(0, end))
        if end < 0:
            return 0
    return end + 1 if n_lines else len(data)
