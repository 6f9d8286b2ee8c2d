"""``persist`` for this scheduler: the values stay in the cluster, and the collection has references to them."""

from __future__ import annotations

import functools
from typing import Any

import dask
from dask.base import DaskMethodsMixin, get_scheduler

from zray.util.dask.scheduler import ray_dask_get, ray_dask_get_sync

_dask_persist = dask.persist
_mixin_persist = DaskMethodsMixin.persist


@functools.wraps(_dask_persist)
def ray_dask_persist(*args: Any, **kwargs: Any) -> Any:
    """As ``dask.persist``."""
    return _dask_persist(*args, **_marked(args, kwargs))


@functools.wraps(_mixin_persist)
def _persist_of_collections(self: Any, **kwargs: Any) -> Any:
    return _mixin_persist(self, **_marked([self], kwargs))


def _marked(collections: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments, with a mark for this scheduler if it is the one that will run."""
    chosen = get_scheduler(scheduler=kwargs.get("scheduler"), collections=collections)
    return {**kwargs, "ray_persist": True} if chosen in (ray_dask_get, ray_dask_get_sync) else kwargs


def replace_persist() -> None:
    """Puts these functions in the place of Dask's."""
    dask.persist = ray_dask_persist
    DaskMethodsMixin.persist = _persist_of_collections
