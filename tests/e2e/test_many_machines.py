"""Large objects between machines.

ZRAY_TEST_MACHINE makes processes of one machine treat each other as on different ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")

from .helpers import Process, eventually, free_port  # noqa: E402


def digest(array) -> str:
    return hashlib.sha256(memoryview(array).cast("B")).hexdigest()


@contextlib.contextmanager
def machines(*names: str, cpus: int = 2, **environ: str) -> Iterator[tuple[str, dict[str, Process]]]:
    """Starts a broker, and a host for each name with a resource of that name; yields the address and the hosts."""
    with contextlib.ExitStack() as stack:
        bind = f"tcp://127.0.0.1:{free_port()}"
        broker = stack.enter_context(Process([sys.executable, "-m", "zray.cli.broker", "--bind", bind]))
        address = broker.expect("ready at").split()[-1]
        hosts = {}
        for name in names:
            command = [sys.executable, "-m", "zray.cli.worker", "--address", address, "--num-cpus", str(cpus),
                       "--resources", f'{{"{name}": 100}}']  # fmt: skip
            env = {**os.environ, **environ, "ZRAY_TEST_MACHINE": name}
            hosts[name] = stack.enter_context(Process(command, env=env))
        for host in hosts.values():
            host.expect("host is ready")
        yield address, hosts
        for process in (*hosts.values(), broker):
            if process.popen.poll() is None:
                process.stop()


@pytest.fixture
def cluster(monkeypatch) -> Iterator[str]:
    """Machines a and b; the driver is on a third that has no host."""
    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with machines("a", "b") as (address, _):
        yield address


def on(ray, name):
    return ray.remote(resources={name: 1}, num_cpus=0)


def stored(sandbox) -> int:
    """Returns the objects in all stores of this test's sessions."""

    places = [path / name for path in map(Path, sandbox.segments()) for name in ("live", "copies")]
    return sum(len(list(place.iterdir())) for place in places if place.exists())


def test_values_arguments_and_results(cluster, sandbox):
    import zray as ray

    ray.init(cluster)

    def make(seed, size):
        return np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)

    sizes = [200_000, 512 * 1024, 3_000_000, 40_000_000]
    made = [on(ray, "a")(make).remote(seed, size) for seed, size in enumerate(sizes)]
    expected = [digest(make(seed, size)) for seed, size in enumerate(sizes)]
    # As an argument on the other machine, several readers at once; by a driver without a store; nested; by an actor.
    digests = [on(ray, "b")(digest).remote(ref) for ref in made for _ in range(3)]
    assert ray.get(digests, timeout=60) == [each for each in expected for _ in range(3)]
    assert [digest(array) for array in ray.get(made, timeout=60)] == expected
    nested = on(ray, "b")(lambda refs: [digest(array) for array in ray.get(refs)])
    assert ray.get(nested.remote(made), timeout=60) == expected

    @ray.remote(resources={"b": 1}, num_cpus=0)
    class Keeper:
        def keep(self, array):
            self.array = array

        def digest(self):
            return digest(self.array)

    keeper = Keeper.remote()
    ray.get(keeper.keep.remote(made[2]), timeout=30)
    # Four on a, and their copies on b; the owner, which is the driver, frees all of them.
    assert stored(sandbox) == 8
    del made, digests, keeper
    eventually(lambda: stored(sandbox) == 0, 15)
    ray.shutdown()


def test_objects_put_by_a_task_and_by_the_driver(cluster, sandbox):
    import zray as ray

    ray.init(cluster)
    mine = np.arange(1_000_000)
    ref = ray.put(mine)
    assert ray.get(on(ray, "b")(lambda a: int(a.sum())).remote(ref), timeout=30) == int(mine.sum())
    inner = on(ray, "a")(lambda: [ray.put(np.ones(1_000_000))])
    (theirs,) = ray.get(inner.remote(), timeout=30)
    assert ray.get(theirs, timeout=30).sum() == 1_000_000
    assert ray.get(on(ray, "b")(lambda a: float(a.sum())).remote(theirs), timeout=30) == 1_000_000
    ray.shutdown()


