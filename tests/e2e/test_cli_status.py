"""``zray status`` shows a cluster as it is, and does not change it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from typing import Any

from .helpers import by_hand, driver, eventually, free_port

BUSY = """
ray.init(%r)

@ray.remote(num_cpus=1, name="keeper")
class Keeper:
    def ready(self):
        return True

keeper = Keeper.remote()
ray.get(keeper.ready.remote())
wait = ray.remote(lambda: time.sleep(60))
running = [wait.remote() for _ in range(8)]
never = [wait.options(num_cpus=64).remote() for _ in range(3)]
ray.nodes()  # asked by the way that tasks go: they have arrived
print("up")
sys.stdin.read()
ray.shutdown()
"""


def status(*options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zray.cli.main", "status", *options]
    environ = {**os.environ, "COLUMNS": "20"}  # has no effect on a pipe
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environ)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def look(*options: str) -> dict[str, Any]:
    found = json.loads(status("--json", *options).stdout)
    assert isinstance(found, dict)
    return found


def test_a_cluster_at_work(sandbox):
    with by_hand("--bind", f"tcp://127.0.0.1:{free_port()}", hosts=2, cpus=2) as (address, broker, _):
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as raw_connection:
            raw_connection.sendall(secrets.token_bytes(5000))
            with contextlib.suppress(ConnectionResetError):
                while raw_connection.recv(1000):  # until it hangs up
                    pass
        with driver(BUSY % address) as program:
            program.expect("up")
            # Workers are forked on demand: four CPUs, and the actor holds one.
            found = eventually(lambda: (now := look()) and now["jobs"][0]["tasks_running"] == 3 and now)
            assert found["address"] == address and found["uptime_s"] > 0
            assert [host["resources"]["CPU"] for host in found["hosts"]] == [{"total": 2, "used": 2}] * 2
            workers = [host["workers"] for host in found["hosts"]]
            assert sum(each["actors"] for each in workers) == 1 and sum(each["busy"] for each in workers) == 3
            (job,) = found["jobs"]
            assert job["driver_pid"] == program.pid and job["job_id"] == "00000001"
            assert (job["tasks_running"], job["tasks_waiting"], job["actors"]) == (3, 8, 1)
            assert found["actors"] == {"PENDING_CREATION": 0, "ALIVE": 1, "RESTARTING": 0}
            assert found["waiting"] == [
                {"what": "tasks", "count": 5, "resources": {"CPU": 1.0}, "can_be_placed": True},
                {"what": "tasks", "count": 3, "resources": {"CPU": 64.0}, "can_be_placed": False},
            ]
            eventually(lambda: look()["refused"])
            assert sum(look()["refused"].values()) == 1  # and no observer
            assert look()["dropped_frames"] == 0

            shown = status("--address", address).stdout
            assert f"at {address}, up " in shown and "Hosts: 2" in shown and "Jobs: 1" in shown
            assert "Actors: 1 alive" in shown and "Connections refused: once" in shown
            assert "  3 tasks of {CPU: 64} - cannot be placed: no host has that much\n" in shown
            assert "…" not in shown and "\x1b" not in shown
            program.say("")
            assert program.popen.stdin is not None
            program.popen.stdin.close()
            program.wait()
        eventually(lambda: not look()["jobs"])
        assert broker.popen.poll() is None


def test_status_makes_no_job(sandbox):
    """Over ipc, found as "auto"; the first driver after many looks is the first job."""
    with by_hand(cpus=1) as (address, _, _):
        assert [look()["jobs"] for _ in range(3)] == [[], [], []]
        assert "Jobs: none" in status().stdout
        with driver(f"print('job', ray.init({address!r})['job_id'])") as program:
            assert program.succeed().split()[-1] == "00000001"


def test_a_key_that_does_not_admit_its_holder_counts(sandbox):
    """A driver's key used for a host: the handshake accepts it, the broker does not."""
    from zray.config import Config
    from zray.config.reading import from_environment
    from zray.exceptions import ZrayError
    from zray.protocol.messages import HOST
    from zray.protocol.records import JoinInfo
    from zray.transport.connection import connect
    from zray.transport.security.keys import KeyDirectory

    with by_hand("--bind", f"tcp://127.0.0.1:{free_port()}", hosts=0) as (address, _, _):
        credentials = KeyDirectory(from_environment().keys).client("driver")
        try:
            connect(address, HOST, secrets.token_bytes(16), JoinInfo(1), Config(), credentials)
        except ZrayError as error:
            assert "does not admit a host" in str(error)
        assert look()["refused"] == {"a driver's key does not admit a host": 1}
        shown = status().stdout
        assert "Hosts: none" in shown and "a driver's key does not admit a host: 1" in shown


