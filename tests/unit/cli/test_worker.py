"""The settings that ``zray-worker`` passes on to the host that it becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from zray.cli import worker
from zray.config import Config
from zray.sessions.directories import SessionPaths


def test_workers_do_not_inherit_the_hosts_join_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers' payload is made of the settings: programs that they run may be drivers of other clusters."""
    seen = []

    def run_host(options: Any, config: Config, *rest: Any) -> str:
        seen.append(config)
        return "signal"

    for name in ("prepare_zygote", "set_title"):
        monkeypatch.setattr(worker, name, MagicMock())
    monkeypatch.setattr(worker, "run_host", run_host)
    config = Config(connect_timeout_s=2.0, join_timeout_s=70.0)
    paths = SessionPaths("0badcafe", str(tmp_path))
    worker._serve(config, paths, MagicMock(), "tcp://head:1", {}, lambda target: None, None, quiet=False)
    assert seen == [config]
