"""``ray.util.connect`` and ``disconnect``: an older way to join a cluster and to leave it. Deprecated."""

from __future__ import annotations

from typing import Any

from zray.api.cluster import init, is_initialized, shutdown
from zray.api.deprecation import warn_deprecated
from zray.job_config import JobConfig

__all__ = ["connect", "disconnect"]


def connect(
    conn_str: str,
    secure: bool = False,
    metadata: list[tuple[str, str]] | None = None,
    connection_retries: int = 3,
    job_config: JobConfig | None = None,
    namespace: str | None = None,
    *,
    ignore_version: bool = False,
    _credentials: Any = None,
    ray_init_kwargs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Joins the cluster at ``conn_str``. Deprecated: use ``init``.

    Args:
        conn_str: ``HOST:PORT``, or another form that ``init`` takes.
        secure: has no meaning here: a broker on TCP requires keys, unless it was started with ``--insecure``.
        metadata: has no meaning here.
        connection_retries: has no meaning here, see the setting ``connect_timeout_s``.
        job_config: as in ``init``.
        namespace: as in ``init``.
        ignore_version: has no meaning here: another version is always refused.
        _credentials: has no meaning here, see ``zray keys``.
        ray_init_kwargs: further arguments of ``init``.

    Returns:
        The versions of Python and of Ray's interface, and the number of clients, which is 1.

    Raises:
        The same as ``init``.
    """
    warn_deprecated("ray.util.connect()", "ray.init()")
    context = init(conn_str, job_config=job_config, namespace=namespace, **(ray_init_kwargs or {}))
    return {
        "num_clients": 1,
        "python_version": context.python_version,
        "ray_version": context.ray_version,
        "ray_commit": context.ray_commit,
    }


def disconnect() -> None:
    """Leaves the cluster; does nothing outside of one. Deprecated: use ``shutdown``."""
    warn_deprecated("ray.util.disconnect()", "ray.shutdown()")
    if is_initialized():
        shutdown()
