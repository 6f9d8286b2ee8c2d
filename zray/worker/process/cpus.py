"""Pins a worker to the CPUs that the broker has chosen for its work (``zray.broker.cpus``).

What is pinned is the main thread and all threads of the user's code. Threads that this code starts later, and child
processes, inherit it. Threads that zray itself has started by then (they exchange messages) may use all CPUs.
"""

from __future__ import annotations

import os

from zray.system.cpus import pin_threads, thread_ids, usable_cpus
from zray.system.streams import say


class Pinning:
    """Apply one before any code of the user runs, in the main thread of a process that has not been pinned."""

    def __init__(self) -> None:
        self._cpus: list[int] = []  # of the host; empty until the first work that may be pinned
        self._spared: set[int] = set()  # zray's threads
        self._positions: list[int] = []  # those that are pinned to
        self._has_failed = False

    def apply(self, positions: list[int], for_life: bool = False) -> None:
        """Pins to CPUs, given by their positions among those of the host; empty: to all of these.

        ``for_life``: an actor's, which stay the same. If they are none, nothing will be pinned, and zray's threads are
        not looked for: that takes 0.1 ms, in the start of each actor.
        """
        if not self._cpus and not (for_life and not positions):
            self._cpus = usable_cpus()
            self._spared = thread_ids() - {os.getpid()}  # the main thread has the identifier of the process
        if positions == self._positions:
            return
        self._positions = positions
        # The kernel may have taken CPUs away since the host began: then there are fewer than the broker knows of.
        chosen = [self._cpus[position] for position in positions if position < len(self._cpus)] or self._cpus
        try:
            pin_threads(chosen, self._spared)
        except OSError as error:
            if not self._has_failed:
                say(f"zray: the kernel does not let this worker use the CPUs {chosen}, so it uses others: {error}")
            self._has_failed = True
