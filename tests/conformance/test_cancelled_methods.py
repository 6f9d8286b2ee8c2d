"""``cancel`` of a running method that is not ``async``: it is not interrupted, and may ask ``is_canceled()``."""

from __future__ import annotations

import os
import time

import pytest

from .helpers import eventually, make_counter, raises_within


def is_cancelled(error, ray):
    return type(error) is ray.exceptions.TaskCancelledError


def make_class(ray):
    @ray.remote(num_cpus=0)
    class Loop:
        def until_cancelled(self, gate, raises=False):
            gate.arrive.remote()
            while not ray.get_runtime_context().is_canceled():
                time.sleep(0.01)
            self.noticed = True
            if raises:
                raise ValueError("after the cancel")
            return "noticed"

        def has_noticed(self):
            return getattr(self, "noticed", False), ray.get_runtime_context().is_canceled()

        def blocks(self, gate, go_on):
            gate.arrive.remote()
            while not os.path.exists(go_on):
                time.sleep(0.01)
            return "open"

        def counts(self, counter, gate):
            ray.get(counter.increment.remote())
            return self.until_cancelled(gate, raises=True)

        def with_child(self, gate, child):
            ref = child.remote(gate)
            self.ref = [ref]
            return self.until_cancelled(gate)

        def error_of_child(self):
            try:
                return ray.get(self.ref[0], timeout=20)
            except ray.exceptions.TaskCancelledError:
                return "cancelled"

    return Loop


@pytest.fixture
def go_on(tmp_path):
    """A file that does not exist yet. ``blocks`` waits for it."""
    return tmp_path / "go_on"


def arrived(ray, gate, count=1):
    return eventually(lambda: ray.get(gate.arrived.remote()) >= count)


@pytest.mark.parametrize("max_concurrency", [1, 3])
def test_a_method_that_asks(ray, gate, max_concurrency):
    loop = make_class(ray).options(max_concurrency=max_concurrency).remote()
    ref = loop.until_cancelled.remote(gate)
    arrived(ray, gate)
    ray.cancel(ref)
    assert is_cancelled(raises_within(ray, ref), ray)
    assert ray.get(loop.has_noticed.remote()) == (True, False)


def test_only_the_cancelled_call_of_several(ray, gate, go_on):
    loop = make_class(ray).options(max_concurrency=2).remote()
    first, second = loop.until_cancelled.remote(gate), loop.blocks.remote(gate, str(go_on))
    arrived(ray, gate, 2)
    ray.cancel(first)
    assert is_cancelled(raises_within(ray, first), ray)
    go_on.touch()
    assert ray.get(second, timeout=20) == "open"


def test_a_method_that_does_not_ask(ray, gate, go_on):
    loop = make_class(ray).remote()
    ref = loop.blocks.remote(gate, str(go_on))
    arrived(ray, gate)
    ray.cancel(ref)
    behind = loop.has_noticed.remote()
    ready, _ = ray.wait([behind], timeout=0.2)
    assert not ready
    go_on.touch()
    assert is_cancelled(raises_within(ray, ref), ray)
    assert ray.get(behind) == (False, False)


def test_a_method_that_raises(ray, gate):
    loop = make_class(ray).remote()
    ref = loop.until_cancelled.remote(gate, True)
    arrived(ray, gate)
    ray.cancel(ref)
    assert isinstance(raises_within(ray, ref), ValueError)


def test_a_cancelled_call_is_not_tried_again(ray, gate):
    loop, counter = make_class(ray).remote(), make_counter(ray)
    ref = loop.counts.options(max_task_retries=5, retry_exceptions=True).remote(counter, gate)
    arrived(ray, gate)
    ray.cancel(ref)
    assert isinstance(raises_within(ray, ref), (ValueError, ray.exceptions.TaskCancelledError))
    assert ray.get(counter.read.remote()) == 1


def test_with_what_it_has_submitted(ray, gate):
    @ray.remote(num_cpus=0)
    def child(gate):
        return ray.get(gate.wait.remote())

    loop = make_class(ray).remote()
    ref = loop.with_child.remote(gate, child)
    arrived(ray, gate, 2)
    ray.cancel(ref, recursive=True)
    assert is_cancelled(raises_within(ray, ref), ray)
    assert ray.get(loop.error_of_child.remote()) == "cancelled"


def test_by_force(ray, gate, go_on):
    loop = make_class(ray).remote()
    ref = loop.blocks.remote(gate, str(go_on))
    arrived(ray, gate)
    with pytest.raises(ValueError):
        ray.cancel(ref, force=True)
    go_on.touch()
    assert ray.get(ref, timeout=20) == "open"


def test_the_actor_dies_meanwhile(ray, gate, go_on):
    loop = make_class(ray).options(max_restarts=1, max_task_retries=1).remote()
    ref = loop.blocks.remote(gate, str(go_on))
    arrived(ray, gate)
    ray.cancel(ref)
    ray.kill(loop)
    assert isinstance(raises_within(ray, ref), (ray.exceptions.TaskCancelledError, ray.exceptions.RayActorError))


def test_a_task_that_catches_its_interrupt(ray, gate, tmp_path):
    @ray.remote(num_cpus=0)
    def catches(gate):
        try:
            ray.get(gate.wait.remote())
        except BaseException:
            (tmp_path / "seen").write_text(str(ray.get_runtime_context().is_canceled()))
        return os.getpid()

    ref = catches.remote(gate)
    arrived(ray, gate)
    ray.cancel(ref)
    eventually(lambda: (tmp_path / "seen").exists() and (tmp_path / "seen").read_text())
    assert (tmp_path / "seen").read_text() == "True"


def test_where_it_cannot_be_asked(ray):
    @ray.remote(num_cpus=0)
    class Async:
        async def ask(self):
            return ray.get_runtime_context().is_canceled()

    with pytest.raises(RuntimeError):
        ray.get_runtime_context().is_canceled()
    with pytest.raises(RuntimeError):
        ray.get(Async.remote().ask.remote())
    assert ray.get(ray.remote(lambda: ray.get_runtime_context().is_canceled()).remote()) is False
