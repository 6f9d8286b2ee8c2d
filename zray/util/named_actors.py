"""``list_named_actors``."""

from __future__ import annotations

from typing import Any

from zray.api.runtime import runtime


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """The names of the actors that are alive. Initialises zray if necessary.

    Args:
        all_namespaces: not only the actors of this job's namespace.

    Returns:
        The names; with ``all_namespaces``, a dictionary with the keys ``name`` and ``namespace`` for each actor.

    Raises:
        ClusterUnavailableError: the broker is gone.
    """
    here = runtime()
    found: list[tuple[str, str]] = here.named_actors(None if all_namespaces else here.namespace)
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, name in found]
    return [name for _, name in found]
