"""What ``/proc`` says of processes: their families, environments, command lines, memory and starts."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Collection, Iterator

PROC = "/proc"
Identity = tuple[int, str]
"""A PID and when that process started: unlike a PID alone, never reused."""


def pids() -> Iterator[int]:
    """Yields the processes of this user."""
    uid = os.geteuid()
    with os.scandir(PROC) as entries:
        for entry in entries:
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # gone since it was listed
                    if entry.stat().st_uid == uid:
                        yield int(entry.name)


def read(pid: int, name: str) -> bytes:
    """Returns a file of a process in ``/proc``."""
    with open(f"/proc/{pid}/{name}", "rb", 0) as file:
        return file.read()


def environ_of(pid: int) -> bytes:
    """Returns the environment a process was exec'd with; empty for zombies, kernel threads, and unreadable ones."""
    try:
        return read(pid, "environ")
    except OSError:
        return b""


def stat_fields(pid: int) -> list[str]:
    """Returns the fields of ``/proc/<pid>/stat`` from the third (state) on; empty when the process is gone."""
    try:
        text = read(pid, "stat").decode(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the second field, the name, may contain blanks and brackets


def descendants(pid: int) -> list[int]:
    """Returns the living processes below ``pid``, parents before their children; zombies are left out."""
    return [other for other, _ in family(pid)]


def descendants_of_each(pids: Collection[int]) -> dict[int, list[int]]:
    """Returns the living processes below each of ``pids``, from one look at all processes."""
    children = _children()
    return {pid: [other for other, _ in family(pid, children)] for pid in pids}


def _children() -> dict[int, list[Identity]]:
    """The living processes of this user by their parent; zombies are left out."""
    children: dict[int, list[Identity]] = {}
    for other in pids():
        stat = stat_fields(other)
        if stat and stat[0] != "Z":
            children.setdefault(int(stat[1]), []).append((other, stat[19]))
    return children


def family(pid: int, children: dict[int, list[Identity]] | None = None) -> list[Identity]:
    children = _children() if children is None else children
    found: list[Identity] = []
    level = children.get(pid, [])
    while level:
        found += level
        level = [child for parent, _ in level for child in children.get(parent, ())]
    return found


def children_of_this() -> set[int] | None:
    """Returns the PIDs of this process's children, zombies too. None where the kernel does not list them.

    This process must have one thread, and must be the only one that reaps them: then the list is exact.
    """
    try:
        return set(map(int, read(os.getpid(), f"task/{os.getpid()}/children").split()))
    except OSError:
        return None


def commands_of_ancestors() -> Iterator[list[str]]:
    """Yields the command lines of this process's parent, of that one's parent, and so on.

    Left out are processes without one, and what cannot be read: the user may not look, or the process has just ended.
    """
    pid = os.getppid()
    while pid > 0:
        stat = stat_fields(pid)
        try:
            with open(f"{PROC}/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")[:-1]
        except OSError:
            words = []
        if words:
            yield [os.fsdecode(word) for word in words]
        pid = int(stat[1]) if stat else 0


def anonymous_bytes() -> int:
    """Returns this process's resident memory that is not backed by files, in bytes."""
    resident, of_files = memory_of("self")
    return resident - of_files


def resident_bytes(pid: int) -> int:
    """Returns the resident memory of a process in bytes; 0 when it is gone."""
    try:
        return memory_of(str(pid))[0]
    except (OSError, ValueError):
        return 0


def memory_of(process: str) -> tuple[int, int]:
    """Returns the resident memory of a process in bytes, and its part that is backed by files or shared memory.

    ``process``: a PID, or "self". Raises OSError or ValueError when it is gone.
    """
    fd = os.open(f"/proc/{process}/statm", os.O_RDONLY)
    try:
        _, resident, of_files, *_ = os.read(fd, 200).split()
    finally:
        os.close(fd)
    return int(resident) * mmap.PAGESIZE, int(of_files) * mmap.PAGESIZE


def process_start_time(pid: int) -> int | None:
    """Returns when a process started, in clock ticks since boot; None when it is gone or a zombie.

    A PID together with its start time identifies a process for ever: a PID alone is reused.
    """
    stat = stat_fields(pid)
    return int(stat[19]) if stat and stat[0] != "Z" else None
