"""A user's own tests under pytest-xdist: a cluster in each of its processes, of one user and on one machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("xdist", reason="pytest-xdist is not installed")

PROJECT = """
import os, pathlib, time

import pytest

import zray as ray

HERE = pathlib.Path(__file__).parent

@pytest.fixture(scope="session")
def cluster():
    context = ray.init(num_cpus=2, namespace="tests")
    yield context
    if os.environ["PYTEST_XDIST_WORKER"] == "gw0":  # the other one leaves it to the end of its process
        ray.shutdown()

@ray.remote
class Keeper:
    def __init__(self):
        self.values = []
    def add(self, value):
        self.values.append(value)
        return self.values

@ray.remote
def work(n):
    return sum(range(n)), os.environ.get("PYTEST_XDIST_WORKER")

@pytest.mark.parametrize("n", range(12))
def test_one(cluster, n):
    me = os.environ["PYTEST_XDIST_WORKER"]
    (HERE / f"{me}.session").write_text(cluster["session_dir"])
    end = time.monotonic() + 20
    while len(list(HERE.glob("*.session"))) < 2:  # so that both clusters are at work at the same time
        assert time.monotonic() < end
        time.sleep(0.01)
    assert ray.get([work.remote(1000 + n) for _ in range(20)]) == [(sum(range(1000 + n)), me)] * 20
    keeper = Keeper.options(name="keeper", get_if_exists=True, lifetime="detached").remote()
    mine = ray.get(keeper.add.remote((me, n)))
    assert {who for who, _ in mine} == {me}
    data = ray.put(bytes([n]) * 1_000_000)
    assert ray.get(ray.remote(len).remote(data)) == 1_000_000
    assert ray.cluster_resources()["CPU"] == 2
"""


def test_a_cluster_in_each_process(sandbox):
    project = sandbox.directory / "project"
    project.mkdir()
    (project / "test_mine.py").write_text(PROJECT)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "2",
        "--dist",
        "load",
        "-p",
        "no:cacheprovider",
        "-q",
        str(project),
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "12 passed" in done.stdout, done.stdout + done.stderr
    sessions = {path.read_text() for path in project.glob("*.session")}
    assert len(sessions) == 2
    sandbox.assert_clean()
