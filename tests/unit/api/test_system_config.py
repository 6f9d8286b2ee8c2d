"""``_system_config`` of ``init``."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from zray.api.system_config import settings_of, without_meaning
from zray.exceptions import ConfigError


def spilling(path: Any, kind: str = "filesystem") -> dict[str, str]:
    return {"object_spilling_config": json.dumps({"type": kind, "params": {"directory_path": path}})}


def test_what_has_a_setting_here() -> None:
    given = {"memory_usage_threshold": 0.5, "memory_monitor_refresh_ms": 0, "task_retry_delay_ms": 3}
    assert settings_of(given) == {"memory_usage_threshold": 0.5, "memory_monitor_refresh_ms": 0}
    assert without_meaning(given) == ["task_retry_delay_ms"]
    assert settings_of(None) == settings_of({}) == {}
    assert without_meaning(None) == []


@pytest.mark.parametrize("path", ["/a/b", ["/a/b", "/c"]])
def test_where_objects_are_spilled(path: Any) -> None:
    assert settings_of(spilling(path)) == {"spill_dir": "/a/b"}
    assert without_meaning(spilling(path)) == []


def test_a_relative_directory_is_the_programs() -> None:
    assert settings_of(spilling("x")) == {"spill_dir": os.path.join(os.getcwd(), "x")}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (3, TypeError, "must be a dict"),
        ({"memory_usage_threshold": 2}, ConfigError, "_system_config: memory_usage_threshold=2"),
        ({"object_spilling_config": 3}, ValueError, "of the form"),
        ({"object_spilling_config": "{"}, ValueError, "of the form"),
        ({"object_spilling_config": "{}"}, ValueError, "of the form"),
        (spilling([]), ValueError, "has no directory"),
        (spilling("/a", "smart_open"), ValueError, "spilled to a directory"),
    ],
)
def test_what_cannot_be_used(given: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        settings_of(given)
