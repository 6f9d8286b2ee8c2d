"""The plugin for pytest: users' tests, run by pytest in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import sys
import pytest
import zray as ray

KEPT = []

@ray.remote
def square(n):
    return n * n

@ray.remote
class Keeper:
    def ping(self):
        return 1
"""


class Project:
    """A directory with tests."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *arguments: str, **files: str) -> str:
        """Runs pytest on files, given by name without suffix. Returns what it prints."""
        for name, text in files.items():
            (self.directory / f"{name}.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments, "."]
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=100, env=env)
        return done.stdout + done.stderr


@pytest.fixture
def project(sandbox) -> Project:
    directory = sandbox.directory / "project"
    directory.mkdir()
    (directory / "pytest.ini").write_text("[pytest]\n")
    return Project(directory)


def test_a_run_without_the_fixtures_does_not_import_zray(project):
    test = "import sys\ndef test_it():\n    assert 'pytest_zray' in sys.modules and 'zray' not in sys.modules\n"
    assert "1 passed" in project.run(test_it=test)


def test_a_cluster_for_all_tests(project):
    test = HEAD + (
        "@pytest.mark.parametrize('n', range(3))\n"
        "def test_it(zray_cluster, n):\n"
        "    assert ray.get(square.remote(n)) == n * n\n"
        "    assert ray.cluster_resources()['CPU'] == 3\n"
        "    keeper = Keeper.remote()\n"
        "    assert ray.get(keeper.ping.remote()) == 1\n"
    )
    (project.directory / "pytest.ini").write_text("[pytest]\nzray_num_cpus = 3\n")
    assert "3 passed" in project.run(test_it=test)


def test_arguments_of_init(project):
    conftest = (
        "import pytest\n@pytest.fixture(scope='session')\ndef zray_init_arguments():\n"
        "    return {'num_cpus': 1, 'resources': {'tape': 2}}\n"
    )
    test = HEAD + "def test_it(zray_cluster):\n    assert ray.cluster_resources()['tape'] == 2\n"
    assert "1 passed" in project.run(conftest=conftest, test_it=test)


@pytest.mark.parametrize(
    "body, said",
    [
        ("KEPT.append(Keeper.remote()); ray.get(KEPT[0].ping.remote())", "1 actor: Keeper (ALIVE)"),
        ("Keeper.options(name='k', lifetime='detached').remote()", "1 actor: Keeper 'k'"),
        ("KEPT.append(ray.put(bytes(1_000_000)))", "1 object: "),
        ("import threading; KEPT.append(ray.remote(lambda: threading.Event().wait()).remote())", "1 task: <lambda>"),
    ],
    ids=["actor", "detached", "object", "task"],
)
def test_a_leak_fails_the_test_that_made_it(project, body, said):
    test = HEAD + f"def test_leaks(zray_cluster):\n    {body}\n\ndef test_next(zray_cluster):\n    pass\n"
    out = project.run(test_it=test)
    assert "2 passed, 1 error" in out and "ERROR at teardown of test_leaks" in out
    assert "the test left behind in the cluster:" in out and said in out


def test_a_leak_of_the_last_test(project):
    body = "KEPT.append(Keeper.remote()); ray.get(KEPT[0].ping.remote())"
    out = project.run(test_it=HEAD + f"def test_leaks(zray_cluster):\n    {body}\n")
    assert "1 passed, 1 error" in out and "1 actor: Keeper (ALIVE)" in out
    assert "1 passed" in project.run("-k", "fine", test_it=HEAD + "def test_fine(zray_cluster):\n    pass\n")


def test_what_fixtures_create_is_not_a_leak(project):
    test = HEAD + (
        "@pytest.fixture(scope='module')\ndef keeper(zray_cluster):\n    return Keeper.remote()\n"
        "def test_one(keeper):\n    assert ray.get(keeper.ping.remote()) == 1\n"
        "def test_two(keeper):\n    assert ray.get(keeper.ping.remote()) == 1\n"
    )
    assert "2 passed" in project.run(test_it=test)


@pytest.mark.parametrize("mark", ["", "('actors')"])
def test_a_leak_that_is_allowed(project, mark):
    test = HEAD + (
        f"@pytest.mark.zray_leaves{mark}\ndef test_it(zray_cluster):\n    KEPT.append(Keeper.remote())\n"
        "    ray.get(KEPT[0].ping.remote())\n"
    )
    assert "1 passed" in project.run("--strict-markers", test_it=test)


def test_a_kind_that_does_not_exist(project):
    test = HEAD + "@pytest.mark.zray_leaves('actor')\ndef test_it(zray_cluster):\n    pass\n"
    assert "takes actors, tasks, objects, not actor" in project.run(test_it=test)


def test_a_test_that_fails_is_not_blamed_for_leaks_too(project):
    test = HEAD + "def test_it(zray_cluster):\n    ref = ray.put(bytes(1_000_000))\n    assert not ref\n"
    out = project.run(test_it=test)
    assert "1 failed" in out and "left behind" not in out


def test_the_check_can_be_switched_off(project):
    (project.directory / "pytest.ini").write_text("[pytest]\nzray_leaks = false\n")
    test = HEAD + "def test_it(zray_cluster):\n    KEPT.append(ray.put(bytes(1_000_000)))\n"
    assert "1 passed" in project.run(test_it=test)


def test_a_namespace_of_the_tests_own(project):
    test = HEAD + (
        "@pytest.mark.parametrize('n', range(2))\n"
        "def test_it(zray_namespace, n):\n"
        "    keeper = Keeper.options(name='k', namespace=zray_namespace, lifetime='detached').remote()\n"
        "    assert ray.get(ray.get_actor('k', zray_namespace).ping.remote()) == 1\n"
    )
    assert "2 passed" in project.run(test_it=test)


def test_a_cluster_in_each_process_of_xdist(project):
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    test = HEAD + (
        "import os, pathlib\n"
        "@pytest.mark.parametrize('n', range(8))\n"
        "def test_it(zray_cluster, n):\n"
        "    assert ray.get(square.remote(n)) == n * n\n"
        "    me = os.environ['PYTEST_XDIST_WORKER']\n"
        "    pathlib.Path(__file__).with_name(me).write_text(zray_cluster['session_dir'])\n"
    )
    assert "8 passed" in project.run("-n", "2", test_it=test)
    sessions = [path.read_text() for path in project.directory.glob("gw*")]
    assert len(set(sessions)) == len(sessions) >= 1