def test_no_broker(sandbox, monkeypatch):
    assert "no cluster of yours runs on this machine, neither a zray-broker" in status(code=2).stderr
    monkeypatch.setenv("ZRAY_CONNECT_TIMEOUT_S", "0.5")
    silent = f"tcp://127.0.0.1:{free_port()}"
    done = status("--address", silent, "--insecure", code=2)
    assert done.stderr.startswith(f"Error: no zray broker answered at {silent!r} within 0.5 s") and not done.stdout
    assert "not of the form" in status("--address", "nowhere", code=2).stderr
    assert "no driver key" in status("--address", silent, "--keys", os.devnull + "/none", code=2).stderr


def test_an_insecure_broker_needs_the_option_insecure(sandbox, monkeypatch):
    monkeypatch.setenv("ZRAY_CONNECT_TIMEOUT_S", "1.5")
    with by_hand("--bind", f"tcp://127.0.0.1:{free_port()}", "--insecure", hosts=0) as (address, _, _):
        assert look("--address", address, "--insecure")["refused"] == {}
        assert status("--address", address, code=2).stderr.startswith("Error: ")


PROGRAM = """
ray.init(num_cpus=1)
@ray.remote(num_cpus=0)
def fit():
    print("runs", flush=True)
    while True:
        time.sleep(1)
@ray.remote(num_cpus=0)
class Model:
    def ping(self):
        return 1
held = fit.remote(), Model.options(name="m").remote(), ray.put(b"x" * (8 << 20))
@ray.remote
def merge(x):
    return x
late = merge.remote(held[0])
ray.get(held[1].ping.remote())
print("up", flush=True)
sys.stdin.readline()
"""


def test_clusters_of_programs_are_found_and_several_are_listed(sandbox):
    with driver(PROGRAM) as one:
        one.expect("up")
        one.expect("runs")
        found = eventually(lambda: (now := look()) and now["running"] and now["running"][0]["seconds"] and now)
        task, actor = found["running"]
        assert task["name"] == "fit" and task["seconds"] > 0 and task["memory_bytes"] > 1 << 20
        assert actor["actor"] == "Model 'm'" and actor["pid"] != task["pid"] and actor["name"] == ""
        assert found["waiting_for_arguments"] == {"merge": 1}
        (host,) = found["hosts"]
        assert 8 << 20 <= host["store"]["used"] - host["store"]["idle"] < host["store"]["capacity"]
        assert host["heard_s"] < 2
        shown = status().stdout
        assert (
            "Running: 2" in shown
            and "Waiting for arguments: 1" in shown
            and max(map(len, shown.splitlines()[1:])) <= 80
        )
        with driver(PROGRAM) as two:
            two.expect("up")
            shown = status().stdout
            assert shown.startswith("2 clusters of yours run on this machine; ")
            assert f"drivers: pid {one.pid}" in shown and f"drivers: pid {two.pid}" in shown
            clusters = look()["clusters"]
            assert len({each["reached_at"] for each in clusters}) == 2
            assert look("--address", clusters[0]["reached_at"])["jobs"]
            two.popen.kill()
        one.popen.kill()


def test_a_host_that_is_stopped_is_silent(sandbox):
    with by_hand(hosts=2, cpus=1, environ={"ZRAY_SILENCE_S": "60"}) as (_, _, (host, _)):  # it is not declared dead
        host.signal(signal.SIGSTOP)
        try:
            shown = eventually(lambda: "Hosts: 2, 1 of them silent" in (now := status().stdout) and now, 30.0)
            assert "NOT HEARD for " in shown
            assert max(each["heard_s"] for each in look()["hosts"]) >= 2
        finally:
            host.signal(signal.SIGCONT)
