"""Where the store of a session goes, how large it can be there, and whether a process shares it.

Two processes of one machine and user need not see the same files: containers have file systems of their own. So the
name of the machine only says that it is worth while to look. What proves it is in the store's ``store.json``: the
identifier of the host that made it, and which directory, by device and inode, it spills to.
"""

from __future__ import annotations

import json
import os
from typing import Any

SHARED_MEMORY = "/dev/shm"
_TINY_BYTES = 128 * 1024 * 1024
"""Shared memory below this (a container's default is 64 MiB) is left to others when more was asked for."""


def default_store_location(session_name: str, requested_bytes: int) -> tuple[str, int, str | None]:
    """A place for a store of ``requested_bytes`` (more than 0): path, capacity in bytes, and a warning or None.

    Shared memory is preferred; where it is missing, not writable or tiny, a directory for temporary files serves, at
    the speed of its disk. The capacity is at most what the file system has free. The path does not exist yet.
    """
    name = f"zray-{os.getuid()}-{session_name}"
    available = _available(SHARED_MEMORY)
    if available >= min(requested_bytes, _TINY_BYTES):
        if available >= requested_bytes:
            return f"{SHARED_MEMORY}/{name}", requested_bytes, None
        return (
            f"{SHARED_MEMORY}/{name}",
            available,
            f"{SHARED_MEMORY} has only {available:,} bytes free for the object store, of {requested_bytes:,} asked "
            f"for; more has to be spilled to disk",
        )
    fallback = os.environ.get("TMPDIR") or "/tmp"
    why = f"has only {available:,} bytes free" if available else "is missing, full or not writable"
    warning = (
        f"{SHARED_MEMORY} {why}, so the object store is in {fallback}, which may be much slower; in a container, "
        f"give it more with --shm-size"
    )
    return os.path.join(fallback, name + "-store"), min(requested_bytes, _available(fallback)), warning


def proof_of(host_id: bytes, spill_dir: str) -> dict[str, Any]:
    """What a store's own description says of whose it is and where it spills. Raises OSError."""
    status = os.stat(spill_dir)
    return {"host": host_id.hex(), "spill_inode": [status.st_dev, status.st_ino]}


def shares_store(path: str, host_id: bytes) -> bool:
    """Whether the store that a host says it has at ``path`` is there for this process, too, with what is spilled."""
    try:
        with open(f"{path}/store.json") as file:
            description = json.load(file)
        expected = proof_of(host_id, description["spill_dir"])
        if any(description[key] != value for key, value in expected.items()):
            return False
        return os.access(path, os.R_OK | os.W_OK | os.X_OK)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none, another's, or no store at all
        return False


def _available(directory: str) -> int:
    """Bytes that this user can still write there."""
    try:
        if not os.access(directory, os.W_OK | os.X_OK):
            return 0
        status = os.statvfs(directory)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize
