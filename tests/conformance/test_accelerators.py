"""Accelerators that are no GPUs. None is needed: the tests check variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

VARIABLE = "ASCEND_RT_VISIBLE_DEVICES"


@pytest.fixture(scope="module")
def ray(ray_module: ModuleType, init_options: dict[str, Any]) -> Iterator[ModuleType]:
    """A cluster with four CPUs and three NPUs."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "5,6,7"
    ray_module.init(**{**init_options, "num_cpus": 4}, resources={"NPU": 3, "HPU": 2, "accelerator_type:X100": 1})
    yield ray_module
    ray_module.shutdown()
    if before is None:
        del os.environ[VARIABLE]
    else:
        os.environ[VARIABLE] = before


def looks(ray: ModuleType, variable: str = VARIABLE) -> tuple[str | None, dict[str, list[str]], list[Any]]:
    return os.environ.get(variable), ray.get_runtime_context().get_accelerator_ids(), ray.get_gpu_ids()


def test_a_task_sees_what_it_was_given(ray):
    look = ray.remote(looks)
    variable, ids, gpus = ray.get(look.options(resources={"NPU": 2}).remote(ray))
    assert variable is not None
    assert sorted(variable.split(",")) == sorted(ids["NPU"]) == ["5", "6"]
    assert gpus == ids["GPU"] == ids["TPU"] == []
    variable, ids, gpus = ray.get(look.options(resources={"NPU": 0.5}).remote(ray))
    assert ids["NPU"] == [variable]


def test_numbers_without_a_variable(ray):
    variable, ids, _ = ray.get(ray.remote(looks).options(resources={"HPU": 1}).remote(ray, "HABANA_VISIBLE_MODULES"))
    assert ids["HPU"] == [variable]
    assert variable in ("0", "1")


def test_a_task_without_accelerators_leaves_the_variable_alone(ray):
    variable, ids, gpus = ray.get(ray.remote(looks).remote(ray))
    assert variable == "5,6,7"
    assert gpus == []
    assert not any(ids.values())


def test_two_actors_share_none(ray):
    @ray.remote(resources={"NPU": 1})
    class Actor:
        def look(self, ray):
            return looks(ray)

    one, two = [Actor.remote() for _ in range(2)]
    seen = [variable for variable, *_ in ray.get([actor.look.remote(ray) for actor in (one, two)])]
    assert len(set(seen)) == 2
    assert set(seen) <= {"5", "6", "7"}


def test_parts_of_what_is_given_out_whole(ray):
    with pytest.raises(ValueError, match="HPU"):
        ray.remote(looks).options(resources={"HPU": 0.5}).remote(ray)


def test_a_type_is_asked_for(ray):
    @ray.remote(accelerator_type="X100")
    def task():
        return "ran"

    assert ray.get(task.remote()) == "ran"
