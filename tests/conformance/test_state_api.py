"""``ray.util.state``: lists, single records, filters and summaries. On Ray it needs Ray's dashboard."""

from __future__ import annotations

import importlib
import importlib.util
import time

import pytest

from .helpers import eventually


@pytest.fixture(scope="module")
def ray(ray_module, init_options, impl):
    if impl == "ray":
        if importlib.util.find_spec("aiohttp_cors") is None:
            pytest.skip("Ray is installed without its dashboard")
        init_options = {**init_options, "include_dashboard": True}
    ray_module.init(**init_options)
    with pytest.MonkeyPatch.context() as patch:
        if impl == "ray":  # it looks for clusters on the whole machine, and refuses to choose
            patch.setenv("RAY_ADDRESS", ray_module.get_runtime_context().gcs_address)
        yield ray_module
    ray_module.shutdown()


@pytest.fixture(scope="module")
def state(ray):
    return importlib.import_module(f"{ray.__name__}.util.state")


@pytest.fixture(scope="module")
def common(ray):
    return importlib.import_module(f"{ray.__name__}.util.state.common")


@pytest.fixture(scope="module")
def error(ray):
    return importlib.import_module(f"{ray.__name__}.util.state.exception").RayStateApiException


@pytest.fixture(scope="module")
def counter(ray):
    """A class whose instances are counted by this module alone."""

    @ray.remote(num_cpus=0)
    class StateCounter:
        __qualname__ = "StateCounter"  # Ray's class_name has the enclosing functions

        def add(self):
            return 1

        def fail(self):
            raise KeyError("no such key")

        def pid(self):
            import os

            return os.getpid()

    return StateCounter


def of_class(name):
    return [("class_name", "=", name)]


def named(name):
    return [("name", "=", name)]


# ------------------------------------------------------------------------------------------------- actors


def test_a_living_actor(ray, state, counter):
    actor = counter.options(name="living").remote()
    pid = ray.get(actor.pid.remote())
    [row] = eventually(lambda: state.list_actors(filters=named("living")))
    assert (row.class_name, row.state, row.name, row.pid) == ("StateCounter", "ALIVE", "living", pid)
    assert row.actor_id == actor._actor_id.hex()
    assert row.node_id == ray.get_runtime_context().get_node_id()
    assert row.job_id == ray.get_runtime_context().get_job_id()
    assert row.ray_namespace == ray.get_runtime_context().namespace
    assert (row["state"], row.get("pid"), row.get("unknown", 7)) == ("ALIVE", pid, 7)
    assert row.asdict()["class_name"] == "StateCounter"
    assert row.is_detached is None
    [row] = state.list_actors(filters=named("living"), detail=True)
    assert (row.is_detached, row.num_restarts) == (False, 0)
    assert state.get_actor(row.actor_id) == row
    assert state.get_actor("ab" * 16) is None


def test_a_dead_actor(ray, state, counter):
    actor = counter.options(name="dying").remote()
    pid = ray.get(actor.pid.remote())
    ray.kill(actor)

    def dead():
        [row] = state.list_actors(filters=named("dying"), detail=True)
        return row if row.state == "DEAD" else None

    row = eventually(dead)
    assert row.death_cause
    assert row.pid == pid


def test_an_actor_that_waits_for_resources(ray, state):
    @ray.remote(resources={"nowhere": 1})
    class Waiting:
        __qualname__ = "Waiting"

    handle = Waiting.remote()
    eventually(lambda: [row.state for row in state.list_actors(filters=of_class("Waiting"))] == ["PENDING_CREATION"])
    del handle


# ------------------------------------------------------------------------------------------------- filters


def test_filters(ray, state, counter, error):
    actors = [counter.options(name=f"filtered {number}").remote() for number in range(3)]
    ray.get([actor.add.remote() for actor in actors])
    pid = ray.get(actors[0].pid.remote())
    alive = [*of_class("STATEcounter"), ("state", "=", "alive")]
    eventually(lambda: len(state.list_actors(filters=alive)) >= 3)
    assert [row.name for row in state.list_actors(filters=[*alive, ("pid", "=", pid)])] == ["filtered 0"]
    assert [row.name for row in state.list_actors(filters=[*alive, ("pid", "=", str(pid))])] == ["filtered 0"]
    others = {row.name for row in state.list_actors(filters=[*alive, ("name", "!=", "filtered 0")])}
    assert {"filtered 1", "filtered 2"} <= others
    assert "filtered 0" not in others
    with pytest.warns(UserWarning):
        assert state.list_actors(filters=[("state", "=", "ALIVE"), ("state", "=", "DEAD")]) == []


