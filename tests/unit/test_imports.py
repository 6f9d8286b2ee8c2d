"""What the processes of a cluster do without: whatever one of them imports, each of them weighs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"asyncio", "hashlib", "ipaddress", "pathlib", "shutil", "urllib.parse"}


@pytest.mark.parametrize(
    "process",
    [
        "import zray",  # a driver
        "import zray.local_cluster.process as local; local.warm_up()",  # what broker, zygote and workers are forks of
    ],
)
def test_heavy_modules_are_not_imported(process: str) -> None:
    """What a ``.pth`` file of the environment has imported before, zray cannot help, and is not blamed for."""
    source = f"import sys; before = set(sys.modules); {process}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "zray.sessions.directories" in imported
    assert not HEAVY & imported


@pytest.mark.parametrize("process", ["zray", "zray.local_cluster.process", "zray.cli.worker", "zray.cli.broker"])
def test_what_commands_print_with_is_not_imported_by_what_stays(process: str) -> None:
    source = f"import sys; before = set(sys.modules); import {process}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert not {"rich", "psutil"} & set(done.stdout.split())
