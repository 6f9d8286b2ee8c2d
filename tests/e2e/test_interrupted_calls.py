"""Calls that are interrupted at any moment, cancelled, or fail half-way leave nothing in the store."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from .helpers import current_session, driver, error_of, eventually, store_of

STORM = """
    import gc, random, threading
    from zray.client import session as sessions

    ray.init(num_cpus=2, object_store_memory=512 << 20)
    rng = random.Random(int(os.environ["SEED"]))

    @ray.remote
    def size_of(data):
        return len(data)

    @ray.remote
    def make(n):
        return bytes(n)

    @ray.remote(num_returns=2)
    def make_two(n):
        return bytes(n), bytes(n)

    @ray.remote(num_cpus=0)
    class Actor:
        def take(self, data):
            return len(data)

    class Alarm(Exception):
        pass

    def ring(number, frame):
        raise Alarm

    number = signal.Signals[os.environ["SIGNAL"]]
    Interrupt = KeyboardInterrupt
    if number != signal.SIGINT:
        Interrupt = Alarm
        signal.signal(number, ring)
    actor = Actor.remote()
    kept = []

    def large():
        return bytes(rng.randrange(150_000, 2 << 20))

    calls = [
        lambda: kept.append(ray.put(large())),
        lambda: kept.append(ray.put([*kept[-1:], large()])),
        lambda: kept.append(size_of.remote(large())),
        lambda: kept.append(actor.take.remote(large())),
        lambda: kept.append(make.remote(rng.randrange(150_000, 2 << 20))),
        lambda: kept.extend(make_two.remote(200_000)),
        lambda: ray.get(kept[-5:]),
        lambda: ray.get(rng.choice(kept or [ray.put(1)])),
        lambda: ray.wait(kept, num_returns=len(kept), timeout=0.002) if kept else None,
        lambda: kept.__delitem__(slice(len(kept) // 2)),
    ]

    def descriptors():
        gc.collect()
        paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        targets = [os.readlink(path) for path in paths if os.path.exists(path)]
        return sorted(target for target in targets if "/pins/" not in target)  # some lock files are kept open

    ray.get([make.remote(200_000) for _ in range(8)] + [actor.take.remote(large()), ray.put(large())])
    while not any(view.lane for view in sessions.current().core.actors.views.values()):  # it stays open
        ray.get(actor.take.remote(b"few"))
    before = descriptors()
    done, hits, begun, over = 0, 0, threading.Event(), threading.Event()

    def shoot():
        pauses = random.Random(int(os.environ["SEED"]))
        begun.wait()
        while not over.wait(pauses.random() * 0.004):
            os.kill(os.getpid(), number)

    def rage():
        global done, hits
        begun.set()
        while done < 1500:
            try:
                rng.choice(calls)()
                done += 1
            except Interrupt:
                hits += 1
        over.set()

    shooter = threading.Thread(target=shoot)
    shooter.start()
    while shooter.is_alive():  # what strikes between two lines of this program itself
        try:
            rage()
            shooter.join()
        except Interrupt:
            pass
    assert hits > 100, hits
    print("the storm is over")
    kept.clear()
    store = sessions.current().stores.of(sessions.current().stores.home)

    def nothing_left():
        gc.collect()
        ray.wait([ray.put(0)])
        usage = store.usage()
        idle = ray.available_resources().get("CPU") == 2
        held = store._pins.in_use or usage.live or usage.writing or usage.doomed or usage.spilled
        return idle and not held and descriptors() == before

    deadline = time.monotonic() + 20
    while not nothing_left():
        assert time.monotonic() < deadline, (store.usage(), vars(store._pins), ray.available_resources(), descriptors())
        time.sleep(0.02)
    assert ray.get([make.remote(200_000), actor.take.remote(large())])
    print("nothing is left")
"""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["SIGINT", "SIGALRM"])
def test_a_storm_of_signals_leaves_nothing(sandbox, name, seed):
    """Ctrl-C, and a handler of the user's that raises."""
    with driver(STORM, environ={"SEED": str(seed), "SIGNAL": name}) as process:
        process.expect("the storm is over", 60)
        process.expect("nothing is left", 30)
        process.succeed()


def stored_bytes() -> int:
    """Returns the bytes in objects of the machine's store."""
    session = current_session()
    session.shell.run(lambda: None)  # counts what was dropped
    usage = store_of(session).usage()
    return usage.live + usage.writing + usage.doomed + usage.spilled


def test_return_values_of_a_call_that_fails_while_they_are_packed(ray):
    """The first is stored already when the second turns out to be unserializable."""

    @ray.remote(num_returns=2)
    def half():
        return bytes(1 << 20), threading.Lock()

    @ray.remote
    class Actor:
        def half(self):
            return bytes(1 << 20), threading.Lock()

        async def half_async(self):
            return bytes(1 << 20), threading.Lock()

    for _ in range(3):
        assert isinstance(error_of(ray, half.remote()[0]), ray.exceptions.RayTaskError)
    actor = Actor.remote()
    for method in (actor.half, actor.half_async):
        refs = method.options(num_returns=2).remote()
        assert isinstance(error_of(ray, refs[0]), ray.exceptions.RayTaskError)
        del refs
    eventually(lambda: not stored_bytes())


def die_before_answering(how="kill"):
    """Makes this worker die when it is about to answer: its return values are stored by then."""
    from zray.worker.process.async_calls import AsyncCalls
    from zray.worker.process.worker import Worker

    def die(*_):
        os._exit(0) if how == "exit" else os.kill(os.getpid(), signal.SIGKILL)

    for kind, method in ((Worker, "_answer"), (AsyncCalls, "flush")):
        setattr(kind, method, die)


class Plain:
    def values(self, n):
        die_before_answering()
        return [bytes(1 << 20) for _ in range(n)] if n > 1 else bytes(1 << 20)


class Async:
    async def values(self, n):
        die_before_answering()
        return [bytes(1 << 20) for _ in range(n)] if n > 1 else bytes(1 << 20)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind", ["task", "actor", "threads", "async"])
def test_values_of_a_worker_that_dies_before_it_answers(ray, kind, n):
    if kind == "task":
        call = ray.remote(max_retries=0)(lambda n: Plain().values(n))
    else:
        actor = ray.remote(Async if kind == "async" else Plain)
        handle = actor.options(max_concurrency=4 if kind == "threads" else None).remote()
        call = handle.values
    refs = call.options(num_returns=n).remote(n)
    for ref in refs if n > 1 else [refs]:
        assert isinstance(error_of(ray, ref), (ray.exceptions.WorkerCrashedError, ray.exceptions.ActorDiedError))
    eventually(lambda: not stored_bytes())  # while the references are still held


def test_values_of_a_worker_that_ends_without_an_error(ray):
    @ray.remote(max_retries=0)
    def value():
        die_before_answering("exit")
        return bytes(1 << 20)

    ref = value.remote()
    assert isinstance(error_of(ray, ref), ray.exceptions.WorkerCrashedError)
    eventually(lambda: not stored_bytes())


@pytest.mark.parametrize("size", [10, 2 << 20])
def test_another_attempt_replaces_values_of_an_earlier_one(ray, tmp_path, size):
    @ray.remote(max_retries=1)
    def value(marker):
        if not os.path.exists(marker):
            open(marker, "x").close()
            die_before_answering()
            return bytes(1 << 20)
        return bytes(size)

    ref = value.remote(str(tmp_path / "marker"))
    assert ray.get(ref, timeout=20) == bytes(size)
    eventually(lambda: stored_bytes() == 0 if size < 1000 else stored_bytes() >= size)
    assert ray.get(ref, timeout=20) == bytes(size)
    del ref
    eventually(lambda: not stored_bytes())


def test_cancelled_tasks_leave_nothing(ray):
    """Cancelled at any moment: while unpacking arguments, putting, getting, returning."""

    @ray.remote(max_retries=0)
    def busy(data, n):
        refs = [ray.put(bytes(300_000)) for _ in range(n)]
        return [*ray.get(refs), data, refs[:1]]

    rng = random.Random(1)
    large = ray.put(bytes(1 << 20))
    ray.get([busy.remote(large, 2) for _ in range(4)])
    for _ in range(100):
        refs = [busy.remote(large, 5), busy.remote(bytes(400_000), 3)]
        time.sleep(rng.random() * 0.01)
        for ref in refs:
            ray.cancel(ref)
        for ref in refs:
            try:
                assert len(ray.get(ref, timeout=20)) in (5, 7)
            except ray.exceptions.TaskCancelledError:
                continue
        del ref, refs
    del large
    eventually(lambda: not stored_bytes())
    eventually(lambda: ray.available_resources().get("CPU") == 2)


def test_an_object_that_cannot_be_freed_affects_nothing_else(ray, monkeypatch, capfd):
    """Work that is left after a message is done piece by piece: a future that waits is completed all the same."""
    stores = current_session().stores

    def fail(host, object_ids):
        raise OSError("no such luck")

    future = ray.remote(lambda: 7).remote().future()
    with monkeypatch.context() as patch:
        patch.setattr(stores, "free", fail)
        large = ray.put(bytes(1 << 20))
        del large
        assert future.result(timeout=10) == 7
        assert ray.get(ray.remote(lambda: 8).remote(), timeout=10) == 8
        eventually(lambda: "objects cannot be freed" in capfd.readouterr().err)
    assert ray.get(ray.put(9)) == 9