def test_a_copy_of_a_freed_object_is_removed_too(cluster, sandbox):
    import zray as ray

    ray.init(cluster)
    for _ in range(5):
        ref = on(ray, "a")(lambda: np.zeros(5_000_000)).remote()
        ray.wait([ref], timeout=20)
        taken = on(ray, "b")(lambda a: a.nbytes).remote(ref)
        del ref
        assert ray.get(taken, timeout=20) == 40_000_000
        del taken
    eventually(lambda: stored(sandbox) == 0, 15)
    ray.shutdown()


@pytest.fixture
def on_a(monkeypatch) -> Iterator[dict[str, Process]]:
    """Machines a and b; the driver is on a."""
    monkeypatch.setenv("ZRAY_TEST_MACHINE", "a")
    quick: dict[str, Any] = {"ZRAY_SILENCE_S": "2", "ZRAY_HEARTBEAT_S": "0.4"}
    for name, value in quick.items():
        monkeypatch.setenv(name, value)
    with machines("a", "b", **quick) as (address, hosts):
        import zray

        zray.init(address)
        yield hosts
        zray.shutdown()


def make_on_b(size):
    import zray as ray

    ref = on(ray, "b")(lambda: np.ones(size, np.uint8)).remote()
    assert ray.wait([ref], timeout=20, fetch_local=False) == ([ref], [])
    return ref


def test_wait_brings_what_it_waits_for(on_a, sandbox):
    import zray as ray

    ref = make_on_b(40_000_000)
    assert stored(sandbox) == 1
    assert ray.wait([ref], timeout=20) == ([ref], [])
    assert stored(sandbox) == 2
    assert ray.wait([ref], timeout=0) == ([ref], [])
    assert ray.get(ref).sum() == 40_000_000


def test_objects_arrive_after_wait_has_timed_out(on_a, sandbox):
    import zray as ray

    ref = make_on_b(40_000_000)
    assert ray.wait([ref], timeout=0) == ([], [ref])
    eventually(lambda: ray.wait([ref], timeout=0) == ([ref], []))
    assert stored(sandbox) == 2


def test_wait_brings_no_more_than_it_is_asked_for(on_a, sandbox):
    import zray as ray

    slow = ray.remote(num_cpus=0)(time.sleep).remote(1000)
    refs = [slow, *(make_on_b(3_000_000) for _ in range(30))]
    ready, others = ray.wait(refs, num_returns=10, timeout=20)
    assert (ready, others) == (refs[1:11], [slow, *refs[11:]])
    assert stored(sandbox) == 40
    mine = ray.put(np.zeros(1_000_000))
    assert ray.wait([refs[20], slow, mine], timeout=20)[0] == [mine]  # here already
    ray.cancel(slow, force=True)


def test_wait_in_a_task_and_for_what_is_yet_to_be_made(on_a, sandbox):
    import zray as ray

    def count(refs):
        def make():
            time.sleep(0.5)
            return np.ones(2_000_000)

        later = on(ray, "b")(make).remote()
        ready, others = ray.wait([*refs, later], num_returns=len(refs) + 1, timeout=20)
        assert not others
        return sum(int(array.sum()) for array in ray.get(ready))

    refs = [make_on_b(1_000_000) for _ in range(3)]
    assert ray.get(on(ray, "a")(count).remote(refs), timeout=30) == 5_000_000


def test_wait_returns_a_lost_object_as_ready(on_a):
    import zray as ray

    make = ray.remote(max_retries=0, resources={"b": 1}, num_cpus=0)(lambda: np.ones(3_000_000))
    refs = [make.remote() for _ in range(5)]
    ray.wait(refs, num_returns=5, timeout=20, fetch_local=False)
    on_a["b"].signal(signal.SIGKILL)
    assert ray.wait(refs, num_returns=5, timeout=20) == (refs, [])
    for ref in refs:
        with pytest.raises(ray.exceptions.ObjectLostError):
            ray.get(ref, timeout=20)


