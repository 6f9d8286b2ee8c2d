"""References keep their objects alive, in any process; the objects are freed with the last reference.

A program cannot see that an object was freed, but it can see that an actor has ended. So an actor's last handle (a
canary) is put into the object, and the end of the actor shows that the object was freed.
"""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import itertools
import os
import uuid

import numpy as np
import pytest

from .helpers import eventually, has_named_actor, make_canary, raises_within

LARGE = 1 << 20


@dataclasses.dataclass
class Box:
    content: object


@pytest.fixture
def name():
    return f"canary-{uuid.uuid4().hex[:8]}"


def make_keeper(ray):
    @ray.remote(num_cpus=0)
    class Keeper:
        def __init__(self):
            self.kept = []

        def keep(self, box):
            self.kept.append(box)

        def get(self):
            return ray.get(self.kept[-1][0])

        def hand_on(self, other):
            ray.get(other.keep.remote(self.kept.pop()))

        def drop(self):
            self.kept.clear()

    return Keeper.remote()


def gone(ray, name):
    return eventually(lambda: not has_named_actor(ray, name))


def test_object_is_freed_with_its_last_ref(ray, name):
    ref = ray.put([make_canary(ray, name)])
    assert has_named_actor(ray, name)
    del ref
    gone(ray, name)


def test_result_is_freed_with_its_last_ref(ray, name):
    @ray.remote
    def f(box):
        return box

    ref = f.remote([make_canary(ray, name)])
    ray.wait([ref])
    assert has_named_actor(ray, name)
    del ref
    gone(ray, name)


def test_result_that_is_not_needed_is_freed(ray, name):
    @ray.remote
    def f(box):
        return box

    f.remote([make_canary(ray, name)])
    gone(ray, name)


def test_submitter_drops_its_ref_right_after_the_call(ray):
    @ray.remote
    def f(array):
        return int(array.sum())

    assert ray.get(f.remote(ray.put(np.ones(LARGE, dtype=np.uint8)))) == LARGE


def test_submitter_drops_its_nested_ref_right_after_the_call(ray):
    @ray.remote
    def f(box):
        return int(ray.get(box[0]).sum())

    assert ray.get(f.remote([ray.put(np.ones(LARGE, dtype=np.uint8))])) == LARGE


def test_nested_ref_waits_with_its_task(ray, gate):
    @ray.remote
    def f(box, _):
        return ray.get(box[0])

    ref = f.remote([ray.put("kept")], gate.wait.remote())
    gate.open.remote()
    assert ray.get(ref) == "kept"


def test_actor_keeps_a_nested_ref(ray, name):
    keeper = make_keeper(ray)
    ray.get(keeper.keep.remote([ray.put(["value", make_canary(ray, name)])]))
    assert ray.get(keeper.get.remote())[0] == "value"
    assert has_named_actor(ray, name)
    ray.get(keeper.drop.remote())
    gone(ray, name)


def test_borrower_that_dies_releases_its_references(ray, name):
    keeper = make_keeper(ray)
    ray.get(keeper.keep.remote([ray.put([make_canary(ray, name)])]))
    assert has_named_actor(ray, name)
    ray.kill(keeper)
    gone(ray, name)


def test_ref_handed_on_through_a_chain_of_borrowers(ray, name):
    keepers = [make_keeper(ray) for _ in range(4)]
    ray.get(keepers[0].keep.remote([ray.put(["value", make_canary(ray, name)])]))
    for giver, taker in itertools.pairwise(keepers):
        ray.get(giver.hand_on.remote(taker))
    assert ray.get(keepers[-1].get.remote())[0] == "value"
    assert has_named_actor(ray, name)
    ray.get(keepers[-1].drop.remote())
    gone(ray, name)


def test_task_returns_a_ref_that_it_made(ray):
    @ray.remote
    def f():
        return [ray.put(np.full(LARGE, 3, dtype=np.uint8))]

    (inner,) = ray.get(f.remote())
    assert (ray.get(inner) == 3).all()


def test_inner_ref_outlives_the_outer_one(ray):
    @ray.remote
    def f():
        return {"inner": [ray.put("kept")]}

    outer = f.remote()
    inner = ray.get(outer)["inner"][0]
    del outer
    assert ray.get(inner) == "kept"


def test_outer_object_keeps_the_inner_one(ray, name):
    outer = ray.put({"deep": [ray.put(["value", make_canary(ray, name)])]})
    assert ray.get(ray.get(outer)["deep"][0])[0] == "value"
    assert has_named_actor(ray, name)
    del outer
    gone(ray, name)


def test_outer_object_that_is_never_read_keeps_the_inner_one(ray, name):
    @ray.remote
    def f(box):
        return [ray.put(box)]

    ref = f.remote([make_canary(ray, name)])
    ray.wait([ref])
    assert has_named_actor(ray, name)
    del ref
    gone(ray, name)


