"""The implementations under test behind one small interface, so that a row is written once.

zray and Ray have the same API: `Cluster.api` is the module, and rows call it directly. The two pools know tasks only.
Nothing is imported before `start()`: the time that an import takes is part of what is measured.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from typing import Any

WORKERS = 2

Submit = Callable[..., Any]
Gather = Callable[[Iterable[Any]], list[Any]]


class Cluster:
    """zray or Ray, on this machine, with two CPUs."""

    OPTIONS: dict[str, dict[str, Any]] = {
        "zray": {},
        # Quiet, and without the parts that zray has no counterpart of: that is to Ray's advantage.
        "ray": {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"},
    }

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self) -> None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about GPUs
        self.api: Any = importlib.import_module(self.name)
        self.api.init(num_cpus=WORKERS, **self.OPTIONS[self.name])

    def task(self, function: Callable[..., Any]) -> tuple[Submit, Gather]:
        """How to start the function as a task, and how to wait for the results of many."""
        return self.api.remote(function).remote, self.api.get

    def stop(self) -> None:
        self.api.shutdown()

    def version(self) -> str:
        return str(getattr(self.api, "__version__", "?"))


class Pool:
    """loky or ProcessPoolExecutor ("ppe") with two processes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self) -> None:
        self.module = importlib.import_module({"loky": "loky", "ppe": "concurrent.futures"}[self.name])
        self.executor = self.module.ProcessPoolExecutor(max_workers=WORKERS)

    def task(self, function: Callable[..., Any]) -> tuple[Submit, Gather]:
        executor = self.executor

        def submit(*arguments: Any) -> Any:
            return executor.submit(function, *arguments)

        def gather(futures: Iterable[Any]) -> list[Any]:
            return [future.result() for future in futures]

        return submit, gather

    def stop(self) -> None:
        self.executor.shutdown(wait=True)

    def version(self) -> str:
        return str(getattr(self.module, "__version__", "")) or "of the standard library"


Peer = Cluster | Pool


def peer(name: str) -> Peer:
    return Cluster(name) if name in Cluster.OPTIONS else Pool(name)
