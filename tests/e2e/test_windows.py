"""Memory of broker and workers while more is submitted than they can process. Peaks are the kernel's (``VmHWM``)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from zray.api import runtime

TIMEOUT_S = 60
MIB = 1 << 20
ARGUMENT_BYTES = 80_000


@pytest.fixture
def gate(ray):
    """An actor at which tasks and calls wait until it is opened."""

    @ray.remote(num_cpus=0)
    class Gate:
        def __init__(self):
            import asyncio

            self.event = asyncio.Event()

        async def wait(self):
            await self.event.wait()

        async def open(self):
            self.event.set()

    return Gate.remote()


@pytest.fixture
def sleeper(ray):
    """An actor class that does nothing until a gate opens."""

    class Sleeper:
        def pid(self):
            return os.getpid()

        def wait(self, gate):
            ray.get(gate.wait.remote())

        def take(self, data):
            return len(data)

    return ray.remote(num_cpus=0)(Sleeper)


def peak_bytes(pid: int) -> int:
    """Returns the most memory that a process has ever had."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) * 1024


def broker_pid(sandbox) -> int:
    (pid,) = sandbox.processes("zray: broker")
    return pid


def test_many_calls_of_an_actor_that_sleeps(ray, sandbox, gate, sleeper):
    n_calls = 250 * MIB // ARGUMENT_BYTES
    actor = sleeper.remote()
    broker, worker = broker_pid(sandbox), ray.get(actor.pid.remote())
    before = peak_bytes(broker), peak_bytes(worker)
    waiting = actor.wait.remote(gate)
    refs = [actor.take.remote(bytes(ARGUMENT_BYTES)) for _ in range(n_calls)]
    gate.open.remote()
    ray.get(waiting, timeout=TIMEOUT_S)
    assert ray.get(refs, timeout=TIMEOUT_S) == [ARGUMENT_BYTES] * n_calls
    grown = [peak_bytes(pid) - at_first for pid, at_first in zip((broker, worker), before, strict=True)]
    assert max(grown) < 120 * MIB, grown


def test_many_calls_of_an_actor_that_waits_for_a_place(ray, sandbox, sleeper):
    """They wait at the broker until the actor runs."""
    holder = sleeper.options(num_cpus=2).remote()
    ray.get(holder.pid.remote())
    broker = broker_pid(sandbox)
    before = peak_bytes(broker)
    actor = sleeper.options(num_cpus=1).remote()
    refs = [actor.take.remote(bytes(ARGUMENT_BYTES)) for _ in range(250 * MIB // ARGUMENT_BYTES)]
    assert ray.available_resources().get("CPU", 0) == 0  # the answer comes after all that was sent
    assert peak_bytes(broker) - before < 120 * MIB
    ray.kill(holder)
    assert ray.get(refs[-1], timeout=TIMEOUT_S) == ARGUMENT_BYTES


@pytest.fixture
def route(ray):
    """The route of the driver's tasks."""
    return runtime.runtime().session.core.queue_route


def test_many_large_tasks(ray, sandbox, route, tmp_path):
    """With a window of 16 MiB instead of 256, so that the test is small."""
    assert route._max_bytes == 256 * MIB
    route._max_bytes = 16 * MIB
    pipe = make_pipe(tmp_path / "pipe")

    @ray.remote(num_cpus=2)
    def take(data):
        return len(data)

    broker = broker_pid(sandbox)
    ray.get(take.remote(b""))
    before = peak_bytes(broker)
    blocks = ray.remote(num_cpus=2)(Path.read_text).remote(pipe)
    refs = [take.remote(bytes(ARGUMENT_BYTES)) for _ in range(200 * MIB // ARGUMENT_BYTES)]
    assert ray.available_resources().get("CPU", 0) == 0  # the answer comes after all that was sent
    pipe.write_text("go on")
    assert ray.get(blocks, timeout=TIMEOUT_S) == "go on"
    assert ray.get(refs, timeout=TIMEOUT_S) == [ARGUMENT_BYTES] * len(refs)
    assert peak_bytes(broker) - before < 80 * MIB


def test_tasks_that_run_make_room_for_the_one_that_they_wait_for(ray, route, tmp_path):
    """All at once, of the same resources, with a window that a single one fills."""
    route._max_bytes = 1
    pipes = [make_pipe(tmp_path / f"pipe {number}") for number in range(6)]

    @ray.remote(num_cpus=0)
    def wait(pipe, data):
        return pipe.read_text(), len(data)

    @ray.remote(num_cpus=0)
    def write(pipes):
        for pipe in pipes:
            pipe.write_text("go on")

    refs = [wait.remote(pipe, bytes(ARGUMENT_BYTES)) for pipe in pipes]
    ray.get(write.remote(pipes), timeout=TIMEOUT_S)
    assert ray.get(refs, timeout=TIMEOUT_S) == [("go on", ARGUMENT_BYTES)] * 6


def make_pipe(path: Path) -> Path:
    """Makes a pipe. A reader of it waits for a writer, in the kernel."""
    os.mkfifo(path)
    return path
