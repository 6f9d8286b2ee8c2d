"""What the machine, the batch system or the container grants this process: CPUs and memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from zray.system.processes.proc import PROC

_CGROUP_FS = "/sys/fs/cgroup"


def cpu_count(proc: str = PROC, cgroup_fs: str = _CGROUP_FS) -> int:
    """Returns the CPUs that this process may use.

    This is its affinity, limited further by the quotas of its control groups and by what Slurm has granted its job on
    this node: Slurm can be set up without either.
    """
    cpus = float(len(os.sched_getaffinity(0)))
    granted = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if "SLURM_JOB_ID" in os.environ and granted.isdecimal():
        cpus = min(cpus, int(granted))
    for group in control_groups("cpu", proc, cgroup_fs):
        # Version 2 has quota and period in one file, version 1 in two. Without a limit the quota is "max" or -1.
        figures = integers(f"{group}/cpu.max")
        figures = figures or integers(f"{group}/cpu.cfs_quota_us") + integers(f"{group}/cpu.cfs_period_us")
        if len(figures) == 2 and min(figures) > 0:
            cpus = min(cpus, figures[0] / figures[1])
    return max(1, math.ceil(cpus))


def memory_limit_bytes(proc: str = PROC, cgroup_fs: str = _CGROUP_FS) -> int:
    """Returns the memory that this process may use, in bytes: the machine's, or the limit of a control group."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in control_groups("memory", proc, cgroup_fs):
        limits += integers(f"{group}/memory.max") + integers(f"{group}/memory.limit_in_bytes")
    return min(limits)


def control_groups(controller: str, proc: str, cgroup_fs: str) -> Iterator[str]:
    """Yields the directories of this process's group and of all groups above it (each of them limits), version 1 or 2.

    Inside a container the path may be the one that the machine sees. A part of it that does not exist here does no
    harm: the root of the mounted hierarchy is then the container's own group.
    """
    try:
        with open(f"{proc}/self/cgroup") as file:
            memberships = file.read().splitlines()
    except OSError:
        return
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = f"{cgroup_fs}/{controller}" if controllers else cgroup_fs
        names = [name for name in path.split("/") if name]
        for depth in range(len(names), -1, -1):
            if ".." not in names[:depth]:
                yield "/".join([base, *names[:depth]])


def integers(path: str) -> list[int]:
    """Returns the whole numbers in a file; empty when it does not exist or has other content, such as ``max``."""
    try:
        with open(path) as file:
            return [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return []