def test_refs_nested_many_levels_deep(ray):
    ref = ray.put("bottom")
    for _ in range(20):
        ref = ray.put([ref])
    value = ref
    del ref
    for _ in range(20):
        (value,) = ray.get(value)
    assert ray.get(value) == "bottom"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda ref: {ref: 1},
        lambda ref: {"k": (ref,)},
        Box,
        lambda ref: lambda: ref,
        lambda ref: ValueError("holds", ref),
        lambda ref: frozenset([ref]),
    ],
    ids=["dict key", "tuple", "dataclass", "closure", "exception", "frozenset"],
)
def test_refs_inside_all_kinds_of_values(ray, wrap):
    unwrap = {
        "dict": lambda v: next(iter(v)) if "k" not in v else v["k"][0],
        "Box": lambda v: v.content,
        "function": lambda v: v(),
        "ValueError": lambda v: v.args[1],
        "frozenset": lambda v: next(iter(v)),
    }

    @ray.remote
    def f(box):
        return box

    outer = f.remote([wrap(ray.put("kept"))])
    (value,) = ray.get(outer)
    del outer
    assert ray.get(unwrap[type(value).__name__](value)) == "kept"


def test_ref_in_the_closure_of_a_function(ray):
    ref = ray.put("captured")

    @ray.remote
    def f():
        return ray.get(ref)

    assert ray.get([f.remote() for _ in range(4)]) == ["captured"] * 4
    assert ray.get(f.remote()) == "captured"


def test_ref_captured_by_a_function_outlives_the_drivers_own(ray):
    def make():
        ref = ray.put("captured")
        return ray.remote(lambda: ray.get(ref))

    f = make()
    assert ray.get([f.remote() for _ in range(3)]) == ["captured"] * 3


def test_ref_captured_by_an_actor_class(ray):
    def make():
        ref = ray.put("captured")

        @ray.remote(num_cpus=0)
        class A:
            def f(self):
                return ray.get(ref)

        return A

    cls = make()
    assert ray.get([cls.remote().f.remote() for _ in range(2)]) == ["captured"] * 2


def test_ref_pickled_by_the_user_lives_on(ray, impl):
    cloudpickle = importlib.import_module("ray.cloudpickle" if impl == "ray" else "cloudpickle")
    data = cloudpickle.dumps(ray.put("pickled"))
    assert ray.get(cloudpickle.loads(data), timeout=20) == "pickled"

    @ray.remote
    def f(data):
        return ray.get(cloudpickle.loads(data))

    assert ray.get(f.remote(data), timeout=20) == "pickled"


def test_ref_in_a_global_of_a_worker(ray):
    @ray.remote(num_cpus=0)
    class A:
        def keep(self, box):
            builtins.kept_by_a_test = box

        def get(self):
            return ray.get(builtins.kept_by_a_test[0])

    actor = A.remote()
    ray.get(actor.keep.remote([ray.put("kept")]))
    assert ray.get(actor.get.remote()) == "kept"


def test_actor_returns_a_ref_to_its_own_object_and_dies(ray):
    @ray.remote(num_cpus=0)
    class Owner:
        def make(self):
            return [ray.put(np.ones(LARGE, dtype=np.uint8))]

    owner = Owner.remote()
    (ref,) = ray.get(owner.make.remote())
    ray.kill(owner)
    error = eventually(lambda: _error_of_a_fetch(ray, ref))
    assert isinstance(error, ray.exceptions.OwnerDiedError)
    assert isinstance(error, ray.exceptions.ObjectLostError)


def _error_of_a_fetch(ray, ref):
    """Returns the error of a task that gets ``ref``: the driver itself may still have the value in memory."""

    @ray.remote(max_retries=0)
    def f(box):
        ray.get(box[0])

    try:
        ray.get(f.remote([ref]), timeout=20)
    except ray.exceptions.RayTaskError as error:
        return error
    return None


def test_error_does_not_keep_the_arguments_alive(ray, name):
    @ray.remote(max_retries=0)
    def f(box):
        local = box
        raise ValueError(len(local))

    ref = f.remote([make_canary(ray, name)])
    error = raises_within(ray, ref)
    assert isinstance(error, ValueError)
    gone(ray, name)


def test_dead_worker_does_not_keep_the_arguments_alive(ray, name):
    @ray.remote(max_retries=0)
    def f(box):
        os._exit(1)

    error = raises_within(ray, f.remote([make_canary(ray, name)]))
    assert isinstance(error, ray.exceptions.WorkerCrashedError)
    gone(ray, name)


def test_handles_that_refer_to_each_other_end_by_kill(ray, name):
    one, two = make_keeper(ray), make_keeper(ray)
    ray.get([one.keep.remote([two]), two.keep.remote([one, make_canary(ray, name)])])
    assert has_named_actor(ray, name)
    ray.kill(one)
    ray.kill(two)
    gone(ray, name)


def test_many_refs_in_one_object(ray):
    refs = ray.get(ray.put([ray.put(n) for n in range(500)]))
    assert ray.get(refs) == list(range(500))
    del refs
    assert ray.get(ray.put("still alive")) == "still alive"
