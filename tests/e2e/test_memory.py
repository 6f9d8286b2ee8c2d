"""Tasks and actors on a machine whose memory is nearly used up.

The machine is a directory in place of ``/sys/fs/cgroup``: the tasks themselves write how much is in use. What the
kernel does is tested in a control group, where one can be made.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import zray

from .helpers import error_of, eventually

MIB = 2**20
LIMIT_BYTES = 400 * MIB


def fill(machine: Machine) -> None:
    """Uses memory, says that it is nearly used up, and waits to be stopped."""
    data = b"x" * (50 * MIB)
    machine.use(0.99)
    threading.Event().wait()
    del data


class Machine:
    """A control group with a limit. ``attempts``: a file with a byte for each attempt of a task."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.attempts = directory / "attempts"
        (directory / "memory.max").write_text(str(LIMIT_BYTES))
        self.use(0)

    def use(self, share: float) -> None:
        """Sets how much memory is in use."""
        whole = self.directory / f"{os.getpid()}.new"
        whole.write_text(str(int(share * LIMIT_BYTES)))
        whole.rename(self.directory / "memory.current")

    def attempt(self) -> int:
        """Counts an attempt. Returns how many there were before."""
        with open(self.attempts, "ab") as file:
            file.write(b".")
        return self.attempts.stat().st_size - 1


@pytest.fixture
def machine(sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("ZRAY_TEST_CGROUP_FS", str(tmp_path))
    return Machine(tmp_path)


@pytest.fixture
def ray(machine: Machine) -> Iterator[ModuleType]:
    zray.init(num_cpus=2)
    yield zray
    zray.shutdown()


def test_a_task_is_stopped_and_tried_again(ray, machine, caplog):
    @ray.remote(max_retries=1)
    def fit():
        if not machine.attempt():
            fill(machine)
        return "fitted"

    ref = fit.remote()
    eventually(lambda: "as memory was short" in caplog.text)
    machine.use(0)
    assert ray.get(ref) == "fitted"


def test_a_task_that_is_not_tried_again(ray, machine):
    error = error_of(ray, ray.remote(max_retries=0)(fill).remote(machine))
    assert type(error) is ray.exceptions.OutOfMemoryError
    assert isinstance(error, ray.exceptions.WorkerCrashedError)
    text = str(error)
    assert "running low on memory: 0.39 of 0.39 GiB" in text and "the threshold is 95.0%" in text
    assert "It was alone" in text and "The largest processes" in text and "What helps" in text
    machine.use(0)
    assert ray.get(ray.remote(lambda: 1).remote()) == 1


def test_of_two_tasks_the_newer_one_is_stopped(ray, machine):
    ended = machine.directory / "newer-ended"

    @ray.remote(max_retries=0)
    def older():
        data = b"x" * (50 * MIB)
        eventually(ended.exists)
        return len(data)

    first = older.remote()
    second = ray.remote(max_retries=0)(fill).remote(machine)
    assert "newest of the 2 tasks" in str(error_of(ray, second))
    machine.use(0)
    ended.touch()
    assert ray.get(first) == 50 * MIB


@pytest.mark.parametrize("max_restarts", [0, 1])
def test_an_actor(ray, machine, max_restarts):
    class Model:
        def fill(self):
            fill(machine)

        def ping(self):
            return 1

    actor = ray.remote(Model).options(max_restarts=max_restarts).remote()
    error = error_of(ray, actor.fill.remote())
    machine.use(0)
    if max_restarts:
        assert type(error) is ray.exceptions.ActorUnavailableError
        assert ray.get(actor.ping.options(max_task_retries=-1).remote()) == 1
    else:
        assert type(error) is ray.exceptions.OutOfMemoryError
        assert type(error_of(ray, actor.ping.remote())) is ray.exceptions.OutOfMemoryError
    assert "running low on memory" in str(error)


def test_the_cause_of_death_is_recorded(ray, machine):
    from zray.util.state import list_tasks, list_workers

    error_of(ray, ray.remote(max_retries=0)(fill).remote(machine))
    machine.use(0)
    (worker,) = [each for each in list_workers(detail=True) if each.exit_type == "NODE_OUT_OF_MEMORY"]
    assert "running low on memory" in str(worker.exit_detail)
    (task,) = list_tasks(filters=[("state", "=", "FAILED")], detail=True)
    assert task.error_type == "OUT_OF_MEMORY"


def test_a_monitor_that_is_off(machine, monkeypatch):
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    machine.use(0.99)
    with zray.init(num_cpus=1):
        assert zray.get(zray.remote(lambda: len(b"x" * (50 * MIB))).remote()) == 50 * MIB


# ------------------------------------------------------------------ the kernel

PROGRAM = """
import zray as ray
ray.init(num_cpus=1)
try:
    ray.get(ray.remote(max_retries=0)(lambda: len(bytes(10) * (2 * 2**30 // 10))).remote())
except ray.exceptions.OutOfMemoryError as error:
    print(error)
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group for 400 MiB, of which the kernel counts what it kills."""
    root = Path("/sys/fs/cgroup")
    parent, limit = (root / "memory", "memory.limit_in_bytes") if (root / "memory").exists() else (root, "memory.max")
    directory = parent / f"zray-test-{os.getpid()}"
    try:
        directory.mkdir()
        (directory / limit).write_text(str(LIMIT_BYTES))
    except OSError as error:
        if directory.exists():
            directory.rmdir()
        pytest.skip(f"no control group with a limit can be made here: {error}")
    yield directory
    eventually(lambda: not (directory / "cgroup.procs").read_text())
    directory.rmdir()


def test_the_kernel_is_faster(sandbox, group):
    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    env = {**os.environ, "ZRAY_MEMORY_MONITOR_REFRESH_MS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, preexec_fn=join, capture_output=True, text=True, timeout=60
    )
    assert "the kernel's out-of-memory killer has just acted" in done.stdout, done.stderr
