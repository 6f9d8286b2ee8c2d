"""An actor ends even if it owns objects; they end with OwnerDiedError."""

from __future__ import annotations

import os
import sys
import time

import pytest

from .helpers import eventually, raises_within


def make_owner(ray):
    @ray.remote(num_cpus=0)
    class Child:
        def ping(self):
            return "pong"

    @ray.remote(num_cpus=0, max_retries=0)
    def wait_at(gate):
        ray.get(gate.wait.remote())

    @ray.remote(num_cpus=0, resources={"slot": 1})
    class Owner:
        def pid(self):
            return os.getpid()

        def make_child(self):
            self.child = Child.remote()
            ray.get(self.child.ping.remote())
            return self.child

        def put(self, n_bytes):
            self.ref = ray.put(b"x" * n_bytes)
            return [self.ref]

        def start(self, gate):
            self.ref = wait_at.remote(gate)
            return [self.ref]

        def leave(self):
            ray.actor.exit_actor()

        def exit(self):
            sys.exit(0)

    return Owner.remote()


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the process may end while its file is read
        return False


WAYS = {
    "its last handle goes": lambda owners: owners.clear(),
    "exit_actor": lambda owners: owners[0].leave.remote(),
    "__ray_terminate__": lambda owners: owners[0].__ray_terminate__.remote(),
    "sys.exit": lambda owners: owners[0].exit.remote(),
}
in_every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def end(ray, owners, way):
    """Ends the only actor in the list, and waits until its process is gone."""
    pid = ray.get(owners[0].pid.remote())
    way(owners)
    eventually(lambda: not is_running(pid), timeout_s=30)
    eventually(lambda: ray.available_resources().get("slot") == 2)


@in_every_way
def test_an_actor_that_it_created(ray, way):
    owners = [make_owner(ray)]
    child = ray.get(owners[0].make_child.remote())
    end(ray, owners, way)

    def outcome():
        error = None
        try:
            ray.get(child.ping.remote(), timeout=20)
        except ray.exceptions.RayError as raised:
            error = raised
        return error

    assert isinstance(eventually(outcome), ray.exceptions.ActorDiedError)


@in_every_way
@pytest.mark.parametrize("n_bytes", [10, 1_000_000])
def test_an_object_that_it_put(ray, impl, way, n_bytes):
    if impl == "ray":
        pytest.skip("Ray's driver may still find the value, for a moment")
    owners = [make_owner(ray)]
    (ref,) = ray.get(owners[0].put.remote(n_bytes))
    end(ray, owners, way)
    assert isinstance(raises_within(ray, ref), ray.exceptions.OwnerDiedError)


@in_every_way
def test_a_task_that_it_submitted_and_that_runs(ray, impl, gate, way):
    if impl == "ray":
        pytest.skip("Ray's actor stays until the task has ended, or for five seconds when its last handle goes")
    owners = [make_owner(ray)]
    (ref,) = ray.get(owners[0].start.remote(gate))
    eventually(lambda: ray.get(gate.arrived.remote()) == 1)
    end(ray, owners, way)
    assert isinstance(raises_within(ray, ref), ray.exceptions.OwnerDiedError)


def test_calls_that_were_made_before_are_answered_first(ray):
    @ray.remote(num_cpus=0)
    class Slow:
        def step(self, n):
            time.sleep(0.01)
            self.ref = ray.put(n)
            return n

    for _ in range(5):
        actor = Slow.remote()
        refs = [actor.step.remote(n) for n in range(10)]
        del actor
        assert ray.get(refs, timeout=30) == list(range(10))


def test_a_returned_reference_of_another_owner_outlives_the_actor(ray):
    @ray.remote(num_cpus=0)
    class Passing:
        def keep(self, refs):
            self.refs = refs
            return refs

    ref = ray.put("value")
    (back,) = ray.get(Passing.remote().keep.remote([ref]))
    del ref
    assert ray.get(back, timeout=20) == "value"
