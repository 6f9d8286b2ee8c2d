"""The module of the library cloudpickle that defines its pickler, in the place where Ray has its own copy."""

from __future__ import annotations

from cloudpickle.cloudpickle import *  # noqa: F403
from cloudpickle.cloudpickle import CloudPickler as CloudPickler
from cloudpickle.cloudpickle import subimport as subimport
