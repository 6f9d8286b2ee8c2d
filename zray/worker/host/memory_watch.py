"""When a host looks at the memory of its machine, when memory is short, and whether the kernel has killed. Pure."""

from __future__ import annotations

import math

FILLS_BYTES_PER_S = 4 * 2**30
"""How fast programs can fill memory: the kernel has to clear each page. So far from the threshold a look can wait."""
MOST_S = 2.0
"""The longest time between two looks, in seconds."""
KERNEL_S = 5.0
"""How long after the kernel's counter has risen a death by SIGKILL counts as the kernel's, in seconds."""


LEAST_PAUSE = 10
"""A look that takes long, because there are thousands of processes, is followed by a pause this many times as long."""


class MemoryWatch:
    """The watch of one host.

    ``threshold``: the part of the memory from which on it is short; ``refresh_s``: the time between two looks near the
    threshold, 0 for no looks. ``look_at``: when to look next; ``kills``: the kernel's counter at the start.
    """

    def __init__(self, threshold: float, refresh_s: float, kills: int = 0) -> None:
        self.threshold = threshold
        self._refresh_s = refresh_s
        self.look_at = 0.0 if refresh_s else math.inf
        self._kills = kills
        self._rose_at = -math.inf

    def took(self, seconds: float) -> None:
        """Notes how long a look took in which memory was short: it costs at most ``1 / LEAST_PAUSE`` of the time."""
        self.look_at += LEAST_PAUSE * seconds

    def looked(self, used: int, limit: int, now: float) -> bool:
        """Notes a reading, in bytes. Returns whether memory is short."""
        room = self.threshold * limit - used
        self.look_at = now + max(self._refresh_s, min(MOST_S, room / FILLS_BYTES_PER_S))
        return room < 0

    def counted(self, kills: int, now: float) -> None:
        """Notes the kernel's counter of processes that it has killed for lack of memory."""
        if kills > self._kills:
            self._rose_at = now
        self._kills = kills

    def by_kernel(self, now: float) -> bool:
        """Whether a process that has just died by SIGKILL was probably killed by the kernel for lack of memory."""
        return now - self._rose_at <= KERNEL_S
