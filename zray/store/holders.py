"""Finds the processes that hold the segments in use, for the message that says why a store is full.

A pin is a kernel lock, and the kernel does not tell which process holds it. But a process that uses a value has mapped
its segment, and ``/proc`` shows that. A map that a process has kept without using it counts too, if another process
uses the segment.
"""

from __future__ import annotations

import contextlib
import os

_NAME_CHARS = 60


def describe_holders(directory: str, sizes: dict[int, int], mine: set[int], most: int = 5) -> str:
    """Describes how much of the segments below ``directory`` each process holds, the largest first, for a message.

    ``sizes``: bytes by inode of the segments that are in use. ``mine``: those that this process uses.
    """
    held = {"this process": mine & sizes.keys()}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        if int(pid) != os.getpid() and (inodes := _mapped(pid, directory) & sizes.keys()):
            held[f"process {pid} ({_name_of(pid)})"] = inodes
    amounts = sorted(
        ((sum(map(sizes.__getitem__, found)), len(found), who) for who, found in held.items()), reverse=True
    )
    texts = [f"{who}: {n_bytes:,} bytes in {n}" for n_bytes, n, who in amounts if n]
    return ", ".join(texts[:most]) + (f", and {len(texts) - most} others" if len(texts) > most else "")


def _mapped(pid: str, directory: str) -> set[int]:
    """Returns the inodes of the files below ``directory`` that a process has mapped to read."""
    inodes = set()
    with (
        contextlib.suppress(OSError),
        open(f"/proc/{pid}/maps", errors="replace") as file,
    ):  # it has ended, or is another user's
        for line in file:
            if directory in line:
                fields = line.split(None, 5)
                if fields[1].startswith("r--") and fields[5].startswith(f"{directory}/"):
                    inodes.add(int(fields[4]))
    return inodes


def _name_of(pid: str) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read(1024).replace(b"\0", b" ").decode(errors="replace").strip()[:_NAME_CHARS]
    return "?"
