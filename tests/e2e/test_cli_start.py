"""``zray start`` starts a cluster in the background, under Ray's options, and ``zray stop`` ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from .helpers import Process, driver, eventually, free_port

ZRAY = [sys.executable, "-m", "zray.cli.main"]


def zray(*arguments: str, keys: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "ZRAY_KEYS": str(keys)}
    return subprocess.run([*ZRAY, *arguments], capture_output=True, text=True, timeout=60, env=environ)


def test_a_head_and_another_host(sandbox, tmp_path):
    keys = tmp_path / "keys"
    done = zray("start", "--head", "--port", "0", "--num-cpus=1", "--dashboard-port=8265", "--no-monitor", keys=keys)
    assert done.returncode == 0, done.stderr
    assert "without a meaning in zray: --dashboard-port, --no-monitor" in done.stdout
    address = done.stdout.partition("--address='")[2].partition("'")[0]
    joined = zray("start", "--address", address, "--num-cpus=2", """--resources={"x": 1}""", keys=keys)
    assert joined.returncode == 0, joined.stderr
    assert "hosts: 2" in zray("status", "--address", address, keys=keys).stdout.lower()
    source = f"""
        ray.init({address!r})
        total = ray.cluster_resources()
        print(total["CPU"], total["x"], total["node:__internal_head__"])
    """
    with driver(source, environ={"ZRAY_KEYS": str(keys)}) as program:
        assert program.succeed() == "3.0 1.0 1.0"
    ended = zray("stop", keys=keys)
    assert ended.returncode == 0 and ended.stdout.count("ended the host") == 2, ended.stderr
    eventually(lambda: not sandbox.processes("zray: "))


def test_what_is_wrong_is_told_and_leaves_nothing(sandbox, tmp_path):
    assert "give --head to start a cluster" in zray("start", keys=tmp_path).stderr
    assert "give one of them" in zray("start", "--head", "--address=h:1", keys=tmp_path).stderr
    failed = zray("start", "--head", "--port=0", "--resources=nonsense", keys=tmp_path / "keys")
    assert failed.returncode == 1 and "resources" in failed.stderr and "zray-worker ended" in failed.stderr
    assert not sandbox.processes("zray: ")  # the broker that had been started, either


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_with_block_all_ends_with_the_command(sandbox, tmp_path, number):
    environ = {**os.environ, "ZRAY_KEYS": str(tmp_path / "keys")}
    command = [*ZRAY, "start", "--head", "--port=0", "--num-cpus=1", "--block"]
    with Process(command, env=environ) as blocked:
        blocked.expect("--block: this command stays", timeout_s=30.0)
        blocked.signal(number)
        blocked.wait()
        assert not sandbox.processes("zray: ")


def test_with_block_the_command_ends_with_its_cluster(sandbox, tmp_path):
    environ = {**os.environ, "ZRAY_KEYS": str(tmp_path / "keys")}
    command = [*ZRAY, "start", "--head", "--port=0", "--num-cpus=1", "--block"]
    with Process(command, env=environ) as blocked:
        blocked.expect("--block: this command stays", timeout_s=30.0)
        os.kill(sandbox.one("zray: host"), signal.SIGKILL)
        assert blocked.wait() == 1 and "a process of this cluster has ended" in blocked.err
        eventually(lambda: not sandbox.processes("zray: "))


AS_RAY = """
    import subprocess

    import ray

    try:
        ports = ["--port=0", "--ray-client-server-port={port}"]
        subprocess.check_output(["ray", "start", "--head", "--num-cpus=1", *ports])

        @ray.remote
        class Actor:
            pass

        with ray.init("ray://localhost:{port}", namespace="colors"):
            Actor.options(name="orange", lifetime="detached").remote()
        with ray.init("auto", namespace="colors"):
            print(ray.get_actor("orange") is not None)
    finally:
        subprocess.check_output(["ray", "stop", "--force"])
"""


def test_the_commands_of_a_program_under_the_name_ray(sandbox, tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(AS_RAY.format(port=free_port())))
    environ = {**os.environ, "ZRAY_KEYS": str(tmp_path / "keys")}
    with Process([sys.executable, "-m", "zray.as_ray", str(tmp_path / "program.py")], env=environ) as program:
        assert program.succeed(60.0) == "True"
    eventually(lambda: not sandbox.processes("zray: "))


def test_an_interrupted_start_leaves_nothing(sandbox, tmp_path):
    environ = {**os.environ, "ZRAY_KEYS": str(tmp_path / "keys")}
    assert zray("keys", "create", keys=tmp_path / "keys").returncode == 0
    with Process([*ZRAY, "start", "--address", f"127.0.0.1:{free_port()}"], env=environ) as starting:
        eventually(lambda: sandbox.processes("zray: host"))
        starting.stop()
        eventually(lambda: not sandbox.processes("zray: "))
