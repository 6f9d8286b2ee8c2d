"""Results that are lost with their node: Ray runs their tasks again when they are needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

np = pytest.importorskip("numpy")

QUIET = {"log_to_driver": False, "logging_level": "ERROR"}
SIZE = 100_000  # too large for a message
ON_WORKER = {"resources": {"worker": 1}}


class Nodes:
    """A cluster with a head, and one other node where the tasks of these tests run."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.node = self.add()

    def add(self) -> Any:
        node = self.cluster.add_node(num_cpus=1, resources={"worker": 10})
        self.cluster.wait_for_nodes()
        return node

    def replace(self) -> None:
        """The node dies, and another takes its place."""
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.node = self.add()


@pytest.fixture
def nodes(impl: str, ray_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("ZRAY_SILENCE_S", "2")  # so that deaths are noticed soon; without a meaning for Ray
    monkeypatch.setenv("ZRAY_HEARTBEAT_S", "0.4")
    cluster = importlib.import_module(f"{impl}.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1}
    )
    ray_module.init(address=cluster.address, **QUIET)
    yield Nodes(cluster)
    ray_module.shutdown()
    cluster.shutdown()


def counting(path: Path) -> Callable[..., Any]:
    """A function that notes its runs in a file, and returns a large array: its argument, or zeros, plus one."""

    def run(array: Any = None, _: Any = None) -> Any:
        with path.open("a") as runs:
            runs.write("x")
        return np.zeros(SIZE) + 1 if array is None else array + 1

    return run


def made(ray: ModuleType, ref: Any) -> Any:
    ray.wait([ref], timeout=30, fetch_local=False)
    return ref


def test_a_lost_result_is_made_again(nodes, ray_module, tmp_path):
    ray, runs = ray_module, tmp_path / "runs"
    task = ray.remote(**ON_WORKER)(counting(runs))
    ref = made(ray, task.remote())
    nodes.replace()
    assert runs.read_text() == "x"
    assert ray.get(ref, timeout=60).sum() == SIZE
    assert runs.read_text() == "xx"


def test_it_is_made_again_for_a_task_that_needs_it(nodes, ray_module, tmp_path):
    ray, runs = ray_module, tmp_path / "runs"
    ref = made(ray, ray.remote(**ON_WORKER)(counting(runs)).remote())
    nodes.replace()
    nested = ray.remote(lambda refs: float(ray.get(refs[0])[0]))
    assert ray.get([ray.remote(lambda x: float(x[0])).remote(ref), nested.remote([ref])], timeout=60) == [1, 1]
    assert runs.read_text() == "xx"


def test_all_of_a_chain_is_made_again(nodes, ray_module, tmp_path):
    ray, runs = ray_module, tmp_path / "runs"
    task = ray.remote(**ON_WORKER)(counting(runs))
    ref = made(ray, task.remote(task.remote(task.remote())))
    nodes.replace()
    assert ray.get(ref, timeout=60)[0] == 3
    assert runs.read_text() == "x" * 6


@pytest.mark.parametrize("how", ["put", "by value"])
def test_arguments_of_the_task_are_there_still(nodes, ray_module, tmp_path, how):
    ray, runs = ray_module, tmp_path / "runs"
    argument = ray.put(np.ones(SIZE)) if how == "put" else np.ones(SIZE)
    ref = made(ray, ray.remote(**ON_WORKER)(counting(runs)).remote(argument))
    del argument
    nodes.replace()
    assert ray.get(ref, timeout=60)[0] == 2
    assert runs.read_text() == "xx"


def test_without_retries_it_is_lost(nodes, ray_module, tmp_path):
    ray, runs = ray_module, tmp_path / "runs"
    ref = made(ray, ray.remote(max_retries=0, **ON_WORKER)(counting(runs)).remote())
    nodes.replace()
    for _ in range(2):
        with pytest.raises(ray.exceptions.ObjectReconstructionFailedError) as caught:
            ray.get(ref, timeout=60)
    assert isinstance(caught.value, ray.exceptions.ObjectLostError)
    assert "max_retries" in str(caught.value)
    assert runs.read_text() == "x"


def test_each_time_costs_a_retry(nodes, ray_module, tmp_path):
    ray, runs = ray_module, tmp_path / "runs"
    task = ray.remote(max_retries=1, **ON_WORKER)(counting(runs))
    ref = made(ray, task.remote())
    nodes.replace()
    # Its value comes to no other node.
    assert ray.get(ray.remote(**ON_WORKER)(lambda x: float(x[0])).remote(ref), timeout=60) == 1
    nodes.replace()
    with pytest.raises(ray.exceptions.ObjectReconstructionFailedError):
        ray.get(ref, timeout=60)
    assert runs.read_text() == "xx"


def test_results_of_an_actor_that_may_be_called_again(nodes, ray_module, tmp_path):
    ray, runs = ray_module, tmp_path / "runs"

    class Maker:
        def __init__(self, run: Any) -> None:
            self.run = run

        def make(self) -> Any:
            return self.run()

    actor = ray.remote(max_restarts=-1, max_task_retries=-1, **ON_WORKER)(Maker).remote(counting(runs))
    ref = made(ray, actor.make.remote())
    nodes.replace()
    assert ray.get(ref, timeout=60)[0] == 1
    assert runs.read_text() == "xx"


def test_one_of_two_results(nodes, ray_module, tmp_path):
    ray, run = ray_module, counting(tmp_path / "runs")
    small, large = ray.remote(num_returns=2, **ON_WORKER)(lambda: (5, run())).remote()
    made(ray, large)
    nodes.replace()
    assert ray.get(small, timeout=60) == 5
    assert ray.get(large, timeout=60)[0] == 1
    assert (tmp_path / "runs").read_text() == "xx"
