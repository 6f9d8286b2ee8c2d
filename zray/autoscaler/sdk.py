"""Requests to Ray's autoscaler, for programs that make them on any cluster."""

from __future__ import annotations

from typing import Any

__all__ = ["request_resources"]


def request_resources(
    num_cpus: int | None = None,
    bundles: list[dict[str, float]] | None = None,
    bundle_label_selectors: list[dict[str, str]] | None = None,
) -> None:
    """Has no effect: zray does not start hosts. Ray does the same on a cluster that it cannot grow.

    A line of the log, at level INFO, says so.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: there are not as many selectors as bundles.
    """
    if num_cpus is not None and not isinstance(num_cpus, int):
        raise TypeError(f"num_cpus should be of type int, got {num_cpus!r}")
    for name, value in (("bundles", bundles), ("bundle_label_selectors", bundle_label_selectors)):
        if value is not None and not (isinstance(value, list) and all(isinstance(each, dict) for each in value)):
            raise TypeError(f"{name} should be a list of dicts, got {value!r}")
    if bundle_label_selectors is not None and len(bundle_label_selectors) != len(bundles or ()):
        raise ValueError("bundle_label_selectors must have as many elements as bundles")
    import logging

    logging.getLogger("zray").info("request_resources() has no effect: zray does not start hosts by itself")


def __getattr__(name: str) -> Any:
    if name in ("create_or_update_cluster", "teardown_cluster", "run_on_cluster", "rsync", "get_head_node_ip"):
        raise ImportError(f"ray.autoscaler.sdk.{name}: zray has no cluster launcher, see `zray up --help`")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
