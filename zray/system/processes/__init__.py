"""Processes as the kernel shows them: how they end, to which session they belong, what they may use.

``proc`` reads ``/proc`` itself instead of using psutil: the zygote imports this package, and each of its pages counts.
"""

from __future__ import annotations

from zray.system.processes.ends import await_end, describe_exit
from zray.system.processes.grants import control_groups, cpu_count, integers, memory_limit_bytes
from zray.system.processes.kernel import prefer_in_oom, set_child_subreaper, set_dumpable, set_parent_death_signal
from zray.system.processes.killing import (
    SESSION_VARIABLE,
    TRACKER_GRACE_S,
    WORKER_VARIABLE,
    kill_descendants,
    kill_group,
    kill_orphans,
    kill_process,
    kill_session,
    processes_of_session,
)
from zray.system.processes.limits import describe_error, descriptors_left, past_standard, raise_descriptor_limit
from zray.system.processes.proc import (
    anonymous_bytes,
    children_of_this,
    commands_of_ancestors,
    descendants,
    descendants_of_each,
    memory_of,
    process_start_time,
    resident_bytes,
)
from zray.system.processes.signal_setup import accept_signals, accept_signals_of_a_command, end_orderly, end_signals
from zray.system.processes.titles import TITLE_PADDING, set_title

__all__ = [
    "SESSION_VARIABLE",
    "TITLE_PADDING",
    "TRACKER_GRACE_S",
    "WORKER_VARIABLE",
    "accept_signals",
    "accept_signals_of_a_command",
    "anonymous_bytes",
    "await_end",
    "children_of_this",
    "commands_of_ancestors",
    "control_groups",
    "cpu_count",
    "descendants",
    "descendants_of_each",
    "describe_error",
    "describe_exit",
    "descriptors_left",
    "end_orderly",
    "end_signals",
    "integers",
    "kill_descendants",
    "kill_group",
    "kill_orphans",
    "kill_process",
    "kill_session",
    "memory_limit_bytes",
    "memory_of",
    "past_standard",
    "prefer_in_oom",
    "process_start_time",
    "processes_of_session",
    "raise_descriptor_limit",
    "resident_bytes",
    "set_child_subreaper",
    "set_dumpable",
    "set_parent_death_signal",
    "set_title",
]
