"""Large objects between machines. ZRAY_TEST_MACHINE has processes of one machine take each other for strangers'."""

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

import pytest

np = pytest.importorskip("numpy")

from .helpers import Process, eventually, free_port  # noqa: E402


def digest(array) -> str:
    return hashlib.sha256(memoryview(array).cast("B")).hexdigest()


@contextlib.contextmanager
def machines(*names: str, cpus: int = 2, **environ: str) -> Iterator[tuple[str, dict[str, Process]]]:
    """A broker, and a host for each name with a resource of that name; yields the address and the hosts."""
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
    """Objects in all stores of this test's sessions."""

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
    # As an argument on the other machine, several readers at once; by a driver that has no store; nested; by an actor.
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


def test_a_copy_of_what_is_freed_meanwhile_goes_as_well(cluster, sandbox):
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


def test_the_machine_that_has_it_dies(monkeypatch):
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with machines("a", "b", ZRAY_SILENCE_S="2", ZRAY_HEARTBEAT_S="0.4") as (address, hosts):
        monkeypatch.setenv("ZRAY_SILENCE_S", "2")
        ray.init(address)
        ref = on(ray, "a")(lambda: np.zeros(30_000_000)).remote()
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


def test_a_get_that_has_not_the_time(monkeypatch):
    """The source is stopped: the get ends at its timeout, and succeeds once it goes on."""
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


def test_a_full_store_says_so(monkeypatch):
    import zray as ray

    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with machines("a", ZRAY_OBJECT_STORE_MEMORY=str(64 << 20)) as (address, _):
        command = [sys.executable, "-m", "zray.cli.worker", "--address", address, "--resources", '{"b": 1}',
                   "--object-store-memory", str(8 << 20)]  # fmt: skip
        with Process(command, env={**os.environ, "ZRAY_TEST_MACHINE": "b"}) as host:
            host.expect("host is ready")
            ray.init(address)
            ref = on(ray, "a")(lambda: np.zeros(20 << 20, dtype=np.uint8)).remote()
            with pytest.raises(ray.exceptions.ObjectStoreFullError, match="larger than the object store"):
                ray.get(ray.remote(max_retries=0, resources={"b": 1})(lambda a: a.nbytes).remote(ref), timeout=30)
            assert ray.get(ref, timeout=20).nbytes == 20 << 20
            ray.shutdown()
            host.stop()
