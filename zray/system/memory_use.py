"""How much of the machine's memory, or of its control groups' memory, is in use, and which processes use most.

Usage is counted as Ray does: of the machine, all that is not available (``MemAvailable``); of a control group, all but
the cache of files that the kernel can drop (``inactive_file``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection

from zray.named_tuples import NamedTuple
from zray.system.processes import control_groups, descendants_of_each, integers, memory_of

_PROC = "/proc"
_CGROUP_FS = "/sys/fs/cgroup"
_KIB = 1024


class MemoryUse(NamedTuple):
    """Memory in bytes. ``whose``: "the machine", or the directory of a control group."""

    used: int
    limit: int
    whose: str

    @property
    def share(self) -> float:
        """The part that is in use."""
        return self.used / self.limit


class ProcessUse(NamedTuple):
    """The memory of a process in bytes. ``own``: what would be free without it; ``resident``: with files and shared
    memory that it has mapped."""

    pid: int
    own: int
    resident: int
    name: str


class _Group(NamedTuple):
    """A control group: the names of its files, and of the figure in ``memory.stat`` to subtract."""

    directory: str
    limit: str
    usage: str
    droppable: str


_VERSIONS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""The files of a group, version 2 and version 1, and the figure in ``memory.stat``."""


_KILL_COUNTERS = ("memory.events", "memory.oom_control")
"""The files with the number of processes that the kernel has killed, version 2 and version 1."""


class MemoryGauge:
    """Reads the memory of the machine and of the control groups of this process that have a limit when it is made.

    ``ZRAY_TEST_CGROUP_FS`` is a directory in place of ``/sys/fs/cgroup``, for tests.
    """

    def __init__(self, proc: str = _PROC, cgroup_fs: str = "") -> None:
        cgroup_fs = cgroup_fs or os.environ.get("ZRAY_TEST_CGROUP_FS") or _CGROUP_FS
        self._proc = proc
        directories = list(control_groups("memory", proc, cgroup_fs))
        total, _ = self._machine()
        self._groups = [group for directory in directories if (group := _limited(directory, total)) is not None]
        self._kill_counters = [f"{each}/{name}" for each in directories for name in _KILL_COUNTERS]

    def read(self) -> MemoryUse:
        """Returns the use of what is nearest to its limit: the machine, or a control group."""
        total, available = self._machine()
        uses = [MemoryUse(total - available, total, "the machine")]
        uses += [use for group in self._groups if (use := _use_of(group)) is not None]
        return max(uses, key=lambda use: use.share)

    def _machine(self) -> tuple[int, int]:
        figures = _figures(f"{self._proc}/meminfo")
        total = figures.get("MemTotal:", 0) * _KIB or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, figures.get("MemAvailable:", total // _KIB) * _KIB

    def kills(self) -> int:
        """Returns how many processes the kernel has killed for lack of memory: in the control group, or if it does not
        count them, on the machine."""
        for path in self._kill_counters:
            figures = _figures(path)
            if "oom_kill" in figures:
                return figures["oom_kill"]
        return _figures(f"{self._proc}/vmstat").get("oom_kill", 0)


def _limited(directory: str, total: int) -> _Group | None:
    for limit, usage, droppable in _VERSIONS:
        figures = integers(f"{directory}/{limit}")
        if figures and 0 < figures[0] <= total:  # version 1 has a huge number in place of "no limit"
            return _Group(directory, limit, usage, droppable)
    return None


def _use_of(group: _Group) -> MemoryUse | None:
    """The use of a group; None if its files are gone, or the limit has been taken away."""
    limit, usage = (integers(f"{group.directory}/{name}") for name in (group.limit, group.usage))
    if not limit or not usage or limit[0] <= 0:
        return None
    droppable = _figures(f"{group.directory}/memory.stat").get(group.droppable, 0)
    return MemoryUse(max(0, usage[0] - droppable), limit[0], group.directory)


def _figures(path: str) -> dict[str, int]:
    """Returns the lines ``name figure`` of a file; empty when it cannot be read."""
    try:
        with open(path) as file:
            rows = [line.split() for line in file]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


# ---- processes


def own_bytes(pids: Collection[int]) -> dict[int, int]:
    """Returns the memory that would be free without each process and what it has started, in bytes.

    Files and shared memory, such as the object store, are not counted: others may use them.
    """
    return {pid: sum(_memory(one)[0] for one in (pid, *below)) for pid, below in descendants_of_each(pids).items()}


def largest_processes(count: int, proc: str = _PROC) -> list[ProcessUse]:
    """Returns the processes with most memory of their own, the largest first; those of other users included.

    The proportional size (PSS) is left out: the kernel would walk through all pages of a process for it.
    """
    pids = [int(name) for name in os.listdir(proc) if name.isdigit()]
    found = sorted(((*_memory(pid), pid) for pid in pids), reverse=True)[:count]
    return [ProcessUse(pid, own, resident, _name_of(pid, proc)) for own, resident, pid in found if own]


def _memory(pid: int) -> tuple[int, int]:
    """The memory of its own and the resident memory of a process; zeros when it is gone."""
    try:
        resident, shared = memory_of(str(pid))
    except (OSError, ValueError):
        return 0, 0
    return resident - shared, resident


def _name_of(pid: int, proc: str) -> str:
    """The start of a command line, without control characters; of another user's process only its short name, as its
    arguments are not for the eyes of others."""
    try:
        is_ours = os.stat(f"{proc}/{pid}").st_uid == os.geteuid()
        with open(f"{proc}/{pid}/{'cmdline' if is_ours else 'comm'}", "rb") as file:
            text = file.read(400).replace(b"\0", b" ").decode(sys.getfilesystemencoding(), "replace").strip()
    except OSError:
        text = ""
    return "".join(char if char.isprintable() else "?" for char in text[:80]) or "?"
