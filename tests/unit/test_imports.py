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


def modules_after(program: str) -> list[str]:
    """The modules that are loaded when ``program`` has run, beyond those that the environment had loaded before."""
    source = f"import sys; before = set(sys.modules); {program}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    return done.stdout.split()


LATER = {"cloudpickle", "msgpack", "zmq", "zray.client.session", "zray.options", "zray.protocol.messages"}
"""What takes most of the time in which a driver's code is loaded. It is loaded while the local cluster starts."""


@pytest.mark.parametrize("program", ["import zray", "import zray; zray.is_initialized(); zray.shutdown()"])
def test_the_clients_code_is_not_loaded_before_a_cluster_starts(program: str) -> None:
    imported = modules_after(program)
    assert not LATER & set(imported)
    assert sum(name.startswith("zray") for name in imported) < 40


def test_names_are_loaded_when_they_are_asked_for() -> None:
    imported = modules_after("import zray as ray; f = ray.remote(len); assert ray.util.queue.Queue; assert ray.actor")
    assert set(imported) >= LATER
    modules_after("from zray import *; assert get and put and remote and util and nodes")


def test_a_process_that_forks_workers_has_loaded_all_common_names() -> None:
    names = "[getattr(zray, name) for name in zray._COMMON]"
    program = f"import zray.local_cluster.process; early = set(sys.modules); {names}; assert early == set(sys.modules)"
    assert set(modules_after(program)) >= LATER


def test_a_host_loads_nothing_after_its_zygote_was_forked() -> None:
    """An import writes to pages that all processes share: that of one module cost a host 0.6 MB."""
    host = "from zray.system.machine import host_labels; host_labels(bytes(16), {}, {})"
    program = f"import zray.local_cluster.process; early = set(sys.modules); {host}; assert early == set(sys.modules)"
    assert "zray.scheduling.labels" not in modules_after(program)


@pytest.mark.parametrize("process", ["zray.local_cluster.process", "zray.cli.worker"])
def test_the_modules_of_workers_are_loaded_first(process: str) -> None:
    """What is made at the same time lies together: a worker, which writes to its own modules, copies fewer pages."""
    program = f"import {process}; order = list(sys.modules); last = order.index('zray.worker.process.main')"
    others = "[name for name in order[:last] if name.startswith(('zray.broker', 'zray.transfer', 'zray.worker.host'))]"
    modules_after(f"{program}; assert not {others}")
