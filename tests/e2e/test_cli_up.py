"""``zray up`` on machines that are all this one: through a stub of ssh, and through the real one to a private sshd."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import Process, by_hand, eventually, free_port

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")

STUB = """#!/bin/sh
# As ssh: drops its options, and lets a shell run the command in the user's directory, with little of the environment.
while [ "$1" != -- ]; do shift; done
echo "$2" >> {log}
case "$2" in
  unreachable) echo "ssh: connect to host unreachable port 22: No route to host" >&2; exit 255 ;;
  hanging) exec sleep 1000 ;;
esac
echo "Welcome to $2"
exec env -i HOME="$HOME" PATH="$PATH" ZRAY_TMPDIR="$ZRAY_TMPDIR" sh -c "$3"
"""


def zray(*options: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zray.cli.main", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local stub of ssh; returns the file in which it notes each host that it was called for."""
    log = tmp_path / "called"
    script = tmp_path / "bin" / "ssh"
    script.parent.mkdir()
    script.write_text(STUB.format(log=log))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return log


@pytest.fixture
def cluster() -> Iterator[str]:
    """Starts a broker without hosts; yields its address."""
    with by_hand("--bind", f"tcp://127.0.0.1:{free_port()}", hosts=0) as (address, _, _):
        yield address


def hosts_file(directory: Path, address: str, rest: str) -> str:
    path = directory / "hosts.toml"
    keys = f'[settings]\nkeys = "{os.environ["XDG_CONFIG_HOME"]}/zray/keys"'  # a login does not know it
    rest = textwrap.dedent(rest).replace("[settings]", keys) if "[settings]" in rest else f"{keys}\n{rest}"
    path.write_text(f'address = "{address}"\npython = "{sys.executable}"\n{rest}')
    return str(path)


TWO = """
[settings]
num_cpus = 1
labels = {zone = "a"}
[environment]
COLOUR = "it's blue"
[[hosts]]
host = "node1"
[[hosts]]
host = "me@node2"
settings = {labels = {zone = "b"}, resources = {x = 2}}
"""


def test_up_twice_and_down(sandbox, stub, cluster, tmp_path):
    import zray as ray

    path = hosts_file(tmp_path, cluster, TWO)
    done = zray("up", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("started the host") == 2 and sorted(stub.read_text().split()) == ["me@node2", "node1"]
    ray.init(cluster)
    eventually(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
    assert sorted(node["Labels"]["zone"] for node in ray.nodes()) == ["a", "b"]
    assert ray.cluster_resources()["CPU"] == 2 and ray.cluster_resources()["x"] == 2
    assert ray.get(ray.remote(lambda: os.environ["COLOUR"]).remote(), timeout=8) == "it's blue"
    ray.shutdown()

    again = zray("up", path)
    assert again.returncode == 0 and again.stdout.count("runs already") == 2
    assert len(sandbox.processes("zray: host")) == 2

    ended = zray("down", path)
    assert ended.returncode == 0 and ended.stdout.count("ended the host") == 2, ended.stderr
    assert not sandbox.processes("zray: host") and len(sandbox.processes("zray: broker")) == 1
    assert zray("up", "--down", path).stdout.count("nothing to end") == 2


def test_a_machine_that_fails_stops_no_other(sandbox, stub, cluster, tmp_path):
    rest = """
    [settings]
    num_cpus = 1
    [[hosts]]
    host = "good"
    [[hosts]]
    host = "unreachable"
    [[hosts]]
    host = "bare"
    python = "/no/such/python"
    [[hosts]]
    host = "full"
    environment = {ZRAY_SPILL_DIR = "/proc/nowhere"}
    """
    path = hosts_file(tmp_path, cluster, rest)
    done = zray("up", path)
    assert done.returncode == 1 and "good" in done.stdout and "started the host" in done.stdout
    for text in (
        "ssh could not log in", "No route to host", "/no/such/python there ended with exit code 127",
        "zray-worker ended with exit code", "3 of 4 machines failed",
    ):  # fmt: skip
        assert text in done.stderr, done.stderr
    assert len(sandbox.processes("zray: host")) == 1
    assert zray("down", path).stdout.count("ended the host") == 1


def test_a_machine_that_does_not_answer(stub, tmp_path):
    path = hosts_file(tmp_path, "tcp://127.0.0.1:1", '[[hosts]]\nhost = "hanging"\n')
    done = zray("up", "--timeout", "0.5", path)
    assert done.returncode == 1 and "no answer within 0.5 s" in done.stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """Starts a private sshd, for this user alone; yields its port."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("there is no sshd on this machine (Debian: openssh-server)")
    for name in ("server", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # an sshd of root needs this directory
    port = free_port()
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/server\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path}/client.pub\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "UsePAM no\n"
    )
    with Process([SSHD, "-D", "-e", "-f", str(config)]) as sshd:
        sshd.expect("Server listening", stream="err")
        yield port
        sshd.signal(signal.SIGTERM)
        sshd.wait()


def test_through_a_real_ssh(sandbox, server, cluster, tmp_path):
    options = ["-p", str(server), "-i", f"{tmp_path}/client", "-F", "none"]
    for option in ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"):
        options += ["-o", option]
    rest = f"""
    ssh = {options}
    [settings]
    num_cpus = 1
    tmpdir = "{sandbox.directory}"
    [[hosts]]
    host = "{getpass.getuser()}@127.0.0.1"
    """
    path = hosts_file(tmp_path, cluster, rest)
    done = zray("up", path)
    assert done.returncode == 0 and "started the host" in done.stdout, done.stderr
    assert len(sandbox.processes("zray: host")) == 1
    assert "ended the host" in zray("down", path).stdout
    assert not sandbox.processes("zray: host")
