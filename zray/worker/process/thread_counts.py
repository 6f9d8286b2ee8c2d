"""How many threads numerical libraries use: as many as the CPUs of the running task or actor, at least one.

A library reads its variable when it is loaded. So the variables are set before the user's code runs. When a worker is
used again with another number of CPUs, a library may be loaded already. Then threadpoolctl corrects it, if it is
installed.
"""

from __future__ import annotations

import os
import sys

VARIABLES = {
    "OMP_NUM_THREADS": "openmp",
    "OPENBLAS_NUM_THREADS": "blas",
    "MKL_NUM_THREADS": "blas",
    "BLIS_NUM_THREADS": "blas",
    "VECLIB_MAXIMUM_THREADS": "",
    "NUMEXPR_NUM_THREADS": "",
}
"""The variables, and what threadpoolctl calls the libraries that read them; empty if it does not know them."""
_LOADERS = ("numpy", "torch")
"""Modules that load such libraries, or that others which load them import."""


class ThreadCounts:
    """Make one before any code of the user runs. Variables that are set then are the user's, and stay as they are."""

    def __init__(self) -> None:
        self._count = 0
        self._own = [name for name in VARIABLES if name not in os.environ]

    def apply(self, count: int) -> None:
        """Sets the number of threads, if it has changed."""
        if count == self._count:
            return
        is_first, self._count = not self._count, count
        for name in self._own:
            os.environ[name] = str(count)
        if not is_first and any(name in sys.modules for name in _LOADERS):
            self._correct(count)

    def _correct(self, count: int) -> None:
        """Has libraries that are loaded use another number of threads, except kinds for which the user has set it."""
        of_user = {kind for name, kind in VARIABLES.items() if name not in self._own}
        limits = {kind: count for kind in ("openmp", "blas") if kind not in of_user}
        try:
            import threadpoolctl
        except ImportError:  # libraries that are loaded keep their number
            return
        threadpoolctl.threadpool_limits(limits)
