"""A session's files on a machine with cleaners: the cluster goes on, and is not declared dead."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest

import zray

from .helpers import alive, by_hand, driver, eventually


def pids(n: int) -> list[int]:
    """Returns the processes of new actors."""

    @zray.remote(num_cpus=0)
    class Actor:
        def pid(self):
            return os.getpid()

    return zray.get([Actor.options(lifetime="detached").remote().pid.remote() for _ in range(n)], timeout=15)


@pytest.mark.parametrize("gone", ["lock", "session", "root", "sockets"])
def test_a_local_cluster_outlives_its_files(ray, sandbox, gone):
    session = sandbox.sessions()[0]
    before = pids(1)
    for path in {
        "lock": [session / "lock"],
        "session": [session],
        "root": [sandbox.root],
        "sockets": sandbox.sockets(),
    }[gone]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with driver("ray.init(num_cpus=1); print('up'); ray.shutdown()") as other:  # any start sweeps
        other.succeed()
    assert alive(before[0])
    assert all(alive(pid) for pid in pids(4))
    eventually(lambda: (session / "lock").exists() and (session / "broker.sock").exists())
    assert len(ray.get(ray.put(b"x" * 1_000_000))) == 1_000_000


def test_a_cluster_started_by_hand_outlives_its_files(sandbox):
    with by_hand(hosts=1) as (address, broker, (host,)):
        zray.init(address)
        before = pids(1)
        shutil.rmtree(sandbox.root)
        eventually(lambda: (sandbox.root / "current").exists() and os.path.exists(address.removeprefix("ipc://")))
        with driver("ray.init('auto'); print(ray.get(ray.remote(os.getpid).remote())); ray.shutdown()") as other:
            other.succeed()
        assert alive(before[0])
        assert all(alive(pid) for pid in pids(2))
        assert broker.popen.poll() is None and host.popen.poll() is None
        zray.shutdown()


def test_a_host_on_tcp_outlives_its_files(sandbox):
    with by_hand("--bind", "tcp://127.0.0.1:0", hosts=1) as (address, _, _):
        zray.init(address)
        before = pids(1)
        for session in sandbox.sessions():
            shutil.rmtree(session)
        eventually(lambda: len(sandbox.sessions()) == 2)
        assert all(alive(pid) for pid in [*before, *pids(2)])
        zray.shutdown()


@pytest.mark.skipif(not shutil.which("systemd-tmpfiles"), reason="needs systemd-tmpfiles")
def test_systemd_tmpfiles_skips_a_living_session(ray, sandbox):
    session = sandbox.sessions()[0]
    decoy = sandbox.root / "decoy"
    decoy.write_text("old")
    plain = sandbox.directory / "plain"
    plain.mkdir()
    (plain / "file").write_text("old")
    rules = sandbox.directory.parent / f"{sandbox.directory.name}.conf"
    rules.write_text(f"e {sandbox.directory} - - - 0\n")
    try:
        subprocess.run(["systemd-tmpfiles", "--clean", str(rules)], check=True, capture_output=True)
    finally:
        rules.unlink()
    assert not plain.exists()  # it has been at work
    assert (session / "lock").exists() and (session / "broker.sock").exists() and decoy.exists()
    assert alive(pids(1)[0])


def test_a_removed_store_ends_the_cluster_with_its_reason(sandbox):
    source = """
    ray.init(num_cpus=1)
    print("up")
    try:
        ray.get(ray.remote(time.sleep).remote(1000))
    except ray.exceptions.ClusterUnavailableError:
        print("caught")
    """
    with driver(source) as process:
        process.expect("up")
        (store,) = sandbox.segments()
        shutil.rmtree(store)
        process.expect("caught")
        process.expect("has been removed by another program", stream="err")
        process.succeed()


def test_a_dead_session_is_removed_after_its_lock_file_was_cleaned_up(sandbox):
    with driver("ray.init(num_cpus=1); print('up'); sys.stdin.read()") as process:
        process.expect("up")
        victims = [sandbox.one("zray-zygote"), sandbox.one("zray: host"), process.pid]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in victims:
                os.kill(pid, number)
        process.wait()
        eventually(lambda: not sandbox.processes())
    (session,) = sandbox.sessions()
    (session / "lock").unlink()
    os.utime(session, (1, 1))
    with driver("ray.init(num_cpus=1); print('up'); sys.stdin.readline()") as process:
        process.expect("up")
        # It has another name while it is removed, and the process that removes it ends with this driver.
        eventually(lambda: not list(session.parent.glob(f"{session.name}*")) and len(sandbox.segments()) == 1)
