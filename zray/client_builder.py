"""``ray.client()``: Ray's older way to join a cluster. It is deprecated, and does what ``init`` does."""

from __future__ import annotations

import json
import os
from typing import Any

from zray.api.addresses import own_form
from zray.api.cluster import init
from zray.api.cluster_context import Context as ClientContext
from zray.job_config import JobConfig
from zray.user_warnings import warn_user

__all__ = ["ClientBuilder", "ClientContext", "client"]

_SCHEMES = ("ray", "tcp", "ipc")


class ClientBuilder:
    """Collects what ``connect`` passes to ``init``.

    Args:
        address: as in ``init``; Ray's ``HOST:PORT`` too.
    """

    def __init__(self, address: str | None) -> None:
        self.address = None if address is None else address.removeprefix("ray://")
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
            warn_user(
                "Starting a connection through `ray.client` will be deprecated in future ray versions in favor of "
                f"`ray.init`. You can replace your call to `ray.client().connect()` with ray.init("
                f"{self._written_out()})",
                DeprecationWarning,
            )
        config = self._job_config
        if config.ray_namespace is None and (namespace := os.environ.get("RAY_NAMESPACE")):
            config.set_ray_namespace(namespace)
        if not config.runtime_env and (env := os.environ.get("RAY_RUNTIME_ENV")):
            config.set_runtime_env(json.loads(env))
        return init(self.address, **{"job_config": config, **self._arguments})

    def _written_out(self) -> str:
        """Returns the arguments of the same call of ``init``."""
        config, texts = self._job_config, []
        if self.address not in (None, "local"):
            texts.append(f'"{self.address if "://" in str(self.address) else f"ray://{self.address}"}"')
        elif self.address is not None:
            texts.append(f'"{self.address}"')
        if config.ray_namespace is not None:
            texts.append(f'namespace="{config.ray_namespace}"')
        if config.runtime_env:
            texts.append("runtime_env=<your_runtime_env>")
        return ", ".join(texts)


def client(address: str | None = None, _deprecation_warn_enabled: bool = True) -> ClientBuilder:
    """Returns an object that joins the cluster at ``address`` when its ``connect`` is called. Deprecated: use ``init``.

    Args:
        address: as in ``init``; default: ``RAY_ADDRESS``, else the cluster on this machine, else a new one.
        _deprecation_warn_enabled: whether ``connect`` warns.

    Raises:
        RuntimeError: the address begins with the name of a module: zray loads no builders of others.
        ValueError: it is one of the web interface that Ray has (``http://``).
    """
    scheme, separator, _ = (address or "").partition("://")
    if separator and scheme in ("http", "https"):
        own_form(str(address))  # raises the error that ``init`` raises
    if separator and scheme not in _SCHEMES:
        raise RuntimeError(f"Module: {scheme} does not exist. This module was parsed from Address: {address}")
    builder = ClientBuilder(address)
    builder._deprecation_warn_enabled = _deprecation_warn_enabled
    return builder
