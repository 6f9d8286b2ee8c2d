"""The GPUs, and the number of threads, that tasks and actors see. No GPU is needed: the tests check variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

GPUS = "5,6,7"


@pytest.fixture(scope="module")
def ray(ray_module: ModuleType, init_options: dict[str, Any]) -> Iterator[ModuleType]:
    """A cluster with four CPUs, whose driver may use three GPUs of the machine."""
    before = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
    os.environ["CUDA_VISIBLE_DEVICES"] = GPUS
    os.environ.pop("OMP_NUM_THREADS", None)
    ray_module.init(**{**init_options, "num_cpus": 4}, num_gpus=3)
    yield ray_module
    ray_module.shutdown()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def looks(ray: ModuleType) -> tuple[str | None, list[Any], list[str], int]:
    ids = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    return os.environ.get("CUDA_VISIBLE_DEVICES"), ray.get_gpu_ids(), ids, os.getpid()


def test_a_task_sees_the_gpus_that_it_was_given(ray):
    look = ray.remote(looks)
    assert ray.get(look.options(num_gpus=1).remote(ray))[:3] == ("5", ["5"], ["5"])
    variable, ids, named, _ = ray.get(look.options(num_gpus=2).remote(ray))
    assert variable is not None
    assert sorted(variable.split(",")) == sorted(ids) == sorted(named) == ["5", "6"]
    variable, ids, named, _ = ray.get(look.options(num_gpus=0.5).remote(ray))
    assert ids == named == [variable]


def test_a_task_without_gpus_leaves_the_variable_alone(ray):
    assert ray.get(ray.remote(looks).remote(ray))[:3] == (GPUS, [], [])


@pytest.mark.parametrize("options", [{}, {"max_concurrency": 3}])
def test_methods_see_the_gpus_of_their_actor(ray, options):
    @ray.remote(num_gpus=1)
    class Actor:
        def __init__(self, ray):
            self.made = looks(ray)

        def look(self, ray):
            return self.made, looks(ray)

    actor = Actor.options(**options).remote(ray)
    made, called = ray.get(actor.look.remote(ray))
    assert made == called
    assert made[:3] == (made[0], [made[0]], [made[0]])
    assert made[0] in GPUS.split(",")


def test_async_methods_see_the_gpus_of_their_actor(ray):
    @ray.remote(num_gpus=2)
    class Actor:
        def __init__(self, ray):
            self.made = looks(ray)

        async def look(self, ray):
            return self.made, looks(ray)

    made, called = ray.get(Actor.remote(ray).look.remote(ray))
    assert made == called
    assert len(made[1]) == 2


def test_work_with_gpus_has_processes_of_its_own(ray):
    look = ray.remote(looks)
    without = {ray.get(look.remote(ray))[3] for _ in range(4)}
    with_gpus = {ray.get(look.options(num_gpus=1).remote(ray))[3] for _ in range(4)}
    assert with_gpus.isdisjoint(without)
    assert with_gpus.isdisjoint({ray.get(look.remote(ray))[3] for _ in range(4)})


def test_a_function_with_gpus_has_a_process_for_each_call(ray):
    """Libraries keep memory of their GPUs until the process ends."""

    @ray.remote(num_gpus=1)
    def pid():
        return os.getpid()

    assert len({ray.get(pid.remote()) for _ in range(3)}) == 3


def test_a_function_with_gpus_may_keep_its_process(ray):
    @ray.remote(num_gpus=1, max_calls=0)
    def pid():
        return os.getpid()

    # Not always one process: on a busy machine an idle worker may be asked to exit between two calls.
    assert len({ray.get(pid.remote()) for _ in range(6)}) < 6


def test_numerical_libraries_get_as_many_threads_as_the_task_has_cpus(ray):
    @ray.remote
    def threads():
        return os.environ["OMP_NUM_THREADS"]

    for num_cpus, expected in ((2, "2"), (1, "1"), (4, "4"), (0, "1"), (0.5, "1"), (2, "2")):
        assert ray.get(threads.options(num_cpus=num_cpus).remote()) == expected


def test_numerical_libraries_get_as_many_threads_as_the_actor_has_cpus(ray):
    @ray.remote(num_cpus=2)
    class Actor:
        def threads(self):
            return os.environ["OMP_NUM_THREADS"]

    assert ray.get(Actor.remote().threads.remote()) == "2"
