"""Arguments that exist on another host: an async actor goes on with other calls while it waits for them."""

import contextlib
import os
import signal

import pytest

import zray

N = 150
SIZE = 90_000  # N of them exceed a message here: the worker asks their owner for some


@pytest.fixture
def ray(sandbox, monkeypatch):
    monkeypatch.setenv("ZRAY_MAX_MESSAGE_BYTES", str(8 << 20))
    zray.init(num_cpus=2)
    yield zray
    zray.shutdown()


@pytest.fixture
def owner(ray):
    """An actor that owns objects, and can be stopped so that it does not answer."""

    @ray.remote(num_cpus=0)
    class Owner:
        def put(self):
            return [ray.put(bytes([i]) * SIZE) for i in range(N)]

        def pid(self):
            return os.getpid()

    owner = Owner.remote()
    owner_pid = ray.get(owner.pid.remote(), timeout=30)
    yield owner, lambda number: os.kill(owner_pid, number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(owner_pid, signal.SIGCONT)


@pytest.fixture
def actor(ray):
    @ray.remote(num_cpus=0)
    class Actor:
        async def heads(self, *args):
            return [value[0] for value in args]

        async def ping(self):
            return "pong"

    actor = Actor.remote()
    assert ray.get(actor.ping.remote(), timeout=30) == "pong"
    return actor


def test_other_calls_go_on(ray, owner, actor):
    owner, signal_owner = owner
    refs = ray.get(owner.put.remote(), timeout=30)
    ray.get(refs, timeout=30)  # the caller knows their values, so the call is sent
    signal_owner(signal.SIGSTOP)
    waiting = actor.heads.remote(*refs)
    assert ray.get([actor.ping.remote() for _ in range(3)], timeout=30) == ["pong"] * 3
    assert ray.wait([waiting], timeout=0) == ([], [waiting])
    signal_owner(signal.SIGCONT)
    assert ray.get(waiting, timeout=30) == list(range(N))


def test_a_call_that_is_cancelled_while_it_waits_for_them(ray, owner, actor):
    owner, signal_owner = owner
    refs = ray.get(owner.put.remote(), timeout=30)
    ray.get(refs, timeout=30)
    signal_owner(signal.SIGSTOP)
    waiting = actor.heads.remote(*refs)
    assert ray.get(actor.ping.remote(), timeout=30) == "pong"
    for _ in range(2):
        ray.cancel(waiting)
    assert ray.get(actor.ping.remote(), timeout=30) == "pong"
    signal_owner(signal.SIGCONT)
    with pytest.raises(zray.exceptions.TaskCancelledError):
        ray.get(waiting, timeout=30)
    assert ray.get(actor.heads.remote(*refs), timeout=30) == list(range(N))


def test_an_argument_that_cannot_be_fetched(ray, owner, actor):
    owner, signal_owner = owner
    refs = ray.get(owner.put.remote(), timeout=30)
    ray.get(refs, timeout=30)
    signal_owner(signal.SIGSTOP)
    waiting = actor.heads.remote(*refs)
    assert ray.get(actor.ping.remote(), timeout=30) == "pong"
    ray.kill(owner)
    with pytest.raises(zray.exceptions.OwnerDiedError):
        ray.get(waiting, timeout=30)
    assert ray.get(actor.ping.remote(), timeout=30) == "pong"
