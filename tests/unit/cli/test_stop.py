"""Finding living sessions; how they are ended is in ``tests/e2e/test_cli_stop.py``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from zray.cli import stop
from zray.cli.stop import Running
from zray.sessions.directories import SessionPaths


def test_a_session_that_is_just_starting_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = SessionPaths("0badcafe", str(tmp_path))
    seen = [Running(paths, "session"), Running(paths, "session"), Running(paths, "host", psutil.Process())]
    ended: list[Running] = []

    def running(roots: Iterable[str]) -> list[Running]:
        return [seen.pop(0)]

    def end(chosen: list[Running], force: bool, grace_s: float) -> list[Running]:
        ended.extend(chosen)
        return []

    monkeypatch.setattr(stop, "own_roots", lambda config: [str(tmp_path)])
    monkeypatch.setattr(stop, "running", running)
    monkeypatch.setattr(stop, "end", end)
    result = CliRunner().invoke(stop.stop)
    assert result.output == f"ended the host 0badcafe (pid {os.getpid()})\n"
    assert [each.pid for each in ended] == [os.getpid()]