def test_wait_for_more_than_the_store_holds(monkeypatch):
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "a")
    with machines("a", "b", ZRAY_OBJECT_STORE_MEMORY=str(64 << 20)) as (address, _):
        ray.init(address)
        refs = [make_on_b(6_000_000) for _ in range(16)]
        assert ray.wait(refs, num_returns=16, timeout=30) == (refs, [])
        assert [array.nbytes for array in map(ray.get, refs)] == [6_000_000] * 16
        ray.shutdown()


def test_the_machine_that_has_it_dies(monkeypatch):
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with machines("a", "b", ZRAY_SILENCE_S="2", ZRAY_HEARTBEAT_S="0.4") as (address, hosts):
        monkeypatch.setenv("ZRAY_SILENCE_S", "2")
        ray.init(address)
        make = ray.remote(resources={"a": 1}, num_cpus=0, max_retries=0)(lambda: np.zeros(30_000_000))
        ref = make.remote()
        ray.wait([ref], timeout=20)
        hosts["a"].signal(signal.SIGSTOP)
        waiting = ray.remote(max_retries=0, resources={"b": 1})(lambda refs: ray.get(refs[0]).nbytes).remote([ref])
        time.sleep(0.3)
        hosts["a"].popen.kill()
        with pytest.raises(ray.exceptions.ObjectLostError):
            ray.get(waiting, timeout=30)
        with pytest.raises(ray.exceptions.ObjectLostError):
            ray.get(ref, timeout=30)
        assert ray.get(on(ray, "b")(lambda: 1).remote(), timeout=20) == 1
        ray.shutdown()


def test_a_get_that_times_out(monkeypatch):
    """The source is stopped: the get ends at its timeout, and succeeds once the source goes on."""
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with machines("a") as (address, hosts):
        ray.init(address)
        ref = on(ray, "a")(lambda: np.ones(3_000_000)).remote()
        ray.wait([ref], timeout=20)
        hosts["a"].signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(ray.exceptions.GetTimeoutError):
            ray.get(ref, timeout=0.5)
        assert time.monotonic() - began < 5
        hosts["a"].signal(signal.SIGCONT)
        assert ray.get(ref, timeout=20).sum() == 3_000_000
        ray.shutdown()