def test_limits(ray, state, counter, error):
    actors = [counter.remote() for _ in range(3)]
    ray.get([actor.add.remote() for actor in actors])
    eventually(lambda: len(state.list_actors(filters=of_class("StateCounter"))) >= 3)
    assert len(state.list_actors(filters=of_class("StateCounter"), limit=2)) == 2
    assert state.list_actors(limit=0) == []
    with pytest.raises(error):
        state.list_actors(limit=1_000_000)


@pytest.mark.parametrize("filters", [[("statex", "=", "ALIVE")], [("pid", "=", "many")]])
def test_filters_that_cannot_be_used(ray, state, counter, error, filters):
    actor = counter.remote()
    ray.get(actor.add.remote())
    eventually(state.list_actors)
    with pytest.raises(error):
        state.list_actors(filters=filters)


@pytest.mark.parametrize("filters", [[("state", ">", "ALIVE")], [("state", "ALIVE")]])
def test_filters_that_are_malformed(state, filters):
    with pytest.raises(ValueError):
        state.list_actors(filters=filters)


# --------------------------------------------------------------------------------------------------- tasks


def states_of(state, name, **options):
    return sorted(row.state for row in state.list_tasks(filters=named(name), **options))


def test_tasks_that_have_ended(ray, state):
    @ray.remote
    def ends(value):
        if value is None:
            raise ValueError("no value")
        return value

    named_ends = ends.options(name="state_ends")
    before_ms = int(time.time() * 1000)
    refs = [named_ends.remote(value) for value in (1, 2, None)]
    ray.wait(refs, num_returns=3)
    eventually(lambda: states_of(state, "state_ends") == ["FAILED", "FINISHED", "FINISHED"])
    [failed] = state.list_tasks(filters=[*named("state_ends"), ("state", "=", "FAILED")], detail=True)
    assert failed.error_type == "TASK_EXECUTION_EXCEPTION"
    assert "no value" in failed.error_message
    assert (failed.type, failed.attempt_number) == ("NORMAL_TASK", 0)
    assert failed.func_or_class_name.endswith("ends")
    assert failed.required_resources == {"CPU": 1.0}
    assert failed.node_id == ray.get_runtime_context().get_node_id()
    assert failed.job_id == ray.get_runtime_context().get_job_id()
    assert before_ms <= failed.creation_time_ms <= failed.start_time_ms <= failed.end_time_ms <= time.time() * 1000
    times = {event["state"]: event["created_ms"] for event in failed.events}
    assert (times["PENDING_ARGS_AVAIL"], times["RUNNING"]) == (failed.creation_time_ms, failed.start_time_ms)
    assert list(times)[-1] == "FAILED" and times["FAILED"] == failed.end_time_ms
    assert state.get_task(failed.task_id).task_id == failed.task_id
    assert state.get_task("ab" * 24) is None


def test_tasks_that_have_not_ended(ray, state):
    @ray.remote
    class Gate:
        def __init__(self):
            import asyncio

            self.event = asyncio.Event()

        async def wait(self):
            await self.event.wait()
            return "open"

        async def open(self):
            self.event.set()

    gate = Gate.options(num_cpus=0).remote()

    @ray.remote(resources={"nowhere": 1}, name="state_unplaced")
    def unplaced():
        pass

    @ray.remote(name="state_dependent")
    def dependent(value):
        return value

    @ray.remote(num_cpus=0, name="state_running")
    def running(gate):
        return ray.get(gate.wait.remote())

    waiting = gate.wait.remote()
    refs = [unplaced.remote(), dependent.remote(waiting), running.remote(gate)]
    eventually(lambda: states_of(state, "state_unplaced") == ["PENDING_NODE_ASSIGNMENT"])
    eventually(lambda: states_of(state, "state_dependent") == ["PENDING_ARGS_AVAIL"])
    eventually(lambda: states_of(state, "state_running") in (["RUNNING"], ["RUNNING_IN_RAY_GET"]))
    eventually(lambda: "RUNNING" in states_of(state, "Gate.wait"))
    [row] = state.list_tasks(filters=named("state_running"))
    assert row.worker_pid
    [row] = eventually(
        lambda: [row for row in state.list_tasks(filters=named("state_running"), detail=True) if row.start_time_ms]
    )
    assert row.creation_time_ms <= row.start_time_ms and not row.end_time_ms
    ray.get(gate.open.remote())
    assert ray.get(refs[1:]) == ["open", "open"]
    eventually(lambda: states_of(state, "state_running") == ["FINISHED"])
    ray.cancel(refs[0])


