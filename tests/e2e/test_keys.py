"""A cluster on TCP with keys: joined without naming them, closed to processes without a fitting key."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zray.config import Config
from zray.exceptions import ClusterUnavailableError, ConfigError, ZrayError
from zray.protocol.messages import DRIVER, HOST
from zray.protocol.records import JoinInfo
from zray.transport.connection import connect
from zray.transport.security.keys import KeyDirectory

from .helpers import Process, by_hand, cli, current_session, driver, eventually, free_port


def tcp() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


def keys_of(sandbox) -> Path:
    return sandbox.directory / "config" / "zray" / "keys"


def connections(address: str) -> int:
    """Counts the established connections to the broker, as the kernel reports them."""
    port = int(address.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[3] == "01" and int(row[1].rpartition(":")[2], 16) == port for row in rows)


def zray_keys(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zray.cli.main", "keys", *arguments], capture_output=True, text=True, timeout=30
    )


def test_keys_are_made_and_found_without_being_named(sandbox):
    import zray as ray

    with by_hand("--bind", tcp(), hosts=2) as (address, broker, _):
        line = broker.expect("tar ")
        assert "broker.key" not in line.partition("|")[0]
        assert os.stat(keys_of(sandbox)).st_mode & 0o777 == 0o700
        assert all(os.stat(path).st_mode & 0o777 == 0o600 for path in keys_of(sandbox).iterdir())
        ray.init(address)

        @ray.remote
        class Counter:
            def __init__(self):
                self.n = 0

            def add(self, k):
                self.n += k
                return self.n

        counter = Counter.remote()

        @ray.remote
        def square(n):
            time.sleep(0.05)
            return n * n

        outer = ray.remote(lambda n: ray.get(square.remote(n)))
        assert ray.get([square.remote(n) for n in range(20)], timeout=20) == [n * n for n in range(20)]
        assert ray.get([outer.remote(n) for n in range(4)], timeout=20) == [0, 1, 4, 9]
        assert ray.get([counter.add.remote(1) for _ in range(10)], timeout=10)[-1] == 10
        # Four workers run on each of two hosts, and the broker has three connections.
        assert connections(address) == 3
        ray.shutdown()


def test_a_key_directory_by_option_and_by_variable(sandbox, monkeypatch):
    import zray as ray

    directory = str(sandbox.directory / "elsewhere")
    with Process([sys.executable, "-m", "zray.cli.broker", "--bind", tcp(), "--keys", directory]) as broker:
        address = broker.expect("ready at").split()[-1]
        worker = [sys.executable, "-m", "zray.cli.worker", "--address", address, "--keys", directory, "--num-cpus", "1"]
        with Process(worker) as host:
            host.expect("host is ready")
            monkeypatch.setenv("ZRAY_CONNECT_TIMEOUT_S", "0.2")
            with pytest.raises(ConfigError, match="no driver key"):
                ray.init(address)
            monkeypatch.delenv("ZRAY_CONNECT_TIMEOUT_S")
            monkeypatch.setenv("ZRAY_KEYS", directory)
            ray.init(address)
            assert ray.get(ray.remote(lambda: 1).remote(), timeout=8) == 1
            ray.shutdown()
            host.stop()
        broker.stop()
    assert not keys_of(sandbox).exists()


def test_intruders(sandbox, monkeypatch):
    """No keys, another broker's keys, plain bytes: the reason is reported, and the cluster goes on."""
    import zray as ray

    with by_hand("--bind", tcp()) as (address, _, _):
        monkeypatch.setenv("ZRAY_CONNECT_TIMEOUT_S", "1.5")
        with pytest.raises(ClusterUnavailableError, match="--insecure has to be given to both"):
            ray.init(address, insecure=True)
        KeyDirectory(sandbox.directory / "others").create()
        monkeypatch.setenv("ZRAY_KEYS", str(sandbox.directory / "others"))
        with pytest.raises(ClusterUnavailableError, match="another broker"):
            ray.init(address)
        monkeypatch.delenv("ZRAY_KEYS")
        host, port = address.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port))) as attacker:
            attacker.sendall(secrets.token_bytes(5000))
            ray.init(address)
            assert ray.get(ray.remote(lambda: 1).remote(), timeout=8) == 1
        ray.shutdown()


def test_a_key_admits_only_its_role(sandbox):
    with by_hand("--bind", tcp()) as (address, _, _):
        keys = KeyDirectory(keys_of(sandbox))
        for role, kind in (("driver", HOST), ("host", DRIVER)):
            with pytest.raises(ZrayError, match=f"a {role}'s key does not admit an? {kind}"):
                connect(address, kind, secrets.token_bytes(16), JoinInfo(1), Config(), keys.client(role))


def test_no_driver_can_use_the_name_of_another(sandbox):
    """With a driver's key, one joins under the name of another driver that is connected: it is refused."""
    import zray as ray

    with by_hand("--bind", tcp()) as (address, _, _):
        ray.init(address)
        victim = ray.get_runtime_context()

        process_id = current_session().process_id
        keys = KeyDirectory(keys_of(sandbox))
        other = keys.add("driver", "other")
        assert other.role == "driver"
        with pytest.raises(ZrayError, match="under its name"):
            connect(address, DRIVER, process_id, JoinInfo(1), Config(), keys.client("driver", "other"))
        assert victim.get_job_id()


