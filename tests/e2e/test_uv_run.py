"""Drivers that are started with ``uv run``: their workers have the packages that uv has installed for the driver.

Nothing here needs a network: the packages are wheels that the tests make.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from zray.runtime_env.uv_run import WITH_VALUE
from zray.system.interpreter import NEEDED, places_of

from .helpers import by_hand
from .test_runtime_env import wheel

UV = shutil.which("uv", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
pytestmark = pytest.mark.skipif(UV is None, reason="uv is not installed")

INDEX = 'no-index = true\nfind-links = ["wheels"]'
PROGRAM = """
    import os
    from importlib.util import find_spec

    import zray

    zray.init()


    @zray.remote
    def look():
        return [name for name in ("zray_tiny", "zray_more") if find_spec(name)], os.getcwd()


    names, directory = zray.get(look.remote(), timeout=60)
    print(*names, "at the driver" if directory == os.getcwd() else "in a copy")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The directory of a project that needs ``zray_tiny``. A script in it needs ``zray_more``."""
    (tmp_path / "wheels").mkdir()
    wheel(tmp_path / "wheels")
    wheel(tmp_path / "wheels", "zray_more")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "app"\nversion = "1"\nrequires-python = ">=3.10"\ndependencies = ["zray_tiny"]\n'
        f"[tool.uv]\npackage = false\n{INDEX}\n"
    )
    program = textwrap.dedent(PROGRAM)
    (tmp_path / "program.py").write_text(program)
    metadata = f'dependencies = ["zray_more"]\n[tool.uv]\n{INDEX}'.replace("\n", "\n# ")
    (tmp_path / "script.py").write_text(f"# /// script\n# {metadata}\n# ///\n{program}")
    return tmp_path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Lets uv find this interpreter alone, and drivers find zray."""
    interpreter = os.path.dirname(os.path.realpath(sys.executable))
    return {
        "PATH": os.pathsep.join([interpreter, os.path.dirname(str(UV)), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([os.getcwd(), *places_of(NEEDED)]),
        "UV_CACHE_DIR": str(tmp_path / "cache-of-uv"),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_PYTHON": os.path.realpath(sys.executable),
    }


def uv_run(project: Path, environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environ}
    return subprocess.run([str(UV), *arguments], cwd=project, env=env, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "program.py"], "zray_tiny in a copy"),
        (["run", "--with", "zray_more", "-m", "program"], "zray_tiny zray_more in a copy"),
        (["run", "script.py"], "zray_more in a copy"),
    ],
)
def test_workers_of_a_cluster_have_the_drivers_packages(sandbox, project, environ, arguments, expected):
    with by_hand(environ=environ) as (address, _, _):
        done = uv_run(project, {**environ, "ZRAY_ADDRESS": address}, *arguments)
    assert done.stdout == f"{expected}\n", done.stderr


def test_workers_of_the_drivers_own_cluster_are_forks_of_it(sandbox, project, environ):
    done = uv_run(project, environ, "run", "--with", "zray_more", "program.py")
    assert done.stdout == "zray_tiny zray_more at the driver\n", done.stderr


def test_it_can_be_switched_off(sandbox, project, environ):
    with by_hand(environ=environ) as (address, _, _):
        off = {**environ, "ZRAY_ADDRESS": address, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        done = uv_run(project, off, "run", "program.py")
    assert done.stdout.endswith("at the driver\n"), done.stderr


def test_a_project_that_workers_would_not_have(sandbox, project, environ):
    inner = project / "inner"
    inner.mkdir()
    with by_hand(environ=environ) as (address, _, _):
        done = uv_run(inner, {**environ, "ZRAY_ADDRESS": address}, "run", "../program.py")
    assert done.returncode == 1
    assert "pyproject.toml (the project): it is not in their working directory" in done.stderr


def test_the_table_of_options_has_those_of_the_installed_version():
    text = subprocess.run([str(UV), "run", "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
    options = dict(re.findall(r"^ +(?:-\w, )?(--[\w-]+)(?: (<))?", text, re.MULTILINE))
    assert len(options) > 50
    assert {name for name, value in options.items() if value} == WITH_VALUE & options.keys()
