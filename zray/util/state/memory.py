"""The references that the processes of a cluster hold, as a text."""

from __future__ import annotations

from zray.util.state.api import list_objects
from zray.util.state.common import ObjectState

__all__ = ["memory_summary"]

UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
SORT_KEYS = {
    "OBJECT_SIZE": lambda row: -row.object_size,
    "PID": lambda row: row.pid,
    "REFERENCE_TYPE": lambda row: row.reference_type,
}
GROUP_KEYS = {
    "NODE_ADDRESS": lambda row: f"node address: {row.ip or 'this machine'}",
    "STACK_TRACE": lambda row: f"stack trace: {row.call_site}",
}
LIMIT = 10_000
"""The largest number of references that are listed."""
HEADING = "IP Address | PID | Type | Call Site | Status | Attempt | Size | Reference Type | Object Ref"


def memory_summary(
    address: str | None = None,
    group_by: str = "NODE_ADDRESS",
    sort_by: str = "OBJECT_SIZE",
    units: str = "B",
    line_wrap: bool = True,
    stats_only: bool = False,
    num_entries: int | None = None,
) -> str:
    """Lists the references that processes hold, one a line, with the object, its size and what holds it.

    Args:
        address: the broker's address; None: the cluster of this process.
        group_by: "NODE_ADDRESS", or "STACK_TRACE", which zray does not record, so that all are in one group.
        sort_by: "OBJECT_SIZE", "PID" or "REFERENCE_TYPE".
        units: of sizes: "B", "KB", "MB" or "GB".
        line_wrap: has no meaning: lines are not wrapped.
        stats_only: only the counts at the end.
        num_entries: how many lines of each group are shown; None: all.

    Raises:
        ValueError: another value of ``group_by``, ``sort_by`` or ``units``.
    """
    for name, value, allowed in (
        ("group_by", group_by, GROUP_KEYS),
        ("sort_by", sort_by, SORT_KEYS),
        ("units", units, UNITS),
    ):
        if value not in allowed:
            raise ValueError(
                f"memory_summary(): {name}={value!r} is not allowed; it must be one of {', '.join(allowed)}"
            )
    rows = sorted(list_objects(address=address, limit=LIMIT), key=SORT_KEYS[sort_by])
    lines = [] if stats_only else ["======== Object references status ========"]
    groups: dict[str, list[ObjectState]] = {}
    for row in rows:
        groups.setdefault(GROUP_KEYS[group_by](row), []).append(row)
    if not stats_only:
        for heading, members in groups.items():
            lines += [f"--- Object references for {heading} ---", HEADING]
            lines += [_line(row, units) for row in members[:num_entries]]
    sizes = {row.object_id: max(0, row.object_size) for row in rows}
    total = _size(sum(sizes.values()), units)
    lines += ["--- Aggregate object store stats across all nodes ---", f"{total}, {len(sizes)} objects"]
    return "\n".join(lines) + "\n"


def _line(row: ObjectState, units: str) -> str:
    size = "?" if row.object_size < 0 else _size(row.object_size, units)
    parts = (row.ip, row.pid, row.type, row.call_site, row.task_status, row.attempt_number, size, row.reference_type)
    return " | ".join(map(str, (*parts, row.object_id)))


def _size(size_bytes: int, units: str) -> str:
    return f"{size_bytes / UNITS[units]:.1f} {units}"
