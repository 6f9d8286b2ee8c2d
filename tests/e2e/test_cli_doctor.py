"""``zray doctor`` checks a machine. Each test changes what it looks at; the rules are in ``tests/unit/cli``."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from .helpers import by_hand, free_port

COMMAND = [sys.executable, "-m", "zray.cli.main", "doctor"]


def doctor(*arguments: str, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def look(*arguments: str, code: int = 0, **options: Any) -> dict[str, dict[str, str]]:
    rows = json.loads(doctor("--json", *arguments, code=code, **options).stdout)
    return {row["name"]: row for row in rows}


def test_this_machine(sandbox):
    found = look()
    assert list(found) == [
        "Python", "libraries", "encryption", "kernel", "CPUs", "memory", "shared memory", "sockets", "sessions",
        "open files", "processes", "keys", "clock", "cluster",
    ]  # fmt: skip
    assert "fail" not in {row["state"] for row in found.values()}
    assert f"{sys.version_info[0]}.{sys.version_info[1]}." in found["Python"]["finding"]
    assert str(sandbox.root) in found["sessions"]["finding"]
    shown = doctor(env={**os.environ, "COLUMNS": "20"}).stdout  # has no effect on a pipe
    assert "\x1b" not in shown and " ok, " in shown.splitlines()[-1] and len(shown.splitlines()) == len(found) + 2


def test_a_path_that_is_too_long_for_sockets(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("ZRAY_TMPDIR", str(tmp_path / ("d" * 100)))
    row = look(code=1)["sessions"]
    assert row["state"] == "fail" and "is too long to hold sockets" in row["finding"] and "ZRAY_TMPDIR" in row["remedy"]
    assert "fail" in doctor(code=1).stdout


def test_keys_that_others_can_read(sandbox, tmp_path):
    keys = tmp_path / "keys"
    assert "none in " in look("--keys", str(keys))["keys"]["finding"]
    keys.mkdir(mode=0o755)
    keys.chmod(0o755)
    row = look("--keys", str(keys), code=1)["keys"]
    assert row["state"] == "fail" and str(keys) in row["finding"] and f"chmod 700 {keys}" in row["remedy"]


def test_a_directory_for_spilled_objects_that_is_missing(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("ZRAY_SPILL_DIR", str(tmp_path / "none"))
    row = look(code=1)["spilled objects"]
    assert "cannot be used: No such file or directory" in row["finding"]
    monkeypatch.setenv("ZRAY_SPILL_DIR", str(tmp_path))
    assert look()["spilled objects"]["finding"].startswith(str(tmp_path))


def limited(number: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


def test_few_open_files(sandbox):
    assert look(preexec_fn=limited(1000))["open files"]["state"] == "warn"
    row = look(preexec_fn=limited(200), code=1)["open files"]
    assert row["state"] == "fail" and "ulimit -Hn" in row["remedy"]


def test_clusters(sandbox, monkeypatch):
    with by_hand() as (address, _, _):
        assert f"{address} answers: zray " in look()["cluster"]["finding"]
    monkeypatch.setenv("ZRAY_CONNECT_TIMEOUT_S", "0.5")
    silent = f"tcp://127.0.0.1:{free_port()}"
    row = look("--address", silent, "--insecure", code=1)["cluster"]
    assert f"no zray broker answered at {silent!r}" in row["finding"] and row["remedy"]
    assert "not of the form" in look("--address", "nowhere", code=1)["cluster"]["finding"]


def test_ports(sandbox):
    address = f"tcp://127.0.0.1:{free_port()}"
    assert look("--bind", address)["port"]["state"] == "ok"
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        row = look("--bind", taken, code=1)["port"]
    assert "Address already in use" in row["finding"] and "another port" in row["remedy"]
    assert "needed: tcp://HOST:PORT" in doctor("--bind", "ipc:///tmp/x", code=2).stderr
    assert "not of the form" in doctor("--bind", "nowhere", code=2).stderr


def test_settings_that_cannot_be_used(sandbox, monkeypatch):
    monkeypatch.setenv("ZRAY_HEARTBEAT_S", "often")
    assert "ZRAY_HEARTBEAT_S" in doctor(code=2).stderr
