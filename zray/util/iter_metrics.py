"""Counters that the functions of an iterator share: Ray's ``ray.util.iter_metrics``, see ``zray.util.iter``."""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["MetricsContext", "SharedMetrics"]


class Timer:
    """How long blocks take, as a context manager. ``mean`` is the mean in seconds, ``count`` the number of blocks."""

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self._started = 0.0

    def __enter__(self) -> Timer:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.count += 1
        self.total_s += time.perf_counter() - self._started

    @property
    def mean(self) -> float:
        """The mean time of a block in seconds; 0 if there was none."""
        return self.total_s / self.count if self.count else 0.0


class MetricsContext:
    """What functions of an iterator record.

    ``counters``: sums by name. ``timers``: by name. ``info``: anything else. ``current_actor``: the actor that the
    current item of ``gather_async`` came from.
    """

    def __init__(self) -> None:
        self.counters: collections.defaultdict[str, int] = collections.defaultdict(int)
        self.timers: collections.defaultdict[str, Timer] = collections.defaultdict(Timer)
        self.info: dict[str, Any] = {}
        self.current_actor: Any = None

    def save(self) -> dict[str, Any]:
        """Returns a copy of the counters and of ``info``, for ``restore``. Timers are not kept."""
        return {"counters": dict(self.counters), "info": dict(self.info), "timers": None}

    def restore(self, values: dict[str, Any]) -> None:
        """Sets what ``save`` has returned. Timers start anew."""
        self.counters.clear()
        self.counters.update(values["counters"])
        self.timers.clear()
        self.info = values["info"]


class SharedMetrics:
    """One context for a whole chain of iterators, and, after ``union``, for all chains that were united."""

    def __init__(self, metrics: MetricsContext | None = None, parents: Sequence[SharedMetrics] = ()) -> None:
        self.parents = list(parents)
        self.metrics = metrics or MetricsContext()
        self.set(self.metrics)

    def set(self, metrics: MetricsContext) -> None:
        """Makes this and its parents use ``metrics``."""
        self.metrics = metrics
        for parent in self.parents:
            parent.set(metrics)

    def get(self) -> MetricsContext:
        """Returns the context in use."""
        return self.metrics
