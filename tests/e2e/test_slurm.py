"""``deploy/slurm/zray.sbatch`` on a private Slurm of two nodes.

Whatever happens to a job, it ends in order: nothing of it is left (``sandbox``), and both nodes accept the next job.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import Sandbox, eventually
from .slurm import CPUS, IN_ORDER_S, MEMORY_MIB, Job, Slurm, missing

pytestmark = [
    pytest.mark.xdist_group("slurm"),  # one Slurm at a time
    pytest.mark.timeout(4 * IN_ORDER_S),
]

SCRIPT = str(Path(__file__).resolve().parents[2] / "deploy" / "slurm" / "zray.sbatch")
MIB = 1 << 20

if reason := missing():
    pytest.skip(reason, allow_module_level=True)

PROGRAM = """
import os, sys, time, zray
zray.init()
while len(zray.nodes()) < 2:
    time.sleep(0.02)
@zray.remote
def work(number):
    time.sleep(0.001)
    return number
print("sum", sum(zray.get([work.options(name="do the work").remote(number) for number in range(20)])))
offered = zray.cluster_resources()
print("offered", *(int(offered[name]) for name in ("CPU", "memory", "object_store_memory")), flush=True)
"""
STAY = "\nprint('it works', flush=True)\ntime.sleep(1000)\n"


ANY_TRACKER = pytest.mark.parametrize("cluster", ["linuxproc"], indirect=True)
"""For tests that do not depend on how Slurm recognizes the processes of a job."""


@pytest.fixture(scope="module", params=["linuxproc", "cgroup"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Slurm]:
    """A private Slurm that recognizes the processes of a job by their parents, or by control groups."""
    if request.param == "cgroup" and not os.access("/sys/fs/cgroup/freezer", os.W_OK):
        pytest.skip("control groups of version 1 cannot be written to here")
    with tempfile.TemporaryDirectory(prefix="zray-slurm-") as directory:
        Path(directory).chmod(0o755)
        slurm = Slurm(Path(directory), request.param)
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.close()


@pytest.fixture
def slurm(cluster: Slurm, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Checks after the test that no job is left, and no node is drained."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    yield cluster
    left = cluster.run("squeue", "--noheader", "--format=%i").split()
    if left:
        cluster.run("scancel", "--signal=KILL", "--full", *left)
        cluster.run("scancel", *left)
    eventually(lambda: cluster.states() == ["idle", "idle"], IN_ORDER_S, 0.1)
    assert not left


def submit(slurm: Slurm, program: str, *options: str, **environ: str) -> Job:
    return slurm.submit(*options, SCRIPT, sys.executable, "-c", program, **environ)


def offered(job: Job) -> list[int]:
    """CPUs, memory and store of the two hosts together."""
    (line,) = [line for line in job.output.splitlines() if line.startswith("offered ")]
    return [int(word) for word in line.split()[1:]]


def test_a_job_ends_as_its_program_does(slurm: Slurm) -> None:
    job = submit(slurm, PROGRAM + "\nsys.exit(3)", "--cpus-per-task=2")
    assert job.end() == ("FAILED", 3), job.report()
    assert "sum 190" in job.output and offered(job)[0] == 4, job.report()
    assert job.output.count("zray host ends: signal 15") == 2, job.report()  # in order, and not killed by Slurm


@ANY_TRACKER
def test_a_program_that_ends_before_there_is_a_cluster(slurm: Slurm) -> None:
    job = submit(slurm, "import sys; sys.exit(5)")
    assert job.end() == ("FAILED", 5), job.report()


LIMITS_LOOKED_AT_S = 150.0
"""Slurm checks time limits every thirty seconds, and leaves a round out when it is busy."""


@pytest.mark.parametrize("how", ["scancel", "time limit"])
def test_a_job_that_is_made_to_end(slurm: Slurm, how: str) -> None:
    job = submit(slurm, PROGRAM + STAY)
    job.expect("it works")
    if how == "scancel":
        slurm.run("scancel", job.job_id)
    else:
        slurm.run("scontrol", "update", f"jobid={job.job_id}", "EndTime=now+1seconds")
        eventually(lambda: job.facts()["JobState"] == "TIMEOUT", LIMITS_LOOKED_AT_S, 0.1)
    assert job.end()[0] == ("CANCELLED" if how == "scancel" else "TIMEOUT"), job.report()


def test_a_job_whose_script_alone_is_told_to_end(slurm: Slurm) -> None:
    job = submit(slurm, PROGRAM + STAY)
    job.expect("it works")
    slurm.run("scancel", "--batch", "--signal=TERM", job.job_id)
    assert job.end() == ("FAILED", 143), job.report()
    assert job.output.count("zray host ends: signal 15") == 2, job.report()


def test_two_jobs_at_once_on_the_same_nodes(slurm: Slurm) -> None:
    jobs = [submit(slurm, PROGRAM + STAY, "--mem=500") for _ in range(2)]
    for job in jobs:
        job.expect("it works")
    slurm.run("scancel", jobs[0].job_id)
    assert jobs[0].end()[0] == "CANCELLED", jobs[0].report()
    assert jobs[1].facts()["JobState"] == "RUNNING"
    slurm.run("scancel", jobs[1].job_id)
    assert jobs[1].end()[0] == "CANCELLED", jobs[1].report()


@ANY_TRACKER
@pytest.mark.parametrize(
    ("options", "cpus", "memory_mib"),
    [
        (("--exclusive", "--mem=1000"), CPUS, 1000),
        (("--cpus-per-task=3", "--mem-per-cpu=200"), 3, 600),
        (("--ntasks-per-node=2", "--mem-per-cpu=300"), 2, 600),
        (("--exclusive", "--mem=0"), CPUS, 0),
    ],
)
def test_hosts_offer_what_slurm_grants(slurm: Slurm, options: tuple[str, ...], cpus: int, memory_mib: int) -> None:
    job = submit(slurm, PROGRAM, *options)
    assert job.end() == ("COMPLETED", 0), job.report()
    found_cpus, memory, store = offered(job)
    assert found_cpus == 2 * cpus
    if memory_mib:
        assert memory == pytest.approx(2 * memory_mib * MIB * 0.7, abs=100)
        assert store == pytest.approx(2 * memory_mib * MIB * 0.3, abs=100)


@ANY_TRACKER
def test_own_figures_go_before_slurms(slurm: Slurm) -> None:
    figures = {"ZRAY_NUM_CPUS": "1", "ZRAY_MEMORY": str(50 * MIB), "ZRAY_OBJECT_STORE_MEMORY": str(60 * MIB)}
    job = submit(slurm, PROGRAM, "--exclusive", f"--mem={MEMORY_MIB // 2}", **figures)
    assert job.end() == ("COMPLETED", 0), job.report()
    assert offered(job) == [2, 100 * MIB, 120 * MIB]


@pytest.mark.parametrize("fault", ["on each node", "on the second node"])
def test_hosts_that_cannot_start_end_the_job(slurm: Slurm, tmp_path: Path, fault: str) -> None:
    worker = tmp_path / "zray-worker"
    healthy = (
        "" if fault == "on each node" else f'[ "$SLURM_NODEID" = 1 ] || exec {sys.executable} -m zray.cli.worker "$@"'
    )
    worker.write_text(f"#!/bin/sh\n{healthy}\necho 'nothing works here' >&2\nexit 2\n")
    worker.chmod(0o755)
    job = submit(slurm, PROGRAM, PATH=f"{tmp_path}:{os.environ['PATH']}")
    state, code = job.end()  # 143 if Slurm ended one before it had its trap, as the other had failed by then
    assert state == "FAILED" and code in (2, 143), job.report()
    assert "nothing works here" in job.output and "the cluster ended before the program" in job.output, job.report()


def test_a_host_that_is_killed_is_started_again(slurm: Slurm, sandbox: Sandbox) -> None:
    program = """
    first = {node["NodeID"] for node in zray.nodes()}
    print("it works", flush=True)
    while len([node for node in zray.nodes() if node["Alive"] and node["NodeID"] not in first]) < 1:
        time.sleep(0.02)
    print("left", zray.get(work.remote(7)))
    """
    job = submit(slurm, PROGRAM + textwrap.dedent(program))
    job.expect("it works")
    os.kill(sandbox.processes("zray: host")[0], signal.SIGKILL)
    assert job.end() == ("COMPLETED", 0), job.report()
    assert "left 7" in job.output and "has ended (exit code 137), and is started again" in job.output, job.report()
