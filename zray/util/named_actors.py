"""``list_named_actors``."""

from __future__ import annotations

from zray.api.runtime import runtime


def list_named_actors(all_namespaces: bool = False) -> list[str] | list[dict[str, str]]:
    """Returns the names of the living actors that were created with a name.

    Args:
        all_namespaces: also those of other namespaces than the job's.

    Returns:
        The names; with ``all_namespaces``, dictionaries ``{"name": ..., "namespace": ...}``.

    Raises:
        ClusterUnavailableError: the broker is gone.
    """
    found = runtime().named_actors(None if all_namespaces else runtime().namespace)
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, name in found]
    return [name for _, name in found]