def test_a_key_that_is_revoked_while_in_use(sandbox):
    import zray as ray

    with by_hand("--bind", tcp()) as (address, _, _):
        ray.init(address)
        assert ray.get(ray.remote(lambda: 1).remote(), timeout=8) == 1
        done = zray_keys("revoke", "driver")
        assert done.returncode == 0, done.stderr
        with pytest.raises(ClusterUnavailableError, match="revoked"):
            ray.get(ray.remote(time.sleep).remote(60), timeout=30)
        ray.shutdown()
        os.environ["ZRAY_CONNECT_TIMEOUT_S"] = "1.5"
        try:
            with pytest.raises((ClusterUnavailableError, ConfigError), match=r"refuses this key|no driver key"):
                ray.init(address)
        finally:
            del os.environ["ZRAY_CONNECT_TIMEOUT_S"]


WHOLE = """
ray.init(os.environ["BROKER"])
print("answer", ray.get(ray.remote(lambda: 42).remote()))
"""


@pytest.mark.parametrize("order", ["workers first", "all at once"])
def test_the_first_start_of_all_on_a_shared_home(sandbox, order):
    """As in a batch job: no process has keys yet."""
    address = tcp()
    environ = {"BROKER": address, "ZRAY_CONNECT_TIMEOUT_S": "30"}
    with contextlib.ExitStack() as stack:
        worker = [sys.executable, "-m", "zray.cli.worker", "--address", address, "--num-cpus", "1"]
        hosts = [stack.enter_context(Process(worker)) for _ in range(2)]
        program = stack.enter_context(driver(WHOLE, environ=environ))
        if order == "workers first":
            for host in hosts:
                assert "no host key" in host.expect("waits for the key for 60 s (join_timeout_s)", stream="err")
        broker = stack.enter_context(Process([sys.executable, "-m", "zray.cli.broker", "--bind", address]))
        for host in hosts:
            host.expect("host is ready")
        assert program.succeed(40) == "answer 42"
        for process in (*hosts, broker):
            process.stop()


def test_a_key_that_never_comes(sandbox, monkeypatch):
    import zray as ray

    monkeypatch.setenv("ZRAY_JOIN_TIMEOUT_S", "0.5")
    done = cli("worker", "--address", tcp(), "--num-cpus", "1")
    assert done.returncode == 2 and "there is no host key" in done.stderr.splitlines()[-1]
    monkeypatch.setenv("ZRAY_CONNECT_TIMEOUT_S", "0.5")
    with pytest.raises(ConfigError, match="no driver key"):
        ray.init(tcp())


def test_a_worker_that_starts_first_waits_for_its_broker(sandbox):
    import zray as ray

    address = tcp()
    KeyDirectory(keys_of(sandbox)).create()
    command = [sys.executable, "-m", "zray.cli.worker", "--address", address, "--num-cpus", "1"]
    with Process(command) as host:
        time.sleep(1.0)
        with by_hand("--bind", address, hosts=0):
            host.expect("host is ready")
            ray.init(address)
            assert ray.get(ray.remote(lambda: 1).remote(), timeout=8) == 1
            ray.shutdown()
            host.stop()


def test_keys_that_others_can_read(sandbox):
    with by_hand("--bind", tcp(), hosts=0) as (address, _, _):
        copied = sandbox.directory / "copied"
        shutil.copytree(keys_of(sandbox), copied)
        copied.chmod(0o755)
        done = cli("worker", "--address", address, "--keys", str(copied))
        assert done.returncode == 2 and "chmod" in done.stderr and "Traceback" not in done.stderr


def test_workers_die_and_are_started_again_behind_the_relay(sandbox):
    import zray as ray

    with by_hand("--bind", tcp(), cpus=2) as (address, _, hosts):
        ray.init(address)

        @ray.remote(max_retries=2)
        def die_once(path):
            if not os.path.exists(path):
                Path(path).touch()
                os._exit(3)
            return "alive"

        assert ray.get(die_once.remote(str(sandbox.directory / "flag")), timeout=15) == "alive"
        forever = ray.remote(max_retries=0)(time.sleep).remote(60)
        time.sleep(0.3)
        hosts[0].popen.kill()
        with pytest.raises(ray.exceptions.NodeDiedError):
            ray.get(forever, timeout=20)
        eventually(lambda: not any(node["Alive"] for node in ray.nodes()), 15)
        ray.shutdown()


def test_a_driver_with_keys_of_another_cluster_counts_once(sandbox, tmp_path):
    with by_hand("--bind", tcp(), "--keys", str(tmp_path / "other"), hosts=0):
        pass
    with by_hand("--bind", tcp(), hosts=0) as (address, _, _):
        environ = {"ZRAY_KEYS": str(tmp_path / "other"), "ZRAY_CONNECT_TIMEOUT_S": "3"}
        with driver(f"ray.init({address!r})", environ=environ) as refused_driver:
            assert refused_driver.wait() == 1 and "the keys here are for another broker" in refused_driver.err
        done = cli("main", "status", "--json")
        assert json.loads(done.stdout)["refused"] == {"key of another broker": 1}
