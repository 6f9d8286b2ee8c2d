"""The library cloudpickle, in the module in which Ray has its own copy."""

from __future__ import annotations

import pickle
from pickle import PicklingError

from cloudpickle import (
    DEFAULT_PROTOCOL,
    CloudPickler,
    Pickler,
    dump,
    dumps,
    load,
    loads,
    register_pickle_by_value,
    unregister_pickle_by_value,
)
from cloudpickle.cloudpickle import list_registry_pickle_by_value, subimport

__all__ = [
    "DEFAULT_PROTOCOL",
    "CloudPickler",
    "Pickler",
    "PicklingError",
    "dump",
    "dumps",
    "list_registry_pickle_by_value",
    "load",
    "loads",
    "pickle",
    "register_pickle_by_value",
    "subimport",
    "unregister_pickle_by_value",
]
