"""``ray_dask_get``: a scheduler for Dask. Each node of a graph that computes something is a task.

The tasks are submitted at once, in Dask's order, with references to the results of others as arguments: the cluster
runs each when its arguments exist. An intermediate value is freed when the last task that needs it has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import dask
from dask._task_spec import Alias, DataNode, TaskRef, convert_legacy_graph
from dask.callbacks import local_callbacks, unpack_callbacks
from dask.order import order
from dask.utils import key_split

import zray
from zray.user_warnings import warn_user
from zray.util.dask.callbacks import PROGRESS_ACTOR, RayCallbacks, local_ray_callbacks, unpack_ray_callbacks
from zray.util.dask.execution import execute

logger = logging.getLogger(__name__)

PROGRESS_S = 0.1
"""How often the bar shows its progress, in seconds."""

_USE_REMOTE_ARGS = (
    "Dask on zray takes resources={...} as an option of tasks: ray_remote_args={'resources': {...}}, also in "
    "dask.annotate()"
)
_task = zray.remote(execute)


def enable_dask_on_ray(shuffle: str | None = "tasks", use_shuffle_optimization: bool | None = True) -> Any:
    """Makes this the default scheduler of Dask. As a context manager, within ``with`` only.

    Args:
        shuffle: how dataframes are shuffled: "tasks", or "disk", for which all hosts need the same file system.
        use_shuffle_optimization: sets ``dataframe_optimize``, which today's Dask does not use.
    """
    from zray.util.dask.optimizations import dataframe_optimize

    return dask.config.set(
        {
            "scheduler": ray_dask_get,
            "dataframe.shuffle.method": shuffle,
            "dataframe_optimize": dataframe_optimize if use_shuffle_optimization else None,
        }
    )


def disable_dask_on_ray() -> Any:
    """Takes back what ``enable_dask_on_ray`` has set."""
    settings = ("scheduler", "dataframe.shuffle.method", "dataframe_optimize")
    return dask.config.set(dict.fromkeys(settings))


def ray_dask_get(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """Computes ``keys`` of a graph in the cluster. Dask calls it with these arguments.

    Args:
        dsk: a graph: a mapping, or an expression.
        keys: a key, or lists of them.
        kwargs: ``ray_remote_args``: options of the tasks; those of ``dask.annotate(ray_remote_args=...)`` come after
            them. ``ray_callbacks``: instead of the active ones. ``ray_persist``: return references.
            ``_ray_enable_progress_bar``: show the progress, see ``ProgressBarCallback``. ``num_workers`` and ``pool``
            have no meaning, because tasks are submitted by this thread.

    Returns:
        The values, in the structure of ``keys``.

    Raises:
        ValueError: ``resources`` was given outside ``ray_remote_args``.
        TaskError: a task raised. It is an instance of what the task raised, too.
    """
    if "resources" in kwargs or "resources" in dask.get_annotations():
        raise ValueError(_USE_REMOTE_ARGS)
    for name in ("num_workers", "pool"):
        if kwargs.get(name) is not None:
            logger.debug("ray_dask_get: %s has no meaning, because tasks are submitted by one thread", name)
    if not isinstance(dsk, Mapping):
        dsk = dsk.__dask_graph__()
    options = _options_by_key(dsk, kwargs.get("ray_remote_args") or {})
    with local_ray_callbacks(kwargs.get("ray_callbacks")) as active, local_callbacks(kwargs.get("callbacks")) as plain:
        ours = unpack_ray_callbacks(active)
        graph = convert_legacy_graph(dsk)
        results = _Submission(graph, options, ours, plain).submit(keys)
        for each in ours.ray_postsubmit_all_cbs:
            each(results, graph)
        del graph, dsk  # values in the graph are freed as soon as their tasks have ended
        if not kwargs.get("ray_persist"):
            if kwargs.get("_ray_enable_progress_bar"):
                _show_progress(results)
            results = _values(results)
        for each in ours.ray_finish_cbs:
            each(results)
    return results


def ray_dask_get_sync(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """As ``ray_dask_get``. In Ray this is the scheduler that submits tasks without threads; here both do."""
    return ray_dask_get(dsk, keys, **kwargs)


class _Submission:
    """Submits the tasks of one graph."""

    def __init__(
        self, graph: Mapping[Any, Any], options: Mapping[Any, dict[str, Any]], ours: RayCallbacks, plain: Iterable[Any]
    ) -> None:
        self._graph = graph
        self._options = options
        self._ours = ours
        self._start, self._start_state, self._pretask, self._posttask, self._finish = unpack_callbacks(plain)
        self._tasks: dict[tuple[str, str], Any] = {}
        self._results: dict[Any, Any] = {}
        self._state: dict[str, Any] = {
            "waiting": {},
            "ready": [],
            "running": set(),
            "finished": set(),
            "cache": self._results,
        }

    def submit(self, keys: Any) -> Any:
        """Returns references, and values that need no task, in the structure of ``keys``."""
        for each in self._start:
            each(self._graph)
        self._state["waiting"] = dict.fromkeys(self._graph)
        for each in self._start_state:
            each(self._graph, self._state)
        is_done = False
        try:
            for key in sorted(self._graph, key=order(self._graph).__getitem__):
                self._need(key)
            is_done = True
        finally:
            for each in self._finish:
                if each is not None:
                    each(self._graph, self._state, not is_done)
        return self._of(keys)

    def _of(self, keys: Any) -> Any:
        return tuple(map(self._of, keys)) if isinstance(keys, list) else self._results[keys]

    def _need(self, key: Any) -> None:
        """Submits the task of ``key`` after those that it needs. Without recursion: a chain may have any length."""
        stack = [key]
        while stack:
            top = stack[-1]
            if top in self._results:
                stack.pop()
                continue
            missing = [other for other in self._graph[top].dependencies if other not in self._results]
            if not missing:
                self._results[top] = self._result_of(top, self._graph[top])
            stack.extend(missing)

    def _result_of(self, key: Any, node: Any) -> Any:
        if isinstance(node, DataNode):
            return node.value
        if isinstance(node, Alias):
            target = node.target
            return self._results[target.key if isinstance(target, TaskRef) else target]
        for each in self._pretask:
            each(key, self._graph, self._state)
        result = self._submit_task(key, node)
        self._state["waiting"].pop(key, None)
        self._state["finished"].add(key)
        for each in self._posttask:
            each(key, result, self._graph, self._state, 0)
        return result

    def _submit_task(self, key: Any, node: Any) -> Any:
        needed = {dependency: self._results[dependency] for dependency in node.dependencies}
        replacements = [each(node, key, needed) for each in self._ours.ray_presubmit_cbs]
        replaced = next((value for value in replacements if value is not None), None)
        if replaced is not None:
            return replaced
        ours = self._ours
        pretasks, posttasks = ours.ray_pretask_cbs, ours.ray_posttask_cbs
        ref = self._task(key).remote(node, key, list(needed), pretasks, posttasks, *needed.values())
        for each in ours.ray_postsubmit_cbs:
            each(node, key, needed, ref)
        return ref

    def _task(self, key: Any) -> Any:
        """The remote function for a task, with its name and options."""
        name, options = f"dask:{key_split(key)}", self._options.get(key, {})
        kind = (name, repr(options))
        task = self._tasks.get(kind)
        if task is None:
            task = self._tasks[kind] = _task.options(**{"name": name, **options})
        return task


def _options_by_key(dsk: Any, common: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    """Returns the options of each task: the call's, then those of ``dask.annotate`` around it, then its layer's."""
    around = dask.get_annotations().get("ray_remote_args") or {}
    layers = getattr(dsk, "layers", None) or {"": dsk}
    options: dict[Any, dict[str, Any]] = {}
    for layer in layers.values():
        annotations = getattr(layer, "annotations", None) or {}
        if "resources" in annotations:
            raise ValueError(_USE_REMOTE_ARGS)
        merged = {**common, **around, **(annotations.get("ray_remote_args") or {})}
        if merged:
            options.update(dict.fromkeys(layer, merged))
    return options


def _values(results: Any) -> Any:
    """Replaces references by values in nested tuples. All are waited for together."""
    refs: list[Any] = []

    def collect(part: Any) -> None:
        if isinstance(part, tuple):
            for each in part:
                collect(each)
        elif isinstance(part, zray.ObjectRef):
            refs.append(part)

    def fill(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(fill(each) for each in part)
        return next(values) if isinstance(part, zray.ObjectRef) else part

    collect(results)
    values = iter(zray.get(refs))
    return fill(results)


def _show_progress(results: Any) -> None:
    """Shows a bar until the results exist. Without tqdm it warns and shows none."""
    try:
        import tqdm  # type: ignore[import-untyped]
    except ImportError:
        warn_user("the progress of Dask is shown with tqdm, which is not installed: pip install tqdm")
        return
    counter = zray.get_actor(PROGRESS_ACTOR)
    refs = [ref for ref in _flat(results) if isinstance(ref, zray.ObjectRef)]
    with tqdm.tqdm(total=zray.get(counter.result.remote())[0], desc="Dask") as bar:
        while refs:
            _, refs = zray.wait(refs, num_returns=len(refs), timeout=PROGRESS_S)
            total, finished = zray.get(counter.result.remote())
            bar.total = total
            bar.update(finished - bar.n)


def _flat(results: Any) -> list[Any]:
    return [leaf for part in results for leaf in _flat(part)] if isinstance(results, tuple) else [results]
