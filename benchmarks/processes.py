"""What a cluster's processes weigh, read from /proc.

The cluster of a driver is all that descends from it. Daemons usually leave the tree when the process that started them
ends; a *subreaper* inherits them instead, so nothing gets away.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PROC = Path("/proc")
_CPU_CLOCK = 2
"""Linux makes the clock of another process's CPU time from this and the process's identifier."""


def become_subreaper() -> None:
    """Makes this process the parent of all orphans among its descendants. Raises OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(root: int | None = None) -> list[int]:
    """IDs of all running processes that descend from `root` (default: this process), zombies left out."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            # "pid (name) state parent ...", and the name may hold spaces and brackets
            fields = _read(entry / "stat").rpartition(")")[2].split()
            if fields and fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [root or os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def pss_mb(processes: list[int]) -> float:
    """Proportional set size: private pages, and of shared ones each process's part. In MB (10^6 bytes)."""
    return sum(_kib(PROC / str(pid) / "smaps_rollup", "Pss") for pid in processes) * 1024 / 1e6


def private_mb(processes: list[int]) -> float:
    """Memory that each shares with no other process, in MB (10^6 bytes)."""
    kinds = ("Private_Clean", "Private_Dirty")
    return sum(_kib(PROC / str(pid) / "smaps_rollup", kind) for pid in processes for kind in kinds) * 1024 / 1e6


def peak_rss_mb(processes: list[int]) -> float:
    """Sum of the largest resident sizes so far, in MB (10^6 bytes)."""
    return sum(_kib(PROC / str(pid) / "status", "VmHWM") for pid in processes) * 1024 / 1e6


def settled_pss_mb(processes: list[int] | None = None) -> float:
    """PSS of the processes (default: all descendants) once it no longer changes by a percent, or after 6 s."""
    last = float("inf")
    for _ in range(12):
        time.sleep(0.5)
        now = pss_mb(descendants() if processes is None else processes)
        if abs(now - last) < 0.01 * now:
            break
        last = now
    return now


def titled(word: str) -> list[int]:
    """Descendants that have the word in their command line."""
    return [pid for pid in descendants() if word in _read(PROC / str(pid) / "cmdline")]


def cpu_s(pid: int) -> float:
    """CPU time that a process has used so far, in seconds. Raises OSError if there is no such process."""
    return time.clock_gettime((~pid << 3) | _CPU_CLOCK)


def exists(pid: int) -> bool:
    """Whether the process lives."""
    return (PROC / str(pid)).exists()


def end_descendants(patience_s: float) -> int:
    """Waits for all descendants to end, then kills those that have not. Returns how many were killed."""
    deadline = time.monotonic() + patience_s
    while (left := descendants()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    _reap()
    return len(left)


def _reap() -> None:
    """Collects the exit codes of orphans that this subreaper has inherited."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


def _kib(path: Path, key: str) -> int:
    for line in _read(path).splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


def _read(path: Path) -> str:
    """A file of a process; empty when the process is gone."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
