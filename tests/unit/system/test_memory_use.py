"""Readings of memory, from directories that stand for /proc and /sys/fs/cgroup."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zray.system.memory_use import MemoryGauge, MemoryUse, largest_processes, own_bytes

GIB = 2**30


class Machine:
    """A machine with 10 GiB of memory, of which 4 GiB are available."""

    def __init__(self, root: Path, membership: str) -> None:
        self.proc = root / "proc"
        self.cgroup_fs = root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self" / "cgroup").write_text(membership)
        self.write(self.proc / "meminfo", f"MemTotal: {10 * GIB // 1024} kB\nMemAvailable: {4 * GIB // 1024} kB\n")
        self.write(self.proc / "vmstat", "pgfault 1\noom_kill 3\n")

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def group(self, directory: str, **files: str) -> None:
        for name, text in files.items():
            self.write(self.cgroup_fs / directory / name.replace("__", "."), text)

    @property
    def gauge(self) -> MemoryGauge:
        return MemoryGauge(str(self.proc), str(self.cgroup_fs))


@pytest.fixture
def version_2(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "0::/job/step\n")


@pytest.fixture
def version_1(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "4:memory:/job\n0::/\n")


def test_a_machine_without_limits(version_2):
    assert version_2.gauge.read() == MemoryUse(6 * GIB, 10 * GIB, "the machine")


def test_the_group_nearest_to_its_limit_counts(version_2):
    version_2.group("job", memory__max=f"{4 * GIB}\n", memory__current=f"{3 * GIB}\n")
    version_2.group("job/step", memory__max="max\n", memory__current=f"{3 * GIB}\n")
    assert version_2.gauge.read() == MemoryUse(3 * GIB, 4 * GIB, f"{version_2.cgroup_fs}/job")


def test_files_that_can_be_dropped_do_not_count(version_2):
    version_2.group(
        "job", memory__max=str(4 * GIB), memory__current=str(4 * GIB), memory__stat=f"inactive_file {GIB}\n"
    )
    assert version_2.gauge.read().used == 3 * GIB


def test_version_1(version_1):
    files = {"memory__limit_in_bytes": str(4 * GIB), "memory__usage_in_bytes": str(4 * GIB)}
    version_1.group("memory/job", **files, memory__stat=f"inactive_file 7\ntotal_inactive_file {GIB}\n")
    version_1.group("memory", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="1")
    assert version_1.gauge.read() == MemoryUse(3 * GIB, 4 * GIB, f"{version_1.cgroup_fs}/memory/job")


def test_a_group_whose_files_are_gone(version_2):
    version_2.group("job", memory__max=str(4 * GIB), memory__current=str(4 * GIB))
    gauge = version_2.gauge
    (version_2.cgroup_fs / "job" / "memory.current").unlink()
    assert gauge.read().whose == "the machine"


def test_kills_of_the_kernel(version_2, tmp_path):
    assert version_2.gauge.kills() == 3
    version_2.group("job/step", memory__events="low 0\noom 5\noom_kill 4\n")
    assert version_2.gauge.kills() == 4


def test_kills_of_version_1(version_1):
    version_1.group("memory/job", memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert version_1.gauge.kills() == 5


def test_a_machine_without_proc(tmp_path):
    gauge = MemoryGauge(str(tmp_path / "none"), str(tmp_path / "none"))
    assert gauge.read().limit > 0 and gauge.read().used == 0 and gauge.kills() == 0


def test_the_memory_of_this_machine():
    use = MemoryGauge().read()
    assert 0 < use.used < use.limit
    assert 0 < use.share < 1


CHILD = "import sys; data = b'x' * (50 << 20); print(flush=True); sys.stdin.read()"


def test_children_count():
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        alone, family = own_bytes([child.pid])[child.pid], own_bytes([os.getpid()])[os.getpid()]
        child.communicate()
    assert 50 << 20 < alone < family


def test_a_process_that_is_gone_uses_nothing():
    assert own_bytes([2**22 + 1]) == {2**22 + 1: 0}


def test_the_largest_processes():
    found = largest_processes(3)
    assert 0 < len(found) <= 3
    assert [each.own for each in found] == sorted((each.own for each in found), reverse=True)
    assert all(each.name.isprintable() and each.own <= each.resident for each in found)
