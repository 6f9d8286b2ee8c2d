"""Modules that workers do not import, and so neither do the zygote and the host that they are forks of.

See also ``unit/test_imports.py``.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from .helpers import driver


def test_neither_driver_nor_workers_have_pathlib(sandbox):
    at_start = subprocess.run(
        [sys.executable, "-c", "import sys; sys.exit('pathlib' in sys.modules)"], check=False, timeout=60
    )
    if at_start.returncode:
        pytest.skip("something in this environment imports pathlib whenever an interpreter starts")
    source = """
    ray.init(num_cpus=1)

    @ray.remote
    def has_pathlib(data):
        return "pathlib" in sys.modules

    @ray.remote
    class Actor:
        def has_pathlib(self):
            return "pathlib" in sys.modules

    assert not ray.get(has_pathlib.remote(ray.put(b"x" * 1_000_000)))
    assert not ray.get(Actor.remote().has_pathlib.remote())
    assert "pathlib" not in sys.modules
    """
    with driver(source) as process:
        process.succeed()


def test_ordinary_workers_import_nothing_of_zray(sandbox):
    """A module that is imported after the fork takes memory in each worker: 0.25 MB for the first, because Python's
    import system writes to pages that were shared."""
    source = """
    ray.init(num_cpus=1)

    def late():
        names = list(sys.modules)
        return [name for name in names[names.index("zray.local_cluster.process") + 1:] if name.startswith("zray")]

    @ray.remote
    class Actor:
        def late(self):
            return late()

    print(ray.get(ray.remote(late).remote()), ray.get(Actor.remote().late.remote()))
    """
    with driver(source, environ={"ZRAY_PIN_CPUS": "on"}) as process:
        assert process.succeed() == "[] []"
