"""Where Ray's own tests have their helpers. These are here because programs' tests use them, too."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from zray._common.network_utils import find_free_port, parse_address
from zray._common.test_utils import (
    Semaphore,
    SignalActor,
    async_wait_for_condition,
    run_string_as_driver,
    wait_for_condition,
)
from zray._private.killers import (
    NodeKillerBase,
    RayletKiller,
    ResourceKillerActor,
    WorkerKillerActor,
    get_and_run_resource_killer,
    kill_raylet,
)
from zray._private.log_subscriber import (
    get_log_batch,
    get_log_data,
    get_log_message,
    get_log_sources,
    init_log_pubsub,
)
from zray.api.actor import ActorHandle
from zray.api.decorator import remote
from zray.api.nodes import available_resources, cluster_resources
from zray.api.objects import get, kill, put
from zray.api.placement_groups import PlacementGroup, placement_group_table, remove_placement_group
from zray.api.runtime_context import get_runtime_context
from zray.cluster_utils import Cluster, Node
from zray.object_ref import ObjectRef
from zray.system.processes import process_start_time
from zray.util.state import get_actor, list_actors

__all__ = [
    "NodeKillerBase",
    "RayletKiller",
    "ResourceKillerActor",
    "Semaphore",
    "SignalActor",
    "WorkerKillerActor",
    "async_wait_for_condition",
    "chdir",
    "check_call_ray",
    "check_call_subprocess",
    "client_test_enabled",
    "external_redis_test_enabled",
    "format_web_url",
    "generate_runtime_env_dict",
    "generate_system_config_map",
    "get_actor_node_id",
    "get_and_run_resource_killer",
    "get_current_unused_port",
    "get_log_batch",
    "get_log_data",
    "get_log_message",
    "get_log_sources",
    "get_non_head_nodes",
    "init_log_pubsub",
    "get_other_nodes",
    "is_placement_group_removed",
    "kill_actor_and_wait_for_failure",
    "kill_raylet",
    "no_resource_leaks_excluding_node_resources",
    "object_memory_usage",
    "persistent_gcs_test_enabled",
    "placement_group_assert_no_leak",
    "put_object",
    "recursive_fnmatch",
    "redis_replicas",
    "redis_sentinel_replicas",
    "rocksdb_gcs_test_enabled",
    "run_string_as_driver",
    "run_string_as_driver_nonblocking",
    "run_string_as_driver_stdout_stderr",
    "same_elements",
    "sandbox_test_enabled",
    "wait_for_assertion",
    "wait_for_children_of_pid",
    "wait_for_children_of_pid_to_exit",
    "wait_for_condition",
    "wait_for_num_actors",
    "wait_for_pid_to_exit",
    "wait_until_server_available",
    "wait_until_succeeded_without_exception",
]


# ---------------------------------------------------------------------------------------------- programs and processes


def run_string_as_driver_nonblocking(driver_script: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a program in a process of its own, and returns the process. Its output is in pipes."""
    process = subprocess.Popen(
        [sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )
    assert process.stdin is not None
    process.stdin.write(driver_script.encode())
    process.stdin.close()
    return process


def run_string_as_driver_stdout_stderr(
    driver_script: str, env: dict[str, str] | None = None, encode: str = "utf-8"
) -> tuple[str, str]:
    """Runs a program in a process of its own, and returns what it prints to stdout, and what to stderr.

    Raises:
        subprocess.CalledProcessError: it ended with another exit code than 0.
    """
    done = subprocess.run(
        [sys.executable, "-"], input=driver_script.encode(encode), capture_output=True, env=env, check=False
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
    return done.stdout.decode(encode), done.stderr.decode(encode)


def check_call_subprocess(argv: Sequence[str], capture_stdout: bool = False, capture_stderr: bool = False) -> bytes:
    """Runs a command, and returns what is to be captured of its output: stderr within stdout if both are.

    Raises:
        subprocess.CalledProcessError: it ended with another exit code than 0.
    """
    stderr = subprocess.STDOUT if capture_stdout else subprocess.PIPE
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE if capture_stdout else None,
        stderr=stderr if capture_stderr else None,
        check=True,
    )
    return (done.stdout or b"") + (done.stderr or b"")


def check_call_ray(args: Sequence[str], capture_stdout: bool = False, capture_stderr: bool = False) -> None:
    """Runs the command ``ray`` with ``args``, and discards what is to be captured of its output.

    Raises:
        subprocess.CalledProcessError: it ended with another exit code than 0.
    """
    check_call_subprocess(["ray", *args], capture_stdout, capture_stderr)


def wait_for_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """Waits until there is no process ``pid``. Raises RuntimeError if there still is one after ``timeout`` seconds."""
    wait_for_condition(lambda: process_start_time(pid) is None, timeout=timeout)


def wait_for_children_of_pid(pid: int, num_children: int = 1, timeout: float = 20) -> None:
    """Waits until a process has at least ``num_children`` children. Raises RuntimeError after ``timeout`` seconds."""
    wait_for_condition(lambda: len(_children(pid)) >= num_children, timeout=timeout)


def wait_for_children_of_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """Waits until all children that a process has now are gone. Raises RuntimeError after ``timeout`` seconds."""
    for child in _children(pid):
        wait_for_pid_to_exit(child, timeout)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children") as file:
            found += map(int, file.read().split())
    return found


@contextlib.contextmanager
def chdir(d: str) -> Iterator[None]:
    """Another working directory for a while."""
    before = os.getcwd()
    os.chdir(d)
    try:
        yield
    finally:
        os.chdir(before)


def recursive_fnmatch(dirpath: str, pattern: str) -> list[str]:
    """The paths of the files below a directory whose names match ``pattern``."""
    return [os.path.join(root, name) for root, _, names in os.walk(dirpath) for name in fnmatch.filter(names, pattern)]


# ---------------------------------------------------------------------------------------------- waiting


def wait_for_assertion(
    assertion_predictor: Callable[..., Any],
    timeout: float = 10,
    retry_interval_ms: float = 100,
    raise_exceptions: bool = False,
    **kwargs: Any,
) -> None:
    """Calls ``assertion_predictor`` until it does not raise AssertionError.

    Args:
        assertion_predictor: the function.
        timeout: how long, in seconds. Then its AssertionError is raised.
        retry_interval_ms: the time between two calls, in milliseconds.
        raise_exceptions: let another exception end the wait.
        kwargs: its arguments.
    """

    def holds() -> bool:
        try:
            assertion_predictor(**kwargs)
        except AssertionError:
            return False
        return True

    try:
        wait_for_condition(holds, timeout, retry_interval_ms, raise_exceptions)
    except RuntimeError:
        assertion_predictor(**kwargs)


def wait_until_succeeded_without_exception(
    func: Callable[..., Any],
    exceptions: tuple[type[BaseException], ...],
    *args: Any,
    timeout_ms: float = 1000,
    retry_interval_ms: float = 100,
    raise_last_ex: bool = False,
) -> bool:
    """Calls ``func`` until it raises none of ``exceptions``, for at most ``timeout_ms`` milliseconds.

    Returns whether it has succeeded. With ``raise_last_ex`` its last exception is raised if it has not.
    """
    end = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            func(*args)
        except exceptions:
            if time.monotonic() >= end:
                if raise_last_ex:
                    raise
                return False
            time.sleep(retry_interval_ms / 1000)
        else:
            return True


def wait_until_server_available(address: str, timeout_ms: float = 5000, retry_interval_ms: float = 100) -> bool:
    """Waits until a process listens at ``host:port``. Returns whether one does."""
    parts = parse_address(address)
    if parts is None:
        raise ValueError(f"the address must be host:port, got {address!r}")
    host, port = parts

    def knock() -> None:
        socket.create_connection((host, int(port)), timeout=1).close()

    return wait_until_succeeded_without_exception(
        knock, (OSError,), timeout_ms=timeout_ms, retry_interval_ms=retry_interval_ms
    )


# ---------------------------------------------------------------------------------------------- actors and objects


def wait_for_num_actors(num_actors: int, state: str | None = None, timeout: float = 10) -> None:
    """Waits until there are that many actors, in a state such as "ALIVE" if one is given.

    Raises:
        TimeoutError: there are fewer after ``timeout`` seconds.
    """
    filters: list[tuple[str, str, Any]] = [("state", "=", state)] if state else []
    try:
        wait_for_condition(lambda: len(list_actors(filters=filters, limit=10_000)) >= num_actors, timeout=timeout)
    except RuntimeError as error:
        raise TimeoutError(f"there are fewer than {num_actors} actors after {timeout:g} s") from error


def kill_actor_and_wait_for_failure(
    actor: ActorHandle[Any], timeout: float = 10, retry_interval_ms: float = 100
) -> None:
    """Kills an actor, and waits until the cluster knows that it is dead or has been restarted.

    Raises:
        RuntimeError: it does not know it after ``timeout`` seconds.
    """
    actor_id = actor._actor_id.hex()
    before = _restarts(actor_id)
    kill(actor)
    wait_for_condition(lambda: _restarts(actor_id) != before, timeout, retry_interval_ms)


def _restarts(actor_id: str) -> int:
    """How often an actor has been restarted; -1 if it is dead."""
    found = get_actor(actor_id)
    return -1 if found is None or found.state == "DEAD" else found.num_restarts or 0


def get_actor_node_id(actor_handle: ActorHandle[Any]) -> str:
    """The identifier of the host that an actor is on."""
    node_id: str = get(actor_handle.__ray_call__.remote(lambda _: get_runtime_context().get_node_id()))
    return node_id


@remote
def _put(obj: Any) -> Any:
    return obj


def put_object(obj: Any, use_ray_put: bool) -> ObjectRef:
    """A reference of an object: of ``put``, or of a task that returns it."""
    ref: ObjectRef = put(obj) if use_ray_put else _put.remote(obj)
    return ref


def object_memory_usage() -> float:
    """How many bytes of the object stores actors and placement groups hold, by their options."""
    name = "object_store_memory"
    return cluster_resources().get(name, 0) - available_resources().get(name, 0)


def no_resource_leaks_excluding_node_resources() -> bool:
    """Whether all resources of the cluster are free. The resources ``node:...`` do not count."""
    total, free = cluster_resources(), available_resources()
    return all(free.get(name, 0) == amount for name, amount in total.items() if "node" not in name)


def is_placement_group_removed(pg: PlacementGroup) -> bool:
    """Whether a placement group has been removed."""
    return bool(placement_group_table(pg).get("state") == "REMOVED")


def placement_group_assert_no_leak(pgs_created: Iterable[PlacementGroup]) -> None:
    """Removes placement groups, and waits until there are none and their resources are free.

    Raises:
        RuntimeError: there are some, or some are not free, after 10 s.
    """
    for pg in pgs_created:
        remove_placement_group(pg)
    wait_for_condition(lambda: all(row["state"] == "REMOVED" for row in placement_group_table().values()))
    total = {name: amount for name, amount in cluster_resources().items() if "memory" not in name}
    wait_for_condition(
        lambda: all(
            total.get(name, amount) == amount and "_group_" not in name
            for name, amount in available_resources().items()
        )
    )


# ---------------------------------------------------------------------------------------------- clusters


def get_other_nodes(cluster: Cluster, exclude_head: bool = False) -> list[Node]:
    """The nodes of a cluster but the one that this process belongs to. ``exclude_head``: and but the head."""
    own = get_runtime_context().get_node_id()
    return [node for node in cluster.list_all_nodes() if node.node_id != own and not (exclude_head and node.is_head())]


def get_non_head_nodes(cluster: Cluster) -> list[Node]:
    """The nodes of a cluster but the head."""
    return [node for node in cluster.list_all_nodes() if not node.is_head()]


def generate_system_config_map(**kwargs: Any) -> dict[str, Any]:
    """Arguments of ``init`` with ``_system_config``."""
    return {"_system_config": kwargs}


def client_test_enabled() -> bool:
    """Whether the tests go through a server for clients: never, as there is none."""
    return False


def external_redis_test_enabled() -> bool:
    """Whether the tests keep the cluster's state in a Redis server: never, as zray has none."""
    return False


def persistent_gcs_test_enabled() -> bool:
    """Whether the cluster's state outlives its first host in the tests: never."""
    return False


def rocksdb_gcs_test_enabled() -> bool:
    """Whether the tests keep the cluster's state in RocksDB: never."""
    return False


def sandbox_test_enabled() -> bool:
    """Whether the tests run in Ray's sandboxes: never."""
    return False


def redis_replicas() -> int:
    """How many Redis servers the tests use."""
    return 0


def redis_sentinel_replicas() -> int:
    """How many Redis sentinels the tests use."""
    return 0


# ---------------------------------------------------------------------------------------------- others


def generate_runtime_env_dict(
    field: str, spec_format: str, tmp_path: pathlib.Path, pip_list: list[str] | None = None
) -> dict[str, Any]:
    """A runtime environment with packages.

    Args:
        field: "pip". Environments of conda are not part of zray.
        spec_format: "file", which writes a file of requirements below ``tmp_path``, or "python_object".
        tmp_path: where the file is written.
        pip_list: the requirements; default: the small package that Ray's tests take.

    Raises:
        ValueError: another ``field`` or ``spec_format``.
    """
    requirements = ["pip-install-test==0.5"] if pip_list is None else pip_list
    if field != "pip" or spec_format not in ("file", "python_object"):
        raise ValueError(
            f"field must be 'pip' and spec_format 'file' or 'python_object', got {field!r}, {spec_format!r}"
        )
    if spec_format == "python_object":
        return {"pip": requirements}
    file = tmp_path / f"requirements-{abs(hash(tuple(requirements)))}.txt"
    file.write_text("\n".join(requirements))
    return {"pip": str(file)}


def same_elements(elems_a: Iterable[Any], elems_b: Iterable[Any]) -> bool:
    """Whether each element of one is in the other. They need not be hashable."""
    a, b = list(elems_a), list(elems_b)
    return all(each in b for each in a) and all(each in a for each in b)


def format_web_url(url: str) -> str:
    """A URL with ``http://``, and 127.0.0.1 for localhost."""
    url = url.replace("localhost", "http://127.0.0.1")
    return url if url.startswith("http://") else f"http://{url}"


def get_current_unused_port() -> int:
    """A port that no process listened at a moment ago."""
    return find_free_port()
