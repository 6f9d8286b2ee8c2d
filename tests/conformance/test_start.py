"""``init``, what it returns, and ``shutdown``."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import textwrap
import uuid

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def start(ray_module, init_options):
    """``init`` with these options and others; ends the cluster after the test."""
    yield lambda **options: ray_module.init(**{**init_options, **options})
    ray_module.shutdown()


def job_config_of(ray):
    return importlib.import_module(f"{ray.__name__}.job_config").JobConfig


def test_init_takes_rays_arguments(ray_module, start, tmp_path):
    start(
        resources={"slot": 1},
        object_store_memory=80 * 1024 * 1024,
        include_dashboard=False,
        dashboard_host="127.0.0.1",
        dashboard_port=12345,
        configure_logging=True,
        logging_level=logging.ERROR,
        logging_format="%(message)s",
        log_to_driver=False,
        namespace="space",
        runtime_env={},
        enable_resource_isolation=False,
        proxy_server_url=None,
        _system_config={"max_direct_call_object_size": 1000},
        _redis_password="secret",
        _memory=10**9,
        _node_name="name",
        _metrics_export_port=0,
    )
    assert ray_module.is_initialized()
    assert ray_module.cluster_resources()["memory"] == 10**9
    assert ray_module.cluster_resources()["slot"] == 1
    assert ray_module.get_runtime_context().namespace == "space"


def test_labels_are_those_of_the_host(ray_module, start):
    start(labels={"zone": "a", "rack": "3"})
    labels = ray_module.nodes()[0]["Labels"]
    assert labels["zone"] == "a"
    assert labels["rack"] == "3"


def test_the_temporary_directory_is_the_one_given(ray_module, start, tmp_path):
    directory = f"/tmp/z{os.getpid()}"
    try:
        start(_temp_dir=directory)
        context = ray_module.get_runtime_context()
        assert context.get_temp_dir() == directory
        assert ray_module.get(ray_module.remote(lambda: ray_module.get_runtime_context().get_temp_dir()).remote()) == (
            directory
        )
        assert os.listdir(directory)
    finally:
        ray_module.shutdown()
        subprocess.run(["rm", "-rf", directory], check=True)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"no_such_argument": 1}, RuntimeError),
        ({"_system_config": 3}, TypeError),
        ({"num_cpus": -1}, ValueError),
        ({"resources": {"slot": -1}}, ValueError),
        ({"cgroup_path": "/sys/fs/cgroup"}, ValueError),
        ({"system_reserved_cpu": 1.0}, ValueError),
        ({"address": "http://127.0.0.1:8265"}, ValueError),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value.__name__,
)
def test_what_cannot_be_used_is_refused(ray_module, start, options, error):
    with pytest.raises(error):
        start(**options)
    assert not ray_module.is_initialized()


def test_there_is_a_cluster_to_join_or_an_error(ray_module, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConnectionError):
        ray_module.init(address="auto", _temp_dir="/tmp/no-cluster-here")
    ray_module.shutdown()


def test_an_address_at_which_nothing_listens(ray_module):
    with pytest.raises(ConnectionError):
        ray_module.init(address="127.0.0.1:1")
    ray_module.shutdown()


def test_a_job_without_a_namespace_has_one_of_its_own(ray_module, start):
    start()
    namespace = ray_module.get_runtime_context().namespace
    assert str(uuid.UUID(namespace)) == namespace


def test_where_objects_are_spilled(ray_module, start, tmp_path):
    described = {"type": "filesystem", "params": {"directory_path": str(tmp_path)}}
    start(object_store_memory=80 * 2**20, _system_config={"object_spilling_config": json.dumps(described)})
    refs = [ray_module.put(bytes(20 * 2**20)) for _ in range(8)]
    assert any(files for _, _, files in os.walk(tmp_path))
    assert all(len(ray_module.get(ref)) == 20 * 2**20 for ref in refs)


def test_init_twice(ray_module, start):
    context = start()
    with pytest.raises(RuntimeError, match=r"Maybe you called ray\.init twice by accident"):
        start()
    again = start(ignore_reinit_error=True)
    assert again.address_info["node_id"] == context.address_info["node_id"]


def test_init_within_a_task(ray_module, start):
    context = start()

    @ray_module.remote
    def f():
        with pytest.raises(RuntimeError, match=r"Maybe you called ray\.init twice by accident"):
            ray_module.init()
        return ray_module.is_initialized()

    assert ray_module.get(f.remote())
    assert context.address_info["address"]


def test_the_context_is_a_mapping_with_attributes(ray_module, start):
    context = start()
    info = context.address_info
    assert info["node_id"] == context["node_id"] == ray_module.get_runtime_context().get_node_id()
    assert info["node_ip_address"] == ray_module.nodes()[0]["NodeManagerAddress"]
    assert info["address"] == info["gcs_address"] == ray_module.get_runtime_context().gcs_address
    assert os.path.isdir(info["session_dir"])
    for key in (
        "redis_address", "object_store_address", "raylet_socket_name", "webui_url", "metrics_export_port",
        "dashboard_agent_listen_port",
    ):  # fmt: skip
        assert key in context
        assert key in set(context)
    assert len(context) >= 11
    with pytest.raises(KeyError):
        context["nothing"]
    assert context.dashboard_url == ""
    assert context.python_version == ".".join(map(str, sys.version_info[:3]))
    assert context.ray_version == "2.60.0"
    assert isinstance(context.ray_commit, str)
    assert "2.60.0" in repr(context)


def test_the_context_manager_leaves_the_cluster(ray_module, start):
    with start():
        assert ray_module.is_initialized()
    assert not ray_module.is_initialized()
    context = start()
    context.disconnect()
    assert not ray_module.is_initialized()


def test_shutdown_may_be_called_at_any_time(ray_module, start):
    ray_module.shutdown()
    start()
    ray_module.shutdown(wait_for_processes=True)
    ray_module.shutdown()
    assert not ray_module.is_initialized()
    with pytest.raises(TypeError):
        ray_module.shutdown(True)


def test_the_rows_of_nodes_have_rays_keys(ray_module, start):
    start()
    (row,) = ray_module.nodes()
    assert {
        "NodeID", "Alive", "NodeManagerAddress", "NodeManagerHostname", "NodeManagerPort", "ObjectManagerPort",
        "ObjectStoreSocketName", "RayletSocketName", "MetricsExportPort", "NodeName", "Resources", "Labels", "alive",
        "DeathReason", "DeathReasonMessage",
    } <= set(row)  # fmt: skip
    assert row["Alive"] is row["alive"] is True
    assert row["Resources"]["CPU"] == 2


def test_a_job_config_says_what_init_does_not(ray_module, start, tmp_path):
    (tmp_path / "helper_of_the_job.py").write_text("ANSWER = 42\n")
    config = job_config_of(ray_module)(
        code_search_path=[str(tmp_path)], ray_namespace="of the config", default_actor_lifetime="detached"
    )
    config.set_metadata("who", "me")
    start(job_config=config)
    assert ray_module.get_runtime_context().namespace == "of the config"

    @ray_module.remote
    class A:
        def answer(self):
            return importlib.import_module("helper_of_the_job").ANSWER

    assert ray_module.get(A.options(name="kept").remote().answer.remote()) == 42
    assert ray_module.get(ray_module.get_actor("kept").answer.remote()) == 42  # its handle is gone


def test_arguments_come_before_the_job_config(ray_module, start):
    start(job_config=job_config_of(ray_module)(ray_namespace="of the config"), namespace="of the argument")
    assert ray_module.get_runtime_context().namespace == "of the argument"


@pytest.mark.parametrize(
    ("options", "error"),
    [({"default_actor_lifetime": "for ever"}, ValueError), ({"code_search_path": "/one/path"}, TypeError)],
    ids=["lifetime", "path"],
)
def test_a_job_config_checks_its_arguments(ray_module, options, error):
    with pytest.raises(error):
        job_config_of(ray_module)(**options)


def test_a_job_config_from_fields(ray_module):
    config = job_config_of(ray_module).from_json({"ray_namespace": "n", "metadata": {"a": "b"}})
    assert config.ray_namespace == "n"
    assert config.metadata == {"a": "b"}


def test_init_as_a_builder_is_deprecated(ray_module, impl):
    if impl == "ray":
        pytest.importorskip("grpc", reason="Ray's client is an extra of its own")
    with pytest.warns(DeprecationWarning):
        context = ray_module.client("local").namespace("built").connect()
    try:
        assert ray_module.get_runtime_context().namespace == "built"
        assert context.ray_version == "2.60.0"
        assert context.python_version == ".".join(map(str, sys.version_info[:3]))
    finally:
        ray_module.shutdown()


LOGS = """
    import logging
    import time
    import {ray} as ray

    config = ray.LoggingConfig(encoding="{encoding}", additional_log_standard_attrs=["name"])
    ray.init(num_cpus=1, logging_config=config)

    @ray.remote
    def task():
        logging.getLogger("of.task").info("from a task", extra={{"user_key": "user value"}})

    @ray.remote
    class Actor:
        def method(self):
            logging.getLogger("of.actor").warning("from an actor")

    logging.getLogger("of.driver").info("from the driver")
    ray.get(task.remote())
    actor = Actor.options(name="known").remote()
    ray.get(actor.method.remote())
    print("job", ray.get_runtime_context().get_job_id())
    time.sleep({pause})
    ray.shutdown()
