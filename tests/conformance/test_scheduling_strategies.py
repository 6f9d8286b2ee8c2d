"""Where tasks and actors run: affinity, labels, selectors and fallbacks, in a cluster of three nodes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from .helpers import make_gate
from .zones import WAITS_S, Zones, start

UNKNOWN = "ab" * 28


@pytest.fixture(scope="module")
def strategies(impl: str, ray_module: ModuleType) -> ModuleType:
    return importlib.import_module(f"{impl}.util.scheduling_strategies")


@pytest.fixture(scope="module")
def shared(impl: str, ray_module: ModuleType) -> Iterator[Zones]:
    yield from start(impl, ray_module)


# ------------------------------------------------------------------ nodes


def test_what_nodes_say_of_themselves(shared):
    rows = {row["NodeID"]: row for row in shared.ray.nodes() if row["Alive"]}
    assert set(rows) == {shared.head, shared.a, shared.b}
    assert rows[shared.a]["Labels"] == {"ray.io/node-id": shared.a, "zone": "a", "disk": "ssd"}
    for node_id, row in rows.items():
        assert row["Resources"][f"node:{row['NodeManagerAddress']}"] == 1.0
        assert row["Resources"].get("node:__internal_head__") == (1.0 if node_id == shared.head else None)
    total = shared.ray.cluster_resources()
    assert (total["CPU"], total["only_a"], total["node:__internal_head__"]) == (2, 1, 1)


def test_a_task_knows_the_labels_of_its_node(shared):
    ray = shared.ray

    @ray.remote(resources={"only_a": 0.1})
    def labels():
        return ray.get_runtime_context().get_node_labels()

    assert ray.get(labels.remote()) == {"ray.io/node-id": shared.a, "zone": "a", "disk": "ssd"}


def test_the_head_is_a_resource(shared):
    on_head = shared.where.options(num_cpus=0, resources={"node:__internal_head__": 0.001})
    assert shared.ray.get(on_head.remote()) == shared.head


# ------------------------------------------------------------------ affinity


@pytest.mark.parametrize("soft", [False, True])
def test_affinity(shared, strategies, soft):
    for node_id in (shared.a, shared.b):
        strategy = strategies.NodeAffinitySchedulingStrategy(node_id, soft=soft)
        assert shared.ray.get(shared.where.options(scheduling_strategy=strategy).remote()) == node_id
        actor = shared.Place.options(scheduling_strategy=strategy).remote()
        assert shared.ray.get(actor.where.remote()) == node_id


def test_affinity_waits_for_room(shared, strategies):
    ray = shared.ray
    gate = make_gate(ray)
    strategy = strategies.NodeAffinitySchedulingStrategy(shared.a, soft=True)

    @ray.remote(scheduling_strategy=strategy, resources={"only_a": 1})
    def hold():
        ray.get(gate.wait.remote())

    holds = hold.remote()
    waits = shared.where.options(scheduling_strategy=strategy, resources={"only_a": 1}).remote()
    assert ray.wait([waits], timeout=WAITS_S)[0] == []
    ray.get(gate.open.remote())
    assert ray.get(waits) == shared.a
    ray.get(holds)


def test_hard_affinity_that_cannot_be_met(shared, strategies, ray_module):
    errors = ray_module.exceptions
    unknown = strategies.NodeAffinitySchedulingStrategy(UNKNOWN, soft=False)
    here = strategies.NodeAffinitySchedulingStrategy(shared.a, soft=False)
    for options in ({"scheduling_strategy": unknown}, {"scheduling_strategy": here, "num_cpus": 50}):
        with pytest.raises(errors.TaskUnschedulableError, match="not schedulable"):
            shared.ray.get(shared.where.options(**options).remote())
        actor = shared.Place.options(**options).remote()
        for _ in range(2):
            with pytest.raises(errors.ActorUnschedulableError, match="not schedulable"):
                shared.ray.get(actor.where.remote())


def test_soft_affinity_that_cannot_be_met(shared, strategies):
    unknown = strategies.NodeAffinitySchedulingStrategy(UNKNOWN, soft=True)
    assert shared.ray.get(shared.where.options(scheduling_strategy=unknown).remote()) in (shared.a, shared.b)
    too_small = strategies.NodeAffinitySchedulingStrategy(shared.b, soft=True)
    on_a = shared.where.options(scheduling_strategy=too_small, resources={"only_a": 1})
    assert shared.ray.get(on_a.remote()) == shared.a


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("selector", "node"),
    [
        ({"zone": "a"}, "a"),
        ({"zone": "!a"}, "b"),
        ({"zone": "in(b, c)"}, "b"),
        ({"zone": "!in(a,c)"}, "b"),
        ({"disk": "!ssd"}, "b"),
        ({"zone": "in(a,b)", "disk": "ssd"}, "a"),
        ({"ray.io/node-id": "<b>"}, "b"),
    ],
    ids=str,
)
def test_label_selectors(shared, selector, node):
    selector = {key: value.replace("<b>", shared.b) for key, value in selector.items()}
    expected = getattr(shared, node)
    assert shared.ray.get(shared.where.options(label_selector=selector).remote()) == expected
    actor = shared.Place.options(label_selector=selector).remote()
    assert shared.ray.get(actor.where.remote()) == expected


def test_label_strategies(shared, strategies):
    s = strategies
    cases = [
        ({"zone": s.In("a", "c")}, None, shared.a),
        ({"zone": s.NotIn("a", "c")}, None, shared.b),
        ({"disk": s.Exists()}, None, shared.a),
        ({"disk": s.DoesNotExist()}, None, shared.b),
        ({}, {"zone": s.In("b")}, shared.b),
        ({"zone": s.Exists()}, {"zone": s.In("b")}, shared.b),
        ({"zone": s.In("a")}, {"zone": s.In("b")}, shared.a),
    ]
    for hard, soft, expected in cases:
        strategy = s.NodeLabelSchedulingStrategy(hard, soft=soft)
        assert shared.ray.get(shared.where.options(scheduling_strategy=strategy).remote()) == expected
        actor = shared.Place.options(scheduling_strategy=strategy).remote()
        assert shared.ray.get(actor.where.remote()) == expected
        del actor


def test_fallbacks(shared):
    chosen = shared.where.options(
        label_selector={"zone": "nowhere"},
        fallback_strategy=[{"label_selector": {"zone": "nor-here"}}, {"label_selector": {"zone": "b"}}],
    )
    assert shared.ray.get(chosen.remote()) == shared.b


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"label_selector": {"a": "-x"}}, ValueError),
        ({"label_selector": {"a": "in()"}}, ValueError),
        ({"label_selector": {"-a": "x"}}, ValueError),
        ({"label_selector": {"a": 1}}, TypeError),
        ({"label_selector": [1]}, TypeError),
        ({"fallback_strategy": {}}, TypeError),
        ({"fallback_strategy": [1]}, ValueError),
        ({"fallback_strategy": [{}]}, ValueError),
        ({"fallback_strategy": [{"num_cpus": 1}]}, ValueError),
        ({"fallback_strategy": [{"label_selector": {"a": "--"}}]}, ValueError),
        ({"accelerator_type": 3}, TypeError),
        ({"scheduling_strategy": 3}, TypeError),
    ],
    ids=str,
)
def test_bad_options(shared, options, error):
    with pytest.raises(error):
        shared.where.options(**options)
    with pytest.raises(error):
        shared.Place.options(**options).remote()


@pytest.mark.parametrize("node_id", ["", "abc", "ff" * 28])
def test_what_is_no_node_id(shared, strategies, node_id):
    with pytest.raises(ValueError, match="Invalid node_id"):
        strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)


def test_bad_conditions(strategies):
    s = strategies
    for make in (
        lambda: s.In(),
        lambda: s.NotIn("a", 1),
        lambda: s.NodeLabelSchedulingStrategy({}),
        lambda: s.NodeLabelSchedulingStrategy([1]),
        lambda: s.NodeLabelSchedulingStrategy({1: s.In("a")}),
        lambda: s.NodeLabelSchedulingStrategy({"a": "b"}),
    ):
        with pytest.raises(ValueError):
            make()
    for arguments in ({"soft": False, "_spill_on_unavailable": True}, {"soft": True, "_fail_on_unavailable": True}):
        with pytest.raises(ValueError, match="cannot be set"):
            s.NodeAffinitySchedulingStrategy(UNKNOWN, **arguments)
