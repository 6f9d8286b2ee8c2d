"""Where tasks and actors run when nodes join and die. Each test has a cluster of its own."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from .helpers import eventually, make_gate
from .zones import WAITS_S, Zones, start


@pytest.fixture(scope="module")
def strategies(impl: str, ray_module: ModuleType) -> ModuleType:
    return importlib.import_module(f"{impl}.util.scheduling_strategies")


@pytest.fixture
def own(impl: str, ray_module: ModuleType) -> Iterator[Zones]:
    yield from start(impl, ray_module)


def test_a_node_with_affinity_dies(own, strategies, ray_module):
    ray, errors = own.ray, ray_module.exceptions
    hard = strategies.NodeAffinitySchedulingStrategy(own.a, soft=False)
    soft = strategies.NodeAffinitySchedulingStrategy(own.a, soft=True)
    stays = own.Place.options(scheduling_strategy=hard, num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    moves = own.Place.options(scheduling_strategy=soft, num_cpus=0.1, max_restarts=-1, max_task_retries=-1).remote()
    assert ray.get([stays.where.remote(), moves.where.remote()]) == [own.a, own.a]
    gate = make_gate(ray)

    @ray.remote(scheduling_strategy=hard, num_cpus=0, resources={"only_a": 1}, max_retries=0)
    def hold():
        ray.get(gate.wait.remote())

    runs, waits = hold.remote(), hold.remote()
    assert ray.wait([waits], timeout=WAITS_S)[0] == []
    own.cluster.remove_node(own.node_a)
    with pytest.raises((errors.NodeDiedError, errors.WorkerCrashedError, errors.TaskUnschedulableError)):
        ray.get(runs)
    with pytest.raises(errors.TaskUnschedulableError):
        ray.get(waits)
    with pytest.raises(errors.ActorUnschedulableError):
        ray.get(stays.where.remote())
    assert ray.get(moves.where.remote()) in (own.b, own.head)


def test_nodes_that_are_gone_are_listed(own):
    ray = own.ray
    assert all(row["Alive"] for row in ray.nodes())
    own.cluster.remove_node(own.node_b)
    eventually(lambda: sum(row["Alive"] for row in ray.nodes()) == 2)
    rows = {row["NodeID"]: row for row in ray.nodes()}
    gone = rows.pop(own.b)
    assert set(rows) == {own.head, own.a} and all(row["DeathReason"] == 0 for row in rows.values())
    assert (gone["Alive"], gone["alive"], gone["Resources"]) == (False, False, {})
    assert gone["Labels"]["zone"] == "b" and gone["DeathReason"] == 1 and gone["DeathReasonMessage"]
    assert gone["NodeManagerAddress"] == rows[own.head]["NodeManagerAddress"]


def test_labels_that_no_node_has_are_waited_for(own):
    ray = own.ray
    task = own.where.options(label_selector={"zone": "new"}).remote()
    actor = own.Place.options(label_selector={"zone": "new"}, num_cpus=0).remote()
    told = actor.where.remote()
    assert ray.wait([task, told], timeout=WAITS_S)[0] == []
    new = own.cluster.add_node(num_cpus=1, labels={"zone": "new"})
    assert ray.get([task, told]) == [new.node_id, new.node_id]


def test_an_accelerator_type_is_a_resource(own):
    ray = own.ray
    task = own.where.options(accelerator_type="X100").remote()
    assert ray.wait([task], timeout=WAITS_S)[0] == []
    new = own.cluster.add_node(num_cpus=1, resources={"accelerator_type:X100": 1})
    assert ray.get(task) == new.node_id
