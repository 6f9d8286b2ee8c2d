"""Placement groups: bundles are reserved together, work runs in them, and ends with them."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
from types import ModuleType
from typing import Any

import pytest

from .helpers import eventually, raises_within, run_driver

PACKS = ["PACK", "SPREAD", "STRICT_PACK"]


@pytest.fixture(scope="module")
def groups(impl: str) -> ModuleType:
    """The module ``ray.util.placement_group``."""
    return importlib.import_module(f"{impl}.util.placement_group")


@pytest.fixture(scope="module")
def strategy(impl: str) -> Any:
    """The class ``PlacementGroupSchedulingStrategy``."""
    return importlib.import_module(f"{impl}.util.scheduling_strategies").PlacementGroupSchedulingStrategy


@pytest.fixture(autouse=True)
def clean(ray, groups):
    """Removes the groups of a test, and waits until their resources are free."""
    yield
    for name, row in groups.placement_group_table().items():
        if row["state"] != "REMOVED":
            groups.remove_placement_group(groups.PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
    eventually(lambda: ray.available_resources().get("CPU") == 2)


def create(groups, bundles, **options):
    """Creates a group, and waits until it is created."""
    group = groups.placement_group(bundles, **options)
    assert group.wait(30)
    return group


def place() -> tuple[Any, ...]:
    """What a task in a group learns about itself."""
    ray = sys.modules.get("ray") or sys.modules["zray"]
    context = ray.get_runtime_context()
    return (
        context.get_placement_group_id(),
        context.get_assigned_resources(),
        context.should_capture_child_tasks_in_placement_group,
    )


# ---------------------------------------------------------------------------------------------- handles


@pytest.mark.parametrize("name", PACKS)
def test_a_group_is_created_at_once_if_there_is_room(ray, groups, name):
    group = groups.placement_group([{"CPU": 1}, {"CPU": 1, "slot": 1}], strategy=name)
    assert ray.get(group.ready(), timeout=20) == group
    assert group.wait(20) is True
    assert group.bundle_specs == [{"CPU": 1.0}, {"CPU": 1.0, "slot": 1.0}]
    assert group.bundle_count == 2


def test_the_function_and_the_module_have_the_same_name(ray, groups, impl):
    assert callable(ray.util.placement_group)
    group = ray.util.placement_group([{"CPU": 1}])
    assert group.wait(20)
    ray.util.remove_placement_group(group)
    assert ray.util.get_current_placement_group() is None
    assert isinstance(group, groups.PlacementGroup)
    assert ray.util.placement_group_table(group)["state"] == "REMOVED"


def test_several_references_wait_for_one_group(ray, groups):
    group = groups.placement_group([{"CPU": 1}])
    first, second = group.ready(), group.ready()
    assert ray.wait([first, second], num_returns=2, timeout=20)[1] == []
    assert ray.get([first, second]) == [group, group]


def test_a_reference_to_ready_can_be_an_argument(ray, groups):
    group = groups.placement_group([{"slot": 1}])

    @ray.remote
    def bundles_of(group):
        return group.bundle_specs

    assert ray.get(bundles_of.remote(group.ready()), timeout=20) == [{"slot": 1.0}]


def test_handles_are_equal_and_can_be_pickled(groups):
    group, other = create(groups, [{"CPU": 1}]), create(groups, [{"slot": 1}])
    copy = pickle.loads(pickle.dumps(group))
    assert copy == group and hash(copy) == hash(group) and copy != other
    assert group != "group"
    assert copy.bundle_specs == [{"CPU": 1.0}]


def test_the_empty_handle(ray, groups):
    empty = groups.PlacementGroup.empty()
    assert empty.is_empty and empty.id.is_nil()
    assert empty == groups.PlacementGroup.empty()
    assert ray.get(empty.ready(), timeout=20) == empty
    assert not create(groups, [{"CPU": 1}]).is_empty


def test_a_task_can_create_a_group(ray, groups):
    @ray.remote(num_cpus=0)
    def make(module):
        group = importlib.import_module(module).placement_group([{"CPU": 1}])
        assert group.wait(20)
        return group

    group = ray.get(make.remote(f"{ray.__name__}.util"), timeout=30)
    assert group.wait(20)
    assert groups.placement_group_table(group)["state"] == "CREATED"


# ------------------------------------------------------------------------------------------ bad arguments


@pytest.mark.parametrize(
    "bundles",
    [[], {}, None, "CPU", [{}], [{"CPU": 0}], [{"CPU": "1"}], [1], [{1: 1}], [{"CPU": 1}, {}]],
)
def test_bundles_that_are_refused(groups, bundles):
    with pytest.raises(ValueError):
        groups.placement_group(bundles)


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "FOO"},
        {"lifetime": "forever"},
        {"lifetime": 1},
        {"_soft_target_node_id": "00"},
        {"bundle_label_selector": [{}, {}]},
        {"bundle_label_selector": [{"zone": 1}]},
        {"strategy": "PACK", "topology_strategy": {"ray.io/node-id": "PACK"}},
        {"topology_strategy": {"ray.io/node-id": "FOO"}},
        {"topology_strategy": "PACK"},
    ],
)
def test_options_that_are_refused(groups, options):
    with pytest.raises(ValueError):
        groups.placement_group([{"CPU": 1}], **options)


def test_a_reserved_resource(ray, groups):
    with pytest.raises(ray.exceptions.RaySystemError, match="reserved"):
        groups.placement_group([{"bundle": 1}])


def test_the_strategy_as_that_of_a_topology(groups):
    group = create(groups, [{"CPU": 1}], topology_strategy={"ray.io/node-id": "STRICT_PACK"})
    assert groups.placement_group_table(group)["strategy"] == "STRICT_PACK"


def test_the_default_strategy(groups):
    assert groups.placement_group_table(create(groups, [{"CPU": 1}]))["strategy"] == "PACK"


def test_none_is_no_group(groups):
    with pytest.raises(AssertionError):
        groups.remove_placement_group(None)
    groups.remove_placement_group(groups.PlacementGroup.empty())


# ------------------------------------------------------------------------------------------------- names


def test_names(groups):
    group = create(groups, [{"CPU": 1}], name="one")
    assert groups.get_placement_group("one") == group
    assert groups.get_placement_group("one").bundle_specs == [{"CPU": 1.0}]
    groups.remove_placement_group(group)
    with pytest.raises(ValueError, match="one"):
        eventually(lambda: groups.get_placement_group("one") is None)
    assert create(groups, [{"CPU": 1}], name="one") != group


def test_a_name_that_is_taken(groups):
    create(groups, [{"CPU": 1}], name="taken")
    with pytest.raises(Exception, match="'taken' already exists"):
        groups.placement_group([{"CPU": 1}], name="taken")


@pytest.mark.parametrize("name", ["unknown", "", None])
def test_names_without_a_group(groups, name):
    with pytest.raises(ValueError):
        groups.get_placement_group(name)


# ------------------------------------------------------------------------------------------------- table


def test_the_table(ray, groups):
    group = create(groups, [{"CPU": 1}, {"slot": 1}], strategy="SPREAD", name="in the table")
    row = groups.placement_group_table(group)
    node = ray.nodes()[0]["NodeID"]
    assert row["placement_group_id"] == group.id.hex()
    assert row["name"] == "in the table"
    assert row["bundles"] == {0: {"CPU": 1.0}, 1: {"slot": 1.0}}
    assert row["bundles_to_node_id"] == {0: node, 1: node}
    assert row["strategy"] == "SPREAD"
    assert row["state"] == "CREATED"
    assert row["stats"]["scheduling_state"] == "FINISHED"
    assert groups.placement_group_table()[group.id.hex()]["name"] == "in the table"


def test_a_group_that_fits_nowhere_waits(ray, groups):
    group = groups.placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    large = groups.placement_group([{"CPU": 3}])
    assert group.wait(0.2) is False
    assert ray.wait([large.ready()], timeout=0.2)[0] == []
    assert groups.placement_group_table(large)["state"] == "PENDING"
    assert groups.placement_group_table(large)["bundles_to_node_id"] == {0: ""}
    assert ray.available_resources()["CPU"] == 2  # nothing of it is reserved
    assert ray.get(ray.remote(lambda: 5).remote(), timeout=20) == 5


def of_group(amounts, group):
    """The resources of a group, without its identifier."""
    end = f"_{group.id.hex()}"
    return {name.removesuffix(end): amount for name, amount in amounts.items() if name.endswith(end)}


def test_resources_of_groups_are_shown(ray, groups, strategy):
    before = ray.cluster_resources()
    group = create(groups, [{"CPU": 1, "slot": 1}])
    eventually(lambda: ray.available_resources()["CPU"] == 1)
    assert ray.available_resources()["slot"] == 1
    expected = {"CPU_group": 1, "CPU_group_0": 1, "slot_group": 1, "slot_group_0": 1} | {
        "bundle_group": 1000,
        "bundle_group_0": 1000,
    }
    eventually(lambda: of_group(ray.cluster_resources(), group) == expected)
    assert of_group(ray.available_resources(), group) == expected
    assert not any("group" in name for name in ray.nodes()[0]["Resources"])
    actor = ray.remote(num_cpus=1)(Holder).options(scheduling_strategy=strategy(group)).remote()
    assert ray.get(actor.ping.remote()) == 1
    eventually(lambda: "CPU_group" not in of_group(ray.available_resources(), group))
    groups.remove_placement_group(group)
    eventually(lambda: ray.available_resources() == before)
    assert ray.cluster_resources() == before


class Holder:
    def ping(self):
        return 1


def test_a_group_waits_for_resources_in_use(ray, groups):
    first = create(groups, [{"CPU": 2}])
    second = groups.placement_group([{"CPU": 1}])
    assert second.wait(0.2) is False
    groups.remove_placement_group(first)
    assert second.wait(30) is True


# ------------------------------------------------------------------------------------------ work in groups


def test_tasks_in_a_group(ray, groups, strategy):
    group = create(groups, [{"CPU": 1}, {"CPU": 1}])
    task = ray.remote(num_cpus=1)(place)
    for index in (-1, 0, 1):
        options = {"scheduling_strategy": strategy(group, index)}
        assert ray.get(task.options(**options).remote(), timeout=20) == (group.id.hex(), {"CPU": 1.0}, False)
    # Without CPUs, and out of the group.
    assert ray.get(task.options(num_cpus=0, scheduling_strategy=strategy(group)).remote(), timeout=20) == (
        group.id.hex(),
        {},
        False,
    )
    assert ray.get(task.options(num_cpus=0).remote(), timeout=20) == (None, {}, False)


def test_a_task_without_the_group_waits_while_all_is_reserved(ray, groups, strategy):
    group = create(groups, [{"CPU": 2}])
    outside = ray.remote(lambda: "outside").remote()
    inside = ray.remote(lambda: "inside").options(scheduling_strategy=strategy(group)).remote()
    assert ray.get(inside, timeout=20) == "inside"
    assert ray.wait([outside], timeout=0.3)[0] == []
    groups.remove_placement_group(group)
    assert ray.get(outside, timeout=20) == "outside"


def test_tasks_submitted_before_the_group_is_created(ray, groups, strategy):
    first = create(groups, [{"CPU": 2}])
    second = groups.placement_group([{"CPU": 1}])
    ref = ray.remote(lambda: 7).options(scheduling_strategy=strategy(second, 0)).remote()
    assert ray.wait([ref], timeout=0.2)[0] == []
    groups.remove_placement_group(first)
    assert ray.get(ref, timeout=30) == 7


def test_one_bundle_limits_its_tasks(ray, groups, strategy, gate):
    group = create(groups, [{"CPU": 1}, {"CPU": 1}])

    @ray.remote(num_cpus=1)
    def wait(gate, name):
        ray.get(gate.wait.remote())
        return name

    refs = [wait.options(scheduling_strategy=strategy(group, 0)).remote(gate, name) for name in (1, 2)]
    eventually(lambda: ray.get(gate.arrived.remote()) == 1)
    other = wait.options(scheduling_strategy=strategy(group, 1)).remote(gate, 3)
    eventually(lambda: ray.get(gate.arrived.remote()) == 2)
    ray.get(gate.open.remote())
    assert ray.get([*refs, other], timeout=20) == [1, 2, 3]


def test_work_that_fits_into_no_bundle(ray, groups, strategy):
    group = create(groups, [{"CPU": 1}, {"slot": 1}])
    task = ray.remote(num_cpus=1)(place)
    for options in ({"num_cpus": 2}, {"num_cpus": 1, "resources": {"slot": 1}}, {"num_gpus": 1}):
        with pytest.raises(ValueError, match="cannot fit into any bundles"):
            task.options(**options, scheduling_strategy=strategy(group)).remote()

    @ray.remote
    class Actor:
        pass

    with pytest.raises(ValueError, match="cannot fit into any bundles"):
        Actor.options(num_cpus=2, scheduling_strategy=strategy(group)).remote()


def test_an_actor_needs_a_cpu_to_start(ray, groups, strategy):
    group = create(groups, [{"slot": 1}])

    @ray.remote
    class Actor:
        pass

    with pytest.raises(ValueError, match="CPU"):
        Actor.options(scheduling_strategy=strategy(group)).remote()


@pytest.mark.parametrize("index", [2, 10, -2])
def test_bundles_that_do_not_exist(ray, groups, strategy, index):
    group = create(groups, [{"CPU": 1}, {"CPU": 1}])
    with pytest.raises(ValueError, match="index"):
        ray.remote(place).options(scheduling_strategy=strategy(group, index)).remote()
    with pytest.raises(ValueError, match="index"):
        groups.check_placement_group_index(group, index)


def test_valid_indices(groups):
    group = create(groups, [{"CPU": 1}])
    for index in (-1, 0):
        groups.check_placement_group_index(group, index)
    groups.check_placement_group_index(groups.PlacementGroup.empty(), -1)
    with pytest.raises(ValueError):
        groups.check_placement_group_index(groups.PlacementGroup.empty(), 0)


def test_no_group_as_a_strategy(ray, strategy):
    assert ray.get(ray.remote(place).options(scheduling_strategy=strategy(None)).remote(), timeout=20)[0] is None


@pytest.mark.filterwarnings("ignore:.*placement_group.*:DeprecationWarning")
def test_the_deprecated_options(ray, groups):
    group = create(groups, [{"CPU": 1}, {"CPU": 1}])
    task = ray.remote(num_cpus=1)(place)
    options = {"placement_group": group, "placement_group_bundle_index": 1}
    assert ray.get(task.options(**options).remote(), timeout=20)[0] == group.id.hex()
    with pytest.warns(DeprecationWarning, match="placement_group parameter"):
        task.options(placement_group=group).remote()
    assert ray.get(task.options(num_cpus=0, placement_group=None).remote(), timeout=20)[0] is None
    with pytest.raises(ValueError, match="scheduling_strategy"):
        task.options(placement_group=group, scheduling_strategy="SPREAD")
    with pytest.raises(ValueError):
        task.options(placement_group_bundle_index=0).remote()

    @ray.remote(num_cpus=1)
    class Actor:
        def place(self):
            return place()

    actor = Actor.options(placement_group=group, placement_group_capture_child_tasks=True).remote()
    assert ray.get(actor.place.remote(), timeout=20) == (group.id.hex(), {"CPU": 1.0}, True)


def test_actors_in_a_group(ray, groups, strategy):
    group = create(groups, [{"CPU": 1}, {"CPU": 1}])

    @ray.remote(num_cpus=1)
    class Actor:
        def place(self):
            return place()

    actors = [Actor.options(scheduling_strategy=strategy(group, index)).remote() for index in (0, 1)]
    assert (
        ray.get([actor.place.remote() for actor in actors], timeout=20) == [(group.id.hex(), {"CPU": 1.0}, False)] * 2
    )


def test_an_actor_that_dies_restarts_in_its_group(ray, groups, strategy):
    group = create(groups, [{"CPU": 1}])

    @ray.remote(num_cpus=1, max_restarts=1, max_task_retries=-1)
    class Actor:
        def place(self):
            return place()[0], os.getpid()

    actor = Actor.options(scheduling_strategy=strategy(group, 0)).remote()
    name, pid = ray.get(actor.place.remote(), timeout=20)
    os.kill(pid, signal.SIGKILL)
    again, other_pid = ray.get(actor.place.remote(), timeout=30)
    assert name == again == group.id.hex()
    assert other_pid != pid


# --------------------------------------------------------------------------------------- capture of children


def child_of(ray, options):
    return ray.get(ray.remote(num_cpus=0)(place).options(**options).remote(), timeout=20)


@pytest.mark.parametrize(("captures", "options"), [(None, {}), (False, {}), (True, {"scheduling_strategy": "DEFAULT"})])
def test_children_that_are_not_captured(ray, groups, strategy, captures, options):
    group = create(groups, [{"CPU": 1}])
    parent = ray.remote(child_of).options(scheduling_strategy=strategy(group, 0, captures))
    assert ray.get(parent.remote(ray, options), timeout=30)[0] is None


def test_children_that_are_captured(ray, groups, strategy):
    group = create(groups, [{"CPU": 1}])
    parent = ray.remote(child_of).options(scheduling_strategy=strategy(group, 0, True))
    assert ray.get(parent.remote(ray, {}), timeout=30) == (group.id.hex(), {}, True)

    @ray.remote(num_cpus=1)
    class Actor:
        def child(self, ray):
            @ray.remote(num_cpus=0)
            class Child:
                def place(self):
                    return place()

            return child_of(ray, {}), ray.get(Child.remote().place.remote(), timeout=20)

    actor = Actor.options(scheduling_strategy=strategy(group, 0, True)).remote()
    assert ray.get(actor.child.remote(ray), timeout=30) == ((group.id.hex(), {}, True),) * 2


def test_a_captured_child_that_is_too_large(ray, groups, strategy):
    group = create(groups, [{"CPU": 1}])

    def submit(ray):
        ray.remote(num_cpus=2)(place).remote()

    ref = ray.remote(submit).options(scheduling_strategy=strategy(group, 0, True)).remote(ray)
    with pytest.raises(ValueError, match="cannot fit"):
        ray.get(ref, timeout=30)


# ------------------------------------------------------------------------------------------------ removal


def test_removal_ends_what_runs_and_what_waits(ray, groups, strategy):
    group = create(groups, [{"CPU": 1}])

    @ray.remote(num_cpus=1, max_retries=0)
    def hang():
        signal.pause()

    @ray.remote(num_cpus=1)
    class Actor:
        def hang(self):
            signal.pause()

        def pid(self):
            return os.getpid()

    actor = Actor.options(scheduling_strategy=strategy(group)).remote()
    ray.get(actor.pid.remote(), timeout=20)
    running = actor.hang.remote()
    waiting = hang.options(scheduling_strategy=strategy(group)).remote()
    assert ray.wait([running, waiting], timeout=0.2)[0] == []
    groups.remove_placement_group(group)
    assert isinstance(raises_within(ray, waiting), ray.exceptions.TaskPlacementGroupRemoved)
    died = raises_within(ray, running)
    assert isinstance(died, ray.exceptions.RayActorError)
    assert "placement group was removed" in str(died)
    assert isinstance(raises_within(ray, actor.pid.remote()), ray.exceptions.RayActorError)
    eventually(lambda: ray.available_resources().get("CPU") == 2)
    groups.remove_placement_group(group)  # again


def test_removal_ends_a_task_that_runs(ray, groups, strategy):
    group = create(groups, [{"CPU": 1}])

    @ray.remote(num_cpus=0)
    class Seen:
        def __init__(self):
            self.seen = False

        def wait(self):
            self.seen = True

        def was(self):
            return self.seen

    @ray.remote(num_cpus=1, max_retries=0)
    def forever(seen):
        ray.get(seen.wait.remote())
        signal.pause()

    seen = Seen.remote()
    ref = forever.options(scheduling_strategy=strategy(group)).remote(seen)
    eventually(lambda: ray.get(seen.was.remote()))
    groups.remove_placement_group(group)
    assert isinstance(raises_within(ray, ref), ray.exceptions.WorkerCrashedError)


def test_the_end_of_a_group_that_waits(ray, groups):
    group = groups.placement_group([{"CPU": 100}])
    ref = group.ready()
    assert ray.wait([ref], timeout=0.1)[0] == []
    groups.remove_placement_group(group)
    assert isinstance(raises_within(ray, ref), ray.exceptions.TaskPlacementGroupRemoved)
    assert groups.placement_group_table(group)["state"] == "REMOVED"
    with pytest.raises(Exception, match="does not exist"):
        group.wait(1)


def test_many_groups_one_after_the_other(groups):
    for _ in range(30):
        group = create(groups, [{"CPU": 2}])
        groups.remove_placement_group(group)


def test_groups_take_turns(ray, groups):
    pending = [groups.placement_group([{"CPU": 2}]) for _ in range(5)]
    for group in pending:
        assert group.wait(30)
        groups.remove_placement_group(group)


# ------------------------------------------------------------------------------------------------ lifetime


def test_a_group_ends_with_its_job_unless_it_is_detached(ray, groups, impl):
    address = ray.get_runtime_context().gcs_address
    module = f"from {impl}.util.placement_group import placement_group\n"
    output = run_driver(
        impl,
        module
        + """
ray.init(**INIT, namespace="lifetime")
kept = placement_group([{"slot": 1}], name="kept", lifetime="detached")
ended = placement_group([{"slot": 1}], name="ended")
assert kept.wait(20) and ended.wait(20)
print(kept.id.hex(), ended.id.hex())
""",
        address,
    )
    kept, ended = output.split()[-2:]
    table = groups.placement_group_table
    eventually(lambda: table().get(ended, {"state": "REMOVED"})["state"] == "REMOVED")
    assert table()[kept]["state"] == "CREATED"
    assert table()[kept]["name"] == "kept"
