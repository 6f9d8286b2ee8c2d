"""When a host looks at its memory, and what it makes of it."""

from __future__ import annotations

import math

import pytest

from tests.unit.worker.test_host_core import ONE, Host, death, start
from zray.protocol.messages import KillWorker, MemoryShort, WorkerDied
from zray.worker.host.memory_watch import FILLS_BYTES_PER_S, KERNEL_S, MOST_S, MemoryWatch

GIB = 2**30


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.mark.parametrize("used, short", [(90, False), (95, False), (96, True)])
def test_memory_is_short_above_the_threshold(used, short):
    assert MemoryWatch(0.95, 0.25).looked(used * GIB, 100 * GIB, 1.0) is short


@pytest.mark.parametrize("room, next_s", [(0, 0.25), (FILLS_BYTES_PER_S, 1.0), (1000 * FILLS_BYTES_PER_S, MOST_S)])
def test_looks_are_rare_far_from_the_threshold(room, next_s):
    watch = MemoryWatch(1.0, 0.25)
    watch.looked(0, room, 10.0)
    assert watch.look_at == 10.0 + next_s


def test_a_look_that_takes_long_is_followed_by_a_pause():
    watch = MemoryWatch(0.95, 0.25)
    assert watch.looked(96, 100, 10.0)
    watch.took(0.5)
    assert watch.look_at == 10.0 + 0.25 + 10 * 0.5


def test_a_watch_that_is_off():
    assert MemoryWatch(0.95, 0.0).look_at == math.inf


def test_a_death_soon_after_the_kernel_has_killed():
    watch = MemoryWatch(0.95, 0.25, kills=7)
    watch.counted(7, 1.0)
    assert not watch.by_kernel(1.0)
    watch.counted(8, 2.0)
    assert watch.by_kernel(2.0 + KERNEL_S)
    assert not watch.by_kernel(2.1 + KERNEL_S)


def test_the_kernel_is_named_as_the_cause(host):
    start(host)
    host.exited(ONE, death("killed by SIGKILL (out of memory, or killed by hand)")._replace(signal=9, by_kernel=True))
    (died,) = host.out
    assert died.kind == "OutOfMemoryError" and "the kernel's out-of-memory killer" in died.message


@pytest.mark.parametrize("signal, by_kernel", [(11, True), (9, False)])
def test_other_deaths_are_not_the_kernels(host, signal, by_kernel):
    start(host)
    host.exited(ONE, death()._replace(signal=signal, by_kernel=by_kernel))
    (died,) = host.out
    assert died.kind == "WorkerCrashedError" and "kernel" not in died.message


def test_a_worker_that_is_killed_for_memory(host):
    start(host)
    host.receive(KillWorker(ONE, "memory is short", "OutOfMemoryError"))
    assert host.core.is_killing
    host.exited(ONE, death()._replace(signal=9, by_kernel=True))
    (died,) = [message for message in host.out if isinstance(message, WorkerDied)]
    assert died.kind == "OutOfMemoryError" and "was killed: memory is short" in died.message
    assert not host.core.is_killing


def test_the_log_is_told_that_memory_is_short_now_and_then(host):
    short = MemoryShort(95, 100, "the machine", 0.9, {}, [])
    for now in (0.0, 1.0, 31.0):
        host.core.memory_short(short, now)
        host.take()
    assert len(host.out) == 3
    assert len([line for line in host.log if "memory is short" in line.text]) == 2
