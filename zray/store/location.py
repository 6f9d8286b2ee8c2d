"""Where the store of a session is, how large it can be there, and whether a process shares it.

Two processes of one machine and user may see different files, since containers have file systems of their own. So an
equal machine name only means that the store may be shared. The proof is in the store's ``store.json``: the identifier
of the host that made the store, and the directory, by device and inode, that it spills to.
"""

from __future__ import annotations

import json
import os
from typing import Any

SHARED_MEMORY = "/dev/shm"
MAX_DEFAULT_BYTES = 64 << 30
TINY_BYTES = 128 * 1024 * 1024
"""Smaller shared memory (a container's default is 64 MiB) is not used when more was asked for."""


def default_capacity(memory_bytes: int) -> int:
    """Returns the capacity in bytes of the store of a host that may use ``memory_bytes``."""
    return min(MAX_DEFAULT_BYTES, int(memory_bytes * 0.3))


def default_store_location(session_name: str, requested_bytes: int) -> tuple[str, int, str | None]:
    """Returns a place for a store of ``requested_bytes`` (more than 0): path, capacity in bytes, and a warning or None.

    Shared memory is preferred. Where it is missing, not writable or tiny, the place is a directory for temporary files,
    with the speed of its disk. The capacity is at most what the file system has free. The path does not exist yet.
    """
    name = f"zray-{os.getuid()}-{session_name}"
    available = _available(SHARED_MEMORY)
    if available >= min(requested_bytes, TINY_BYTES):
        if available >= requested_bytes:
            return f"{SHARED_MEMORY}/{name}", requested_bytes, None
        return (
            f"{SHARED_MEMORY}/{name}",
            available,
            f"{SHARED_MEMORY} has only {available:,} bytes free for the object store, and {requested_bytes:,} were "
            f"asked for; more has to be spilled to disk",
        )
    fallback = os.environ.get("TMPDIR") or "/tmp"
    why = f"has only {available:,} bytes free" if available else "is missing, full or not writable"
    warning = (
        f"{SHARED_MEMORY} {why}, so the object store is in {fallback}, which may be much slower; in a container, "
        f"give it more with --shm-size"
    )
    return os.path.join(fallback, name + "-store"), min(requested_bytes, _available(fallback)), warning


def proof_of(host_id: bytes, spill_dir: str) -> dict[str, Any]:
    """Returns what a store's description says of its host and its spill directory. Raises OSError."""
    status = os.stat(spill_dir)
    return {"host": host_id.hex(), "spill_inode": [status.st_dev, status.st_ino]}


def shares_store(path: str, host_id: bytes) -> bool:
    """Whether this process can use the store that a host has at ``path``, and its spilled objects."""
    try:
        with open(f"{path}/store.json") as file:
            description = json.load(file)
        expected = proof_of(host_id, description["spill_dir"])
        if any(description[key] != value for key, value in expected.items()):
            return False
        return os.access(path, os.R_OK | os.W_OK | os.X_OK)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # missing, of another host, or not a store
        return False


def _available(directory: str) -> int:
    """Returns the number of bytes that this user can still write in ``directory``."""
    try:
        if not os.access(directory, os.W_OK | os.X_OK):
            return 0
        status = os.statvfs(directory)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize
