"""Names of Ray's private packages that programs read: identifiers of the process, tables of the cluster, helpers."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import sys
import warnings

import pytest

from tests.conformance.helpers import eventually


@pytest.fixture
def module_of(ray):
    return lambda name: importlib.import_module(f"{ray.__name__}.{name}")


def test_a_process_knows_itself(ray, module_of):
    worker = module_of("_private.worker").global_worker
    context = ray.get_runtime_context()
    assert context.worker is worker
    assert worker.mode == ray.SCRIPT_MODE
    assert worker.connected
    worker.check_connected()
    assert worker.current_job_id.hex() == context.get_job_id()
    assert worker.current_node_id.hex() == worker.node.node_id == context.get_node_id()
    assert worker.worker_id.hex() == context.get_worker_id()
    assert worker.actor_id.is_nil()
    assert worker.namespace == context.namespace
    assert worker.node.node_ip_address == ray.util.get_node_ip_address()
    assert os.path.isdir(worker.node.get_session_dir_path())
    assert os.path.isdir(worker.node.get_logs_dir_path())
    logs = os.path.join(worker.node.get_session_dir_path(), "logs")
    assert os.path.realpath(logs) == os.path.realpath(worker.node.get_logs_dir_path())
    assert module_of("_private.worker")._global_node.node_id == worker.node.node_id


def test_a_worker_knows_itself(ray):
    @ray.remote
    def look():
        worker = ray._private.worker.global_worker
        context = ray.get_runtime_context()
        assert context.worker is worker
        assert worker.mode == ray.WORKER_MODE
        assert worker.current_task_id.hex() == context.get_task_id()
        assert worker.current_node_id.hex() == context.get_node_id()
        return worker.node.node_id, worker.node.plasma_store_socket_name

    @ray.remote
    class Looking:
        def look(self):
            return ray._private.worker.global_worker.actor_id.hex()

    node_id, store = ray.get(look.remote())
    row = next(row for row in ray.nodes() if row["NodeID"] == node_id)
    assert row["ObjectStoreSocketName"] == store
    actor = Looking.remote()
    assert ray.get(actor.look.remote()) == actor._actor_id.hex()
    assert actor._ray_actor_id.hex() == actor._actor_id.hex()
    assert actor._ray_actor_id.binary().hex() == actor._actor_id.hex()


def test_whether_the_value_of_an_object_is_here(ray):
    core = ray._private.worker.global_worker.core_worker
    large = ray.put(bytes(2_000_000))
    assert core.object_exists(large)
    assert not core.object_exists(ray.ObjectRef.from_random())
    identifier = large.binary()
    del large
    eventually(lambda: not core.object_exists(ray.ObjectRef(identifier)))


def test_what_a_process_holds_is_counted(ray):
    core = ray._private.worker.global_worker.core_worker
    ref = ray.put(1)
    key = ref.hex().encode()
    assert core.get_all_reference_counts()[key] == {"local": 1, "submitted": 0}
    del ref
    eventually(lambda: key not in core.get_all_reference_counts())


def test_tables_of_nodes_and_actors(ray, module_of):
    state = module_of("_private.state")
    node_id = ray.get_runtime_context().get_node_id()
    assert state.current_node_id() in state.node_ids()
    assert state.total_resources_per_node()[node_id]["CPU"] == ray.cluster_resources()["CPU"]
    assert state.available_resources_per_node()[node_id]["CPU"] <= ray.cluster_resources()["CPU"]
    assert [row["NodeID"] for row in state.nodes()] == [row["NodeID"] for row in ray.nodes()]

    @ray.remote
    class Shown:
        def pid(self):
            return os.getpid()

    actor = Shown.options(name="shown in the table").remote()
    pid = ray.get(actor.pid.remote())
    row = state.actors(actor._actor_id.hex())
    assert row == state.actors()[actor._actor_id.hex()]
    assert (row["State"], row["Name"], row["Pid"], row["ActorClassName"]) == (
        "ALIVE",
        "shown in the table",
        pid,
        "test_tables_of_nodes_and_actors.<locals>.Shown",
    )
    assert row["Address"]["NodeID"] == node_id
    assert ray.get_runtime_context().get_job_id() in {job["JobID"] for job in state.jobs()}
    assert pid in {worker["pid"] for worker in state.workers().values()}


def test_modules_without_their_import(ray):
    assert ray._private.utils.get_num_cpus() > 0
    assert ray._raylet.ObjectRef is ray.ObjectRef
    assert ray._raylet.ObjectRefGenerator is ray.ObjectRefGenerator
    assert len(ray.put(1).binary()) == ray._private.ray_constants.ID_SIZE


def test_identifiers_and_texts(module_of):
    utils = module_of("_common.utils")
    assert utils.hex_to_binary("ff01") == b"\xff\x01"
    assert utils.binary_to_hex(b"\xff\x01") == "ff01"
    assert utils.decode(b"a") == "a"
    assert utils.decode(None, allow_none=True) == ""
    with pytest.raises(ValueError):
        utils.decode("a")
    assert utils.import_attr("os.path.join") is utils.load_class("os.path.join") is os.path.join
    with pytest.raises(ValueError):
        utils.import_attr("nothing")


def test_the_environment_as_numbers(module_of, monkeypatch):
    utils = module_of("_common.utils")
    monkeypatch.setenv("SOME_NUMBER", "12")
    assert utils.env_integer("SOME_NUMBER", 3) == 12
    assert utils.env_float("SOME_NUMBER", 3) == 12
    monkeypatch.setenv("SOME_NUMBER", "true")
    assert utils.env_bool("SOME_NUMBER", False) is True
    monkeypatch.delenv("SOME_NUMBER")
    assert (utils.env_integer("SOME_NUMBER", 3), utils.env_float("SOME_NUMBER", 0.5)) == (3, 0.5)
    assert utils.env_bool("SOME_NUMBER", False) is False


def test_an_event_loop_is_found(module_of):
    utils = module_of("_common.utils")

    async def main():
        assert utils.get_or_create_event_loop() is asyncio.get_running_loop()
        return await utils.run_background_task(asyncio.sleep(0, "done"))

    assert asyncio.run(main()) == "done"


def test_addresses(module_of):
    network = module_of("_common.network_utils")
    assert network.build_address("10.0.0.1", 80) == "10.0.0.1:80"
    assert network.build_address("::1", 80) == "[::1]:80"
    assert network.parse_address("10.0.0.1:80") == ("10.0.0.1", "80")
    assert network.parse_address("[::1]:80") == ("::1", "80")
    assert network.parse_address("10.0.0.1") is None
    assert network.is_ipv6("::1")
    assert not network.is_ipv6("10.0.0.1")
    assert network.is_localhost("127.0.0.1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", network.find_free_port()))


def test_coroutines_are_recognised(module_of):
    compat = module_of("_private.async_compat")

    class Both:
        def plain(self): ...

        async def asynchronous(self): ...

    assert compat.is_async_func(Both.asynchronous)
    assert not compat.is_async_func(Both.plain)
    assert compat.has_async_methods(Both)
    assert not compat.has_async_methods(int)
    assert asyncio.run(compat.sync_to_async(lambda x: x + 1)(1)) == 2


def test_what_holds_objects_as_a_text(ray, impl, module_of):
    if impl == "ray":
        pytest.skip("Ray's needs grpcio, which not every installation has")
    api = module_of("_private.internal_api")
    ref = ray.put(bytes(3 * 2**20))
    lines = api.memory_summary(units="MB").splitlines()
    (line,) = [line for line in lines if ref.hex() in line]
    assert "LOCAL_REFERENCE" in line
    assert "3.0 MB" in line
    assert str(os.getpid()) in line
    assert ref.hex() not in api.memory_summary(stats_only=True)
    with pytest.raises(ValueError, match="units='TB'"):
        api.memory_summary(units="TB")


# ---------------------------------------------------------------------------------------------- helpers for tests


@pytest.fixture
def helpers(module_of, impl):
    if impl == "ray":
        pytest.importorskip("ray._private.test_utils")
    return module_of("_private.test_utils")


def test_an_actor_is_killed_and_its_death_known(ray, helpers):
    @ray.remote
    class Killed:
        def ping(self):
            return 1

    actor = Killed.remote()
    assert ray.get(actor.ping.remote()) == 1
    assert helpers.get_actor_node_id(actor) == ray.get_runtime_context().get_node_id()
    helpers.wait_for_num_actors(1)
    helpers.kill_actor_and_wait_for_failure(actor)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.ping.remote())


@pytest.mark.parametrize("use_ray_put", [True, False])
def test_an_object_is_put(ray, helpers, use_ray_put):
    assert ray.get(helpers.put_object([1], use_ray_put)) == [1]


def test_placement_groups_are_gone_and_free(ray, helpers):
    group = ray.util.placement_group([{"CPU": 1}])
    ray.get(group.ready())
    assert not helpers.is_placement_group_removed(group)
    helpers.placement_group_assert_no_leak([group])
    assert helpers.is_placement_group_removed(group)


def test_an_assertion_is_waited_for(helpers):
    values = iter([1, 2, 3])

    def is_three():
        assert next(values) == 3

    helpers.wait_for_assertion(is_three)

    def never():
        raise AssertionError("never")

    with pytest.raises(AssertionError, match="never"):
        helpers.wait_for_assertion(never, timeout=0.1, retry_interval_ms=10)


def test_a_function_is_tried_again(helpers):
    outcomes = iter([KeyError, None])

    def act():
        kind = next(outcomes)
        if kind is not None:
            raise kind

    assert helpers.wait_until_succeeded_without_exception(act, (KeyError,), retry_interval_ms=1)
    assert not helpers.wait_until_succeeded_without_exception(
        int, (ValueError,), "x", timeout_ms=20, retry_interval_ms=5
    )


def test_outputs_of_a_program_apart(helpers):
    program = "import sys; print('out'); print('err', file=sys.stderr)"
    out, err = helpers.run_string_as_driver_stdout_stderr(program)
    assert out.strip() == "out"
    assert "err" in err
    command = [sys.executable, "-c", program]
    assert helpers.check_call_subprocess(command, capture_stdout=True).strip() == b"out"


def test_files_and_directories(helpers, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.txt").touch()
    before = os.getcwd()
    with helpers.chdir(str(tmp_path)):
        assert os.path.realpath(os.getcwd()) == os.path.realpath(tmp_path)
    assert os.getcwd() == before
    assert helpers.recursive_fnmatch(str(tmp_path), "*.txt") == [str(tmp_path / "below" / "a.txt")]


def test_a_server_is_waited_for(helpers):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert helpers.wait_until_server_available(f"127.0.0.1:{listener.getsockname()[1]}")
    port = helpers.get_current_unused_port()
    assert not helpers.wait_until_server_available(f"127.0.0.1:{port}", timeout_ms=20, retry_interval_ms=5)


def test_small_helpers(ray, helpers):
    assert helpers.same_elements([{}, 1], [1, {}])
    assert not helpers.same_elements([1], [1, 2])
    assert helpers.format_web_url("localhost:80") == "http://127.0.0.1:80"
    assert helpers.generate_system_config_map(a=1) == {"_system_config": {"a": 1}}
    assert helpers.client_test_enabled() is False
    assert helpers.object_memory_usage() == 0


def test_the_state_as_an_object(ray, module_of):
    tables = module_of("_private.state")
    state = tables.state
    assert [row["NodeID"] for row in state.node_table()] == [row["NodeID"] for row in ray.nodes()]
    assert state.cluster_resources() == ray.cluster_resources()
    assert state.total_resources_per_node() == tables.total_resources_per_node()

    @ray.remote(num_cpus=0)
    class Listed:
        def ping(self):
            return 1

    actor = Listed.remote()
    ray.get(actor.ping.remote())
    assert state.actor_table(actor._actor_id.hex())["State"] == "ALIVE"
    group = ray.util.placement_group([{"CPU": 1}])
    ray.get(group.ready())
    assert state.placement_group_table(group.id)["state"] == "CREATED"
    ray.util.remove_placement_group(group)


def test_names_of_deeper_modules(ray, module_of):
    cloudpickle = module_of("cloudpickle.cloudpickle")
    assert cloudpickle.loads(cloudpickle.dumps(lambda: 3))() == 3
    assert module_of("runtime_env.runtime_env").RuntimeEnv is module_of("runtime_env").RuntimeEnv
    constants = module_of("_private.ray_constants")
    assert constants.env_integer("NOT_SET_AT_ALL", 4) == 4 and constants.env_bool("NOT_SET_AT_ALL", True)
    assert constants.DEFAULT_MAX_CONCURRENCY_THREADED == 1
    utils = module_of("_common.utils")
    text = utils.get_random_alphanumeric_string(12)
    assert len(text) == 12 and text.isalnum()
    utils.reset_ray_address()
    assert module_of("_private.worker").global_worker.node.address_info["gcs_address"]
    helpers = module_of("_private.test_utils")
    assert not helpers.external_redis_test_enabled() and not helpers.persistent_gcs_test_enabled()


def test_directories_are_made(module_of, tmp_path):
    utils = module_of("_common.utils")
    for _ in range(2):
        utils.try_to_create_directory(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()


def test_requirements_as_a_file_or_a_list(module_of, tmp_path):
    make = module_of("_private.test_utils").generate_runtime_env_dict
    assert make("pip", "python_object", tmp_path, ["one", "two"]) == {"pip": ["one", "two"]}
    file = make("pip", "file", tmp_path, ["one", "two"])["pip"]
    with open(file) as lines:
        assert lines.read().split() == ["one", "two"]


def test_a_group_of_actors(ray, module_of):
    class Held:
        def __init__(self, value, factor=1):
            self.value = value * factor

        def get(self, more=0):
            return self.value + more

    group_class = module_of("util.actor_group").ActorGroup
    with warnings.catch_warnings():  # it is deprecated
        warnings.simplefilter("ignore")
        group = group_class(Held, num_actors=2, num_cpus_per_actor=0.5, init_args=(3,), init_kwargs={"factor": 2})
    assert len(group) == 2 and ray.get(group.get.remote(more=1)) == [7, 7]
    assert ray.get(group[1].actor.get.remote()) == 6
    with pytest.raises(TypeError):
        group.get()
    group.shutdown()
    with pytest.raises(RuntimeError):
        group.get.remote()
    for arguments in ({"num_actors": 0}, {"num_cpus_per_actor": -1}):
        with pytest.raises(ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group_class(Held, init_args=(1,), **arguments)


def test_a_killer_of_workers(ray, module_of, tmp_path):
    helpers = module_of("_private.test_utils")

    @ray.remote(max_retries=1)
    def victim():
        if not begun.exists():
            begun.touch()
            signal.pause()
        return "again"

    def choose():
        return lambda row: row.name == "victim" and begun.exists()

    begun = tmp_path / "begun"
    killer = helpers.get_and_run_resource_killer(helpers.WorkerKillerActor, 0.1, max_to_kill=1, kill_filter_fn=choose)
    assert ray.get(victim.remote(), timeout=30) == "again"
    ray.kill(killer)