"""


PAUSE_S = {"zray": 0, "ray": 3}
"""How long the program stays, in seconds: Ray loses what workers have printed shortly before the end."""


def lines_of(ray, encoding):
    """What the program writes, by the message in each line; and its job's identifier."""
    name = ray.__name__
    program = textwrap.dedent(LOGS).format(ray=name, encoding=encoding, pause=PAUSE_S[name])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100)
    lines = (done.stdout + done.stderr).splitlines()
    job = next(line.removeprefix("job ") for line in lines if line.startswith("job "))
    names = ("from the driver", "from a task", "from an actor")
    return {name: next(line for line in lines if name in line) for name in names}, job


def test_a_job_logs_lines_of_text(ray_module):
    lines, job = lines_of(ray_module, "TEXT")
    assert all(f"job_id={job}" in line for line in lines.values())
    assert "name=of.driver" in lines["from the driver"]
    assert "INFO" in lines["from a task"]
    for fact in ("name=of.task", "task_name=task", "task_id=", "worker_id=", "node_id=", "user_key=user value"):
        assert fact in lines["from a task"]
    for fact in ("WARNING", "name=of.actor", "actor_id=", "actor_name=known", "task_name=Actor.method"):
        assert fact in lines["from an actor"]


def test_a_job_logs_json(ray_module):
    import json

    lines, job = lines_of(ray_module, "JSON")
    rows = {name: json.loads(line[line.index("{") : line.rindex("}") + 1]) for name, line in lines.items()}
    assert all(row["job_id"] == job for row in rows.values())
    assert all(row["message"] == name for name, row in rows.items())
    assert rows["from a task"]["user_key"] == "user value"
    assert rows["from a task"]["task_name"] == "task"
    assert rows["from an actor"]["actor_name"] == "known"
    assert rows["from an actor"]["levelname"] == "WARNING"
    assert {"asctime", "filename", "lineno", "process", "timestamp_ns", "name"} <= rows["from the driver"].keys()


