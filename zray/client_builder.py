"""``ray.client()``: Ray's older way to join a cluster. It is deprecated, and does what ``init`` does."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

from zray.api.cluster import init
from zray.api.cluster_context import Context as ClientContext
from zray.job_config import JobConfig

__all__ = ["ClientBuilder", "ClientContext", "client"]

_INIT_ARGUMENTS = ("address", "namespace", "runtime_env")


class ClientBuilder:
    """Collects what ``connect`` passes to ``init``.

    Args:
        address: as in ``init``; Ray's ``HOST:PORT`` too.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        self._job_config = JobConfig()
        self._arguments: dict[str, Any] = {}
        self._deprecation_warn_enabled = True

    def env(self, env: dict[str, Any]) -> ClientBuilder:
        """Sets the runtime environment of the job. Returns this object."""
        self._job_config.set_runtime_env(env)
        return self

    def namespace(self, namespace: str) -> ClientBuilder:
        """Sets the namespace of the job. Returns this object."""
        self._job_config.set_ray_namespace(namespace)
        return self

    def _init_args(self, **kwargs: Any) -> ClientBuilder:
        """Sets further arguments of ``init``. Returns this object."""
        self._arguments.update(kwargs)
        return self

    def connect(self) -> ClientContext:
        """Joins the cluster, or starts one. Warns with DeprecationWarning.

        ``RAY_NAMESPACE`` and ``RAY_RUNTIME_ENV`` (JSON) apply where the program does not say it.

        Returns:
            What ``init`` returns.

        Raises:
            The same as ``init``.
        """
        if self._deprecation_warn_enabled:
            warnings.warn(
                "Starting a connection through `client` is deprecated, use `init` instead: "
                f"init({self._written_out()})",
                DeprecationWarning,
                stacklevel=2,
            )
        config = self._job_config
        if config.ray_namespace is None and (namespace := os.environ.get("RAY_NAMESPACE")):
            config.set_ray_namespace(namespace)
        if not config.runtime_env and (env := os.environ.get("RAY_RUNTIME_ENV")):
            config.set_runtime_env(json.loads(env))
        return init(self.address, **{"job_config": config, **self._arguments})

    def _written_out(self) -> str:
        """Returns the arguments of the same call of ``init``."""
        said = (self.address, self._job_config.ray_namespace, self._job_config.runtime_env or None)
        values = [(name, value) for name, value in zip(_INIT_ARGUMENTS, said, strict=True) if value is not None]
        return ", ".join(repr(value) if name == "address" else f"{name}={value!r}" for name, value in values)


def client(address: str | None = None, _deprecation_warn_enabled: bool = True) -> ClientBuilder:
    """Returns an object that joins the cluster at ``address`` when its ``connect`` is called. Deprecated: use ``init``.

    Args:
        address: as in ``init``; default: ``RAY_ADDRESS``, else the cluster on this machine, else a new one.
        _deprecation_warn_enabled: whether ``connect`` warns.
    """
    builder = ClientBuilder(address)
    builder._deprecation_warn_enabled = _deprecation_warn_enabled
    return builder
