"""``RayDaskCallback``: callbacks of a computation, with those that Ray adds to Dask's."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Iterator
from typing import Any

from dask.callbacks import Callback

import zray
from zray.named_tuples import NamedTuple


class RayCallback(NamedTuple):
    """The functions of one ``RayDaskCallback``; None for those that it does not have."""

    ray_presubmit: Any = None
    ray_postsubmit: Any = None
    ray_pretask: Any = None
    ray_posttask: Any = None
    ray_postsubmit_all: Any = None
    ray_finish: Any = None


CBS = RayCallback._fields


class RayCallbacks(NamedTuple):
    """The functions of several callbacks, by name. Those of ``ray_pretask`` and ``ray_posttask`` belong together by
    their place, so these lists keep None; the others do not."""

    ray_presubmit_cbs: list[Any]
    ray_postsubmit_cbs: list[Any]
    ray_pretask_cbs: list[Any]
    ray_posttask_cbs: list[Any]
    ray_postsubmit_all_cbs: list[Any]
    ray_finish_cbs: list[Any]


class RayDaskCallback(Callback):  # type: ignore[misc]
    """Callbacks of the computations within ``with``, or after ``register()``.

    Subclass it and define these methods, or pass functions under the same names without the first underscore. Dask's
    own (``start``, ``pretask``, ...) work too, and are called where tasks are submitted.

    - ``_ray_presubmit(task, key, deps)``: before a task is submitted. If it returns something other than None, that is
      the result, and the task is not run. ``deps``: references or values by key.
    - ``_ray_postsubmit(task, key, deps, object_ref)``: after that.
    - ``_ray_pretask(key, object_refs)``: in the worker, before the task. What it returns goes to ``_ray_posttask``.
    - ``_ray_posttask(key, result, pre_state)``: in the worker, after the task.
    - ``_ray_postsubmit_all(object_refs, dsk)``: when all tasks of the graph ``dsk`` have been submitted.
    - ``_ray_finish(result)``: at the end, with the values.
    """

    ray_active: set[RayCallback] = set()

    def __init__(self, **functions: Any) -> None:
        for name in CBS:
            function = functions.pop(name, None)
            if function is not None:
                setattr(self, f"_{name}", function)
        super().__init__(**functions)

    @property
    def _ray_callback(self) -> RayCallback:
        return RayCallback(*(getattr(self, f"_{name}", None) for name in CBS))

    def __enter__(self) -> RayDaskCallback:
        self.register()
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()

    def register(self) -> None:
        """Calls the functions in each computation from now on."""
        RayDaskCallback.ray_active.add(self._ray_callback)
        super().register()

    def unregister(self) -> None:
        """Ends that."""
        RayDaskCallback.ray_active.discard(self._ray_callback)
        Callback.active.discard(self._callback)  # not super(): several without functions of Dask are one to it


def unpack_ray_callbacks(callbacks: Iterable[RayCallback | RayDaskCallback] | None) -> RayCallbacks:
    """Returns the functions of all callbacks, by name."""
    given = [each._ray_callback if isinstance(each, RayDaskCallback) else each for each in callbacks or ()]
    columns: list[list[Any]] = [[getattr(each, name) for each in given] for name in CBS]
    for name, column in zip(CBS, columns, strict=True):
        if name not in ("ray_pretask", "ray_posttask"):
            column[:] = [function for function in column if function]
    return RayCallbacks(*columns)


@contextlib.contextmanager
def local_ray_callbacks(callbacks: Any = None) -> Iterator[Any]:
    """Yields ``callbacks``, or the active ones, which are then not active in computations within this one."""
    if callbacks is not None:
        yield callbacks
        return
    active, RayDaskCallback.ray_active = RayDaskCallback.ray_active, set()
    try:
        yield active
    finally:
        RayDaskCallback.ray_active = active


PROGRESS_ACTOR = "_dask_on_ray_pb"
"""The name of the actor that counts tasks."""


class _Progress:
    """Counts the tasks of computations."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.submitted: dict[Any, datetime.datetime] = {}
        self.scheduled: dict[Any, datetime.datetime] = {}
        self.finished: dict[Any, datetime.datetime] = {}

    def submit(self, key: Any, now: datetime.datetime) -> None:
        self.submitted[key] = now

    def task_scheduled(self, key: Any, now: datetime.datetime) -> None:
        self.scheduled[key] = now

    def finish(self, key: Any, now: datetime.datetime) -> None:
        self.finished[key] = now

    def result(self) -> tuple[int, int]:
        """The numbers of tasks that were submitted and that have finished."""
        return len(self.submitted), len(self.finished)

    def report(self) -> dict[Any, dict[str, float]]:
        """For each finished task, the seconds that it ran and that it waited before."""
        report: dict[Any, dict[str, float]] = {}
        for key, finished in self.finished.items():
            scheduled = self.scheduled.get(key, finished)
            report[key] = {
                "execution_time": (finished - scheduled).total_seconds(),
                "scheduling_time": (scheduled - self.submitted.get(key, scheduled)).total_seconds(),
            }
        return report


class ProgressBarCallback(RayDaskCallback):
    """Counts the tasks of computations within ``with``. ``compute(_ray_enable_progress_bar=True)`` shows how far it is.

    ``pb`` is the handle of the counting actor: ``result`` returns the numbers of submitted and finished tasks.
    """

    def __init__(self) -> None:
        super().__init__()
        actor = zray.remote(num_cpus=0)(_Progress)
        self.pb = actor.options(name=PROGRESS_ACTOR, get_if_exists=True).remote()
        zray.get(self.pb.reset.remote())

    def _ray_postsubmit(self, task: Any, key: Any, deps: Any, object_ref: Any) -> None:
        self.pb.submit.remote(key, datetime.datetime.now())

    def _ray_pretask(self, key: Any, object_refs: Any) -> None:
        self.pb.task_scheduled.remote(key, datetime.datetime.now())

    def _ray_posttask(self, key: Any, result: Any, pre_state: Any) -> None:
        self.pb.finish.remote(key, datetime.datetime.now())