def test_calls_of_actors(ray, state, counter):
    actor = counter.remote()
    ray.wait([actor.add.remote(), actor.fail.remote()], num_returns=2)
    of_actor = [("actor_id", "=", actor._actor_id.hex())]

    def found():
        return {row.name: (row.type, row.state) for row in state.list_tasks(filters=of_actor)}

    expected = {
        "StateCounter.__init__": ("ACTOR_CREATION_TASK", "FINISHED"),
        "StateCounter.add": ("ACTOR_TASK", "FINISHED"),
        "StateCounter.fail": ("ACTOR_TASK", "FAILED"),
    }
    eventually(lambda: found() == expected)


def test_the_death_of_a_worker(ray, state):
    @ray.remote(max_retries=1, name="state_crash")
    def crash():
        import os

        os._exit(1)

    ref = crash.remote()
    ray.wait([ref])

    def found():
        rows = state.list_tasks(filters=named("state_crash"))
        return sorted((row.attempt_number, row.state, row.error_type) for row in rows)

    eventually(lambda: found() == [(0, "FAILED", "WORKER_DIED"), (1, "FAILED", "WORKER_DIED")])
    [row, _] = state.list_tasks(filters=named("state_crash"))
    assert len(state.get_task(row.task_id)) == 2
    dead = eventually(lambda: state.list_workers(filters=[("exit_type", "=", "SYSTEM_ERROR")], detail=True))
    assert not dead[0].is_alive
    assert dead[0].exit_detail


def test_a_task_of_a_task(ray, state):
    @ray.remote(num_cpus=0, name="state_child")
    def child():
        return ray.get_runtime_context().get_task_id()

    @ray.remote(num_cpus=0, name="state_parent")
    def parent():
        return ray.get_runtime_context().get_task_id(), ray.get(child.remote())

    parent_id, child_id = ray.get(parent.remote())
    [row] = eventually(lambda: state.list_tasks(filters=named("state_child")))
    assert (row.task_id, row.parent_task_id) == (child_id, parent_id)


# -------------------------------------------------------------------------------- nodes, workers, jobs, objects


def test_nodes(ray, state):
    [row] = state.list_nodes(detail=True)
    assert row.node_id == ray.get_runtime_context().get_node_id()
    assert (row.state, row.is_head_node) == ("ALIVE", True)
    assert row.resources_total["CPU"] == 2.0
    assert row.start_time_ms > 0
    assert state.get_node(row.node_id).node_id == row.node_id
    assert state.get_node("ab" * 28) is None
    # Without this argument Ray raises, because it counts what its filters leave out as missing.
    assert state.list_nodes(filters=[("state", "=", "dead")], raise_on_missing_output=False) == []
    assert len(state.list_nodes(filters=[("is_head_node", "=", "True")], raise_on_missing_output=False)) == 1


def test_workers(ray, state, counter):
    actor = counter.remote()
    pid = ray.get(actor.pid.remote())
    [row] = eventually(lambda: state.list_workers(filters=[("pid", "=", pid)]))
    assert (row.worker_type, row.is_alive) == ("WORKER", True)
    assert row.node_id == ray.get_runtime_context().get_node_id()
    assert state.get_worker(row.worker_id).pid == pid
    drivers = [("worker_type", "=", "DRIVER"), ("is_alive", "=", "True")]
    assert len(state.list_workers(filters=drivers, raise_on_missing_output=False)) == 1


