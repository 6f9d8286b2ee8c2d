"""The CPUs that this process may use, and pinning to some of them."""

from __future__ import annotations

import os
from collections.abc import Iterable

_TASKS = "/proc/self/task"


def usable_cpus() -> list[int]:
    """Returns the numbers of the CPUs that the kernel lets this process use, in ascending order."""
    return sorted(os.sched_getaffinity(0))


def thread_ids() -> set[int]:
    """Returns the kernel's identifiers of this process's threads."""
    return {int(name) for name in os.listdir(_TASKS)}


def pin_threads(cpus: Iterable[int], spared: set[int]) -> None:
    """Lets all threads of this process use only ``cpus``, except those in ``spared``.

    Threads and processes that these start later inherit it. Raises OSError if the kernel grants this process none of
    the CPUs.
    """
    cpus = frozenset(cpus)
    for thread in thread_ids() - spared:
        try:
            os.sched_setaffinity(thread, cpus)
        except ProcessLookupError:  # the thread has ended meanwhile
            continue
