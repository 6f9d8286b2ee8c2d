"""Dask on a cluster: ``dask.compute(collection, scheduler=ray_dask_get)``, or ``enable_dask_on_ray()`` once.

The names are Ray's. Importing this module replaces ``dask.persist`` and the collections' method ``persist``: Dask does
not tell a scheduler whether values are to be computed or to stay where they are. Other schedulers are not affected.
"""

from zray.util.dask.callbacks import (
    ProgressBarCallback,
    RayDaskCallback,
    local_ray_callbacks,
    unpack_ray_callbacks,
)
from zray.util.dask.optimizations import dataframe_optimize
from zray.util.dask.persist import ray_dask_persist, replace_persist
from zray.util.dask.scheduler import disable_dask_on_ray, enable_dask_on_ray, ray_dask_get, ray_dask_get_sync

replace_persist()

__all__ = [
    "ProgressBarCallback",
    "RayDaskCallback",
    "dataframe_optimize",
    "disable_dask_on_ray",
    "enable_dask_on_ray",
    "local_ray_callbacks",
    "ray_dask_get",
    "ray_dask_get_sync",
    "ray_dask_persist",
    "unpack_ray_callbacks",
]
