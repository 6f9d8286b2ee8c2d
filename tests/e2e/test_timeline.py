"""``zray.timeline`` of a cluster that records when tasks ran."""

from __future__ import annotations

import json
import os
import signal

import pytest

import zray

from .helpers import by_hand, error_of, eventually


@pytest.fixture
def ray(sandbox, monkeypatch):
    monkeypatch.setenv("RAY_PROFILING", "1")
    zray.init(num_cpus=2)
    yield zray
    zray.shutdown()


def states(ray) -> dict[str, str]:
    return {event["name"]: event["args"]["state"] for event in ray.timeline()}


def test_tasks_and_calls(ray, tmp_path):
    @ray.remote
    def square(n):
        return n * n

    @ray.remote
    def fail():
        raise ValueError

    @ray.remote
    class Keeper:
        def ping(self):
            return os.getpid()

    keeper = Keeper.remote()
    refs = [square.remote(n) for n in range(5)]
    pid = ray.get(keeper.ping.remote())
    ray.get(refs)
    error_of(ray, fail.remote())
    events = ray.timeline()
    assert [event["ph"] for event in events] == ["X"] * 8
    assert sum(event["name"] == "square" for event in events) == 5
    assert states(ray)["fail"] == "FAILED"
    (ping,) = [event for event in events if event["name"] == "Keeper.ping"]
    assert ping["args"]["pid"] == pid and ping["dur"] >= 0 and ping["tid"].startswith("worker:")
    assert {event["args"]["task_id"] for event in events} >= {ref.task_id().hex() for ref in refs}
    assert ray.timeline(str(tmp_path / "trace.json")) is None
    assert json.loads((tmp_path / "trace.json").read_text()) == events


def test_a_worker_that_was_killed(ray):
    @ray.remote
    class Victim:
        def ping(self):
            return os.getpid()

    victim = Victim.remote()
    os.kill(ray.get(victim.ping.remote()), signal.SIGKILL)
    error_of(ray, victim.ping.remote())
    assert states(ray)["Victim.ping"] == "FINISHED"


def test_concurrent_calls(ray):
    @ray.remote
    class Gate:
        def __init__(self):
            import asyncio

            self.event = asyncio.Event()

        async def wait(self):
            await self.event.wait()

        async def open(self):
            self.event.set()

    gate = Gate.remote()
    waits = [gate.wait.remote() for _ in range(2)]
    ray.get([gate.open.remote(), *waits])
    rows = [event["tid"] for event in ray.timeline() if event["name"] == "Gate.wait"]
    assert len(set(rows)) == 2


def test_cancelled_calls(ray, tmp_path):
    begun = tmp_path / "begun"

    @ray.remote
    def stuck():
        begun.touch()
        while True:
            signal.sigtimedwait([signal.SIGUSR2], 0.05)

    ref = stuck.remote()
    eventually(begun.exists)
    ray.cancel(ref)
    assert isinstance(error_of(ray, ref), ray.exceptions.TaskCancelledError)
    assert states(ray) == {"stuck": "CANCELLED"}


def test_a_host_on_another_machine(sandbox, monkeypatch):
    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with by_hand(environ={"ZRAY_TEST_MACHINE": "far", "ZRAY_PROFILING": "1"}) as (address, _, _), zray.init(address):
        zray.get([zray.remote(len).remote("four") for _ in range(3)])
        events = zray.timeline() or []
        assert [event["name"] for event in events if event["name"] == "len"] == ["len"] * 3


def test_a_cluster_without_profiling_knows_what_owners_know(sandbox, caplog):
    @zray.remote
    def parent(n):
        return zray.get([child.options(name=f"child {each}").remote() for each in range(n)])

    @zray.remote
    def child():
        return zray.get_runtime_context().get_worker_id()

    @zray.remote
    def fails():
        raise ValueError

    @zray.remote
    class Keeper:
        def ping(self):
            return os.getpid()

    with zray.init(num_cpus=2):
        assert zray.timeline() == []
        assert "no task has ended" in caplog.text
        ref = parent.remote(3)
        workers = zray.get(ref)
        error_of(zray, fails.remote())
        keeper = Keeper.remote()
        pid = zray.get(keeper.ping.remote())
        events = {event["name"]: event for event in zray.timeline() or []}
        assert set(events) == {"parent", "child 0", "child 1", "child 2", "fails", "Keeper.ping"}
        assert [events[f"child {n}"]["tid"].split()[0] for n in range(3)] == [f"worker:{each}" for each in workers]
        assert events["parent"]["args"]["task_id"] == ref.task_id().hex()
        assert (events["fails"]["args"]["state"], events["Keeper.ping"]["args"]["pid"]) == ("FAILED", pid)
        assert events["parent"]["dur"] >= events["child 0"]["dur"] >= 0


def test_without_a_cluster():
    with pytest.raises(RuntimeError, match="in no cluster"):
        zray.timeline()