def test_placement_groups(ray, state, error):
    groups = importlib.import_module(f"{ray.__name__}.util.placement_group")
    group = groups.placement_group([{"CPU": 0.5}, {"CPU": 0.25}], name="listed")
    waits = groups.placement_group([{"CPU": 99}], lifetime="detached", bundle_label_selector=[{"zone": "in(a,b)"}])
    assert group.wait(30)
    node_id = ray.nodes()[0]["NodeID"]
    (row,) = state.list_placement_groups(filters=[("name", "=", "listed")])
    assert (row.placement_group_id, row.state, row.bundles, row.stats) == (group.id.hex(), "CREATED", None, None)
    row = state.get_placement_group(group.id.hex())
    assert row.creator_job_id == ray.get_runtime_context().get_job_id() and row.is_detached is False
    assert row.bundles[1] == {
        "bundle_id": {"placement_group_id": group.id.hex(), "bundle_index": 1},
        "unit_resources": {"CPU": 0.25},
        "node_id": node_id,
        "label_selector": {},
    }
    assert (row.stats["scheduling_state"], row.topology_strategy) == ("FINISHED", {})
    (row,) = state.list_placement_groups(filters=[("state", "=", "pending")], detail=True)
    assert (row.placement_group_id, row.is_detached) == (waits.id.hex(), True)
    assert (row.bundles[0]["node_id"], row.bundles[0]["label_selector"]) == ("", {"zone": "in(a,b)"})
    for each in (group, waits):
        groups.remove_placement_group(each)
    eventually(lambda: state.get_placement_group(group.id.hex()).state == "REMOVED")
    assert state.get_placement_group("ff" * 18) is None
    with pytest.raises(error):
        state.list_placement_groups(filters=[("bundles", "=", "x")])


def test_work_in_a_placement_group(ray, state, counter):
    groups = importlib.import_module(f"{ray.__name__}.util.placement_group")
    strategies = importlib.import_module(f"{ray.__name__}.util.scheduling_strategies")
    group = groups.placement_group([{"CPU": 0.5}])
    strategy = strategies.PlacementGroupSchedulingStrategy(group)
    actor = counter.options(scheduling_strategy=strategy, name="in a group").remote()
    ray.get(actor.add.remote())
    (row,) = state.list_actors(filters=[("placement_group_id", "=", group.id.hex())])
    assert row.name == "in a group"
    groups.remove_placement_group(group)


def test_runtime_environments(ray, state):
    @ray.remote(num_cpus=0.1, runtime_env={"env_vars": {"LISTED": "yes"}})
    def task():
        return 1

    ray.get(task.remote())
    rows = [row for row in state.list_runtime_envs(detail=True) if "LISTED" in row.runtime_env.get("env_vars", {})]
    assert [(row.runtime_env["env_vars"], row.success) for row in rows] == [({"LISTED": "yes"}, True)]
    assert rows[0].node_id == ray.nodes()[0]["NodeID"] and rows[0].creation_time_ms >= 0 and rows[0].error is None
    assert rows[0] in state.list_runtime_envs(detail=True, filters=[("success", "=", True)])
    finished = [("name", "=", "task"), ("state", "=", "FINISHED")]
    (task,) = eventually(lambda: state.list_tasks(detail=True, filters=finished))
    assert task.required_resources == {"CPU": 0.1}


def test_the_selector_of_a_task(ray, state):
    @ray.remote(num_cpus=0, label_selector={"zone": "!in(a,b)"})
    def selected():
        return 1

    ray.get(selected.remote())
    eventually(lambda: state.list_tasks(detail=True, filters=[("name", "=", "selected"), ("state", "=", "FINISHED")]))
    (row,) = state.list_tasks(detail=True, filters=[("name", "=", "selected")])
    assert row.label_selector == {"zone": "!in(a,b)"}


def test_jobs(ray, state):
    import os

    [row] = [row for row in state.list_jobs(detail=True) if row.job_id == ray.get_runtime_context().get_job_id()]
    assert (row.type, row.status, row.submission_id) == ("DRIVER", "RUNNING", None)
    assert row.driver_info.pid == str(os.getpid())
    assert row.entrypoint
    assert row.start_time > 0


def test_objects(ray, state):
    ref = ray.put(b"x" * 200_000)
    [row] = eventually(lambda: state.list_objects(filters=[("object_id", "=", ref.hex())]))
    assert row.object_size >= 200_000
    assert (row.reference_type, row.task_status, row.type) == ("LOCAL_REFERENCE", "FINISHED", "DRIVER")
    assert [each.object_id for each in state.get_objects(ref.hex())] == [ref.hex()]


def test_there_are_no_events(state, impl):
    if impl == "ray":
        pytest.skip("Ray records events, if its event aggregator runs")
    assert state.list_cluster_events() == []


# ------------------------------------------------------------------------------------- summaries and the client


