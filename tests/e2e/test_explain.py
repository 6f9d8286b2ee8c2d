"""``zray.explain``: of tasks, calls, objects, streams and actors, in each state."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

import zray
from tests.conformance.helpers import eventually, make_gate
from zray.api.explanations import Explanation


@pytest.fixture(autouse=True)
def cluster() -> Iterator[None]:
    zray.init(num_cpus=2, resources={"slot": 1})
    yield
    zray.shutdown()


def until(target: Any, state: str) -> Explanation:
    """The explanation, once it has that state."""
    found = []

    def reached() -> bool:
        found.append(zray.explain(target))
        return bool(found[-1].state == state)

    eventually(reached)
    return found[-1]


@zray.remote
def pause(gate: Any) -> int:
    gate.arrive.remote()
    while True:
        time.sleep(0.01)


def test_a_value():
    power: Any = zray.remote(num_cpus=1)(pow)  # of its many signatures, a type checker takes the first
    ref = power.options(name="power").remote(2, 5)
    zray.get(ref)
    found = zray.explain(ref)
    assert (found.what, found.state, found.where) == ("return value 1 of `power`", "READY", "this process")
    (attempt,) = found.attempts
    assert (attempt.number, attempt.state, attempt.error) == (1, "FINISHED", "")
    assert attempt.where.startswith("pid ")
    assert len(attempt.worker_id) == 32
    assert str(found).splitlines() == [
        "return value 1 of `power`: READY (this process)",
        f"  attempt 1: finished ({attempt.where})",
    ]


def test_an_object_of_put():
    small, large = zray.put(1), zray.put(bytes(1 << 20))
    found = zray.explain(small)
    assert found.what == f"object {small.hex()} of put()"
    assert (found.state, found.where, found.attempts) == ("READY", "this process", ())
    assert zray.explain(large).where.startswith("in the object store of ")


def test_an_error():
    @zray.remote(max_retries=1, retry_exceptions=True)
    def fail() -> None:
        raise ValueError(f"number {zray.get_runtime_context().get_attempt_number()}")

    ref = fail.remote()
    zray.wait([ref])
    found = zray.explain(ref)
    assert (found.state, found.why) == ("FAILED", "ValueError: number 1")
    assert [(each.number, each.state, each.error) for each in found.attempts] == [
        (1, "FAILED", "ValueError: number 0"),
        (2, "FAILED", "ValueError: number 1"),
    ]


def test_a_worker_that_died():
    @zray.remote(max_retries=1)
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    ref = die.remote()
    zray.wait([ref])
    found = zray.explain(ref)
    assert found.state == "FAILED"
    assert len(found.attempts) == 2
    assert all("(pid " in each.error for each in found.attempts)


def test_running_and_what_it_waits_for():
    gate = make_gate(zray)

    @zray.remote
    def outer(gate: Any) -> Any:
        return zray.get(pause.remote(gate))

    ref = outer.remote(gate)
    eventually(lambda: zray.get(gate.arrived.remote()))
    found = until(ref, "RUNNING")
    assert found.where.startswith("pid ")
    assert found.seconds is not None
    assert found.attempts[-1].state == "UNDER WAY"
    assert found.attempts[-1].where == found.where
    found = eventually(lambda: (each := zray.explain(ref)).why and each)
    assert "`pause` runs for " in found.why
    assert found.remedy == "what it waits for must be made"


def test_arguments():
    gate = make_gate(zray)
    first = pause.remote(gate)
    second: Any = zray.remote(num_cpus=1)(abs)
    found = zray.explain(second.options(name="second").remote(first))
    assert found.what == "return value 1 of `second`"
    assert found.state == "WAITING FOR ARGUMENTS"
    assert "`second` waits for an argument" in found.why


def test_queued():
    gate = make_gate(zray)
    busy = [pause.remote(gate), pause.remote(gate)]
    eventually(lambda: zray.get(gate.arrived.remote()) == 2)
    found = until(pause.remote(gate), "QUEUED")
    assert "it asks for {CPU: 1}, which is in use" in found.why
    assert "hosts must join" in found.remedy
    assert [(each.number, each.state) for each in found.attempts] == [(1, "NOT BEGUN")]
    found = until(pause.options(resources={"slot": 2}).remote(gate), "QUEUED")
    assert found.remedy == "a host that has all of this must join, or it must ask for less"
    del busy


def test_a_process_that_is_stopped():
    @zray.remote
    def stop() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    found = until(stop.remote(), "NOT ANSWERING")
    assert "which does not answer" in found.why
    assert "cancel(force=True)" in found.remedy


class Model:
    def fit(self, gate: Any) -> None:
        gate.arrive.remote()
        while True:
            time.sleep(0.01)

    def score(self) -> int:
        return 1

    def values(self) -> Iterator[int]:
        yield 1
        while True:
            time.sleep(0.01)


def test_calls_and_their_actor():
    gate = make_gate(zray)
    model = zray.remote(Model).remote()
    first, second = model.fit.remote(gate), model.score.remote()
    eventually(lambda: zray.get(gate.arrived.remote()))
    assert until(first, "RUNNING").what == "return value 1 of `Model.fit`"
    found = until(second, "AT WORKER")
    assert "actor Model is busy with `Model.fit`" in found.why
    found = zray.explain(model)
    assert (found.what, found.state) == ("actor Model", "ALIVE")
    assert found.why.startswith("it runs `Model.fit` for ")
    zray.kill(model)
    found = until(model, "DEAD")
    assert "was killed" in found.why


def test_an_actor_without_a_place():
    model = zray.remote(resources={"slot": 5})(Model).options(name="far").remote()
    found = until(model, "PENDING_CREATION")
    assert found.what == "actor Model 'far'"
    assert found.remedy == "a host that has all of this must join, or it must ask for less"
    assert until(model.score.remote(), "WAITING FOR ACTOR").remedy == found.remedy


def test_a_stream():
    model = zray.remote(Model).remote()
    stream = model.values.remote()
    assert zray.get(next(stream)) == 1
    found = until(stream, "RUNNING")
    assert found.what == "item 2 of the stream of `Model.values`"


def test_references_of_other_processes():
    gate = make_gate(zray)

    @zray.remote(num_cpus=0)
    class Owner:
        def make(self, gate: Any) -> list[Any]:
            self.kept = [pause.options(name="foreign").remote(gate), zray.put(bytes(1 << 20))]
            return self.kept

    owner = Owner.remote()
    task, value = zray.get(owner.make.remote(gate))
    eventually(lambda: zray.get(gate.arrived.remote()))
    found = until(task, "RUNNING")
    assert found.what == "return value 1 of `foreign`"
    assert [attempt.state for attempt in found.attempts] == ["UNDER WAY"]
    assert zray.explain(value).state == "READY"
    zray.kill(owner)
    found = until(task, "OWNER DIED")
    assert "is gone" in found.why


def test_what_it_takes():
    with pytest.raises(TypeError, match=r"explain\(\) takes an ObjectRef, an ObjectRefGenerator or an actor handle"):
        zray.explain([zray.put(1)])  # type: ignore[arg-type]
    old = zray.put(1)
    zray.shutdown()
    zray.init(num_cpus=1)
    with pytest.raises(TypeError, match="another cluster"):
        zray.explain(old)


def test_local_mode():
    zray.shutdown()
    zray.init(local_mode=True)
    assert zray.explain(zray.put(1)).state == "READY"
