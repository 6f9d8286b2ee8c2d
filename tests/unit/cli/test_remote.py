"""The remote half of ``zray up``; with real workers it is in ``tests/e2e/test_cli_up.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zray.cli import remote
from zray.cli.stop import Running
from zray.sessions.directories import SessionPaths


@pytest.mark.parametrize(("start_s", "join_s", "least_s"), [(30, 60, 60), (90, 60, 90)])
def test_a_worker_is_waited_for_while_it_tries_to_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_s: float, join_s: float, least_s: float
) -> None:
    given: list[float] = []

    def start(orders: Any, environ: Any, log: Path, timeout_s: float) -> Running:
        given.append(timeout_s)
        return Running(SessionPaths("0badcafe", str(tmp_path)), "host")

    monkeypatch.setattr(remote, "_start", start)
    monkeypatch.setattr(remote, "runtime_root", lambda *_: str(tmp_path))  # a path that is too long for sockets
    environment = {
        "ZRAY_CONFIG": "/dev/null",
        "ZRAY_START_TIMEOUT_S": str(start_s), "ZRAY_JOIN_TIMEOUT_S": str(join_s),
    }  # fmt: skip
    remote._carry_out({"action": "start", "host": "node1", "address": "tcp://head:1", "environment": environment})
    assert least_s <= given[0] <= least_s + 10
