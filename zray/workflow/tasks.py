"""Steps as tasks of the cluster."""

from __future__ import annotations

import contextlib
import functools
import queue
import time
from typing import TYPE_CHECKING, Any

from zray.api.objects import cancel, put
from zray.exceptions import ClusterUnavailableError, ZrayError
from zray.object_ref import ObjectRef, Tracker, get_tracker, has_tracker
from zray.system.queues import take
from zray.workflow.execution import Outcome
from zray.workflow.graphs import Call

if TYPE_CHECKING:
    from concurrent.futures import Future


class ClusterTasks:
    """Runs steps in the cluster that this process has joined (``zray.workflow.execution.Tasks``)."""

    def __init__(self) -> None:
        self._ends: queue.SimpleQueue[tuple[str, Future[Any], float]] = queue.SimpleQueue()
        self._started: dict[str, tuple[ObjectRef[Any], float]] = {}
        self._cluster: Tracker | None = None  # known after the first call, which may be what joins it

    def hold(self, value: Any) -> ObjectRef[Any]:
        """Puts a value."""
        self._check()
        return self._noted(put(value))

    def start(self, step: str, call: Call, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Submits a step."""
        assert call.function is not None
        self._check()
        started = time.time()
        ref = self._noted(call.function.remote(*args, **kwargs))
        self._started[step] = ref, started
        ref.future().add_done_callback(functools.partial(self._ended, step))

    def _noted(self, ref: ObjectRef[Any]) -> ObjectRef[Any]:
        self._cluster = ref._tracker
        return ref

    def _check(self) -> None:
        """Raises ClusterUnavailableError after ``shutdown``: a call would start or join another cluster."""
        if self._cluster is not None and not is_current(self._cluster):
            raise ClusterUnavailableError("zray.shutdown() was called while the workflow ran")

    def _ended(self, step: str, future: Future[Any]) -> None:
        self._ends.put((step, future, time.time()))

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        """Waits up to ``timeout_s`` seconds for an end; returns all ends that are there."""
        found = []
        try:
            found.append(take(self._ends, timeout_s))
            while True:
                found.append(self._ends.get_nowait())
        except queue.Empty:
            return [self._outcome(*end) for end in found]

    def _outcome(self, step: str, future: Future[Any], ended: float) -> Outcome:
        _, started = self._started.pop(step)
        error = future.exception()
        return Outcome(step, future.result() if error is None else None, error, started, ended)

    def cancel(self) -> None:
        """Cancels the tasks that have not ended. If the cluster is gone, so are they."""
        for ref, _ in self._started.values():
            if is_current(ref._tracker):
                with contextlib.suppress(ZrayError):
                    cancel(ref)


def is_current(cluster: Tracker | None) -> bool:
    """Whether this process is still in the cluster whose references have this tracker."""
    return has_tracker() and get_tracker() is cluster
