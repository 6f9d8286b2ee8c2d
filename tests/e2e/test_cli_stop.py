"""``zray stop`` ends all clusters of its user, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from .helpers import Process, alive, by_hand, driver, eventually

LOCAL = "ray.init('local', num_cpus=1)\nprint('up', ray.get(ray.remote(os.getpid).remote()))\nsys.stdin.read()"


def stop(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zray.cli.main", "stop", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def names(sandbox, role: str) -> list[str]:
    """Returns the sessions that have a process of this role, by its title."""
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode() for pid in sandbox.processes("zray: ")]
    return sorted(line.split()[2] for line in lines if line.startswith(f"zray: {role} "))


def test_nothing_runs(sandbox):
    done = stop()
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing of yours runs here\n", "")


def test_hosts_broker_and_local_clusters(sandbox):
    with by_hand(hosts=2, cpus=1) as (_, broker, hosts), driver(LOCAL) as program:
        program.expect("up")
        done = stop()
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert sum("ended the host" in line for line in lines) == 2
        assert sum("ended the broker" in line for line in lines) == 1
        assert sum("ended the local cluster" in line for line in lines) == 1
        assert [host.wait(8) for host in hosts] == [0, 0] and broker.wait(8) == 0
        eventually(lambda: not sandbox.processes("zray: "))
        assert program.popen.poll() is None  # the driver is not ended: it gets an error at its next call


def test_one_of_several(sandbox):
    with driver(LOCAL) as one, driver(LOCAL) as other:
        one.expect("up")
        other.expect("up")
        first, second = names(sandbox, "host")
        done = stop(first)
        assert done.returncode == 0 and done.stdout.count("\n") == 1 and first in done.stdout
        assert names(sandbox, "host") == [second]
        done = stop(first)
        assert done.returncode == 1 and f"no session {first} of yours" in done.stderr and second in done.stderr
        assert names(sandbox, "host") == [second]


def test_a_host_that_ignores_signals_is_killed_by_force(sandbox):
    with by_hand(hosts=1, cpus=1, environ={"ZRAY_SILENCE_S": "60"}) as (_, broker, (host,)):
        (name,) = names(sandbox, "host")
        host.signal(signal.SIGSTOP)
        done = stop(name)
        assert done.returncode == 1 and f"zray stop --force {name}" in done.stderr and alive(host.pid)
        done = stop("--force")
        assert done.returncode == 0 and f"killed the host {name}" in done.stdout, done.stderr
        assert host.wait(5) == -signal.SIGKILL and broker.wait(5) == -signal.SIGKILL


def test_a_process_that_only_claims_to_be_a_host_is_left_alone(sandbox):
    """Any process can set the title, but not take the lock."""
    with driver(LOCAL) as program:
        program.expect("up")
        (name,) = names(sandbox, "host")
        real = sandbox.one(f"zray: host {name}")
        with Process([f"zray: host {name}", "-c", "print('here'); input()"], executable=sys.executable) as pretender:
            pretender.expect("here")
            done = stop()
            assert done.returncode == 0 and f"(pid {real})" in done.stdout
            assert pretender.popen.poll() is None


def test_a_process_that_sweeps_holds_the_lock_and_is_left_alone(sandbox):
    """A program that sweeps a dead session has its lock, and may be any program of the user's."""
    sandbox.root.mkdir(mode=0o700)
    (sandbox.root / "0badcafe").mkdir()
    source = """
    import fcntl
    file = open(sys.argv[1], "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held")
    sys.stdin.read()
    """
    from .helpers import program

    lock = sandbox.root / "0badcafe" / "lock"
    with Process([sys.executable, "-u", "-c", program(source), str(lock)]) as sweeper:
        sweeper.expect("held")
        done = stop()
        assert done.returncode == 1 and "cannot be seen from here" in done.stderr
        assert sweeper.popen.poll() is None
    assert stop().stdout == "nothing of yours runs here\n"
    assert os.listdir(sandbox.root) and not sandbox.sessions()