def test_summaries(ray, state):
    @ray.remote(num_cpus=0)
    class Summarized:
        __qualname__ = "Summarized"

        def call(self):
            return 1

    actors = [Summarized.remote() for _ in range(2)]
    ray.get([actor.call.remote() for actor in actors])

    def tasks():
        return state.summarize_tasks()["cluster"]["summary"].get("Summarized.call")

    eventually(lambda: tasks() == {"func_or_class_name": "Summarized.call", "type": "ACTOR_TASK",
                                   "state_counts": {"FINISHED": 2}})  # fmt: skip
    summary = state.summarize_tasks()["cluster"]
    assert summary["summary_by"] == "func_name"
    assert summary["total_actor_tasks"] >= 2
    assert summary["total_actor_scheduled"] >= 2
    summary = state.summarize_actors()["cluster"]
    assert summary["summary"]["Summarized"]["state_counts"] == {"ALIVE": 2}
    assert summary["total_actors"] >= 2
    keep = ray.put(b"x" * 200_000)
    summary = eventually(lambda: state.summarize_objects()["cluster"])
    assert summary["total_objects"] >= 1
    assert summary["total_size_mb"] > 0
    del keep


def test_columns(common):
    names = common.WorkerState.list_columns(detail=False)
    assert names == ["worker_id", "is_alive", "worker_type", "exit_type", "node_id", "ip", "pid"]
    assert common.WorkerState.list_columns()[: len(names)] == names
    assert "exit_detail" in common.WorkerState.list_columns()
    assert common.resource_to_schema(common.StateResource.TASKS) is common.TaskState
    assert common.TaskState in common.AVAILABLE_STATES


def test_the_client(ray, state, common, counter):
    actor = counter.options(name="of the client").remote()
    ray.get(actor.add.remote())
    client = state.StateApiClient()
    options = common.ListApiOptions(filters=named("of the client"), detail=True)

    def found():
        return client.list(common.StateResource.ACTORS, options=options, raise_on_missing_output=True)

    [row] = eventually(found)
    assert isinstance(row, common.ActorState)
    assert client.get(common.StateResource.ACTORS, row.actor_id, common.GetApiOptions()).name == "of the client"
    with pytest.raises(ValueError):
        client.get(common.StateResource.RUNTIME_ENVS, "x", common.GetApiOptions())
    summary = client.summary(
        common.SummaryResource.ACTORS, options=common.SummaryApiOptions(), raise_on_missing_output=True
    )
    assert "cluster" in summary


# ---------------------------------------------------------------------------------------------------- logs


def test_logs(ray, state, error):
    @ray.remote(num_cpus=0)
    class Printer:
        def say(self, text):
            print(text, flush=True)

    printer = Printer.remote()
    for number in range(3):
        ray.get(printer.say.remote(f"line {number} of the log"))

    def log(**options):
        return "".join(state.get_log(actor_id=printer._actor_id.hex(), **options))

    eventually(lambda: "line 2 of the log" in log())
    assert "line 0 of the log" in log()
    assert "line 0 of the log" not in log(tail=1)
    node_id = ray.get_runtime_context().get_node_id()
    files = state.list_logs(node_id=node_id)
    assert files["worker_out"]
    assert list(state.list_logs(node_id=node_id, glob_filter="*.out")) != []
    [name] = [
        name
        for name in files["worker_out"]
        if "line 2 of the log" in "".join(state.get_log(node_id=node_id, filename=name))
    ]
    assert name
    with pytest.raises(error):
        list(state.get_log(node_id=node_id, filename="no such file"))
    with pytest.raises(ValueError):
        list(state.get_log(node_id=node_id))
    with pytest.raises(AssertionError):
        state.list_logs()


def test_tasks_of_workers_that_have_ended(ray, state):
    """What a task or an actor has submitted is listed after its process is gone."""

    @ray.remote
    def inner():
        return 1

    @ray.remote(max_calls=1)
    def outer():
        return ray.get(inner.options(name="of a task").remote())

    @ray.remote
    class Parent:
        def go(self):
            return ray.get(inner.options(name="of an actor").remote())

        def leave(self):
            ray.actor.exit_actor()

    parent = Parent.remote()
    assert ray.get([outer.remote(), parent.go.remote()]) == [1, 1]
    parent.leave.remote()

    def states_of(name):
        return [row.state for row in state.list_tasks(filters=[("name", "=", name)])]

    eventually(lambda: state.get_actor(parent._actor_id.hex()).state == "DEAD")
    eventually(lambda: states_of("of a task") == states_of("of an actor") == ["FINISHED"])
