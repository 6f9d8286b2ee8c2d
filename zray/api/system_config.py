"""``_system_config``: Ray's settings of its own processes, as far as they have a meaning here.

Programs use it for the directory of spilled objects and for the limits of the memory monitor. Those become zray's
settings. All other keys are about parts of Ray that zray does not have.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from zray.config.reading import check

SAME = ("memory_usage_threshold", "memory_monitor_refresh_ms")
"""Keys that have the name of a setting of zray, and its meaning."""
SPILLING = "object_spilling_config"
"""A JSON text: ``{"type": "filesystem", "params": {"directory_path": "/a/directory"}}``."""


def settings_of(system_config: Any) -> dict[str, Any]:
    """Returns the settings that ``_system_config`` has values for, by their names.

    Args:
        system_config: a dictionary, or None.

    Raises:
        TypeError: it is something else.
        ConfigError: a value cannot be used. It is a ValueError too.
        ValueError: ``object_spilling_config`` is not such a JSON text.
    """
    if not isinstance(system_config, (dict, type(None))):
        raise TypeError(f"The _system_config must be a dict, got {system_config!r}")
    given = system_config or {}
    settings = {name: check(name, given[name], f"_system_config: {name}", blank="=") for name in SAME if name in given}
    if SPILLING in given:
        settings.update(_spilling(given[SPILLING]))
    return settings


def without_meaning(system_config: Mapping[str, Any] | None) -> list[str]:
    """The keys that are not settings here."""
    return sorted(name for name in system_config or {} if name not in SAME and name != SPILLING)


def _spilling(text: Any) -> dict[str, Any]:
    """The directory in which objects are put that have no room in memory. Of several ones, the first."""
    form = '{"type": "filesystem", "params": {"directory_path": "/a/directory"}}'
    try:
        described = json.loads(text)
        kind = described["type"]
        paths = described["params"]["directory_path"] if kind == "filesystem" else []
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"_system_config: {SPILLING}={text!r} is not of the form {form}: {error!r}") from error
    if kind != "filesystem":
        raise ValueError(
            f"_system_config: {SPILLING}={text!r} cannot be used: objects are spilled to a directory, so use {form}"
        )
    path = paths[0] if isinstance(paths, list) and paths else paths
    if not isinstance(path, str) or not path:
        raise ValueError(f"_system_config: {SPILLING}={text!r} has no directory; it must be of the form {form}")
    return {"spill_dir": os.path.abspath(os.path.expanduser(path))}