def test_many_threads_and_processes_read_the_same(cluster, sandbox):
    import zray as ray

    ray.init(cluster)
    ref = on(ray, "a")(lambda: np.arange(4_000_000)).remote()
    ray.wait([ref], timeout=20)

    @ray.remote(resources={"b": 1}, num_cpus=0)
    def read(refs):
        sums = []
        threads = [threading.Thread(target=lambda: sums.append(int(ray.get(refs[0]).sum()))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sums

    results = ray.get([read.remote([ref]) for _ in range(4)], timeout=60)
    assert results == [[sum(range(4_000_000))] * 4] * 4
    assert stored(sandbox) == 2  # the original and one copy
    ray.shutdown()


def test_what_is_larger_than_a_hosts_store_is_on_its_disk(monkeypatch):
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with machines("a", ZRAY_OBJECT_STORE_MEMORY=str(64 << 20)) as (address, _):
        command = [sys.executable, "-m", "zray.cli.worker", "--address", address, "--resources", '{"b": 1}',
                   "--object-store-memory", str(8 << 20)]  # fmt: skip
        with Process(command, env={**os.environ, "ZRAY_TEST_MACHINE": "b"}) as host:
            host.expect("host is ready")
            ray.init(address)
            ref = on(ray, "a")(lambda: np.zeros(20 << 20, dtype=np.uint8)).remote()
            length = ray.remote(max_retries=0, resources={"b": 1})(lambda a: a.nbytes)
            assert ray.get(length.remote(ref), timeout=30) == 20 << 20
            assert ray.get(ref, timeout=20).nbytes == 20 << 20
            ray.shutdown()
            host.stop()


def test_objects_of_a_driver_without_a_host_are_sent_in_chunks(monkeypatch, sandbox):
    """More than a message may have: an argument, a put, and one nested in another; freed with their references."""
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    monkeypatch.setenv("ZRAY_MAX_MESSAGE_BYTES", str(8 << 20))
    with machines("a", "b") as (address, _):
        ray.init(address)
        array = np.random.default_rng(1).integers(0, 255, 30_000_000, dtype=np.uint8)
        expected = digest(array)
        ref = ray.put(array)
        assert ray.get([on(ray, name)(digest).remote(ref) for name in "ab"], timeout=60) == [expected] * 2
        assert ray.get(on(ray, "a")(digest).remote(array), timeout=60) == expected
        nested = on(ray, "b")(lambda refs: digest(ray.get(refs[0])))
        assert ray.get(nested.remote([ref]), timeout=60) == expected
        assert digest(ray.get(ref)) == expected
        assert stored(sandbox) >= 2
        del ref, nested
        eventually(lambda: stored(sandbox) == 0, 15)
        ray.shutdown()


def test_a_driver_dies_with_what_it_has_put(monkeypatch):
    """A reader gets an error that says so, and does not wait."""
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with machines("a", ZRAY_SILENCE_S="2", ZRAY_HEARTBEAT_S="0.4") as (address, _):
        owner = Process([sys.executable, "-c", f"""
import numpy as np, time, zray as ray
ray.init({address!r}, namespace="n")
@ray.remote(num_cpus=0)
class Keeper:
    def keep(self, refs):
        self.refs = refs
    def read(self):
        return ray.get(self.refs[0]).nbytes
keeper = Keeper.options(name="keeper", lifetime="detached").remote()
ray.get(keeper.keep.remote([ray.put(np.zeros(30_000_000))]))
print("kept", flush=True)
time.sleep(60)
"""], env={**os.environ, "ZRAY_TEST_MACHINE": "theirs"})  # fmt: skip
        with owner:
            owner.expect("kept")
            owner.popen.kill()
            owner.wait()
            ray.init(address, namespace="n")
            keeper = ray.get_actor("keeper")
            with pytest.raises(ray.exceptions.OwnerDiedError):
                ray.get(keeper.read.remote(), timeout=30)
            ray.kill(keeper)
            ray.shutdown()


def places(sandbox, name: str) -> int:
    """Returns the objects of one place in the stores of this test's sessions."""
    found = [path / name for path in map(Path, sandbox.segments())]
    return sum(len(list(place.iterdir())) for place in found if place.exists())


def test_copies_go_before_anything_is_spilled(monkeypatch, sandbox):
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with machines("a", "b", ZRAY_OBJECT_STORE_MEMORY=str(128 << 20)) as (address, _):
        ray.init(address)
        size = 20 << 20
        theirs = [on(ray, "a")(lambda n: np.full(size, n, np.uint8)).remote(n) for n in range(4)]
        read = on(ray, "b")(lambda array: int(array[0]))
        assert ray.get([read.remote(ref) for ref in theirs], timeout=60) == [0, 1, 2, 3]
        assert places(sandbox, "copies") == 4

        @ray.remote(resources={"b": 1}, num_cpus=0)
        class Writer:
            def write(self):
                self.refs = [ray.put(np.full(size, n, np.uint8)) for n in range(5)]
                return [int(ray.get(ref)[0]) for ref in self.refs]

        writer = Writer.remote()
        assert ray.get(writer.write.remote(), timeout=60) == [0, 1, 2, 3, 4]
        assert places(sandbox, "copies") < 4
        assert not [path for path in sandbox.directory.rglob("spill*/*") if path.name != "spilling"]
        assert ray.get([read.remote(ref) for ref in theirs], timeout=60) == [0, 1, 2, 3]  # pulled again
        ray.shutdown()


def test_more_than_a_store_can_hold_comes_one_after_the_other(monkeypatch):
    """Room is reserved for whole objects before they are asked for, so that no pull waits for another's room."""
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with machines("a", "b", cpus=4, ZRAY_OBJECT_STORE_MEMORY=str(64 << 20)) as (address, _):
        ray.init(address)
        made = [on(ray, "a")(lambda n: np.full(12 << 20, n, np.uint8)).remote(n) for n in range(12)]
        read = on(ray, "b")(lambda array: (int(array[0]), int(array[-1])))
        assert ray.get([read.remote(ref) for ref in made], timeout=90) == [(n, n) for n in range(12)]
        ray.shutdown()


def test_a_task_goes_where_its_arguments_are(cluster):
    import zray as ray

    ray.init(cluster)
    large = {name: on(ray, name)(lambda: np.zeros(2_000_000)).remote() for name in "ab"}
    ray.wait(list(large.values()), num_returns=2, timeout=30)

    @ray.remote
    def where(array, other=None):
        return os.environ["ZRAY_TEST_MACHINE"]

    for name, ref in [*large.items(), *large.items()]:
        assert ray.get(where.remote(ref), timeout=30) == name
    assert ray.get(where.remote(1, other=large["b"]), timeout=30) == "b"
    # If that host is full, it runs on another one rather than wait.
    blocker = ray.remote(num_cpus=2, resources={"b": 1})(lambda: time.sleep(5)).remote()
    eventually(lambda: ray.available_resources().get("b") == 99)
    assert ray.get(where.remote(large["b"]), timeout=4) == "a"
    ray.cancel(blocker, force=True)
    ray.shutdown()


def test_an_object_outlives_its_machine_where_another_has_a_copy(monkeypatch):
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with machines("a", "b", "c", ZRAY_SILENCE_S="2", ZRAY_HEARTBEAT_S="0.4") as (address, hosts):
        monkeypatch.setenv("ZRAY_SILENCE_S", "2")
        ray.init(address)
        ref = on(ray, "a")(lambda: np.arange(2_000_000)).remote()
        total = sum(range(2_000_000))
        read = on(ray, "b")(lambda array: int(array.sum()))
        assert ray.get(read.remote(ref), timeout=30) == total
        hosts["a"].popen.kill()
        hosts["a"].wait()
        eventually(lambda: len([node for node in ray.nodes() if node["Alive"]]) == 2, 15)
        assert ray.get(on(ray, "c")(lambda array: int(array.sum())).remote(ref), timeout=30) == total
        assert int(ray.get(ref, timeout=30).sum()) == total
        ray.shutdown()


def test_a_pull_goes_on_from_another_source(monkeypatch):
    """Two hosts have it, and the one that is asked dies in the middle."""
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with machines("a", "b", "c", ZRAY_SILENCE_S="2", ZRAY_HEARTBEAT_S="0.4") as (address, hosts):
        monkeypatch.setenv("ZRAY_SILENCE_S", "2")
        ray.init(address)
        ref = on(ray, "a")(lambda: np.arange(40_000_000)).remote()
        ray.wait([ref], timeout=30)
        check = ray.remote(num_cpus=0)(lambda refs: int(ray.get(refs[0])[-1]))
        assert ray.get(check.options(resources={"b": 1}).remote([ref]), timeout=60) == 39_999_999
        hosts["a"].signal(signal.SIGSTOP)  # its chunks will never come
        waiting = check.options(resources={"c": 1}, max_retries=0).remote([ref])
        time.sleep(0.5)
        hosts["a"].popen.kill()
        assert ray.get(waiting, timeout=40) == 39_999_999
        ray.shutdown()
