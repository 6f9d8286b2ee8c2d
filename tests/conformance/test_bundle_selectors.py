"""Placement groups whose bundles ask for labels, or whose hosts share the value of a label."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from .helpers import eventually
from .zones import Zones, start


@pytest.fixture(scope="module")
def groups(impl: str, ray_module: ModuleType) -> ModuleType:
    return importlib.import_module(f"{impl}.util.placement_group")


@pytest.fixture(scope="module")
def strategy(impl: str, ray_module: ModuleType) -> Any:
    return importlib.import_module(f"{impl}.util.scheduling_strategies").PlacementGroupSchedulingStrategy


@pytest.fixture(scope="module")
def shared(impl: str, ray_module: ModuleType) -> Iterator[Zones]:
    yield from start(impl, ray_module)


@pytest.fixture(autouse=True)
def clean(shared, groups) -> Iterator[None]:
    yield
    for name, row in groups.placement_group_table().items():
        if row["state"] != "REMOVED":
            handle = groups.PlacementGroup(shared.ray.PlacementGroupID.from_hex(name))
            groups.remove_placement_group(handle)
    eventually(lambda: shared.ray.available_resources().get("CPU") == 2)


def where(groups, group) -> list[str]:
    assert group.wait(30)
    return [node_id for _, node_id in sorted(groups.placement_group_table(group)["bundles_to_node_id"].items())]


@pytest.mark.parametrize(
    ("selectors", "places"),
    [
        ([{"zone": "a"}, {"zone": "b"}], "ab"),
        ([{"zone": "b"}, {}], "ba"),
        ([{"zone": "!a"}, {"disk": "ssd"}], "ba"),
        ([{"zone": "in(b,c)"}, {"zone": "!in(b,c)"}], "ba"),
        ([{}, {"zone": "a", "disk": "ssd"}], "ba"),
    ],
)
def test_each_bundle_goes_where_its_selector_admits_it(shared, groups, selectors, places):
    group = groups.placement_group([{"CPU": 1}, {"CPU": 1}], bundle_label_selector=selectors)
    assert where(groups, group) == [getattr(shared, place) for place in places]


def test_work_runs_where_its_bundle_is(shared, groups, strategy):
    group = groups.placement_group([{"CPU": 1}, {"CPU": 1}], bundle_label_selector=[{"zone": "b"}, {"zone": "a"}])
    tasks = [shared.where.options(scheduling_strategy=strategy(group, index)).remote() for index in range(2)]
    assert shared.ray.get(tasks) == [shared.b, shared.a]
    actor = shared.Place.options(num_cpus=1, scheduling_strategy=strategy(group, 0)).remote()
    assert shared.ray.get(actor.where.remote()) == shared.b


def test_a_bundle_without_a_place_waits(shared, groups):
    too_many = groups.placement_group([{"CPU": 1}, {"CPU": 1}], bundle_label_selector=[{"zone": "a"}] * 2)
    nowhere = groups.placement_group([{"CPU": 1}], bundle_label_selector=[{"zone": "c"}])
    assert not too_many.wait(1) and not nowhere.wait(0.1)
    states = [groups.placement_group_table(group)["stats"]["scheduling_state"] for group in (too_many, nowhere)]
    assert states == ["NO_RESOURCES", "INFEASIBLE"]


@pytest.mark.parametrize("selectors", [None, [{}], [{"zone": ""}]])
def test_empty_selectors(shared, groups, selectors):
    group = groups.placement_group([{"CPU": 1}], bundle_label_selector=selectors)
    assert group.wait(1) is (selectors != [{"zone": ""}])


@pytest.mark.parametrize(
    "selectors",
    [
        {"zone": "a"},
        [],
        [{"zone": "a"}, {"zone": "a"}],
        ["zone"],
        [{"zone": 1}],
        [{1: "a"}],
        [{"zone": "a b"}],
    ],
)
def test_selectors_that_are_refused(shared, groups, selectors):
    with pytest.raises(ValueError, match=r"[Ll]abel.selector|bundle_label_selector"):
        groups.placement_group([{"CPU": 1}], bundle_label_selector=selectors)


def test_accelerators_of_gpu_domains_are_asked_for_by_all_bundles_or_none(groups):
    label = "ray.io/accelerator-type"
    with pytest.raises(ValueError, match="GPU-domain"):
        groups.validate_placement_group([{"GPU": 1}] * 2, bundle_label_selector=[{label: "GB200"}, {}])
    groups.validate_placement_group([{"GPU": 1}] * 2, bundle_label_selector=[{label: "GB200"}] * 2)
    groups.validate_placement_group([{"GPU": 1}] * 2, bundle_label_selector=[{label: "A100"}, {}])


# --------------------------------------------------------------------------------------- shared values of a label


def test_all_bundles_are_in_one_domain(shared, groups):
    group = groups.placement_group([{"CPU": 0.5}] * 2, topology_strategy={"zone": "STRICT_PACK"})
    first, second = where(groups, group)
    assert first == second
    assert groups.placement_group_table(group)["strategy"] == "PACK"


def test_no_domain_has_room(shared, groups):
    group = groups.placement_group(
        [{"CPU": 1}] * 2, topology_strategy={"ray.io/node-id": "SPREAD", "zone": "STRICT_PACK"}
    )
    assert not group.wait(1)
    assert groups.placement_group_table(group)["strategy"] == "SPREAD"


def test_only_hosts_with_the_label_are_in_a_domain(shared, groups):
    group = groups.placement_group([{"CPU": 1}], topology_strategy={"disk": "STRICT_PACK"})
    assert where(groups, group) == [shared.a]


@pytest.mark.parametrize(
    "topology",
    [
        "rack",
        {"rack": "PACK"},
        {"rack": "FOO"},
        {"": "STRICT_PACK"},
        {1: "STRICT_PACK"},
        {"rack": "STRICT_PACK", "row": "STRICT_PACK"},
        {"ray.io/node-id": "PACK", "rack": "STRICT_PACK", "row": "STRICT_PACK"},
    ],
)
def test_topologies_that_are_refused(groups, topology):
    with pytest.raises(ValueError, match=r"[Tt]opology"):
        groups.validate_placement_group([{"CPU": 1}], topology_strategy=topology)


def test_arguments_can_be_checked_without_a_group(shared, groups):
    before = len(groups.placement_group_table())
    assert groups.validate_placement_group([{"CPU": 1}], strategy="SPREAD", lifetime="detached") is None
    for options in ({"strategy": "FOO"}, {"lifetime": "forever"}, {"_soft_target_node_id": "ab"}):
        with pytest.raises(ValueError, match=r"."):
            groups.validate_placement_group([{"CPU": 1}], **options)
    with pytest.raises(ValueError, match="Bundles"):
        groups.validate_placement_group([{}])
    assert len(groups.placement_group_table()) == before
