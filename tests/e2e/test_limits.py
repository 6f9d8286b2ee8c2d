"""Limits of the system: the error names the limit, and the remedy."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from zray.exceptions import SystemFailure

from .helpers import Process, driver, eventually

LIMIT = "import resource; resource.setrlimit(resource.{0}, ({1}, {1}))\n"
FEW = 100
"""Descriptors of a broker that soon runs out of them."""


def limited_driver(limit: str, value: int, source: str, **popen) -> Process:
    return driver(LIMIT.format(limit, value) + source, **popen)


def test_an_object_larger_than_files_may_be(sandbox):
    source = """
ray.init(num_cpus=1)
large = b"x" * 30_000_000
calls = [
    lambda: ray.put(large),
    lambda: ray.get(ray.remote(lambda: b"x" * 30_000_000).remote()),
    lambda: ray.remote(len).remote(large),
]
for call in calls:
    try:
        call()
    except ray.exceptions.ObjectStoreFullError as error:
        assert "10,000,000 bytes" in str(error) and "ulimit -f" in str(error), error
        print("refused")
assert len(ray.get(ray.put(b"x" * 5_000_000))) == 5_000_000
ray.shutdown()
"""
    with limited_driver("RLIMIT_FSIZE", 10_000_000, source) as process:
        assert process.succeed(40).count("refused") == 3


def test_a_driver_that_has_all_its_files_open(sandbox):
    source = """
ray.init(num_cpus=1)
ref = ray.put(b"x" * 1_000_000)
@ray.remote
def make():
    return b"x" * 2_000_000
made = make.remote()
ray.wait([made])
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for call in (lambda: ray.put(b"x" * 3_000_000), lambda: ray.get(made)):
    try:
        call()
    except ray.exceptions.RayError as error:
        assert "200 files open" in str(error) and "ulimit -n" in str(error), error
        print("refused")
for fd in held:
    os.close(fd)
assert len(ray.get(made)) == 2_000_000
"""
    with limited_driver("RLIMIT_NOFILE", 200, source) as process:
        assert process.succeed(40).count("refused") == 2


def test_files_too_small_to_spill(sandbox):
    """The store itself is large enough; the limit on files stops the spill."""
    source = """
ray.init(num_cpus=1, object_store_memory=20_000_000)
held = [ray.put(b"x" * 1_900_000) for _ in range(9)]
@ray.remote
def put(n):
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
    return len(ray.get([ray.put(b"x" * 1_900_000) for _ in range(n)]))
import resource
assert ray.get(put.remote(3)) == 3
"""
    with driver(source) as process:
        process.succeed(40)


@pytest.mark.parametrize("limit, value, option", [("RLIMIT_FSIZE", 100, "-f"), ("RLIMIT_NOFILE", 6, "-n")])
def test_a_cluster_that_cannot_be_started(sandbox, limit, value, option):
    source = f"import zray.local_cluster.launch, subprocess, json\n{LIMIT.format(limit, value)}ray.init(num_cpus=1)"
    with driver(source) as process:
        assert process.wait() == 1
        assert f"ulimit {option}" in process.err, process.report()


def test_a_store_that_was_removed(ray, sandbox):
    (store,) = sandbox.segments()
    ray.put(b"x" * 1_000_000)
    shutil.rmtree(store)
    with pytest.raises(SystemFailure, match=r"has been removed|are gone"):
        for _ in range(1000):
            ray.put(b"x" * 1_000_000)


def test_a_worker_that_cannot_join_says_why(sandbox, monkeypatch):
    import zray as ray

    monkeypatch.setenv("ZRAY_CONNECT_TIMEOUT_S", "2")
    ray.init(num_cpus=2)

    @ray.remote(num_cpus=0)
    class Actor:
        def method(self):
            return 1

    ray.get([Actor.remote().method.remote() for _ in range(2)])
    aside = sandbox.directory / "aside"
    os.rename(sandbox.root, aside)
    sandbox.root.write_text("in the way: it cannot be made again")
    try:
        with pytest.raises(ray.exceptions.ActorDiedError, match="cannot join the cluster: no zray broker answered"):
            ray.get([Actor.remote().method.remote() for _ in range(4)], timeout=30)
    finally:
        sandbox.root.unlink()
        os.rename(aside, sandbox.root)
    eventually(lambda: ray.get(Actor.remote().method.remote(), timeout=20) == 1)


@contextlib.contextmanager
def silent_connections(address: str) -> Iterator[None]:
    """Opens many connections that never complete the handshake."""
    with contextlib.ExitStack() as stack:
        if address.startswith("ipc://"):  # these do ZeroMQ's handshake: silent ones are soon hung up on
            context = stack.enter_context(zmq.Context())
            for _ in range(FEW):
                connection = stack.enter_context(context.socket(zmq.DEALER))
                connection.linger = 0
                connection.connect(address)
                time.sleep(0.02)  # a flood would end the broker, within libzmq
        else:
            for _ in range(4 * FEW):
                stack.enter_context(socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))))
        yield


def limit_descriptors(n: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))


@pytest.mark.parametrize(
    "options", [[], ["--bind", "tcp://127.0.0.1:0", "--insecure"], ["--bind", "tcp://127.0.0.1:0"]]
)
def test_a_broker_without_descriptors_for_newcomers(sandbox, options):
    insecure = ", insecure=True" if "--insecure" in options else ""
    command = [sys.executable, "-m", "zray.cli.broker", *options]
    with Process(command, preexec_fn=limit_descriptors(FEW)) as broker:
        address = broker.expect("ready at").split()[-1]
        broker.expect("tar -C" if options and not insecure else "drivers:")
        join = f"ray.init({address!r}{insecure})"
        with silent_connections(address):
            broker.expect("no other process can join: Too many open files", stream="err")
            assert f"{FEW:,}" in broker.expect("ulimit -n", stream="err")
            with driver(join) as process:
                assert process.wait(30) == 1
                assert "does not answer" in process.err and "ulimit -n" in process.err, process.report()
                said = process.err.rpartition("ClusterUnavailableError")[2]
                assert "Is one running there" not in said and "keys" not in said
        with driver(f"{join}\nprint(len(ray.nodes()))", environ={"ZRAY_CONNECT_TIMEOUT_S": "30"}) as process:
            assert process.succeed(40) == "0"
        broker.stop()


def test_no_listener(sandbox):
    for address in (f"ipc://{sandbox.directory}/nothing", "tcp://127.0.0.1:9"):
        with driver(f"ray.init({address!r}, insecure=True)", environ={"ZRAY_CONNECT_TIMEOUT_S": "0.5"}) as process:
            assert process.wait() == 1
            assert "Is one running there" in process.err