@pytest.mark.parametrize("options", [{"encoding": "XML"}, {"additional_log_standard_attrs": ["no_such"]}], ids=str)
def test_a_logging_config_checks_its_arguments(ray_module, options):
    with pytest.raises(ValueError, match=r"Invalid encoding|Unknown python logging"):
        ray_module.LoggingConfig(**options)


def test_the_api_starts_a_cluster_at_its_first_use(ray_module):
    program = f"""
        import {ray_module.__name__} as ray
        assert not ray.is_initialized()
        assert ray.get(ray.put(5)) == 5
        assert ray.is_initialized()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=100, capture_output=True)


def test_a_timeout_of_zero_says_that_time_is_up(ray_module, start):
    start()

    @ray_module.remote
    class Never:
        async def end(self):
            import asyncio

            await asyncio.Event().wait()

    with pytest.raises(ray_module.exceptions.GetTimeoutError, match="Get timed out"):
        ray_module.get(Never.remote().end.remote(), timeout=0)


def test_what_is_left_of_an_earlier_cluster(ray_module, start):
    ray = ray_module

    @ray.remote
    def passes(value):
        return value

    @ray.remote
    class Keeper:
        def ping(self):
            return 1

    start()
    old, keeper = ray.put(1), Keeper.remote()
    assert ray.get(keeper.ping.remote()) == 1
    ray.shutdown()
    start()
    for use in (lambda: ray.get(old), lambda: ray.wait([old], timeout=5), lambda: ray.get(passes.remote(old))):
        with pytest.raises(ValueError):
            use()
    with pytest.raises(Exception):  # noqa: B017 (Ray raises Exception itself)
        ray.get(keeper.ping.remote(), timeout=10)
    with pytest.raises(ValueError):
        ray.kill(keeper)
    assert ray.get(passes.remote(2)) == 2
